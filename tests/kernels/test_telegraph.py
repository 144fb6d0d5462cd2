"""The telegraph process: golden values, the law of the sampler, and wrong samplers that these tests must reject.

Levels: see tests/kernels/statistics_tools.py. The seeds are fixed, so a test passes always or never.
"""

import math

import numpy as np
import pytest
import torch

from distillkac import ops
from distillkac.ops import reference
from tests.kernels import statistics_tools as st
from tests.places import GOLDEN

INSIDE = [row for row in GOLDEN if row["xi"] < 1]
LAMBDAS = [5e-4, 1e-3, 0.1, 1.0, 9.0, 25.0, 100.0, 1000.0]
ONE = torch.ones(1, dtype=torch.float64)


def pair_sampler(lam, shape, seed):
    """The op under test as the batteries want it: (k, v) with a = lam, c = t = 1; x0 = 0 makes x_t = K and u = v."""
    return ops.kac_pair(torch.zeros(shape), torch.ones(shape[0]), "telegraph", lam, 1.0, seed=seed)


# Velocity


@pytest.mark.parametrize("scale", [1.0, 0.7, 3e-12, 3e11])
@pytest.mark.parametrize("c", [1.0, 3.0, 1e-12, 1e12])
def test_velocity_matches_golden(scale, c):
    """xi = x / (c t) equals the golden xi to double precision: x is rounded to float32 first and t made from it."""
    worst = 0.0
    for row in INSIDE:
        x = float(np.float32(row["xi"] * scale))
        t = x / (row["xi"] * c) if x else scale / c
        k = torch.full((1, 35), x)  # whole vectors and a remainder at every SIMD level
        v = ops.kac_velocity(k, t * ONE, "telegraph", row["lam"] / t, c)
        assert torch.equal(v, v[:, :1].expand_as(v))
        assert torch.equal(ops.kac_velocity(-k, t * ONE, "telegraph", row["lam"] / t, c), -v)
        if x == 0:
            assert (v == 0).all()
        else:
            worst = max(worst, abs(v[0, 0].item() / (row["v_over_c"] * c) - 1))
    assert worst <= 5e-7  # measured 3.2e-7; c itself is rounded to float32 in the last of these


def test_velocity_golden_test_rejects_a_velocity_three_millionths_off(monkeypatch):
    right = ops.kac_velocity
    monkeypatch.setattr(ops, "kac_velocity", lambda *args: right(*args) * (1 + 3e-6))
    with pytest.raises(AssertionError):
        test_velocity_matches_golden(1.0, 1.0)


@pytest.mark.parametrize("level", ops._native.simd_levels())
@pytest.mark.parametrize("time_type", [torch.float32, torch.float64])
@pytest.mark.parametrize(("a", "c"), [(9.0, 3.0), (1e-3, 1e-9), (2.5e7, 40.0)])
def test_velocity_matches_reference(time_type, a, c, level, simd_level):
    simd_level(level)
    generator = torch.Generator().manual_seed(1)
    t = (10 ** (torch.rand(40, generator=generator) * 6 - 3) / a).to(time_type)
    xi = torch.cat(
        [torch.rand(40, 2000, generator=generator), 1 - 10 ** -(1 + 5 * torch.rand(40, 500, generator=generator))], 1
    )
    cone = (c * t.double()).float()[:, None]
    k = (xi * cone).minimum(torch.nextafter(cone, torch.zeros(1)))
    v = ops.kac_velocity(k, t, "telegraph", a, c)
    expected = reference.kac_velocity(k, t, "telegraph", a, c)
    # nextafter(fl32(c t)) can still lie outside the true c t
    inside = k.double() < c * t.double()[:, None]
    assert inside.float().mean() > 0.999
    assert ((v - expected).abs() <= 5e-7 * expected.abs())[inside].all()
    assert (v.abs() <= c * (1 + 2**-23)).all()


def test_velocity_on_the_cone_and_at_time_zero():
    t = torch.tensor([0.0, 1e-30, 0.3, 7.0], dtype=torch.float64)
    for c in (0.1, 3.0):
        cone = (c * t).float()[:, None]
        v = ops.kac_velocity(torch.cat([cone, -cone], 1), t, "telegraph", 9.0, c)
        assert torch.equal(v, torch.tensor([c, -c], dtype=torch.float32).expand(4, 2))
    jump = ops.kac_velocity(torch.tensor([[0.15 * (1 - 1e-6)]]), torch.tensor([0.05]).double(), "telegraph", 9.0, 3.0)
    assert jump.item() == pytest.approx(3 * 0.45 / 2.45, rel=1e-3)  # just inside: c lambda / (lambda + 2), not c


