"""Statistical tests with stated levels, and the two batteries that a sampler of a Kac process must pass.

Every test is a p-value. A battery of m of them fails where one is below LEVEL / m (Bonferroni): a right sampler fails a
whole battery with a chance of at most LEVEL, and at a fixed seed always or never. All statistics are sums over the
draws, so a battery over 1e8 draws needs no more memory than one over 4e6.
"""

import functools
import math

import numpy as np
import torch
from scipy import stats

from distillkac import reference

LEVEL = 1e-4
MOMENTS = range(1, 9)  # of order 2, 4, ..., 16
LAGS = {"element + 1": 1, "element + 16": 16, "element + 32": 32, "element + 64": 64}  # 64 elements share Philox calls


def binomial_p(count, n, p):
    """Two-sided exact p-value of `count` successes in n draws."""
    p = min(max(float(p), 0.0), 1.0)
    law = stats.binom(n, p)
    return min(1.0, 2 * min(law.cdf(count), law.sf(count - 1)))


def normal_p(z):
    return 2 * stats.norm.sf(abs(z))


def sum_p(total, n, moments):
    """Two-sided p-value of a sum of n draws with raw moments m1, m2, m3: Pearson III (normal plus exact skewness)."""
    m1, m2, m3 = moments
    variance = m2 - m1**2
    skew = (m3 - 3 * m1 * m2 + 2 * m1**3) / variance**1.5 / math.sqrt(n)
    law = stats.pearson3(skew)
    z = (total - n * m1) / math.sqrt(n * variance)
    return min(1.0, 2 * min(law.cdf(z), law.sf(z)))


def ks_p(counts, cdf):
    """Kolmogorov-Smirnov from the counts between edges, cdf at the upper edges; the supremum over the edges is below the
    supremum over all points, so the level is kept (500 equally probable edges lose about 4% of the statistic)."""
    n = counts.sum()
    distance = np.abs(np.cumsum(counts)[: len(cdf)] / max(n, 1) - cdf).max()
    return float(stats.kstwobign.sf(distance * math.sqrt(max(n, 1))))


def ks_two_sample_p(a, b):
    a, b = (np.asarray(v, dtype=np.float64) for v in (a, b))
    return float(stats.ks_2samp(a, b, method="asymp").pvalue)


def chi2_p(observed, expected):
    """Chi-square with known expected counts; cells that expect fewer than 10 are pooled."""
    observed, expected = np.ravel(observed).astype(float), np.ravel(expected).astype(float)
    small = expected < 10
    observed = np.append(observed[~small], observed[small].sum())
    expected = np.append(expected[~small], expected[small].sum())
    if expected[-1] < 10:  # what little is left must not divide
        observed, expected = observed[:-1], expected[:-1]
    return float(stats.chi2.sf(((observed - expected) ** 2 / expected).sum(), len(expected) - 1))


def chi2_two_sample_p(a, b):
    """Are two tables of counts draws of one law? Cells with fewer than 10 in all are pooled."""
    a, b = np.ravel(a).astype(float), np.ravel(b).astype(float)
    small = a + b < 10
    a, b = (np.append(v[~small], v[small].sum()) for v in (a, b))
    if a[-1] + b[-1] < 10:
        a, b = a[:-1], b[:-1]
    ratio = math.sqrt(b.sum() / a.sum())
    return float(stats.chi2.sf(((a * ratio - b / ratio) ** 2 / (a + b)).sum(), len(a) - 1))


def failures(p_values, level=LEVEL):
    """What fails at `level` after Bonferroni; a p-value that is not a number fails."""
    return [f"{name}: p = {p:.1e}" for name, p in p_values.items() if not p >= level / len(p_values)]


def integral(function, top, panels=400):
    """Integral of a smooth function from 0 to top, Gauss-Legendre; returns float64 like the function's last axis."""
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(12))
    edges = torch.linspace(0, top, panels + 1, dtype=torch.float64)
    middle, half = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
    points = (middle[:, None] + half[:, None] * nodes).ravel()
    return (function(points) * (weights * half[:, None]).ravel()).sum(-1)


