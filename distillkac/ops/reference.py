"""The six ops in plain float64 PyTorch: the truth that tests hold the kernels to.

Same names and arguments as in `distillkac.ops`, but for `out`; no code shared with the kernels, written for reading, not for
speed. The noise has the same law as the kernels' (an exact identity, no table), not the same bits; its draws with one seed at
two times are no path, so `kac_pair` has no t_to here. Formulas: docs/method.md.
"""

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from distillkac.ops import ProcessName, Rows
from distillkac.ops.schedules import FName, GName, f_schedule, g_schedule

__all__ = [
    "endpoint_loss",
    "guided_step",
    "guided_velocity",
    "kac_noise",
    "kac_pair",
    "kac_velocity",
    "limit_speed",
    "planar_cdf_radius",
    "quad_cdf_radius",
    "quad_quantile",
    "rows",
    "telegraph_cdf_abs",
    "telegraph_density",
]


_Of = TypeVar("_Of")


def rows(value: Rows, like: Tensor) -> Tensor:
    """A float or (B,) tensor as float64, shaped to multiply `like` (B, ...)."""
    value = torch.as_tensor(value, dtype=torch.float64, device=like.device)
    return value.reshape(-1, *[1] * (like.dim() - 1))


def kac_noise(
    t: Tensor,
    size: Sequence[int],
    process: ProcessName,
    a: float,
    c: float,
    seed: int,
    offset: int = 0,
    dtype: torch.dtype = torch.float64,
    out: Tensor | None = None,
) -> Tensor:
    """Displacements K_t: t (B,) -> (B, *size). Row b is drawn from a generator of its own, seeded by (seed, offset + b)."""
    draw = _of_process("kac_noise", _ROWS, process)
    result = torch.empty(len(t), *size, dtype=torch.float64)
    for b, time in enumerate(t.double().tolist()):
        state = np.random.SeedSequence([int(seed) % 2**64, offset + b]).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(state >> 1))
        result[b] = draw(time, tuple(size), a, c, generator)
    result = result.to(dtype)
    return result if out is None else out.copy_(result)


def _of_process(op: str, by_name: dict[str, _Of], process: str) -> _Of:
    """What belongs to a process; that there is no such process is a ValueError."""
    if process not in by_name:
        raise ValueError(f"{op}: process must be 'telegraph', 'planar' or 'quad', got {process!r}")
    return by_name[process]