def test_velocity_at_huge_lambda_is_that_of_brownian_motion():
    v = ops.kac_velocity(torch.tensor([[1e-5, 2e-5]]), ONE, "telegraph", 1e9, 1.0)
    assert torch.allclose(v.double(), torch.tensor([[0.5e-5, 1e-5]], dtype=torch.float64), rtol=5e-7, atol=0)  # x / 2t


# The reference


def test_reference_density_and_cdf_match_golden():
    for row in INSIDE:
        xi, lam = torch.tensor([row["xi"]], dtype=torch.float64), torch.tensor(row["lam"], dtype=torch.float64)
        assert reference.telegraph_density(xi, lam).item() == pytest.approx(row["density"], rel=1e-10, abs=1e-300)
        assert reference.telegraph_cdf_abs(xi, row["lam"]).item() == pytest.approx(row["cdf_abs"], rel=1e-10, abs=1e-10)


def test_reference_velocity_matches_golden():
    for row in INSIDE:
        xi = torch.tensor([[row["xi"]]], dtype=torch.float64)
        v = reference.kac_velocity(xi, ONE, "telegraph", row["lam"], 1.0).item()
        assert v == pytest.approx(row["v_over_c"], rel=1e-10, abs=1e-300)


@pytest.mark.parametrize("lam", LAMBDAS)
def test_law_used_by_the_battery(lam):
    """Its moments add up to the closed form E xi^2 = (2 lam - 1 + exp(-2 lam)) / (2 lam^2), whatever lies beyond the cut."""
    law = st.telegraph_law(lam)
    density = lambda xi: xi**2 * 2 * reference.telegraph_density(xi, torch.tensor(lam, dtype=torch.float64))  # noqa: E731
    second = float(st.integral(density, min(1.0, 14 / math.sqrt(lam)))) + law.atom
    exact = (2 * lam + math.expm1(-2 * lam)) / (2 * lam**2)
    assert second == pytest.approx(exact, rel=1e-9)
    cut = (second - law.atom) / law.mass * law.unit**2
    assert law.moments[0][0] == pytest.approx(cut, rel=1e-3)
    assert abs(sum(law.cells) - 1) < 1e-10


def test_reference_sampler_has_the_law():
    """The exact identity of the reference's noise, against the law by Bessel functions: neither knows the other."""
    for lam in (0.1, 9.0):
        k = reference.kac_noise(torch.ones(4), (100_000,), "telegraph", lam, 1.0, seed=1)
        law = st.telegraph_law(lam)
        moved = k.abs()[k.abs() < 1]
        counts = torch.bincount(torch.bucketize(moved, torch.from_numpy(law.edges)), minlength=law.EDGES).numpy()
        p = {"law": st.ks_p(counts, law.cdf), "atoms": st.binomial_p(k.numel() - moved.numel(), k.numel(), law.atom)}
        p["sign"] = st.binomial_p(int((k < 0).sum()), k.numel(), 0.5)
        assert not st.failures(p)


# The sampler


@pytest.mark.parametrize("lam", LAMBDAS)
def test_sampler_passes_the_battery(lam):
    """4.2e6 draws: atoms, Kolmogorov-Smirnov, cells and signs, tails to 1e-5, eight even moments, velocity, independence."""
    assert not st.failures(st.telegraph_p_values(pair_sampler, lam))


@pytest.mark.slow
@pytest.mark.parametrize("lam", LAMBDAS)
def test_sampler_passes_the_battery_with_1e8_draws(lam):
    assert not st.failures(st.telegraph_p_values(pair_sampler, lam, batches=24, seed=1000))


