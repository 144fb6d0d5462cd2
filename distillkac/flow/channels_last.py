"""Images with their channels last in memory, on a CPU: convolutions of bfloat16 are up to four times as fast so.

torch's group norm is not: there it takes several times as long. So it is a kernel of ours (csrc/network/), together with the
SiLU that follows it. On other devices, in torch.compile, torch.export and torch.jit, under torch.func and in forward mode
everything is torch's own.
"""

from typing import Any, TypeGuard, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional

from distillkac.ops._arguments import tracing

__all__ = ["group_norm", "one_by_one", "plain", "served", "twice", "with_channels_last"]

_transforms = torch._C._functorch.peek_interpreter_stack
_Layer = TypeVar("_Layer", bound=nn.Module)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def served(x: Tensor) -> bool:
    """Whether the kernel takes x: a tensor of a CPU, that no compiler, transform or forward mode looks into.

    A thread normalises whole images, so it takes no batch that would leave more than half of the threads without one.
    """
    return (
        not tracing()
        and type(x) is Tensor
        and x.device.type == "cpu"
        and x.dtype in DTYPES
        and 2 * len(x) >= torch.get_num_threads()
        and forward_ad._current_level < 0
        and _transforms() is None
        and not torch._C._is_tracing()
    )


def with_channels_last(x: Tensor) -> Tensor:
    """x: (B, C, H, W), with channels last in memory where they are `served`, else as it is."""
    if not served(x):
        return x
    batch, channels, height, width = x.shape
    if channels > 1:
        return x.contiguous(memory_format=torch.channels_last)
    # Of one channel either order is the same memory, and torch tells them by the strides.
    return x.reshape(batch, height, width, 1).permute(0, 3, 1, 2)


def group_norm(norm: nn.GroupNorm, x: Tensor, silu: bool) -> Tensor:
    """norm(x), or silu(norm(x)), of x: (B, C, H, W). Hooks of `norm` are for the caller, see `plain`."""
    if served(x) and norm.affine and norm.bias is not None:
        rows = _GroupNorm.apply(x.permute(0, 2, 3, 1), norm.weight, norm.bias, norm.num_groups, norm.eps, silu)  # type: ignore[no-untyped-call]  # torch's own
        return rows.permute(0, 3, 1, 2)
    y = functional.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
    return functional.silu(y) if silu else y


class _GroupNorm(torch.autograd.Function):
    """The kernel on the tape, of rows (B, H, W, C)."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool) -> Tensor:
        y, *moments = torch.ops.distillkac.group_norm(rows, weight.float(), bias.float(), groups, eps, silu)
        ctx.save_for_backward(rows, weight, bias, *moments)
        ctx.groups, ctx.eps, ctx.silu = groups, eps, silu
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        rows, weight, bias, *moments = ctx.saved_tensors
        if forward_ad._current_level >= 0:
            raise NotImplementedError(
                "forward mode over the gradient of a group norm with channels last: differentiate all of it under torch.func"
            )
        if torch.is_grad_enabled():  # a gradient of this gradient will be asked for
            return *_by_torch(ctx, grad, rows, weight, bias), None, None, None
        grad_rows, *others = torch.ops.distillkac.group_norm_grad(
            grad.to(rows.dtype), rows, weight.float(), bias.float(), *moments, ctx.silu
        )
        return grad_rows, *(other.to(weight.dtype) for other in others), None, None, None


def _by_torch(ctx: Any, grad: Tensor, *given: Tensor) -> list[Tensor | None]:
    """The gradients of rows, weight and bias in torch's own operations, which have gradients themselves."""
    # Views: what the given ones were made of, the same weights maybe, is no matter of this gradient.
    rows, weight, bias = views = [value.view_as(value) for value in given]
    y = functional.group_norm(rows.permute(0, 3, 1, 2).float(), ctx.groups, weight.float(), bias.float(), ctx.eps)
    y = (functional.silu(y) if ctx.silu else y).permute(0, 2, 3, 1).to(rows.dtype)
    needed = ctx.needs_input_grad[:3]
    wanted = [view for view, one in zip(views, needed, strict=True) if one]
    found = iter(torch.autograd.grad(y, wanted, grad, create_graph=True))
    return [next(found) if one else None for one in needed]


def plain(module: nn.Module, kind: type[_Layer]) -> TypeGuard[_Layer]:
    """Whether calling the module does what `kind` does: it is no wrapper, has no `forward` of its own (as offloading gives
    it), and no hook of its own (pruning's, say) waits for the call. Hooks of all modules, which profilers have, do not count:
    with them the network would be another than without."""
    hooks = (module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks)
    return type(module) is kind and not any(hooks) and "forward" not in vars(module)


def one_by_one(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution of kernel 1x1, as the matrix product that it is: its gradient is faster, and has the weights' strides."""
    weight = convolution.weight.flatten(1)
    return functional.linear(x.permute(0, 2, 3, 1), weight, convolution.bias).permute(0, 3, 1, 2)


def twice(x: Tensor) -> Tensor:
    """Every pixel of x, (B, C, H, W), as four: (B, C, 2 H, 2 W). torch's own, called upsampling, computes in float32."""
    return _Twice.apply(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # type: ignore[no-untyped-call]  # torch's own


class _Twice(torch.autograd.Function):
    """Of pixels (B, H, W, C). Its gradient is the sum of four, each of which is added whole: torch's sum over such short axes
    is slow."""

    @staticmethod
    def forward(ctx: Any, pixels: Tensor) -> Tensor:
        batch, height, width, channels = pixels.shape
        fours = pixels[:, :, None, :, None].expand(batch, height, 2, width, 2, channels)
        return fours.reshape(batch, 2 * height, 2 * width, channels)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        rows = grad[:, ::2] + grad[:, 1::2]
        return rows[:, :, ::2] + rows[:, :, 1::2]
