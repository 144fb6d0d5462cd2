"""Statistical tests with stated levels, and the battery that a telegraph sampler must pass.

Every test is a p-value. A battery of m of them fails where one is below LEVEL / m (Bonferroni): a right sampler fails a
whole battery with a chance of at most LEVEL, and at a fixed seed always or never. All statistics are sums over the
draws, so a battery over 1e8 draws needs no more memory than one over 4e6.
"""

import functools
import math

import numpy as np
import torch
from scipy import stats

from distillkac.ops import reference

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
    """Kolmogorov-Smirnov from the counts between edges, cdf at the upper edges; the supremum over the edges is below
    that over all points, so the level is kept (500 equally probable edges lose about 4% of the statistic)."""
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


telegraph_law = functools.lru_cache(TelegraphLaw)


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


def add_pairs(sums, label, values, previous):
    """Sums of products of standardised values at every lag; by the central limit theorem normal if independent."""
    for name, first, second in _lagged(values, previous):
        products = torch.dot(first.reshape(-1), second.reshape(-1))
        sums.add(f"pair {label}, {name}", [float(products), first.numel()])


def add_table(sums, cells, count):
    """The table of pairs of cells (0 <= cell < count) of neighbours in a row."""
    table = torch.bincount((cells[:, :-1] * count + cells[:, 1:]).reshape(-1), minlength=count**2)
    sums.add("table of neighbours", table)


def pair_p_values(sums, cells):
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
            add_pairs(sums, "of signs", sign, previous_sign)
            add_table(sums, signed, 2 * side)
            add_pairs(sums, "of sizes", rank, previous_rank)
            add_pairs(sums, "of values", sign * cell / math.sqrt(law.rank_square), None)
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
    return p | pair_p_values(sums, law.cells)


def telegraph_velocity_error(k, v, lam):
    """Largest relative error of v at k for c = t = 1; the atoms, |k| = 1 and |v| = 1, are exact."""
    expected = reference.kac_velocity(k, torch.ones(len(k)), "telegraph", lam, 1.0)
    on_cone = k.abs() == 1
    limit = torch.copysign(torch.full_like(expected, lam / (lam + 2)), expected)  # turned, but rounded onto the cone
    expected = torch.where(on_cone & (v.abs() < 1), limit, expected)
    return float(((v - expected).abs() / expected.abs().clamp(min=1e-30)).max())
