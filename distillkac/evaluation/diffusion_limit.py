"""How near the laws of finite speed are to their Gaussian limit: of one coordinate, by quadrature."""

import math

import numpy as np
import torch

from distillkac.evaluation.diagnostics import exponent
from distillkac.ops import reference

LIMITS = ("telegraph", "planar", "quad")
RATES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def coordinate_cdf(process: str, x: torch.Tensor, a: float, c: float) -> torch.Tensor:
    """P(K_1 <= x) of one coordinate of the telegraph, planar or quad law, atoms included. x: (N,) float64, x >= 0."""
    xi, lam = (x / c).clamp(max=1), float(a)
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(10))
    v = ((torch.arange(40)[:, None] + (nodes + 1) / 2) / 40).flatten()
    if process == "telegraph":
        inside = reference.telegraph_cdf_abs(xi, lam)
    elif process == "quad":
        # |K|^2 = s c^2, of density lam s e^{-lam s} (2 + lam (1 - s)); a projection follows the semicircle's law.
        first = xi.square()
        top = (1 - first).clamp(max=60 / lam)[:, None]
        s = first[:, None] + top * v**6
        density = lam * s * torch.exp(-lam * s) * (2 + lam * (1 - s))
        values = density * _semicircle(xi[:, None] / s.sqrt()) * 6 * top * v**5
        inside = reference.quad_cdf_radius(xi, lam) + values @ (weights.repeat(40) / 80)
        inside = inside + math.exp(-lam) * _semicircle(xi)
    else:
        # |K| = c sqrt(e (2 - e)), e exponential with rate lam and cut at 1; its projection follows the arcsine law.
        first = xi.square() / (1 + torch.sqrt((1 - xi) * (1 + xi)))  # here the circle reaches x
        # e = first + top v^6: the integrand has a root at `first`, and for small x all its turns are near it.
        top = (1 - first).clamp(max=40 / lam)[:, None]
        e = first[:, None] + top * v**6
        arc = 2 / math.pi * torch.asin((xi[:, None] / torch.sqrt(e * (2 - e))).clamp(max=1))
        values = lam * torch.exp(-lam * e) * arc * 6 * top * v**5
        inside = -torch.expm1(-lam * first) + values @ (weights.repeat(40) / 80)
        inside = inside + math.exp(-lam) * 2 / math.pi * torch.asin(xi)
    return torch.where(xi < 1, (1 + inside) / 2, 1.0)


def _semicircle(q: torch.Tensor) -> torch.Tensor:
    """P(|U| <= q) of a coordinate U of a uniform direction in four dimensions."""
    q = q.clamp(max=1)
    return 2 / math.pi * (torch.asin(q) + q * torch.sqrt((1 - q) * (1 + q)))


def diffusion_limit() -> dict:
    """Wasserstein-1 distance of a coordinate of K_1 from N(0, 1) for the rates a = 1 ... 1000, by quadrature, at the speed c
    that gives the spread of 1: c^2 = a, of quad 2 a; for another spread sigma it is sigma times as large. The exponent is
    fitted where a >= 10."""
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(6))
    report: dict[str, list] = {"a": list(RATES)}
    for process in LIMITS:
        distances = []
        for a in RATES:
            c = math.sqrt(2 * a if process == "quad" else a)
            cone = min(c, 9.0)
            edges = torch.cat([torch.linspace(0, cone, 61), torch.linspace(cone, 10, 11)[1:]]).double()
            x = (edges[:-1, None] + edges.diff()[:, None] * (nodes + 1) / 2).flatten()
            gap = (coordinate_cdf(process, x, a, c) - torch.special.ndtr(x)).abs()
            distances.append(float((gap.view(-1, 6) @ weights) @ edges.diff()))
        report[process] = distances
    first = sum(a < 10 for a in RATES)
    return report | {"exponents": {p: exponent(RATES[first:], report[p][first:]) for p in LIMITS}}
