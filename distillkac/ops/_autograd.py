"""What torch's autograd asks of an op: gradients are recorded, tangents (forward mode) go on by the op's rule or are refused.

The rules are plain torch, so a tangent has gradients and tangents itself. A tangent where an op has none of its own (of a
time, a step's length, an argument of a call with `out`) is a ValueError: without its part the answer would be wrong.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

Grads = tuple[Tensor | None, ...]
Tangents = dict[str, Tensor]
"""Of the arguments that have one, by their names in the schema."""


class Rule(NamedTuple):
    """An op's derivatives. context, backward: as torch.library.register_autograd takes them."""

    context: Callable[..., None]
    backward: Callable[..., Grads]
    forward: Callable[
        [dict[str, Any], Tangents], Sequence[Tensor]
    ]  # (arguments, tangents) -> one of each differentiable
    wanted: frozenset[str]  # the arguments that may have a tangent


_transforms = torch._C._functorch.peek_interpreter_stack
_after_autograd = torch._C._after_autograd_keyset


def register(library: torch.library.Library, name: str, rule: Rule | None) -> None:
    """The kernel of `name`, such as "kac_pair.out", under torch's key Autograd. rule: None where it has no derivative."""
    op_name, _, overload = name.partition(".")
    op = getattr(getattr(torch.ops.distillkac, op_name), overload or "default")
    names = [argument.name for argument in op._schema.arguments]
    filled = overload.endswith("out")

    def kernel(keyset: Any, *args: Any) -> Any:
        values, tangents = _without_tangents(names, args)
        if tangents:
            _check_tangents(op_name, tangents, frozenset() if rule is None else rule.wanted, filled)
        if rule is not None and torch.is_grad_enabled() and torch._C._any_requires_grad(*values):
            results = _Recorded.apply(*values, op, keyset, rule, bool(tangents))  # type: ignore[no-untyped-call]  # torch's own
        else:
            results = _below(op, keyset, values)
        if rule is None or not tangents:
            return results
        moved = rule.forward(dict(zip(names, values, strict=True)), tangents)
        if isinstance(results, Tensor):
            return _dual(results, moved[0])
        return *map(_dual, results, moved), *results[len(moved) :]

    library.impl(name, kernel, "Autograd", with_keyset=True)


class _Recorded(torch.autograd.Function):
    """An op's call on the tape."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Any:
        *given, op, keyset, ctx.rule, ctx.moved = args
        results = _below(op, keyset, given)
        ctx.rule.context(ctx, given, results)
        return results

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        if ctx.moved and forward_ad._current_level >= 0:
            raise NotImplementedError(
                "forward mode over the gradient of an op of distillkac, whose tangents it would lack: take the gradient of the "
                "tangent, or the gradient twice"
            )
        return *ctx.rule.backward(ctx, *grads), None, None, None, None


def _below(op: Any, keyset: Any, args: Sequence[Any]) -> Any:
    with torch._C._AutoDispatchBelowAutograd():
        return op.redispatch(keyset & _after_autograd, *args)


def _without_tangents(names: Sequence[str], args: Sequence[Any]) -> tuple[list[Any], Tangents]:
    values, tangents = list(args), {}
    # The level is not told where torch.compile goes through a transform; the transform is.
    if forward_ad._current_level >= 0 or _transforms() is not None:
        for place, value in enumerate(args):
            if isinstance(value, Tensor) and value.is_floating_point():
                primal, tangent = torch._VF._unpack_dual(value, 0)
                if tangent is not None:
                    values[place], tangents[names[place]] = primal, tangent
    return values, tangents


def _dual(value: Tensor, tangent: Tensor) -> Tensor:
    return torch._VF._make_dual(value, tangent.to(value.dtype).contiguous(), 0)


def _check_tangents(op: str, tangents: Tangents, wanted: frozenset[str], filled: bool) -> None:
    if filled:
        raise ValueError(f"{op}: out= has no forward mode, got a tangent with {_public(tangents)}; omit out")
    if refused := tangents.keys() - wanted:
        name = _public(refused)
        raise ValueError(f"{op}: {name} is not differentiable here; pass {name}.detach()")


def _public(names: Any) -> str:
    """The first of the schema's names, as people call the argument."""
    return sorted(names)[0].removesuffix("_rows")