class TelegraphLaw:
    """The law of |xi| given at least one turn: quantiles, cells and moments, from `reference` alone."""

    EDGES = 512
    CELLS = 8  # coarse cells of 64 fine ones, for tables of pairs
    TAILS = (2.0**-12, 1e-4, 1e-5)

    def __init__(self, lam):
        self.lam, self.atom = lam, math.exp(-lam)
        self.mass = -math.expm1(-lam)
        self.edges = self.quantile(1 - np.arange(1, self.EDGES) / self.EDGES)  # of equal mass, rounded to float32
        self.cdf = self.conditional_cdf(self.edges)
        self.fine = np.diff(np.concatenate([[0], self.cdf, [1]]))
        cell = self.fine.reshape(self.CELLS, -1).sum(1)
        magnitude = np.append(self.mass * cell, self.atom)
        self.cells = np.concatenate([magnitude, magnitude]) / 2  # signed: + cells, + atom, - cells, - atom
        rank = np.append(np.arange(self.CELLS), self.CELLS)
        self.rank_mean = (magnitude * rank).sum()
        self.rank_sd = math.sqrt((magnitude * rank**2).sum() - self.rank_mean**2)
        self.rank_square = (magnitude * rank**2).sum()
        self.tails = self.quantile(np.array(self.TAILS))
        self.tail_mass = 1 - self.conditional_cdf(self.tails)
        self.unit = math.sqrt(lam + 1)
        self.cut = float(self.tails[-1])
        # Moments of min(|xi|, cut) in units of 1/sqrt(lam + 1). Cut at 1e-5: at lam = 1000 the plain 16th moment of 1e7
        # draws is decided by the largest draw and has no usable level; beyond the cut draws are counted instead.
        orders = torch.tensor([2.0 * p * power for power in (1, 2, 3) for p in MOMENTS], dtype=torch.float64)

        def powers(xi):
            density = 2 * reference.telegraph_density(xi, torch.tensor(lam, dtype=torch.float64)) / self.mass
            return (xi * self.unit) ** orders[:, None] * density

        inside = integral(powers, self.cut)
        beyond = float(self.tail_mass[-1]) * (self.cut * self.unit) ** orders
        self.moments = (inside + beyond).reshape(3, len(MOMENTS)).T.tolist()

    def conditional_cdf(self, xi):
        return (reference.telegraph_cdf_abs(torch.as_tensor(xi, dtype=torch.float64), self.lam) / self.mass).numpy()

    def quantile(self, survival):
        """float32 numbers whose survival is close to the one asked for; the exact one comes from conditional_cdf."""
        near_one = 1 - 10.0 ** -np.linspace(3, 7.5, 200)
        grid = np.unique(np.concatenate([np.linspace(0, min(1, 7 / math.sqrt(self.lam)), 20001), near_one, [1.0]]))
        density = reference.telegraph_density(
            torch.from_numpy(grid), torch.tensor(self.lam, dtype=torch.float64)
        ).numpy()
        cdf = np.concatenate([[0], np.cumsum(np.diff(grid) * (density[1:] + density[:-1]))])
        keep = np.concatenate([[True], np.diff(cdf) > 0])
        found = np.interp(1 - survival, cdf[keep] / cdf[-1], grid[keep])
        return found.astype(np.float32).astype(np.float64)


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


telegraph_law = functools.lru_cache(TelegraphLaw)
planar_law = functools.lru_cache(PlanarLaw)


class Sums(dict):
    """Named running sums of arrays."""

    def add(self, name, value):
        self[name] = self.get(name, 0) + np.asarray(value, dtype=np.float64)


def _lagged(values, previous_seed):
    """Pairs of draws that must be independent: lags inside a row, neighbouring rows, neighbouring seeds."""
    for name, lag in LAGS.items():
        yield name, values[:, :-lag], values[:, lag:]
    yield "row + 1", values[:-1], values[1:]
    if previous_seed is not None:
        yield "seed + 1", previous_seed, values


def _add_pairs(sums, label, values, previous):
    """Sums of products of standardised values at every lag; by the central limit theorem normal if independent."""
    for name, first, second in _lagged(values, previous):
        products = torch.dot(first.reshape(-1), second.reshape(-1))
        sums.add(f"pair {label}, {name}", [float(products), first.numel()])


def _add_table(sums, cells, count):
    """The table of pairs of cells (0 <= cell < count) of neighbours in a row."""
    table = torch.bincount((cells[:, :-1] * count + cells[:, 1:]).reshape(-1), minlength=count**2)
    sums.add("table of neighbours", table)


def _pair_p_values(sums, cells):
    result = {}
    for name, value in sums.items():
        if name.startswith("pair "):
            result[name] = normal_p(value[0] / math.sqrt(value[1]))
        if name == "table of neighbours":
            result[name] = chi2_p(value, value.sum() * np.outer(cells, cells))
    return result


