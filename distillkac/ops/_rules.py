"""What torch must know of the ops beside their kernels: gradients; result shapes are in _shapes.py."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from distillkac.base.tensors import column
from distillkac.ops import _shapes
from distillkac.ops.schedules import f_schedule

Grads = tuple[Tensor | None, ...]


def register(with_cuda: bool) -> None:
    """Register the rules for every op; without CUDA kernels, also a clear refusal of CUDA tensors."""
    _shapes.register()
    autograd: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
        "kac_velocity": (_velocity_backward, _velocity_context),
        "kac_pair": (_pair_backward, _pair_context),
        "kac_pair.to": (_pair_backward, _pair_context),
        "guided_velocity": (_guided_backward, _guided_context),
        "guided_step": (_step_backward, _step_context),
        "endpoint_loss": (_loss_backward, _loss_context),
    }
    for name, (backward, setup_context) in autograd.items():
        torch.library.register_autograd(f"distillkac::{name}", backward, setup_context=setup_context)
    if not with_cuda:
        for name in (*_shapes.NAMES, *_shapes.OUT_NAMES):
            _library.impl(name, _no_cuda, "CUDA")


_library = torch.library.Library("distillkac", "FRAGMENT")


def _no_cuda(*args: object, **kwargs: object) -> None:
    raise RuntimeError(
        "distillkac was built without CUDA kernels, got CUDA tensors; python -m distillkac.doctor says why; where nvcc is "
        "installed, run: DISTILLKAC_CUDA=ON pip install --no-build-isolation -e ."
    )


def _rows(value: float, tensor: Tensor | None, like: Tensor) -> float | Tensor:
    """A row scalar, shaped to multiply `like`."""
    return value if tensor is None else column(tensor, like).to(torch.float32)


# kac_velocity: derivative in k, in float64 (this is not on any hot path).


def _velocity_context(ctx: Any, inputs: Any, output: Any) -> None:
    k, t, ctx.process, ctx.a, ctx.c = inputs
    ctx.save_for_backward(k, t)


def _velocity_backward(ctx: Any, grad: Tensor) -> Grads:
    k, t = ctx.saved_tensors
    x, g, a, c = k.double(), grad.double(), ctx.a, ctx.c
    t = column(t.double(), x)
    if ctx.process == "planar":
        # v = c x / (c t + s): dv = c dx / (c t + s) + c x (x . dx) / (s (c t + s)^2); on the light circle the second
        # term is infinite outwards, and only the first is kept.
        x, g, ct = x.unflatten(-1, (-1, 2)), g.unflatten(-1, (-1, 2)), c * t.unsqueeze(-1)
        s = torch.sqrt((ct.square() - x.square().sum(-1, keepdim=True)).clamp(min=0))
        first = c / (ct + s).clamp(min=1e-300)
        inner = torch.where(s > 0, (x * g).sum(-1, keepdim=True) / (s * (ct + s)).clamp(min=1e-300), 0)
        return (first * (g + x * inner)).flatten(-2).to(k.dtype), None, None, None, None
    if ctx.process == "quad":
        return _quad_velocity_backward(x, g, t, a, c, k.dtype), None, None, None, None
    # v = a x / (lambda + G(z)), z^2 = y = (a/c)^2 (c^2 t^2 - x^2), G' = (2 G + y - G^2) / z:
    # dv/dx = a / (lambda + G) (1 + (a x / c)^2 H / (lambda + G)), H = (2 G + y - G^2) / y.
    on_cone = k.float().abs() >= (c * t).float()
    y = ((a / c) ** 2 * (c * t - x.abs()) * (c * t + x.abs())).clamp(min=1e-12)
    z = torch.sqrt(y)
    g_z = z * torch.special.i0e(z) / torch.special.i1e(z)
    h = torch.where(y < 1e-4, 0.5 - y / 24, (2 * g_z + y - g_z.square()) / y)
    slope = a / (a * t + g_z) * (1 + (a / c * x).square() * h / (a * t + g_z))
    return torch.where(on_cone, 0, g * slope).to(k.dtype), None, None, None, None


_ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}  # csrc/ops/kac_velocity.h


def _quad_velocity_backward(x: Tensor, g: Tensor, t: Tensor, a: float, c: float, dtype: torch.dtype) -> Tensor:
    """v = x w / (2 t), w = (z + 3) / (z + 2), dz = -2 lambda x . dx / (c t)^2; on the sphere v = c x / |x|."""
    x, g, t = x.unflatten(-1, (-1, 4)), g.unflatten(-1, (-1, 4)), t.unsqueeze(-1)
    along, size, ct = (x * g).sum(-1, keepdim=True), x.norm(dim=-1, keepdim=True), c * t
    per_square = a / (c * ct).clamp(min=1e-300)  # lambda / (c t)^2
    z = per_square * ((ct - size) * (ct + size)).clamp(min=0)
    inside = ((z + 3) / (z + 2) * g + 2 * per_square / (z + 2).square() * x * along) / (2 * t).clamp(min=1e-300)
    outside = c / size.clamp(min=1e-300) * (g - x * along / size.square().clamp(min=1e-300))
    return torch.where(size >= ct * (1 - _ROUNDING[dtype]), outside, inside).flatten(-2).to(dtype)


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


def _through_limit(grad: Tensor, unlimited: Tensor, max_speed: float | None, process: str) -> Tensor:
    if max_speed is None:
        return grad
    if process == "telegraph":
        return torch.where(unlimited.abs() > max_speed, 0, grad)
    group = 2 if process == "planar" else 4
    x, g = unlimited.unflatten(-1, (-1, group)), grad.unflatten(-1, (-1, group))
    speed = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=1e-30)
    n = x / speed
    limited = max_speed / speed * (g - n * (n * g).sum(-1, keepdim=True))
    return torch.where(speed > max_speed, limited, g).flatten(-2)


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
    weight = _rows(w, w_rows, u_cond)
    difference = u_cond.float() - u_uncond.float()
    grad = _through_limit(grad.float(), u_cond.float() + weight * difference, max_speed, process)
    grad_w = None
    if w_rows is not None:
        grad_w = (grad * difference).flatten(1).sum(1).to(w_rows.dtype)
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
    h = _rows(ctx.h, h_rows, u_cond)
    r = h / (2 * _rows(ctx.h_prev, h_prev_rows, u_cond)) if ctx.ab2 else 0.0
    grad_u = grad_u.float() - h * (1 + r) * grad_x_next.float()
    grad_prev = (h * r * grad_x_next).to(u_cond.dtype) if ctx.ab2 else None
    if u_uncond is None:
        grad_cond = _through_limit(grad_u, u_cond.float(), ctx.max_speed, ctx.process).to(u_cond.dtype)
        grad_uncond = grad_w = None
    else:
        grads = _guidance_grads(grad_u, u_cond, u_uncond, ctx.w, w_rows, ctx.max_speed, ctx.process)
        grad_cond, grad_uncond, grad_w = grads
    return grad_x_next, grad_cond, grad_uncond, grad_prev, None, None, None, grad_w, None, None, None, None


# endpoint_loss: the forward pass made the gradient.


def _loss_context(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.dtype = inputs[0].dtype
    ctx.save_for_backward(output[1], inputs[3])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # no zeros for the output that has no gradient


def _loss_backward(ctx: Any, grad: Tensor, _: object) -> Grads:
    grad_u, delta = ctx.saved_tensors
    if not _is_one(grad):
        grad_u = grad_u * grad  # float32: a loss scale for float16 is applied before anything is rounded
    grad_x = grad_x_end = None
    if ctx.needs_input_grad[0] or ctx.needs_input_grad[2]:
        grad_x_end = (grad_u / column(delta, grad_u)).to(ctx.dtype)
        grad_x = -grad_x_end
    return grad_x, grad_u.to(ctx.dtype), grad_x_end, None, None


def _is_one(grad: Tensor) -> bool:
    """Whether a backward pass starts at this loss, where that can be seen without waiting for a device or a compiler."""
    return type(grad) is torch.Tensor and grad.device.type == "cpu" and grad.item() == 1