def _uniform(size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Uniform on (0, 1): 52 random bits and a half."""
    return (torch.randint(2**52, size, generator=generator).double() + 0.5) / 2**52


def _telegraph_row(t: float, size: tuple[int, ...], a: float, c: float, generator: torch.Generator) -> Tensor:
    """n ~ Poisson(a t) turns: none, |xi| = 1; else xi = sqrt(1 - U^(1/(k - 1/2))) cos(2 pi V), k = ceil(n/2)."""
    n = torch.poisson(torch.full(size, a * t, dtype=torch.float64), generator=generator)
    k = torch.ceil(n / 2).clamp(min=1)
    u, v, sign = (_uniform(size, generator) for _ in range(3))
    moved = torch.sqrt(-torch.expm1(torch.log(u) / (k - 0.5))) * torch.cos(2 * math.pi * v)
    straight = torch.where(sign < 0.5, -1.0, 1.0).double()
    return c * t * torch.where(n == 0, straight, moved)


def _planar_row(t: float, size: tuple[int, ...], a: float, c: float, generator: torch.Generator) -> Tensor:
    """s = max(0, c t + (c/a) log U), r = sqrt(c^2 t^2 - s^2), direction uniform; pairs along the last axis."""
    pairs = (*size[:-1], size[-1] // 2)
    s = (c * t + c / a * torch.log(_uniform(pairs, generator))).clamp(min=0)
    r = torch.sqrt((c * t - s) * (c * t + s))
    angle = 2 * math.pi * _uniform(pairs, generator)
    return torch.stack([r * torch.cos(angle), r * torch.sin(angle)], -1).reshape(size)


def _quad_row(t: float, size: tuple[int, ...], a: float, c: float, generator: torch.Generator) -> Tensor:
    """n ~ Poisson(a t) turns: none, |K| = c t; else |K|^2 / (c t)^2 ~ Beta(2, n), the second least of n + 1 uniform numbers;
    direction uniform, that of a normal vector; four along the last axis."""
    fours = (*size[:-1], size[-1] // 4)
    n = torch.poisson(torch.full(fours, a * t, dtype=torch.float64), generator=generator)
    u, v = _uniform(fours, generator), _uniform(fours, generator)
    s = -torch.expm1(torch.log(u) / (n + 1) + torch.log(v) / n.clamp(min=1))
    r = c * t * torch.where(n == 0, 1.0, torch.sqrt(s))
    normal = torch.randn(*fours, 4, dtype=torch.float64, generator=generator)
    return (r.unsqueeze(-1) * normal / normal.norm(dim=-1, keepdim=True)).reshape(size)


_ROWS = {"telegraph": _telegraph_row, "planar": _planar_row, "quad": _quad_row}

ON_SPHERE = 1e-6
"""Of the quad process, |k| that is at most so much below c t, in proportion, counts as on the sphere: the rounding of a
float32 draw."""


def kac_velocity(k: Tensor, t: Tensor, process: ProcessName, a: float, c: float) -> Tensor:
    """Conditional velocity at displacement k (B, ...) after time t (B,): float64, like k. |k| >= c t is on the light cone."""
    _of_process("kac_velocity", _ROWS, process)
    k = k.double()
    t = rows(t, k)
    if process == "planar":
        pairs = k.unflatten(-1, (-1, 2))
        square = (c * t).square().unsqueeze(-1) - pairs.square().sum(-1, keepdim=True)
        s = torch.sqrt(square.clamp(min=0))
        return (pairs / (t.unsqueeze(-1) + s / c).clamp(min=1e-300)).flatten(-2)
    if process == "quad":
        fours, t = k.unflatten(-1, (-1, 4)), t.unsqueeze(-1)
        size = fours.norm(dim=-1, keepdim=True)
        z = a / (c * c * t).clamp(min=1e-300) * ((c * t - size) * (c * t + size)).clamp(min=0)
        inside = fours * (z + 3) / ((2 * t).clamp(min=1e-300) * (z + 2))
        outside = c * fours / size.clamp(min=1e-300)
        return torch.where(size >= c * t * (1 - ON_SPHERE), outside, inside).flatten(-2)
    radius = c * t
    y = ((a / c) ** 2 * (radius - k.abs()) * (radius + k.abs())).clamp(min=1e-12)  # below, G is 2 to rounding
    z = torch.sqrt(y)
    g = z * torch.special.i0e(z) / torch.special.i1e(z)
    v = a * k / (a * t + g)
    return torch.where(k.abs() >= radius, torch.copysign(torch.full_like(k, c), k), v)


def kac_pair(
    x0: Tensor,
    t: Tensor,
    process: ProcessName,
    a: float,
    c: float,
    f: FName = "linear",
    g: GName = "linear",
    seed: int = 0,
    offset: int = 0,
    kappa: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Training pair: x_t = f(t) x_0 + K_{g(t)}, u = f'(t) x_0 + g'(t) v(g(t), K)."""
    x0 = x0.double()
    f_t, df_t = f_schedule(t.double(), f, kappa)
    g_t, dg_t = g_schedule(t.double(), g)
    k = kac_noise(g_t, x0.shape[1:], process, a, c, seed, offset)
    v = kac_velocity(k, g_t, process, a, c)
    return rows(f_t, x0) * x0 + k, rows(df_t, x0) * x0 + rows(dg_t, x0) * v


def limit_speed(u: Tensor, max_speed: float | None, process: ProcessName) -> Tensor:
    """Clamp each coordinate (telegraph), or the length of each two (planar) or four (quad) neighbours of u, to max_speed."""
    group = _of_process("limit_speed", {"telegraph": 1, "planar": 2, "quad": 4}, process)
    if max_speed is None:
        return u
    if group == 1:
        return u.clamp(-max_speed, max_speed)
    pairs = u.unflatten(-1, (-1, group))
    speed = torch.sqrt(pairs.square().sum(-1, keepdim=True).clamp(min=1e-300))
    return (pairs * (max_speed / speed).clamp(max=1)).flatten(-2)


def guided_velocity(
    u_cond: Tensor, u_uncond: Tensor, w: Rows, max_speed: float | None = None, process: ProcessName = "telegraph"
) -> Tensor:
    """Classifier-free guidance u = u_cond + w (u_cond - u_uncond), w = 0 being none; then the speed limit."""
    u_cond, u_uncond = u_cond.double(), u_uncond.double()
    return limit_speed(u_cond + rows(w, u_cond) * (u_cond - u_uncond), max_speed, process)


def guided_step(
    x: Tensor,
    u_cond: Tensor,
    u_uncond: Tensor | None,
    u_prev: Tensor | None,
    w: Rows | None,
    h: Rows,
    h_prev: Rows | None,
    max_speed: float | None = None,
    process: ProcessName = "telegraph",
) -> tuple[Tensor, Tensor]:
    """Guidance and one step from t to t - h: Euler, or with u_prev Adams-Bashforth 2. Returns (x_next, u)."""
    x = x.double()
    if u_uncond is None:
        u = limit_speed(u_cond.double(), max_speed, process)
    elif w is None:
        raise ValueError("guided_step: w must be the weight of the guidance, got None; or pass no u_uncond")
    else:
        u = guided_velocity(u_cond, u_uncond, w, max_speed, process)
    h = rows(h, x)
    if u_prev is None:
        return x - h * u, u
    if h_prev is None:
        raise ValueError("guided_step: h_prev must be the length of the step before, got None")
    r = h / (2 * rows(h_prev, x))
    return x - h * ((1 + r) * u - r * u_prev.double()), u


def endpoint_loss(x: Tensor, u: Tensor, x_end: Tensor, delta: Tensor, weight: Tensor | None = None) -> Tensor:
    """mean_b weight_b ||(x - delta_b u) - x_end||^2 / (delta_b^2 D), D the elements of a row."""
    x, u, x_end = x.double(), u.double(), x_end.double()
    delta = rows(delta, x)
    residual = (x - delta * u) - x_end
    weight = rows(1.0 if weight is None else weight, x)
    return (weight * residual.square() / delta.square()).mean()


# Laws, for tests and diagnostics.


def telegraph_density(xi: Tensor, lam: Tensor) -> Tensor:
    """Density of xi = K/(c t) on (-1, 1), without the two atoms of mass exp(-lam)/2. Float64 tensors that broadcast."""
    r = torch.sqrt((1 - xi) * (1 + xi))
    z = (lam * r).clamp(min=1e-12)
    decay = torch.exp(-lam * xi.square() / (1 + r))  # exp(-lam + z)
    return lam / 2 * decay * (torch.special.i0e(z) + lam * torch.special.i1e(z) / z)


def telegraph_cdf_abs(xi: Tensor, lam: float) -> Tensor:
    """P(|K|/(c t) <= xi, the particle turned): xi (N,) in [0, 1], float64; 1 - exp(-lam) at xi = 1.

    Gauss-Legendre on 400 panels up to xi; the density is analytic in xi. Error below 1e-12 for lam <= 1e4.
    """
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(10))
    top = xi.double().clamp(max=min(1.0, 14 / math.sqrt(lam)))  # beyond 14 standard deviations: below 1e-40
    edges = top[:, None] * torch.linspace(0, 1, 401, dtype=torch.float64)
    middle, half = (edges[:, 1:] + edges[:, :-1]) / 2, (edges[:, 1:] - edges[:, :-1]) / 2
    points = middle[..., None] + half[..., None] * nodes
    values = 2 * telegraph_density(points, torch.tensor(lam, dtype=torch.float64))
    return (values * weights * half[..., None]).sum((1, 2))


