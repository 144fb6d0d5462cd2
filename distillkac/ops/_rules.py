"""What torch must know of the ops beside their kernels: gradients. Tangents are in _tangents.py, shapes in _shapes.py."""

from typing import Any

import torch
from torch import Tensor

from distillkac.base.tensors import column, flat_rows
from distillkac.ops import _autograd, _shapes, _tangents
from distillkac.ops._autograd import Grads, Rule
from distillkac.ops._tangents import along_velocity, rows_of, through_limit
from distillkac.ops.schedules import f_schedule


def register(with_cuda: bool) -> None:
    """Register the rules for every op; without CUDA kernels, also a clear refusal of CUDA tensors."""
    _shapes.register()
    x0 = frozenset({"x0"})
    pair = Rule(_pair_context, _pair_backward, _tangents.pair, x0)
    guided = frozenset({"u_cond", "u_uncond", "w_rows"})
    rules = {
        "kac_velocity": Rule(_velocity_context, _velocity_backward, _tangents.velocity, frozenset({"k"})),
        "kac_pair": pair,
        "kac_pair.to": pair,
        "guided_velocity": Rule(_guided_context, _guided_backward, _tangents.guided, guided),
        "guided_step": Rule(_step_context, _step_backward, _tangents.step, guided | {"x", "u_prev"}),
        "endpoint_loss": Rule(_loss_context, _loss_backward, _tangents.loss, frozenset({"x", "u", "x_end"})),
    }
    for name in (*_shapes.NAMES, *_shapes.OUT_NAMES):
        _autograd.register(_library, name, rules.get(name))
        if not with_cuda:
            _library.impl(name, _no_cuda, "CUDA")


_library = torch.library.Library("distillkac", "FRAGMENT")


def _no_cuda(*args: object, **kwargs: object) -> None:
    raise RuntimeError(
        "distillkac was built without CUDA kernels, got CUDA tensors; python -m distillkac.doctor says why; where nvcc is "
        "installed, run: DISTILLKAC_CUDA=ON pip install --no-build-isolation -e ."
    )


# kac_velocity: its derivative is symmetric.


def _velocity_context(ctx: Any, inputs: Any, output: Any) -> None:
    k, t, ctx.process, ctx.a, ctx.c = inputs
    ctx.save_for_backward(k, t)


def _velocity_backward(ctx: Any, grad: Tensor) -> Grads:
    k, t = ctx.saved_tensors
    return along_velocity(k, t, grad, ctx.process, ctx.a, ctx.c), None, None, None, None


# kac_pair: linear in x0.


def _pair_context(ctx: Any, inputs: Any, output: Any) -> None:
    _, *times, _, _, _, ctx.f, ctx.g, ctx.kappa, _, _, _ = inputs
    ctx.save_for_backward(*times)


def _pair_backward(ctx: Any, grad_x_t: Tensor, grad_u: Tensor, *grad_x_to: Tensor) -> Grads:
    t, *t_to = ctx.saved_tensors
    f, df = f_schedule(t.double(), ctx.f, ctx.kappa)
    grad = column(f.float(), grad_x_t) * grad_x_t + column(df.float(), grad_u) * grad_u
    for time, more in zip(t_to, grad_x_to, strict=True):
        f, _ = f_schedule(time.double(), ctx.f, ctx.kappa)
        grad = grad + column(f.float(), more) * more
    return grad.to(grad_x_t.dtype), *[None] * (10 + len(t_to))


# Guidance: u = limit(u_cond + w (u_cond - u_uncond)).


