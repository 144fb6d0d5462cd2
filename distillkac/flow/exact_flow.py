"""The exact flow onto a finite data set: ground truth for integrators, for toy problems, and for looking at a process.

With the data x^1 ... x^n, each of weight 1/n, the marginal velocity E[u | x_t = x] is a mixture of conditional ones,

    u(t, x) = sum_i p_i(x) u_i(x),     p_i ~ density of K_g at k_i = x - f x^i,     u_i = f' x^i + g' v(g, k_i),

and carries the prior onto the data. Factors of the density that all points share cancel in p_i; they are kept all the
same, because they set the continuous part of the law against the atoms on its light cone.

Atoms. A state on the cone of x^i comes from x^i for certain. In floating point "on" means within rounding, so an atom
counts as a normal density as narrow as the rounding of x: it decides on the cone, is nothing inside, and outside of all
cones, where an integrator's error may lead, leaves the point whose cone is nearest. One log-sum-exp holds it all.

Where cones overlap while they hold much of the mass, no field can follow the atoms: one that shall keep only a part of
the particles that meet it would have to let the others pass. `spread` gives them room. The particles that never turned
then have speeds c (1 + spread Z), Z standard normal, and with the flow between the two parts of the law this is again
an exact flow onto the data, for any spread; steps must be shorter than about spread * t.
"""

import math

import torch

from distillkac.base.random import generator
from distillkac.base.tensors import column
from distillkac.flow import patches
from distillkac.flow.fields import SpeedNorm
from distillkac.flow.integrators import Method, integrate
from distillkac.flow.processes import Gaussian, Planar, Process, Quad, Telegraph
from distillkac.ops import reference

__all__ = ["ExactFlow", "conditional_law", "push", "sampling_floor", "sliced_wasserstein"]

CHUNK = 2**19  # numbers of an array that is worked on at once: 4 MiB


