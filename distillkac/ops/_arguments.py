"""What `distillkac.ops` checks and converts before a kernel sees it: Python types. The kernels check shapes and values.

Every mistake is a ValueError that names op, argument, wanted and got. All of this must stay traceable by torch.compile. Most
calls need none of it: `distillkac.ops` asks `_quick` first.
"""

import numbers
import operator
from typing import Any, TypeVar

import torch

Out = TypeVar("Out", torch.Tensor, tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, ...])


tracing = torch.compiler.is_compiling


def tensors(op: str, **arguments: object) -> None:
    """Arguments that must be ordinary (dense, strided) tensors; None is left out by the caller."""
    for name, value in arguments.items():
        if not isinstance(value, torch.Tensor):
            raise ValueError(f"{op}: {name} must be a tensor (B, ...), got {shown(value)}")
        _dense(op, name, value)


_STRIDED = torch.strided


def _dense(op: str, name: str, tensor: torch.Tensor) -> None:
    if tensor.layout is not _STRIDED or tensor.is_quantized or tensor.is_nested:
        raise ValueError(f"{op}: {name} must be a dense strided tensor, got layout {tensor.layout}, {tensor.dtype}")


def fixed_rows(op: str, **arguments: object) -> None:
    """Arguments (B,) without a gradient: asking for one is a mistake that would otherwise go unnoticed."""
    for name, value in arguments.items():
        if not isinstance(value, torch.Tensor):
            raise ValueError(f"{op}: {name} must be a tensor (B,), one value a row, got {shown(value)}")
        _dense(op, name, value)
        if value.requires_grad:
            raise ValueError(f"{op}: {name} is not differentiable here; pass {name}.detach()")


def number(op: str, name: str, value: Any) -> float:
    """A real number as the kernels take it."""
    if type(value) is float:
        return value
    if isinstance(value, torch.SymFloat):
        return value  # type: ignore[return-value]  # it stands for a float while torch.compile traces
    real = isinstance(value, (numbers.Real, torch.SymInt))
    if isinstance(value, bool) or not real:
        raise ValueError(f"{op}: {name} must be a number, got {shown(value)}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(
            f"{op}: {name} must fit in a float, got an integer of {int(value).bit_length()} bits"
        ) from None


def integer(op: str, name: str, value: Any) -> int:
    """An int of 64 bits with sign; NumPy's integers are converted."""
    if type(value) is int and -(2**63) <= value < 2**63:
        return value
    if isinstance(value, bool):
        raise ValueError(f"{op}: {name} must be an int, got {value}")
    if not isinstance(value, (int, torch.SymInt)):
        try:
            value = operator.index(value)
        except TypeError:
            raise ValueError(f"{op}: {name} must be an int, got {shown(value)}") from None
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{op}: {name} must fit in 64 bits with sign, got {value}")
    return value


def extents(op: str, size: object) -> list[int]:
    """The shape of one row."""
    if not isinstance(size, (tuple, list)):
        raise ValueError(f"{op}: size must be a tuple, the shape of one row such as (3, 32, 32), got {shown(size)}")
    return [integer(op, "size", extent) for extent in size]


def names(op: str, **arguments: object) -> None:
    """Arguments that choose by name; the kernels know which names there are."""
    for name, value in arguments.items():
        if not isinstance(value, str):
            raise ValueError(f"{op}: {name} must be a string, got {shown(value)}")


def seed_of(op: str, seed: object) -> tuple[int, torch.Tensor | None]:
    """(int, tensor or None) as the kernels take it."""
    if isinstance(seed, torch.Tensor):
        _dense(op, "seed", seed)
        return 0, seed
    if isinstance(seed, torch.Generator):
        return int(torch.randint(2**63 - 1, (), generator=seed, device=seed.device)), None
    if isinstance(seed, (float, str)) or seed is None:
        raise ValueError(f"{op}: seed must be an int, an int64 tensor or a torch.Generator, got {shown(seed)}")
    return integer(op, "seed", seed), None


def row_scalar(
    op: str, name: str, value: object, like: torch.Tensor, optional: bool = False
) -> tuple[float, torch.Tensor | None]:
    """(float, tensor or None) as the kernels take it; a tensor without dimensions serves every row."""
    if type(value) is float:
        return value, None
    if value is None and optional:
        return 0.0, None
    if not isinstance(value, torch.Tensor):
        if value is None or not isinstance(value, (numbers.Real, torch.SymInt, torch.SymFloat)):
            raise ValueError(f"{op}: {name} must be a number or a tensor (B,), got {shown(value)}")
        return number(op, name, value), None
    _dense(op, name, value)
    if value.dim() == 0 and like.dim() > 0:
        value = value.expand(like.shape[0])
    return 0.0, value


def outputs(op: str, out: Any, count: int = 1) -> None:
    """The tensors of `out`, which may be written: `count` different ones that want no gradient."""
    if count == 1:
        out = (out,)
    elif not isinstance(out, (tuple, list)) or len(out) != count:
        raise ValueError(f"{op}: out must be a tuple of {count} tensors, got {shown(out)}")
    for place, tensor in enumerate(out):
        tensors(op, **{"out" if count == 1 else f"out[{place}]": tensor})
    if len({id(tensor) for tensor in out}) < count:
        many = {2: "two", 3: "three"}[count]
        raise ValueError(f"{op}: out must be {many} different tensors, got the same one twice")
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in out):
        raise ValueError(f"{op}: out must not require grad (out= has no autograd); pass out.detach()")


def written(out: Out) -> Out:
    """Tells autograd that `out` was overwritten, so that a backward pass which needs the old values fails loudly."""
    if not tracing():  # there the schema's mutation marks serve
        torch._C._increment_version(out if isinstance(out, (tuple, list)) else (out,))
    return out


def shown(value: object) -> str:
    """What came, in one short line."""
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}, {value.dtype}"
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"