def _guidance_grads(
    grad: Tensor,
    u_cond: Tensor,
    u_uncond: Tensor,
    w: float,
    w_rows: Tensor | None,
    max_speed: float | None,
    process: str,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients to u_cond, u_uncond and w_rows of the limited guided velocity."""
    weight = rows_of(w, w_rows, u_cond)
    difference = u_cond.float() - u_uncond.float()
    grad = through_limit(grad.float(), u_cond.float() + weight * difference, max_speed, process)
    grad_w = None
    if w_rows is not None:
        grad_w = flat_rows(grad * difference).sum(1).to(w_rows.dtype)
    return ((1 + weight) * grad).to(u_cond.dtype), (-weight * grad).to(u_cond.dtype), grad_w


def _guided_context(ctx: Any, inputs: Any, output: Any) -> None:
    u_cond, u_uncond, ctx.w, w_rows, ctx.max_speed, ctx.process = inputs
    ctx.save_for_backward(u_cond, u_uncond, w_rows)


def _guided_backward(ctx: Any, grad: Tensor) -> Grads:
    u_cond, u_uncond, w_rows = ctx.saved_tensors
    grads = _guidance_grads(grad, u_cond, u_uncond, ctx.w, w_rows, ctx.max_speed, ctx.process)
    return grads[0], grads[1], None, grads[2], None, None


# guided_step: x_next = x - h ((1 + r) u - r u_prev).


def _step_context(ctx: Any, inputs: Any, output: Any) -> None:
    _, u_cond, u_uncond, u_prev, ctx.w, ctx.h, ctx.h_prev, w_rows, h_rows, h_prev_rows, ctx.max_speed, ctx.process = (
        inputs
    )
    ctx.ab2 = u_prev is not None
    ctx.save_for_backward(u_cond, u_uncond, w_rows, h_rows, h_prev_rows)


def _step_backward(ctx: Any, grad_x_next: Tensor, grad_u: Tensor) -> Grads:
    u_cond, u_uncond, w_rows, h_rows, h_prev_rows = ctx.saved_tensors
    h = rows_of(ctx.h, h_rows, u_cond)
    r = h / (2 * rows_of(ctx.h_prev, h_prev_rows, u_cond)) if ctx.ab2 else 0.0
    grad_u = grad_u.float() - h * (1 + r) * grad_x_next.float()
    grad_prev = (h * r * grad_x_next).to(u_cond.dtype) if ctx.ab2 else None
    if u_uncond is None:
        grad_cond = through_limit(grad_u, u_cond.float(), ctx.max_speed, ctx.process).to(u_cond.dtype)
        grad_uncond = grad_w = None
    else:
        grads = _guidance_grads(grad_u, u_cond, u_uncond, ctx.w, w_rows, ctx.max_speed, ctx.process)
        grad_cond, grad_uncond, grad_w = grads
    return grad_x_next, grad_cond, grad_uncond, grad_prev, None, None, None, grad_w, None, None, None, None


# endpoint_loss: the forward pass made the gradient, of which a second derivative needs the formula.


def _loss_context(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.dtype = inputs[0].dtype
    ctx.save_for_backward(output[1], *inputs)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # no zeros for the output that has no gradient


def _loss_backward(ctx: Any, grad: Tensor, _: object) -> Grads:
    grad_u, x, u, x_end, delta, weight = ctx.saved_tensors
    if torch.is_grad_enabled():  # a gradient of this gradient will be asked for
        by_row = -2 / (delta.float() * x.numel()) * (1 if weight is None else weight.float())
        grad_u = column(by_row, x) * (x.float() - column(delta.float(), x) * u.float() - x_end.float())
    if torch.is_grad_enabled() or not _is_one(grad):
        grad_u = grad_u * grad  # float32: a loss scale for float16 is applied before anything is rounded
    grad_x = grad_x_end = None
    if ctx.needs_input_grad[0] or ctx.needs_input_grad[2]:
        grad_x_end = (grad_u / column(delta, grad_u)).to(ctx.dtype)
        grad_x = -grad_x_end
    return grad_x, grad_u.to(ctx.dtype), grad_x_end, None, None


def _is_one(grad: Tensor) -> bool:
    """Whether a backward pass starts at this loss, where that can be seen without waiting for a device or a compiler."""
    try:
        return type(grad) is torch.Tensor and grad.device.type == "cpu" and grad.item() == 1
    except RuntimeError:  # of several gradients at once there is no one number
        return False
