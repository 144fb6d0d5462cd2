"""The exact flow onto a finite data set: ground truth for integrators, for toy problems, and for looking at a process.

With the data x^1 ... x^n, each of weight 1/n, the marginal velocity is a mixture of conditional ones,

    u(t, x) = sum_i p_i(x) u_i(x),     p_i ~ density of K_g at k_i = x - f x^i,     u_i = f' x^i + g' v(g, k_i),

which pushes the prior onto the data. (The atoms of the Kac processes are left out of the densities: at the prior's end
they hold e^-lambda of the mass of a coordinate or pair, 1e-11 at a = 25.)
"""

import torch

from distillkac.processes import Gaussian, Planar, Process, Telegraph
from distillkac.schedules import f_schedule, g_schedule


def log_density(process: Process, k: torch.Tensor, age: float) -> torch.Tensor:
    """log of the density of K_age at k, up to a constant: (..., D) -> (...), summed over the last axis; -inf outside.

    Telegraph: the continuous part, coordinate by coordinate. Planar: pair by pair, on neighbouring coordinates.
    """
    if isinstance(process, Gaussian):
        return -(k / (process.sigma * age)).square().sum(-1) / 2
    a, c = process.a, process.c
    radius, lam = c * age, a * age
    if isinstance(process, Telegraph):
        inside = (radius - k.abs()) * (radius + k.abs())
        root = (inside.clamp(min=0)).sqrt() / radius
        z = lam * root
        bessel = torch.special.i0e(z) + lam * torch.where(z > 0, torch.special.i1e(z) / z, 0.5)
        log = torch.log(bessel) + (z - lam)
        return torch.where(inside > 0, log, -torch.inf).sum(-1)
    if isinstance(process, Planar):
        square = k.unflatten(-1, (-1, 2)).square().sum(-1)
        inside = radius**2 - square
        s = inside.clamp(min=0).sqrt()
        # s = c t + (c/a) ln U is exponential below c t, and d(x, y) = r dr dtheta = s ds dtheta.
        log = (a / c) * (s - radius) - torch.log(s)
        return torch.where(inside > 0, log, -torch.inf).sum(-1)
    raise ValueError(f"no density is known for {process}")


class ExactFlow:
    """The marginal velocity as a field for integrators.integrate.

    data: (n, D) float64 points, or a list of them, one for each class. Evaluations are float64.
    """

    guidance_embedding = False
    null_class = 0

    def __init__(self, process: Process, data: torch.Tensor):
        self.process, self.data = process, data.double()

    def __call__(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        """x: (B, D). t: (B,), the same time for all rows. Returns (B, D) in the dtype of x."""
        time = t[:1].double().cpu()
        if (t != t[0]).any():
            raise ValueError("the exact flow takes one time for all rows")
        f, df = (float(v) for v in f_schedule(time, self.process.f, self.process.kappa))
        g, dg = (float(v) for v in g_schedule(time, self.process.g))
        return self._velocity(x.double(), f, df, g, dg).to(x.dtype)

    def _velocity(self, x, f, df, g, dg):
        points = self.data.to(x.device)
        k = x[:, None] - f * points
        log = log_density(self.process, k, g)
        # A state that left every light cone, by an integrator's error, follows the point it is nearest to.
        lost = torch.isneginf(log.amax(1))
        log = torch.where(lost[:, None], -k.square().sum(-1) / max(g, 1e-12) ** 2, log)
        p = torch.softmax(log, 1)
        v = self._conditional(k, g)
        return (p[..., None] * (df * points + dg * v)).sum(1)

    def _conditional(self, k, age):
        """v(age, k) in float64, from the reference; states outside the cone get the velocity at its edge."""
        from distillkac import reference

        if isinstance(self.process, Gaussian):
            return k / age
        radius = self.process.c * age
        if isinstance(self.process, Telegraph):
            clipped = k.clamp(-radius, radius)
            return reference.telegraph_velocity(clipped, torch.tensor(age), self.process.a, self.process.c)
        norm = k.unflatten(-1, (-1, 2)).norm(dim=-1).repeat_interleave(2, -1)
        clipped = k * (radius / norm.clamp(min=radius))
        return reference.planar_velocity(clipped, torch.tensor(age), self.process.c)
