"""Forward mode: how the results of the ops move with their arguments; and the maps that this and the gradients share.

A rule is given the arguments of the op by their names in the schema, and the tangents of those that have one.
"""

import math
from typing import Any

import torch
from torch import Tensor

from distillkac.base.tensors import column, flat_rows
from distillkac.ops._autograd import Tangents
from distillkac.ops.schedules import f_schedule

Arguments = dict[str, Any]


def rows_of(value: float, tensor: Tensor | None, like: Tensor) -> float | Tensor:
    """A row scalar, shaped to multiply `like`."""
    return value if tensor is None else column(tensor, like).to(torch.float32)


def in_groups(x: Tensor, size: int) -> Tensor:
    """(..., W) as (..., W / size, size). By reshape: batched gradients have no rule for unflatten."""
    return x.reshape(*x.shape[:-1], x.shape[-1] // size, size)


def along_velocity(k: Tensor, t: Tensor, moved: Tensor, process: str, a: float, c: float) -> Tensor:
    """How the velocity at k changes where k moves so; the map is symmetric, so a gradient goes back by it too.

    In float64: this is not on any hot path. At t = 0 nothing can move, and it is 0.
    """
    x, g = k.double(), moved.double()
    t = column(t.double(), x)
    still = c * t == 0
    slope = _ALONG[process](x, g, torch.where(still, 1, t), a, c, k.dtype)
    return torch.where(still, 0, slope).to(k.dtype)


def _along_planar(x: Tensor, g: Tensor, t: Tensor, a: float, c: float, dtype: torch.dtype) -> Tensor:
    """v = c x / (c t + s): dv = c dx / (c t + s) + c x (x . dx) / (s (c t + s)^2); on the light circle the second term is
    infinite outwards, and only the first is kept."""
    shape, ct = x.shape, c * t.unsqueeze(-1)
    x, g = in_groups(x, 2), in_groups(g, 2)
    square = ct.square() - x.square().sum(-1, keepdim=True)
    inside = square > 0
    s = torch.where(inside, torch.where(inside, square, 1).sqrt(), 0)  # the root's own slope at 0 is infinite
    inner = torch.where(inside, (x * g).sum(-1, keepdim=True) / (s * (ct + s)).clamp(min=1e-300), 0)
    return (c / (ct + s) * (g + x * inner)).reshape(shape)


def _along_telegraph(x: Tensor, g: Tensor, t: Tensor, a: float, c: float, dtype: torch.dtype) -> Tensor:
    """v = a x / (lambda + G(z)), z^2 = y = (a/c)^2 (c^2 t^2 - x^2), G' = (2 G + y - G^2) / z:
    dv/dx = a / (lambda + G) (1 + (a x / c)^2 H / (lambda + G)), H = (2 G + y - G^2) / y."""
    on_cone = x.to(dtype).float().abs() >= (c * t).float()
    y = ((a / c) ** 2 * (c * t - x.abs()) * (c * t + x.abs())).clamp(min=1e-12)
    z = torch.sqrt(y)
    g_z = z * torch.special.i0e(z) / torch.special.i1e(z)
    h = torch.where(y < 1e-4, 0.5 - y / 24, (2 * g_z + y - g_z.square()) / y)
    slope = a / (a * t + g_z) * (1 + (a / c * x).square() * h / (a * t + g_z))
    return torch.where(on_cone, 0, g * slope)


_ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}  # csrc/ops/kac_velocity.h


def _along_quad(x: Tensor, g: Tensor, t: Tensor, a: float, c: float, dtype: torch.dtype) -> Tensor:
    """v = x w / (2 t), w = (z + 3) / (z + 2), dz = -2 lambda x . dx / (c t)^2; on the sphere v = c x / |x|."""
    shape, t = x.shape, t.unsqueeze(-1)
    x, g = in_groups(x, 4), in_groups(g, 4)
    along, size, ct = (x * g).sum(-1, keepdim=True), x.norm(dim=-1, keepdim=True), c * t
    per_square = a / (c * ct).clamp(min=1e-300)  # lambda / (c t)^2
    z = per_square * ((ct - size) * (ct + size)).clamp(min=0)
    inside = ((z + 3) / (z + 2) * g + 2 * per_square / (z + 2).square() * x * along) / (2 * t).clamp(min=1e-300)
    outside = c / size.clamp(min=1e-300) * (g - x * along / size.square().clamp(min=1e-300))
    return torch.where(size >= ct * (1 - _ROUNDING[dtype]), outside, inside).reshape(shape)


