"""The telegraph velocity: golden values, reference, units, the mean of simulated particles."""

import math

import numpy as np
import pytest
import torch

from distillkac import ops
from distillkac.ops import reference
from tests.kernels import statistics_tools as st
from tests.places import GOLDEN

INSIDE = [row for row in GOLDEN if row["xi"] < 1]
ONE = torch.ones(1, dtype=torch.float64)


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
