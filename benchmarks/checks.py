"""What every contender must get right before it is timed, and the errors that are reported beside the speed.

The truth is `distillkac.ops.reference`, float64. Checks look at the first rows of a batch, about SAMPLE elements.
"""

import math

import torch

from distillkac.ops import reference

SAMPLE = 200_000
Z = 5.5  # standard errors: one check in 2e7 fails by chance, and all seeds of ours are fixed
TOGETHER = {"telegraph": 1, "planar": 2, "quad": 4}  # neighbours of a row
KS_CRITICAL = 1.358  # sqrt(n) times the Kolmogorov-Smirnov distance that 5% of true samples exceed


def head(*tensors):
    """The first rows of each, on the CPU in float64: about SAMPLE elements of the first tensor."""
    rows = max(1, SAMPLE * len(tensors[0]) // tensors[0].numel())
    return tuple(tensor[:rows].detach().cpu().double() for tensor in tensors)


def lengths(k, process):
    """|K| of what moves together: (..., D) -> (..., D / 1, 2 or 4)."""
    return torch.linalg.vector_norm(k.unflatten(-1, (-1, TOGETHER[process])), dim=-1)


def variance(lam, process):
    """Variance of a coordinate in units of (c/a)^2."""
    if process == "planar":
        return lam + torch.expm1(-lam)
    if process == "quad":
        return (lam + torch.expm1(-lam)) / 2
    return lam + torch.expm1(-2 * lam) / 2


def noise(k, t, process, a, c, slack=0.0, rounding=0.0):
    """Light cone, mean, variance and the atoms of draws (B, ...).

    slack: relative error that a table's variance may have. rounding: absolute error of k itself.
    """
    k, t = head(k.reshape(len(t), -1), t)
    reach = c * t[:, None]
    size = lengths(k, process)
    assert (size <= reach * (1 + 1e-6) + rounding).all(), "outside the light cone"
    unit = k / (c / a * torch.sqrt(variance(a * t, process)[:, None]))
    assert abs(unit.mean()) < Z / math.sqrt(k.numel()), "mean"
    # A coordinate's fourth moment is at most 3 (all of them): the Gaussian limit has the widest tails.
    assert abs(unit.square().mean() - 1) < Z * math.sqrt(2 / k.numel()) + slack, "variance"
    if process == "telegraph":
        atom = torch.exp(-a * t)
        error = (size >= reach * (1 - 1e-6) - rounding).double().mean() - atom.mean()
        assert abs(error) < Z * math.sqrt((atom * (1 - atom)).mean() / k.numel()) + 1e-4, "atoms"


def velocity(v, k, t, a, c, rtol=1e-6):
    """Telegraph velocities of displacements k, apart from the last 1e-5 before the cone, where a comparison in float32
    cannot tell atoms from neighbours."""
    v, k, t = head(v, k, t)
    inside = k.abs() < (1 - 1e-5) * reference.rows(c * t, k)
    exact = reference.kac_velocity(k, t, "telegraph", a, c)
    torch.testing.assert_close(v[inside], exact[inside], rtol=rtol, atol=rtol * c)


def pair(x_t, u, x0, t, process, a, c, slack=0.0):
    """A training pair with f = 1 - t, g = t: the noise in x_t, and a target that is the velocity at it."""
    x_t, u, x0, t = head(x_t, u, x0, t)
    k = x_t - reference.rows(1 - t, x0) * x0
    noise(k, t, process, a, c, slack, rounding=1e-6)
    reach = reference.rows(c * t, x0)
    # Rounding of x_t is an error of K; it weighs most where the cone is near and t is small.
    inside = (k.abs() < 0.99 * reach) & (reach > 0.01)
    exact = reference.kac_velocity(k, t, process, a, c)
    if process != "telegraph":
        radius = lengths(k, process).repeat_interleave(TOGETHER[process], -1)
        inside &= radius < 0.99 * reach
    torch.testing.assert_close((u + x0)[inside], exact[inside], rtol=1e-3, atol=1e-3)


def gaussian_pair(x_t, u, x0, t):
    """A Gaussian flow-matching pair."""
    x_t, u, x0, t = head(x_t, u, x0, t)
    z = u + x0
    assert abs(z.mean()) < Z / math.sqrt(z.numel())
    assert abs(z.square().mean() - 1) < Z * math.sqrt(2 / z.numel())
    torch.testing.assert_close(x_t, x0 + reference.rows(t, x0) * u, rtol=1e-5, atol=1e-5)


def relative_error(got, exact) -> float:
    """Largest error over the largest exact value."""
    got, exact = got.detach().cpu().double(), exact.cpu()
    return float((got - exact).abs().max() / exact.abs().max())


def close(got, exact, rtol=2e-6):
    """Every tensor of `got` is the exact one up to rtol of its largest element."""
    for value, truth in zip(got, exact, strict=True):
        assert relative_error(value, truth) < rtol


def turned_cdf(process: str, lam: float, bins: int):
    """(edges, P(|K|/(c t) <= edge, the particle turned)): float64 (bins + 1,), equal steps over what has mass."""
    edges = torch.linspace(0, min(1.0, 8 / math.sqrt(lam)), bins + 1, dtype=torch.float64)
    cdf = getattr(reference, {"telegraph": "telegraph_cdf_abs"}.get(process, f"{process}_cdf_radius"))
    return edges, cdf(edges, lam)


def ks_ratio(draw, batches: int, process: str, lam: float, bins: int = 2048) -> float:
    """Kolmogorov-Smirnov distance of |K|/(c t), over its 5% critical value for the number of draws.

    draw(i) gives batch i of |K|/(c t). Distances are taken at the edges of `bins` equal bins, but for the last, which
    may hold the atom.
    """
    edges, cdf = turned_cdf(process, lam, bins)
    counts, total = torch.zeros(bins, dtype=torch.float64), 0
    for i in range(batches):
        size = draw(i)
        total += size.numel()
        counts += torch.histc(size, bins, 0, float(edges[-1])).double().cpu()
    distance = (counts.cumsum(0) / total - cdf[1:])[:-1].abs().max()
    return float(distance * math.sqrt(total) / KS_CRITICAL)
