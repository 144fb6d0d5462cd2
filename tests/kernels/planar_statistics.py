"""The planar law in closed form, and the battery that a planar sampler must pass (levels: statistics_tools.py)."""

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
    normal_p,
    pair_p_values,
    sum_p,
)


class PlanarLaw:
    """The planar law: e = min(E / lam, 1) with E exponential, |K| = c t sqrt(e (2 - e)), |v| = c sqrt(e / (2 - e))."""

    EDGES = 512
    CELLS = 8
    ANGLES = 16

    def __init__(self, lam):
        self.lam, self.atom, self.mass = lam, math.exp(-lam), -math.expm1(-lam)
        e = -np.log1p(-np.arange(1, self.EDGES) / self.EDGES * self.mass) / lam
        # Squared speeds as edges: at |K| close to c t the radius says little about e in float32, the speed says all.
        self.speed_squares = (e / (2 - e)).astype(np.float32).astype(np.float64)
        e = 2 * self.speed_squares / (1 + self.speed_squares)
        self.cdf = -np.expm1(-lam * e) / self.mass
        rho = np.sqrt(e * (2 - e))
        self.radii = rho[rho < 0.999]
        self.radius_cdf = reference.planar_cdf_radius(torch.from_numpy(self.radii), lam).numpy()
        fine = np.diff(np.concatenate([[0], self.cdf, [1]]))
        cell = fine.reshape(self.CELLS, -1).sum(1)
        self.cells = np.append(self.mass * cell, self.atom)
        rank = np.arange(self.CELLS + 1)
        self.rank_mean = (self.cells * rank).sum()
        self.rank_sd = math.sqrt((self.cells * rank**2).sum() - self.rank_mean**2)
        self.tails = [s for s in (2.0**-12, 1e-4, 1e-5) if s > 2 * self.atom]
        self.unit = math.sqrt(lam + 1)
        # Moments of a coordinate r cos(angle): orders 2, 4, 6, 8 and their squares and cubes, unconditional.
        orders = torch.tensor([2.0 * p * power for power in (1, 2, 3) for p in (1, 2, 3, 4)], dtype=torch.float64)
        cosine = torch.tensor([math.comb(int(o), int(o) // 2) / 2.0**o for o in orders.tolist()], dtype=torch.float64)

        def powers(e):
            return (torch.sqrt(e * (2 - e)) * self.unit) ** orders[:, None] * lam * torch.exp(-lam * e)

        inside = integral(powers, min(1.0, 80 / lam))
        self.moments = (cosine * (inside + self.atom * self.unit**orders)).reshape(3, 4).T.tolist()

    def tail_radius(self, survival):
        e = -math.log(survival) / self.lam
        return math.sqrt(e * (2 - e))


planar_law = functools.lru_cache(PlanarLaw)


def planar_p_values(sampler, lam, batches=1, shape=(32, 65536), seed=0):
    """p-values of a planar sampler; sampler(lam, shape, seed) -> (k, v) float32 with a = lam and c = t = 1."""
    law = planar_law(lam)
    sums, p = Sums(), {}
    speeds, radii = torch.from_numpy(law.speed_squares).float(), torch.from_numpy(law.radii)
    for batch in range(batches):
        previous = None
        for step in (0, 1):
            k, v = sampler(lam, shape, seed + 2 * batch + step)
            (x, y), (vx, vy) = (w.unflatten(-1, (-1, 2)).unbind(-1) for w in (k, v))
            speed2, radius = vx.square() + vy.square(), torch.hypot(x.double(), y.double())
            atom = speed2 > 1 - 5e-7  # 2.5e-7 of the radius range: no count beside the true atoms' noise
            fine = torch.bucketize(speed2, speeds, out_int32=True)
            sums.add("counts", torch.bincount(fine[~atom], minlength=law.EDGES))
            sums.add("atoms", int(atom.sum()))
            sums.add(
                "atoms off the circle", int(((radius[atom] - 1).abs() > 3e-7).sum()) + int((radius > 1 + 3e-7).sum())
            )
            sums.add("radii", torch.bincount(torch.bucketize(radius, radii).reshape(-1), minlength=len(radii) + 1))
            cell = torch.where(atom, law.CELLS, fine // (law.EDGES // law.CELLS)).long()
            turn = torch.remainder(torch.atan2(y, x) / (2 * math.pi), 1.0)
            angle = (turn * law.ANGLES).long().clamp(max=law.ANGLES - 1)
            joint = cell * law.ANGLES + angle
            sums.add("joint", torch.bincount(joint.reshape(-1), minlength=(law.CELLS + 1) * law.ANGLES))
            sums.add("angles", torch.bincount((turn * 256).long().clamp(max=255).reshape(-1), minlength=256))
            for tail in law.tails:
                sums.add(f"tail {tail:.1e}", int((radius > law.tail_radius(tail)).sum()))
            for name, coordinate in (("x", x), ("y", y)):
                square = (coordinate.double() * law.unit) ** 2
                power = torch.ones_like(square)
                for order in (1, 2, 3, 4):
                    power *= square
                    sums.add(f"{name} moment {2 * order}", float(power.sum()))
            norm = radius.clamp(min=1e-30)
            values = {
                "of radii": (cell - law.rank_mean).float() / law.rank_sd,
                "of cosines": (math.sqrt(2) * x / norm).float(),
                "of sines": (math.sqrt(2) * y / norm).float(),
            }
            for name, value in values.items():
                add_pairs(sums, name, value, previous[name] if previous else None)
            quadrant = angle // (law.ANGLES // 4)
            add_table(sums, cell * 4 + quadrant, 4 * (law.CELLS + 1))
            products = (values["of cosines"] * values["of sines"]).sum(
                dtype=torch.float64
            )  # variance 1/2 * 1/2 * 4 / 2
            sums.add("cos sin", [float(products), x.numel()])
            if batch == step == 0:
                p["velocity"] = float(planar_velocity_error(k[:2], v[:2]) <= 1)
            previous = values

    n = int(sums["counts"].sum() + sums["atoms"])
    p["atom mass"] = binomial_p(int(sums["atoms"]), n, law.atom)
    p["atoms on the circle"] = float(sums["atoms off the circle"] == 0)
    p["law of |v|"] = ks_p(sums["counts"], law.cdf)
    p["law of |K|"] = ks_p(sums["radii"], law.radius_cdf)
    p["angle and radius"] = chi2_p(sums["joint"], n * np.outer(law.cells, np.full(law.ANGLES, 1 / law.ANGLES)))
    p["angle"] = chi2_p(sums["angles"], np.full(256, n / 256))
    p["cos sin"] = normal_p(sums["cos sin"][0] / math.sqrt(n / 2))
    for tail in law.tails:
        p[f"tail {tail:.1e}"] = binomial_p(int(sums[f"tail {tail:.1e}"]), n, tail)
    for name in ("x", "y"):
        for order, moments in zip((1, 2, 3, 4), law.moments, strict=True):
            p[f"{name} moment {2 * order}"] = sum_p(float(sums[f"{name} moment {2 * order}"]), n, moments)
    return p | pair_p_values(sums, np.outer(law.cells, np.full(4, 0.25)).ravel())


def planar_velocity_error(k, v):
    """Largest error of v at k for c = t = 1, over what float32 allows: 5e-7, and where s = sqrt(1 - |k|^2) is small the
    rounding of k itself, 1.2e-7 in |k|^2, which moves s by 1.2e-7 / (2 s)."""
    expected = reference.kac_velocity(k, torch.ones(len(k)), "planar", 1.0, 1.0)
    radius2 = k.double().unflatten(-1, (-1, 2)).square().sum(-1)
    s = torch.sqrt((1 - radius2).clamp(min=2.4e-7))
    error = torch.linalg.vector_norm((v - expected).unflatten(-1, (-1, 2)), dim=-1)
    return float((error / (5e-7 + 2.4e-7 / s)).max())
