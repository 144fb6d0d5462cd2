"""The quad law in closed form, and the battery that a quad sampler must pass (levels: statistics_tools.py)."""

import functools
import math

import numpy as np
import torch

from distillkac.ops import reference
from tests.kernels.statistics_tools import (
    Sums,
    add_pairs,
    add_table,
    binomial_p,
    chi2_p,
    integral,
    ks_p,
    pair_p_values,
    sum_p,
)

ORDERS = (1, 2, 3, 4)  # moments 2, 4, 6, 8 of a coordinate


class QuadLaw:
    """|K|^2 = s (c t)^2 with P(s > .) = e^-h(s), an atom of e^-lam at s = 1; direction uniform on the sphere of R^4."""

    EDGES = 512
    CELLS = 8
    PARTS = 4  # of the share of the first two coordinates, and of each angle

    def __init__(self, lam):
        self.lam, self.atom, self.mass = lam, math.exp(-lam), -math.expm1(-lam)
        exponent = -np.log1p(-np.arange(1, self.EDGES) / self.EDGES * self.mass)
        rho = reference.quad_quantile(torch.from_numpy(exponent), lam).numpy()
        self.radii = rho.astype(np.float32).astype(np.float64)
        self.cdf = reference.quad_cdf_radius(torch.from_numpy(self.radii), lam).numpy() / self.mass
        cell = np.diff(np.concatenate([[0], self.cdf, [1]])).reshape(self.CELLS, -1).sum(1)
        self.cells = np.append(self.mass * cell, self.atom)
        rank = np.arange(self.CELLS + 1)
        self.rank_mean = (self.cells * rank).sum()
        self.rank_sd = math.sqrt((self.cells * rank**2).sum() - self.rank_mean**2)
        self.tails = [s for s in (2.0**-12, 1e-4, 1e-5) if s > 2 * self.atom]
        self.unit = math.sqrt(lam + 1)
        # A coordinate of a uniform direction has the semicircle's law: its moments are Catalan numbers. Orders 2 to 8 and
        # their squares and cubes, unconditional.
        orders = torch.tensor([2.0 * p * power for power in (1, 2, 3) for p in ORDERS], dtype=torch.float64)
        half = [round(o / 2) for o in orders.tolist()]
        cosine = torch.tensor([math.comb(2 * h, h) / (h + 1) / 4.0**h for h in half], dtype=torch.float64)

        def powers(s):
            return (s.sqrt() * self.unit) ** orders[:, None] * lam * s * torch.exp(-lam * s) * (2 + lam * (1 - s))

        inside = integral(powers, min(1.0, 90 / lam))
        self.moments = (cosine * (inside + self.atom * self.unit**orders)).reshape(3, len(ORDERS)).T.tolist()

    def tail_radius(self, survival):
        return float(reference.quad_quantile(torch.tensor([-math.log(survival)], dtype=torch.float64), self.lam))


quad_law = functools.lru_cache(QuadLaw)


def quad_p_values(sampler, lam, batches=1, shape=(32, 65536), seed=0):
    """p-values of a quad sampler; sampler(lam, shape, seed) -> (k, v) float32 with a = lam and c = t = 1."""
    law = quad_law(lam)
    sums, p = Sums(), {}
    for batch in range(batches):
        previous = None
        for step in (0, 1):
            k, v = sampler(lam, shape, seed + 2 * batch + step)
            if batch == step == 0:
                p["velocity"] = float(quad_velocity_error(k[:2], v[:2], lam) <= 1)
            previous = _add_quad(sums, law, k, v, previous)
    n = int(sums["counts"].sum() + sums["atoms"])
    p["atom mass"] = binomial_p(int(sums["atoms"]), n, law.atom)
    p["atoms on the sphere"] = float(sums["atoms off the sphere"] == 0)
    p["law of |K|"] = ks_p(sums["counts"], law.cdf)
    parts = np.full(law.PARTS**3, 1.0 / law.PARTS**3)
    p["radius and direction"] = chi2_p(sums["joint"], n * np.outer(law.cells, parts))
    for name in ("share", "first angle", "second angle"):
        p[name] = chi2_p(sums[name], np.full(256, n / 256))
    for tail in law.tails:
        p[f"tail {tail:.1e}"] = binomial_p(int(sums[f"tail {tail:.1e}"]), n, tail)
    for i in range(4):
        for order, moments in zip(ORDERS, law.moments, strict=True):
            p[f"coordinate {i} moment {2 * order}"] = sum_p(float(sums[f"moment {i} {order}"]), n, moments)
    return p | pair_p_values(sums, np.outer(law.cells, np.full(law.PARTS, 1 / law.PARTS)).ravel())