def tail_p_values(noise, lam, draws=2**26):
    """p-values of the counts of |xi| beyond the quantiles 1e-4 ... 1e-6 of all draws; noise(shape, seed) -> k, c t = 1."""
    law = st.telegraph_law(lam)
    tails = [tail for tail in (1e-4, 1e-5, 1e-6) if 4 * tail < law.mass]
    edges = law.quantile(np.array(tails) / law.mass)
    shape, counts = (64, 65536), np.zeros(len(tails))
    for seed in range(draws // math.prod(shape)):
        size = noise(shape, seed).abs_()
        size = size[(size > float(edges[0])) & (size < 1)]
        counts += [(size > float(edge)).sum().item() for edge in edges]
    beyond = law.mass * (1 - law.conditional_cdf(edges))
    return {f"{t:.0e}": st.binomial_p(n, draws, p) for t, n, p in zip(tails, counts, beyond, strict=True)}


@pytest.mark.parametrize("lam", LAMBDAS)
def test_tail_to_1e_6(lam):
    """6.7e7 draws, 67 of them expected beyond 1e-6."""
    rows = torch.ones(64)
    assert not st.failures(
        tail_p_values(lambda s, seed: ops.kac_noise(rows, s[1:], "telegraph", lam, 1.0, 50 + seed), lam)
    )


@pytest.mark.parametrize("survival", [1 / 4096, 1e-6])
def test_tail_test_rejects_a_cut_tail(survival):
    cut = float(st.telegraph_law(9.0).quantile(np.array([survival]))[0])
    rows = torch.ones(64)

    def noise(shape, seed):
        k = ops.kac_noise(rows, shape[1:], "telegraph", 9.0, 1.0, 50 + seed)
        return torch.where(k.abs() < 1, k.clamp(-cut, cut), k)

    assert st.failures(tail_p_values(noise, 9.0))


def test_battery_in_other_units():
    """The law of k / (c t) does not know the units, nor on which t of a batch it is drawn."""

    def sampler(lam, shape, seed):
        t = torch.linspace(0.3, 2.0, shape[0], dtype=torch.float64)
        parts = []
        for row in range(shape[0]):
            c = 10.0 ** (row % 25 - 12)
            k, v = ops.kac_pair(
                torch.zeros(1, shape[1]),
                t[row, None] / 2,
                "telegraph",
                2 * lam / t[row].item(),
                c,
                seed=seed,
                offset=row,
            )
            # float64 on the way, then exactly 1 on the cone again
            cone = (c * (t[row] / 2)).float()
            k = torch.where(k.abs() == cone, torch.sign(k), (k.double() / (c * t[row] / 2)).float())
            parts.append((k, torch.where(v.abs() == torch.tensor(c).float(), torch.sign(v), (v.double() / c).float())))
        return tuple(torch.cat(p) for p in zip(*parts, strict=True))

    p = st.telegraph_p_values(sampler, 9.0)
    assert not st.failures({name: value for name, value in p.items() if name != "velocity"})  # k was rounded again


def test_noise_and_pair_draw_the_same_bits():
    t = torch.tensor([0.01, 0.3, 1.0], dtype=torch.float64)
    k, _ = ops.kac_pair(torch.zeros(3, 1000), t, "telegraph", 9.0, 3.0, g="quadratic", seed=4)
    assert torch.equal(k, ops.kac_noise(t * t, (1000,), "telegraph", 9.0, 3.0, 4))


@pytest.mark.parametrize("time_type", [torch.float32, torch.float64])
def test_noise_stays_inside_the_cone(time_type):
    t = torch.logspace(-9, 3, 50, dtype=torch.float64).to(time_type)
    k = ops.kac_noise(t, (5000,), "telegraph", 5.0, 0.7, 3)
    assert (k.abs() <= (0.7 * t.double()).float()[:, None]).all()
    assert (ops.kac_noise(torch.zeros(2), (9,), "telegraph", 5.0, 0.7, 3) == 0).all()


def test_diffusion_limit():
    """a, c to infinity with c^2 / a = 1: Brownian motion; lambda = 1e6, far beyond the nodes of the table."""
    k = ops.kac_noise(torch.ones(16), (65536,), "telegraph", 1e6, 1e3, 5).double()
    normal = st.stats.norm.cdf(np.linspace(-5, 5, 401))
    counts = torch.histogram(k.flatten(), torch.linspace(-5, 5, 401, dtype=torch.float64))[0].numpy()
    counts = np.concatenate([[int((k < -5).sum())], counts, [int((k >= 5).sum())]])
    p = {
        "law": st.ks_p(counts, normal),
        "tail": st.binomial_p(int((k.abs() > 4).sum()), k.numel(), 2 * st.stats.norm.sf(4)),
    }
    assert not st.failures(p)


def regression(velocity, v):
    """p-value of E[(velocity - v) v] = 0; velocity is +-1."""
    return st.normal_p(((velocity - v) * v).sum() / math.sqrt((v**2 * (1 - v**2)).sum()))


def test_velocity_is_the_mean_of_the_particles_velocity():
    """A direct simulation of the flips: in every cell of K, the mean of the final velocity is the mean of v(t, K)."""
    n, lam = 1_000_000, 3.0
    rng = np.random.default_rng(6)
    clock, position, sign = np.zeros(n), np.zeros(n), np.where(rng.random(n) < 0.5, -1.0, 1.0)
    flying = np.arange(n)
    while len(flying):
        step = np.minimum(rng.exponential(1 / lam, len(flying)), 1 - clock[flying])
        position[flying] += sign[flying] * step
        clock[flying] += step
        flying = flying[clock[flying] < 1]
        sign[flying] *= -1
    inside = np.abs(position) < 1 - 1e-9  # the rest never flipped
    k, velocity = position[inside], sign[inside]
    v = ops.kac_velocity(torch.from_numpy(k.astype(np.float32))[None], ONE, "telegraph", lam, 1.0)[0].double().numpy()
    cell = np.digitize(k, np.linspace(-1, 1, 41)[1:-1])
    mean, variance = np.bincount(cell, velocity - v), np.bincount(cell, 1 - v**2)
    p = {f"cell {i}": st.normal_p(m / math.sqrt(s)) for i, (m, s) in enumerate(zip(mean, variance, strict=True))}
    p["regression"] = regression(velocity, v)
    p["atoms"] = st.binomial_p(int((~inside).sum()), n, math.exp(-lam))
    counts = torch.bincount(
        torch.bucketize(torch.from_numpy(np.abs(k)), torch.from_numpy(st.telegraph_law(lam).edges)), minlength=512
    )
    p["law"] = st.ks_p(counts.numpy(), st.telegraph_law(lam).cdf)
    assert not st.failures(p)
    assert st.failures(p | {"regression": regression(velocity, 0.97 * v)})


# Wrong samplers


def cut_tail(k, v, lam, seed):
    """A tabulated quantile function without what lies beyond 1 - 1/4096."""
    cut = float(st.telegraph_law(lam).quantile(np.array([1 / 4096]))[0])
    k = torch.where(v.abs() < 1, k.clamp(-cut, cut), k)
    return k, torch.where(v.abs() < 1, reference.kac_velocity(k, torch.ones(len(k)), "telegraph", lam, 1.0).float(), v)


def atom_mass(k, v, lam, seed):
    """1% of the atoms are given another draw."""
    again = torch.rand(k.shape, generator=torch.Generator().manual_seed(seed)) < 0.01
    inside = ops.kac_pair(torch.zeros_like(k), torch.ones(len(k)), "telegraph", lam, 1.0, seed=seed + 10**6)
    again &= (v.abs() == 1) & (inside[1].abs() < 1)
    return torch.where(again, inside[0], k), torch.where(again, inside[1], v)


def scale(k, v, lam, seed):
    k = torch.where(v.abs() < 1, k * 0.997, k)
    return k, torch.where(v.abs() < 1, reference.kac_velocity(k, torch.ones(len(k)), "telegraph", lam, 1.0).float(), v)


def velocity_factor(k, v, lam, seed):
    return k, torch.where(v.abs() < 1, v * 1.003, v)


def correlated_signs(k, v, lam, seed):
    """Of neighbours, one in fifty takes the sign of the one before."""
    copy = torch.rand(k.shape, generator=torch.Generator().manual_seed(seed)) < 0.02
    flip = torch.where(copy & (torch.sign(k.roll(1, 1)) != torch.sign(k)), -1.0, 1.0)
    return k * flip, v * flip


def correlated_sizes(k, v, lam, seed):
    """One in fifty elements repeats the size, not the sign, of the one 64 before it."""
    copy = torch.rand(k.shape, generator=torch.Generator().manual_seed(seed)) < 0.02
    return tuple(torch.where(copy, torch.copysign(w.roll(64, 1), w), w) for w in (k, v))


def same_for_neighbouring_seeds(k, v, lam, seed):
    return ops.kac_pair(torch.zeros_like(k), torch.ones(len(k)), "telegraph", lam, 1.0, seed=seed // 2)


def lopsided(k, v, lam, seed):
    """Large displacements are positive a little too often."""
    flip = torch.where(
        (torch.rand(k.shape, generator=torch.Generator().manual_seed(seed)) < 0.01) & (k < -0.5), -1.0, 1.0
    )
    return k * flip, v * flip


def never_an_atom(k, v, lam, seed):
    """The displacement of the atoms is right and their velocity is the limit from inside: an epsilon test gone wrong."""
    return k, torch.where(v.abs() == 1, torch.sign(v) * lam / (lam + 2), v)


WRONG = [
    (cut_tail, "tail"),
    (atom_mass, "atom mass"),
    (scale, "moment 2"),
    (scale, "law of"),
    (velocity_factor, "velocity"),
    (correlated_signs, "pair of signs"),
    (correlated_signs, "table"),
    (correlated_sizes, "pair of sizes, element + 64"),
    (same_for_neighbouring_seeds, "seed + 1"),
    (lopsided, "cells and signs"),
    (never_an_atom, "atom mass"),
]


@pytest.mark.parametrize("wrong", list(dict.fromkeys(w for w, _ in WRONG)), ids=lambda w: w.__name__)
def test_battery_rejects(wrong):
    lam = 9.0 if wrong in (cut_tail, scale) else 1.0
    found = st.failures(st.telegraph_p_values(lambda *args: wrong(*pair_sampler(*args), lam, args[2]), lam))
    for name in [name for w, name in WRONG if w is wrong]:
        assert any(name in failure for failure in found), found