def telegraph_p_values(sampler, lam, batches=1, shape=(32, 65536), seed=0):
    """p-values of a telegraph sampler; sampler(lam, shape, seed) -> (k, v) float32 with a = lam and c = t = 1.

    The atoms are the draws with |v| = 1, the speed of particles that never turned. seed + 2 i gives batch i.
    """
    law = telegraph_law(lam)
    sums, p = Sums(), {}
    edges = torch.from_numpy(law.edges).float()
    side = law.CELLS + 1
    for batch in range(batches):
        previous_sign = previous_rank = None
        for step in (0, 1):
            k, v = sampler(lam, shape, seed + 2 * batch + step)
            size, atom, negative = k.abs(), v.abs() == 1, torch.signbit(k)
            fine = torch.bucketize(size, edges, out_int32=True)  # cell i: edges[i - 1] < |k| <= edges[i]
            counts = torch.bincount(fine[~atom], minlength=law.EDGES)
            sums.add("counts", counts)
            sums.add("atoms", int(atom.sum()))
            sums.add("atoms off the cone", int((size[atom] != 1).sum()) + int((size > 1).sum()))
            cell = torch.where(atom, law.CELLS, fine // (law.EDGES // law.CELLS))
            signed = (cell + side * negative).long()
            sums.add("signed", torch.bincount(signed.reshape(-1), minlength=2 * side))
            moved = size[~atom]
            for tail, edge in zip(law.TAILS, law.tails, strict=True):
                sums.add(f"tail {tail:.1e}", int((moved > edge).sum()))
            square = (moved.clamp(max=law.cut).double() * law.unit) ** 2
            power = torch.ones_like(square)
            for order in MOMENTS:
                power *= square
                sums.add(f"moment {2 * order}", float(power.sum()))
            sign = 1 - 2 * negative.float()
            rank = (cell - law.rank_mean).float() / law.rank_sd
            _add_pairs(sums, "of signs", sign, previous_sign)
            _add_table(sums, signed, 2 * side)
            _add_pairs(sums, "of sizes", rank, previous_rank)
            _add_pairs(sums, "of values", sign * cell / math.sqrt(law.rank_square), None)
            if batch == step == 0:
                p["velocity"] = float(telegraph_velocity_error(k[:2], v[:2], lam) <= 5e-7)
            previous_sign, previous_rank = sign, rank

    turned = int(sums["counts"].sum())
    n = turned + int(sums["atoms"])
    p["atom mass"] = binomial_p(int(sums["atoms"]), n, law.atom)
    p["atoms on the cone"] = float(sums["atoms off the cone"] == 0)
    p["law of |K|"] = ks_p(sums["counts"], law.cdf)
    p["cells and signs"] = chi2_p(sums["signed"], n * law.cells)
    p["sign"] = binomial_p(int(sums["signed"][side:].sum()), n, 0.5)
    for tail, mass in zip(law.TAILS, law.tail_mass, strict=True):
        p[f"tail {tail:.1e}"] = binomial_p(int(sums[f"tail {tail:.1e}"]), turned, mass)
    for order, moments in zip(MOMENTS, law.moments, strict=True):
        p[f"moment {2 * order}"] = sum_p(float(sums[f"moment {2 * order}"]), turned, moments)
    return p | _pair_p_values(sums, law.cells)


def telegraph_velocity_error(k, v, lam):
    """Largest relative error of v at k for c = t = 1; the atoms, |k| = 1 and |v| = 1, are exact."""
    expected = reference.kac_velocity(k, torch.ones(len(k)), "telegraph", lam, 1.0)
    on_cone = k.abs() == 1
    limit = torch.copysign(torch.full_like(expected, lam / (lam + 2)), expected)  # turned, but rounded onto the cone
    expected = torch.where(on_cone & (v.abs() < 1), limit, expected)
    return float(((v - expected).abs() / expected.abs().clamp(min=1e-30)).max())


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
                _add_pairs(sums, name, value, previous[name] if previous else None)
            quadrant = angle // (law.ANGLES // 4)
            _add_table(sums, cell * 4 + quadrant, 4 * (law.CELLS + 1))
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
    return p | _pair_p_values(sums, np.outer(law.cells, np.full(4, 0.25)).ravel())


def planar_velocity_error(k, v):
    """Largest error of v at k for c = t = 1, over what float32 allows: 5e-7, and where s = sqrt(1 - |k|^2) is small the
    rounding of k itself, 1.2e-7 in |k|^2, which moves s by 1.2e-7 / (2 s)."""
    expected = reference.kac_velocity(k, torch.ones(len(k)), "planar", 1.0, 1.0)
    radius2 = k.double().unflatten(-1, (-1, 2)).square().sum(-1)
    s = torch.sqrt((1 - radius2).clamp(min=2.4e-7))
    error = torch.linalg.vector_norm((v - expected).unflatten(-1, (-1, 2)), dim=-1)
    return float((error / (5e-7 + 2.4e-7 / s)).max())