def directions(k):
    """(radius, share of the first two coordinates in its square, two angles in turns) of (..., 4), float64."""
    k = k.double()
    square = k.square().unflatten(-1, (2, 2)).sum(-1)
    radius2 = square.sum(-1)
    turns = [torch.remainder(torch.atan2(k[..., i + 1], k[..., i]) / (2 * math.pi), 1.0) for i in (0, 2)]
    return radius2.sqrt(), square[..., 0] / radius2.clamp(min=1e-300), *turns


def _add_quad(sums, law, k, v, previous):
    """Adds one draw; previous: what this returned for the draw of the seed before, None for the first."""
    k, v = k.unflatten(-1, (-1, 4)), v.unflatten(-1, (-1, 4))
    radius, *angles = directions(k)
    atom = v.norm(dim=-1) > 0.9  # inside it is 3/4 or less
    fine = torch.bucketize(radius.float(), torch.from_numpy(law.radii).float(), out_int32=True)
    sums.add("counts", torch.bincount(fine[~atom], minlength=law.EDGES))
    sums.add("atoms", int(atom.sum()))
    off = int(((radius[atom] - 1).abs() > 4e-7).sum()) + int((radius > 1 + 4e-7).sum())
    sums.add("atoms off the sphere", off)
    for tail in law.tails:
        sums.add(f"tail {tail:.1e}", int((radius > law.tail_radius(tail)).sum()))
    cell = torch.where(atom, law.CELLS, fine // (law.EDGES // law.CELLS)).long()
    joint, parts = cell, []
    for name, angle in zip(("share", "first angle", "second angle"), angles, strict=True):
        sums.add(name, torch.bincount((angle * 256).long().clamp(max=255).reshape(-1), minlength=256))
        parts.append((angle * law.PARTS).long().clamp(max=law.PARTS - 1))
        joint = joint * law.PARTS + parts[-1]
    sums.add("joint", torch.bincount(joint.reshape(-1), minlength=(law.CELLS + 1) * law.PARTS**3))
    for i in range(4):
        square = (k[..., i].double() * law.unit) ** 2
        for order in ORDERS:
            sums.add(f"moment {i} {order}", float((square**order).sum()))
    share, first, second = angles
    values = {
        "of radii": (cell - law.rank_mean).float() / law.rank_sd,
        "of shares": ((share - 0.5) * math.sqrt(12)).float(),
        "of first angles": (math.sqrt(2) * torch.cos(2 * math.pi * first)).float(),
        "of second angles": (math.sqrt(2) * torch.sin(2 * math.pi * second)).float(),
    }
    for name, value in values.items():
        add_pairs(sums, name, value, previous[name] if previous else None)
    add_table(sums, cell * law.PARTS + parts[1], law.PARTS * (law.CELLS + 1))
    return values


def quad_velocity_error(k, v, lam):
    """Largest error of v at k for c = t = 1, over what float32 allows: 5e-7, and the rounding of k itself, which moves z by
    2.4e-7 lam and the velocity by that over (z + 2)^2. Beside the sphere, where k does not tell an atom, v does."""
    k, v = k.double().unflatten(-1, (-1, 4)), v.double().unflatten(-1, (-1, 4))
    square = k.square().sum(-1, keepdim=True)
    z = lam * (1 - square).clamp(min=0)
    atom = v.norm(dim=-1, keepdim=True) > 0.9
    expected = torch.where(atom, k / square.sqrt(), k / 2 * (z + 3) / (z + 2))
    error = (v - expected).norm(dim=-1, keepdim=True)
    return float((error / (5e-7 + 2.4e-7 * lam / (z + 2).square())).max())