def planar_cdf_radius(rho: Tensor, lam: float) -> Tensor:
    """P(|K|/(c t) <= rho) of the planar process for rho in [0, 1): 1 - exp(-lam (1 - sqrt(1 - rho^2)))."""
    s = torch.sqrt((1 - rho) * (1 + rho))
    return -torch.expm1(-lam * rho.square() / (1 + s))


def _quad_exponent(s: Tensor, lam: Tensor) -> Tensor:
    """-log of P(|K|^2 > s (c t)^2) = exp(-lam s) (1 + lam s (1 - s)), without cancellation."""
    q = lam * s * (1 - s)
    series = q.square() * (1 / 2 - q * (1 / 3 - q * (1 / 4 - q * (1 / 5 - q / 6))))
    return lam * s.square() + torch.where(q < 1e-3, series, q - torch.log1p(q))


def quad_cdf_radius(rho: Tensor, lam: float) -> Tensor:
    """P(|K|/(c t) <= rho) of the quad process for rho in [0, 1), float64."""
    return -torch.expm1(-_quad_exponent(rho.square(), torch.tensor(lam, dtype=torch.float64)))


def quad_quantile(exponent: Tensor, lam: float) -> Tensor:
    """rho = |K|/(c t) with P(|K|/(c t) > rho) = exp(-exponent), 1 where exponent >= lam. By bisection of s = rho^2: float64,
    exponent > 0 of any shape."""
    rate, low, high = torch.tensor(lam, dtype=torch.float64), torch.zeros_like(exponent), torch.ones_like(exponent)
    for _ in range(1200):  # halves, and so the exponent of the least s that there is
        middle = torch.where(low > 0, (low + high) / 2, high / 4)
        if not ((middle > low) & (middle < high)).any():
            break
        below = _quad_exponent(middle, rate) < exponent
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return torch.where(exponent < rate, high, 1.0).sqrt()