def conditional_law(
    process: Process, k: torch.Tensor, age: torch.Tensor, rounding: torch.Tensor, spread: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """(log density of K_age at k, conditional velocity v(age, k)).

    k: (B, ..., D) float64; pairs (planar) or fours (quad) are neighbours of the last axis. age: (B,) > 0. rounding: like k,
    how far rounding may have moved k. An atom counts as a normal density of standard deviation
    rounding + spread * c * age across the cone.
    Returns (B, ...), normalised over R^D, and a tensor like k. Raises ValueError for a process whose law is not known.
    """
    t = column(age, k)
    if isinstance(process, Gaussian):
        sd = process.sigma * t
        return (-(k / sd).square() / 2 - torch.log(sd * math.sqrt(2 * math.pi))).sum(-1), k / t
    if not isinstance(process, (Telegraph, Planar, Quad)):
        raise ValueError(f"no density is known for {process}")
    a, c = process.a, process.c
    radius, lam, group = c * t, a * t, {"telegraph": 1, "planar": 2, "quad": 4}[process.name]
    size = k.abs() if group == 1 else k.unflatten(-1, (-1, group)).norm(dim=-1)
    rounding = rounding.unflatten(-1, (-1, group)).sum(-1)
    width = rounding.clamp(min=1e-150) + spread * radius
    excess = size - radius
    s = torch.sqrt((-excess * (radius + size)).clamp(min=0))
    inside, atom = _logarithms(process, size, radius, s, lam)
    y = excess / width
    atom = atom - y.square() / 2 - torch.log(width * math.sqrt(2 * math.pi))
    log = torch.logaddexp(inside, atom)
    share = torch.exp(atom - log)
    # What the atom takes from the continuous part arrives at |k| = c t and has to be carried to where the atom is. With
    # m its mass this flux is a m (Phi(y) - [y > 0]); beside the atom's density m phi(y) / width it is this velocity:
    lag = torch.sign(y) * a * width * math.sqrt(math.pi / 2) * torch.special.erfcx(y.abs() / math.sqrt(2))
    edge = 1 / t - lag / size.clamp(min=1e-200)
    share, edge = share.repeat_interleave(group, -1), edge.repeat_interleave(group, -1)
    if group == 4:  # as far as the sphere, where the atom's share is
        z = (lam * (s / radius).square()).repeat_interleave(4, -1)
        v = k * (z + 3) / (2 * t * (z + 2))
    else:
        v = reference.kac_velocity(k, age, process.name, a, c)
    return log.sum(-1), torch.lerp(v, edge * k, share)


def _logarithms(
    process: Telegraph | Planar | Quad, size: torch.Tensor, radius: torch.Tensor, s: torch.Tensor, lam: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the density inside the cone, of the mass that the atom has per area of the cone. s^2 = radius^2 - size^2."""
    a, c = process.a, process.c
    if isinstance(process, Quad):  # the law of |K|^2 (docs/method.md, eq. 7a) over the area of the sphere, 2 pi^2 |K|^3
        z = lam * (s / radius).square()
        inside = torch.log(lam * (2 + z)) - 2 * torch.log(math.pi * radius * radius) + (z - lam)
        atom = -lam - math.log(2 * math.pi**2) - 3 * torch.log(torch.maximum(size, radius / 2))
    elif isinstance(process, Planar):  # s = ct + (c/a) ln U is exponential, and r dr dtheta = s ds dtheta (eq. 6)
        inside = math.log(a / (2 * math.pi * c)) + a / c * (s - radius) - torch.log(s)
        atom = -lam - torch.log(2 * math.pi * torch.maximum(size, radius / 2))
    else:  # eq. 2
        z = a / c * s
        bessel = torch.special.i0e(z) + lam * torch.where(z > 0, torch.special.i1e(z) / z, 0.5)
        inside = math.log(a / (2 * c)) + torch.log(bessel) + (z - lam)
        atom = math.log(0.5) - lam
    return torch.where(s > 0, inside, -torch.inf), atom


class ExactFlow:
    """The exact marginal velocity; a field that integrators.integrate takes as it takes a GuidedVelocity.

    process: telegraph, planar, quad or gaussian. data: (n, ...), n >= 1 points of equal weight.
    spread: relative width of the atoms, in [0, 0.1]; 0 for E[u | x_t] of the process itself, 0.05 or so to push particles.
    Raises ValueError if spread is out of range or the process cannot act on points of this shape.
    """

    max_speed: float | None = None

    def __init__(self, process: Process, data: torch.Tensor, spread: float = 0.0) -> None:
        if data.dim() < 2 or not len(data):
            raise ValueError(f"data must be (n, ...), n >= 1 points, got {tuple(data.shape)}")
        if not 0 <= spread <= 0.1:
            raise ValueError(f"spread must lie in [0, 0.1], got {spread}")
        process.check_shape(tuple(data.shape[1:]))
        self.law, self.data, self.spread = process, self._together(process, data).double().flatten(1), spread
        self.speed_norm: SpeedNorm = process.speed_norm

    def evaluate(
        self, x: torch.Tensor, t: float | torch.Tensor, y: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, None, float]:
        """(u, None, 0.0): what an integrator asks of a field."""
        return self(x, t), None, 0.0

    def __call__(self, x: torch.Tensor, t: float | torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        """E[u | x_t = x]. x: (B, ...) like the data. t: one for all or (B,), in (0, 1]. y is ignored: no classes.

        Computed in float64, returned in the dtype of x. Raises ValueError at t = 0: where the particles have met, x no
        longer tells where each came from; end with an Euler step from the last t > 0 (`push`).
        """
        t = torch.as_tensor(t, dtype=torch.float64, device=x.device).expand(len(x))
        if not ((t > 0) & (t <= 1)).all():
            raise ValueError(f"the exact velocity is defined for t in (0, 1], got {t.tolist()[:3]}")
        points = self.data.to(x.device)
        if x.dim() < 2 or x[:1].numel() not in (0, points.shape[1]):
            raise ValueError(f"x must be (B, ...) with {points.shape[1]} numbers a row, got {tuple(x.shape)}")
        rows, eps = max(1, CHUNK // points.numel()), torch.finfo(x.dtype).eps
        together = self._together(self.law, x)
        parts = zip(together.double().flatten(1).split(rows), t.split(rows), strict=True)
        u = torch.cat([self._velocity(part, time, points, eps) for part, time in parts]).view_as(together).to(x.dtype)
        return patches.scattered(u) if self.speed_norm == "quad" else u

    @staticmethod
    def _together(process: Process, x: torch.Tensor) -> torch.Tensor:
        """What moves together as neighbours, also where rows are flattened."""
        return patches.gathered(x) if process.speed_norm == "quad" else x

    def _velocity(self, x: torch.Tensor, t: torch.Tensor, points: torch.Tensor, eps: float) -> torch.Tensor:
        (f, df), (g, dg) = self.law.schedules(t)
        center = column(f, points[None]) * points
        k = x[:, None] - center
        rounding = 4 * eps * (x[:, None].abs() + center.abs())  # both terms of x = f x^i + K were rounded
        log, v = conditional_law(self.law, k, g, rounding, self.spread)
        p = torch.softmax(log, 1)
        return (p[..., None] * (column(df, k) * points + column(dg, k) * v)).sum(1)


def push(
    flow: ExactFlow, x: torch.Tensor, grid: torch.Tensor, method: Method = "ab2", path: bool = False
) -> torch.Tensor:
    """Carries x along the exact flow to the data; the last step is Euler's, which asks for nothing at t = 0.

    x: (B, ...) at grid[0]. grid: (N + 1,) decreasing to 0, N >= 2. method, path and result: as in integrators.integrate.
    When cones are apart, particles of an atom follow u = f' x^i + g' k/g, which one Euler step takes to x^i.
    """
    states = integrate(flow, x, None, grid[:-1], method, path=True)
    end = integrate(flow, states[-1], None, grid[-2:], "euler")
    return torch.cat([states, end[None]]) if path else end


def sliced_wasserstein(x: torch.Tensor, y: torch.Tensor, directions: int = 64, seed: int = 0) -> float:
    """Wasserstein-1 distance between projections of two samples, mean over random directions. x: (n, D). y: (m, D).

    Exact in each direction: the integral of |F - G| of the two empirical distribution functions.
    """
    axes = torch.randn(directions, x.shape[1], dtype=torch.float64, generator=generator(seed, "directions"))
    axes /= axes.norm(dim=1, keepdim=True)
    x, y = (torch.sort(axes @ v.double().T, dim=1).values for v in (x, y))
    both = torch.cat([x, y], 1).sort(1).values
    below = both[:, :-1].contiguous()
    f, g = (torch.searchsorted(v, below, right=True).double() / v.shape[1] for v in (x, y))
    return ((f - g).abs() * both.diff(dim=1)).sum(1).mean().item()


def sampling_floor(data: torch.Tensor, n: int, seed: int = 0, repeats: int = 8) -> float:
    """What a perfect sampler scores: mean sliced Wasserstein distance of n draws from the data (m, D) to the data."""
    draws = torch.randint(len(data), (repeats, n), generator=generator(seed, "floor"))
    return sum(sliced_wasserstein(data[rows], data, seed=seed) for rows in draws) / repeats