_ALONG = {"telegraph": _along_telegraph, "planar": _along_planar, "quad": _along_quad}


def through_limit(grad: Tensor, unlimited: Tensor, max_speed: float | None, process: str) -> Tensor:
    if max_speed is None or math.isinf(max_speed):
        return grad
    if process == "telegraph":
        return torch.where(unlimited.abs() > max_speed, 0, grad)
    group = 2 if process == "planar" else 4
    x, g = in_groups(unlimited, group).double(), in_groups(grad, group)  # squares of float32 fit in there
    speed = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=1e-300)
    n = x / speed
    limited = (max_speed / speed).clamp(max=1) * (g - n * (n * g).sum(-1, keepdim=True))
    return torch.where(speed > max_speed, limited.to(g.dtype), g).reshape(grad.shape)


def velocity(given: Arguments, tangents: Tangents) -> list[Tensor]:
    return [along_velocity(given["k"], given["t"], tangents["k"], given["process"], given["a"], given["c"])]


def pair(given: Arguments, tangents: Tangents) -> list[Tensor]:
    """Linear in x0: x_t moves by f, u by f', and the state at a second time by f there."""
    moved = tangents["x0"]
    f, df = (column(v.float(), moved) for v in f_schedule(given["t"].double(), given["f"], given["kappa"]))
    results = [f * moved, df * moved]
    if "t_to" in given:
        f_to, _ = f_schedule(given["t_to"].double(), given["f"], given["kappa"])
        results.append(column(f_to.float(), moved) * moved)
    return results


def guided(given: Arguments, tangents: Tangents) -> list[Tensor]:
    """u = limit(u_cond + w (u_cond - u_uncond)), or limit(u_cond)."""
    cond, uncond = given["u_cond"].float(), given["u_uncond"]
    moved = torch.zeros_like(cond) if "u_cond" not in tangents else tangents["u_cond"].float()
    unlimited = cond
    if uncond is not None:
        w, difference, change = rows_of(given["w"], given["w_rows"], cond), cond - uncond.float(), moved
        if "u_uncond" in tangents:
            change = change - tangents["u_uncond"].float()
        unlimited, moved = cond + w * difference, moved + w * change
        if "w_rows" in tangents:
            moved = moved + column(tangents["w_rows"].float(), cond) * difference
    return [through_limit(moved, unlimited, given["max_speed"], given["process"])]


def step(given: Arguments, tangents: Tangents) -> list[Tensor]:
    """x_next = x - h ((1 + r) u - r u_prev), r = h / (2 h_prev)."""
    (moved_u,) = guided(given, tangents)
    h, change = rows_of(given["h"], given["h_rows"], moved_u), moved_u
    if given["u_prev"] is not None:
        r = h / (2 * rows_of(given["h_prev"], given["h_prev_rows"], moved_u))
        change = (1 + r) * moved_u
        if "u_prev" in tangents:
            change = change - r * tangents["u_prev"].float()
    moved = -h * change
    if "x" in tangents:
        moved = moved + tangents["x"].float()
    return [moved, moved_u]


def loss(given: Arguments, tangents: Tangents) -> list[Tensor]:
    """mean_b weight_b |r|^2 / (delta_b^2 D), r = (x - delta_b u) - x_end; not of the gradient, which no one is given."""
    x, u, x_end = (given[name].float() for name in ("x", "u", "x_end"))
    delta = column(given["delta"].float(), x)
    moved = torch.zeros_like(x)
    for name, by in (("x", 1.0), ("u", -delta), ("x_end", -1.0)):
        if name in tangents:
            moved = moved + by * tangents[name].float()
    rows = flat_rows(2 * (x - delta * u - x_end) * moved / delta.square()).mean(1)
    return [(rows if given["weight"] is None else rows * given["weight"].float()).mean()]
