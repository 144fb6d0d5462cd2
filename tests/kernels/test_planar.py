"""The planar process: velocity and law in closed form, a direct simulation of the random flight, and wrong samplers."""

import math

import numpy as np
import pytest
import torch

from distillkac import ops
from distillkac.ops import reference
from tests.kernels import planar_statistics as planar
from tests.kernels import statistics_tools as st

LAMBDAS = [1e-3, 0.1, 1.0, 9.0, 25.0, 100.0, 1000.0]
ONE = torch.ones(1, dtype=torch.float64)


def pair_sampler(lam, shape, seed):
    """(k, v) with a = lam, c = t = 1: x0 = 0 makes x_t = K and u = v."""
    return ops.kac_pair(torch.zeros(shape), torch.ones(shape[0]), "planar", lam, 1.0, seed=seed)


# Velocity


@pytest.mark.parametrize("level", ops._native.simd_levels())
@pytest.mark.parametrize("t", [1.0, 0.37, 3e-11, 6e10])
@pytest.mark.parametrize("c", [1.0, 3.0, 1e-12, 1e12])
def test_velocity_is_the_closed_form(c, t, level, simd_level):
    """v = c x / (c t + s): error <= 5e-7 c, from the centre up to, on and a rounding outside the light circle."""
    simd_level(level)
    generator = torch.Generator().manual_seed(2)
    gap = torch.cat(
        [torch.rand(4000, generator=generator), 10 ** -(8 * torch.rand(4000, generator=generator)), torch.zeros(99)]
    )
    angle = 2 * math.pi * torch.rand(len(gap), generator=generator, dtype=torch.float64)
    angle[::50] = math.pi / 4 * torch.arange(len(angle[::50]))  # the axes and the diagonals
    radius = c * t * (1 - gap.double())
    k = torch.stack([radius * angle.cos(), radius * angle.sin()], -1).float().reshape(1, -1)
    v = ops.kac_velocity(k, t * ONE, "planar", 9.0 / t, c).double().reshape(-1, 2)
    # In units of c t, in float64: both squares are exact there, so s is right to 2e-8.
    x = k.double().reshape(-1, 2) / (c * t)
    s = torch.sqrt((1 - x[:, :1] ** 2 - x[:, 1:] ** 2).clamp(min=0))
    assert ((v / c - x / (1 + s)).abs().max()) <= 5e-7  # measured 1.2e-7
    assert v.norm(dim=-1).max() <= c * (1 + 2e-7)
    assert torch.allclose(
        reference.kac_velocity(k, t * ONE, "planar", 9.0 / t, c).reshape(-1, 2), c * x / (1 + s), rtol=1e-6, atol=0
    )


def test_velocity_test_rejects_a_velocity_a_millionth_off(monkeypatch):
    right = ops.kac_velocity
    monkeypatch.setattr(ops, "kac_velocity", lambda *args: right(*args) * (1 - 2e-6))
    with pytest.raises(AssertionError):
        test_velocity_is_the_closed_form(1.0, 1.0, ops._native.simd_level(), lambda level: None)


def test_velocity_does_not_depend_on_a_and_vanishes_at_the_centre():
    k = ops.kac_noise(ONE, (1000,), "planar", 3.0, 1.0, 1)
    v = ops.kac_velocity(k, ONE, "planar", 3.0, 1.0)
    assert torch.equal(v, ops.kac_velocity(k, ONE, "planar", 1e-6, 1.0))
    assert (ops.kac_velocity(torch.zeros(2, 4), torch.tensor([0.0, 1.0]), "planar", 3.0, 2.0) == 0).all()


def test_velocity_is_rotated_with_its_displacement():
    k = 0.9 * ops.kac_noise(ONE, (2000,), "planar", 3.0, 1.0, 1).reshape(-1, 2)
    v = ops.kac_velocity(k.reshape(1, -1), ONE, "planar", 3.0, 1.0).reshape(-1, 2)
    quarter = torch.stack([-k[:, 1], k[:, 0]], -1)
    turned = ops.kac_velocity(quarter.reshape(1, -1), ONE, "planar", 3.0, 1.0).reshape(-1, 2)
    assert torch.equal(turned, torch.stack([-v[:, 1], v[:, 0]], -1))
    assert (
        torch.linalg.cross(torch.nn.functional.pad(k, (0, 1)), torch.nn.functional.pad(v, (0, 1)))
    ).abs().max() < 1e-7


# The sampler


@pytest.mark.parametrize("lam", LAMBDAS)
def test_sampler_passes_the_battery(lam):
    """2.1e6 pairs: atoms, laws of |K| and |v|, angle and radius together, tails, moments of x and y, independence."""
    assert not st.failures(planar.planar_p_values(pair_sampler, lam))


@pytest.mark.slow
@pytest.mark.parametrize("lam", LAMBDAS)
def test_sampler_passes_the_battery_with_1e8_draws(lam):
    assert not st.failures(planar.planar_p_values(pair_sampler, lam, batches=24, seed=1000))


@pytest.mark.parametrize("lam", [0.1, 9.0])
def test_reference_sampler_passes_the_battery(lam):
    """The reference against the same closed form."""

    def sampler(lam, shape, seed):
        k = reference.kac_noise(torch.ones(shape[0]), shape[1:], "planar", lam, 1.0, seed)
        return k, reference.kac_velocity(k, torch.ones(shape[0]), "planar", lam, 1.0)

    assert not st.failures(planar.planar_p_values(sampler, lam, shape=(8, 16384)))


def test_noise_and_pair_draw_the_same_bits_inside_the_circle():
    t = torch.tensor([0.0, 1e-7, 0.3, 1.0, 1e3], dtype=torch.float64)
    k, v = ops.kac_pair(torch.zeros(5, 20_000), t, "planar", 9.0, 3.0, seed=4)
    assert torch.equal(k, ops.kac_noise(t, (20_000,), "planar", 9.0, 3.0, 4))
    radius = k.double().unflatten(-1, (-1, 2)).norm(dim=-1)
    assert (radius <= 3 * t[:, None] * (1 + 2e-7)).all()
    speed = v.double().unflatten(-1, (-1, 2)).norm(dim=-1)
    assert (speed <= 3 * (1 + 2e-7)).all()
    assert speed[0].min() >= 3 * (1 - 2e-7)  # at t = 0 nobody has turned
    with_t = ops.kac_noise(t[2:4].float(), (64,), "planar", 9.0, 3.0, 4, offset=2)
    assert torch.allclose(with_t, k[2:4, :64], rtol=2e-6, atol=1e-9)  # float32 times


TAILS = [
    (1e-6, 2**25),  # 34 of 3.4e7 pairs expected
    pytest.param(
        2.0**-24, 2**28, marks=pytest.mark.slow
    ),  # 16; a radius made of 24 bits, as torch.rand has, gives none
]


def tail_p(noise, survival, pairs, lam=100.0):
    """p-value of the number of radii beyond the quantile `survival`. noise(rows, width, seed) -> k."""
    edge, count, shape = planar.planar_law(lam).tail_radius(survival), 0, (64, 65536)
    for seed in range(2 * pairs // math.prod(shape)):
        k = noise(*shape, seed)
        # In a pair that far out the larger coordinate exceeds edge / sqrt(2); few do.
        near = (k.abs() > 0.7 * edge).flatten().nonzero()[:, 0] // 2
        candidates = k.reshape(-1, 2)[near.unique()].double().norm(dim=-1)
        count += int((candidates > edge).sum())
    return st.binomial_p(count, pairs, survival)


@pytest.mark.parametrize(("survival", "pairs"), TAILS)
def test_far_tail(survival, pairs):
    rows = torch.ones(64)
    right = lambda _, width, seed: ops.kac_noise(rows, (width,), "planar", 100.0, 1.0, seed)  # noqa: E731
    assert tail_p(right, survival, pairs) > st.LEVEL


@pytest.mark.parametrize(("survival", "pairs"), TAILS)
def test_far_tail_test_rejects_a_cut(survival, pairs):
    rows, edge = torch.ones(64), planar.planar_law(100.0).tail_radius(survival)

    def cut(_, width, seed):
        k = ops.kac_noise(rows, (width,), "planar", 100.0, 1.0, seed)
        far = (k.abs() > 0.7 * edge).flatten().nonzero()[:, 0] // 2
        pairs = k.view(-1, 2)
        pairs[far] *= (0.999 * edge / pairs[far].norm(dim=-1, keepdim=True)).clamp(max=1)
        return k

    assert tail_p(cut, survival, pairs) < st.LEVEL


# A direct simulation


def random_flight(lam, particles, seed):
    """Positions and final velocities at t = 1: speed 1, a fresh uniform direction after each exponential wait."""
    rng = np.random.default_rng(seed)
    position, velocity = np.zeros((2, particles, 2))
    clock, flying = np.zeros(particles), np.arange(particles)
    while len(flying):
        angle = rng.uniform(0, 2 * math.pi, len(flying))
        velocity[flying] = np.stack([np.cos(angle), np.sin(angle)], -1)
        wait = np.minimum(rng.exponential(1 / lam, len(flying)), 1 - clock[flying])
        position[flying] += wait[:, None] * velocity[flying]
        clock[flying] += wait
        flying = flying[clock[flying] < 1]
    return position, velocity


def flight_p_values(position, drawn):
    """Two-sample tests: Kolmogorov-Smirnov of radius and four projections, chi-square over cells of the plane."""
    p = {}
    turned = [w[np.hypot(*w.T) < 1 - 1e-6] for w in (position, drawn)]  # the others never turned: tied radii
    p["radius"] = st.ks_two_sample_p(*(np.hypot(*w.T) for w in turned))
    for name, direction in {"x": (1, 0), "y": (0, 1), "diagonal": (0.6, 0.8), "other": (0.6, -0.8)}.items():
        p[name] = st.ks_two_sample_p(position @ direction, drawn @ direction)
    edges = np.linspace(-1.000001, 1.000001, 21)
    p["plane"] = st.chi2_two_sample_p(*(np.histogram2d(*w.T, bins=(edges, edges))[0] for w in (position, drawn)))
    return p


@pytest.mark.parametrize("lam", [0.5, 3.0, 12.0])
def test_law_and_velocity_are_those_of_the_random_flight(lam):
    n = 400_000
    position, velocity = random_flight(lam, n, seed=3)
    drawn = ops.kac_noise(ONE, (2 * n,), "planar", lam, 1.0, 9).double().numpy().reshape(-1, 2)
    p = flight_p_values(position, drawn)
    k = torch.from_numpy(position).float().reshape(1, -1)
    v = ops.kac_velocity(k.clamp(-1, 1) * (1 - 1e-7), ONE, "planar", lam, 1.0).double().numpy().reshape(-1, 2)
    radius = np.hypot(*position.T)
    moved = radius < 1 - 1e-6
    p["atoms"] = st.binomial_p(int((~moved).sum()), n, math.exp(-lam))
    # v(t, K) is the mean of the final velocity given K: along K, and not at all across it.
    outward = position[moved] / radius[moved, None]
    speed, along = (v[moved] * outward).sum(-1), (velocity[moved] * outward).sum(-1)
    p["across"] = st.normal_p((velocity[moved] * outward[:, ::-1] * [1, -1]).sum() / math.sqrt(0.5 * moved.sum()))
    cell = np.digitize(radius[moved], np.linspace(0, 1, 21)[1:-1])
    for i in range(20):
        difference = (along - speed)[cell == i]
        if len(difference) > 50:
            p[f"velocity {i}"] = st.normal_p(difference.sum() / (difference.std() * math.sqrt(len(difference))))
    assert not st.failures(p)
    wrong = ((along - 0.97 * speed) * speed).sum() / math.sqrt((((along - speed) * speed) ** 2).sum())
    right = ((along - speed) * speed).sum() / math.sqrt((((along - speed) * speed) ** 2).sum())
    assert not st.failures({"regression": st.normal_p(right)})
    assert st.failures(p | {"regression": st.normal_p(wrong)})
    assert st.failures(flight_p_values(position, 0.99 * drawn))


# Wrong samplers


def reflected(k, v, lam, seed):
    """Angles over half a circle."""
    return tuple(torch.stack([w[..., ::2], w[..., 1::2].abs()], -1).flatten(-2) for w in (k, v))


def without_atoms(k, v, lam, seed):
    """U conditioned on a turn, U > e^-lambda, instead of sending U < e^-lambda to the circle."""
    again = ops.kac_pair(torch.zeros_like(k), torch.ones(len(k)), "planar", lam, 1.0, seed=seed + 10**6)
    atom = (v.unflatten(-1, (-1, 2)).norm(dim=-1) > 1 - 1e-6).repeat_interleave(2, -1)
    return torch.where(atom, again[0], k), torch.where(atom, again[1], v)


def wrong_rate(k, v, lam, seed):
    """The atoms are right, the radii inside are those of a rate 1% higher."""
    other = ops.kac_pair(torch.zeros_like(k), torch.ones(len(k)), "planar", 1.01 * lam, 1.0, seed=seed)
    atom = (v.unflatten(-1, (-1, 2)).norm(dim=-1) > 1 - 1e-6).repeat_interleave(2, -1)
    return torch.where(atom, k, other[0]), torch.where(atom, v, other[1])


def radius_scale(k, v, lam, seed):
    return 0.997 * k, v


def velocity_factor(k, v, lam, seed):
    return k, 1.003 * v


def cut_tail(k, v, lam, seed):
    radius = k.unflatten(-1, (-1, 2)).norm(dim=-1).repeat_interleave(2, -1)
    factor = (planar.planar_law(lam).tail_radius(1 / 4096) / radius).clamp(max=1)
    return k * factor, v * factor


def shared_angles(k, v, lam, seed):
    """One in fifty pairs takes the direction of the pair 16 further on: words of one Philox call mixed up."""
    (kp, vp), (kr, vr) = ([w.unflatten(-1, (-1, 2)) for w in (k, v)] for _ in range(2))
    unit = vp / vp.norm(dim=-1, keepdim=True).clamp(min=1e-30)
    copy = (torch.rand(kp.shape[:-1], generator=torch.Generator().manual_seed(seed)) < 0.02)[..., None]
    turned = [torch.where(copy, w.norm(dim=-1, keepdim=True) * unit.roll(16, 1), w).flatten(-2) for w in (kr, vr)]
    return tuple(turned)


@pytest.mark.parametrize("level", ops._native.simd_levels())
@pytest.mark.parametrize("place", [0, 1])
def test_a_nan_makes_its_pair_nan_and_no_other(level, place, simd_level):
    simd_level(level)
    k = torch.full((3, 70), 0.1)
    k[:, 6 + place] = k[:, 68 + place] = math.nan  # in a whole vector, and in what is left
    v = ops.kac_velocity(k, torch.tensor([1.0, 0.3, 30.0]), "planar", 9.0, 1.0)
    ill = torch.zeros(70, dtype=torch.bool)
    ill[[6, 7, 68, 69]] = True
    assert (v.isnan() == ill).all()
    assert v[:, ~ill].norm(dim=0).isfinite().all()


def radius_knows_angle(k, v, lam, seed):
    """Radius and angle from the same word: outer particles fly right."""
    pairs, speeds = k.unflatten(-1, (-1, 2)).clone(), v.unflatten(-1, (-1, 2)).clone()
    far = (speeds.norm(dim=-1) > 0.5) & (
        torch.rand(pairs.shape[:-1], generator=torch.Generator().manual_seed(seed)) < 0.02
    )
    for w in (pairs, speeds):
        w[..., 0] = torch.where(far, w[..., 0].abs(), w[..., 0])
    return pairs.flatten(-2), speeds.flatten(-2)


WRONG = [
    (reflected, "angle"),
    (without_atoms, "atom mass"),
    (wrong_rate, "law of |v|"),
    (radius_scale, "law of |K|"),
    (velocity_factor, "velocity"),
    (cut_tail, "tail"),
    (shared_angles, "element + 16"),
    (radius_knows_angle, "angle and radius"),
]


@pytest.mark.parametrize(("wrong", "name"), WRONG, ids=[wrong.__name__ for wrong, _ in WRONG])
def test_battery_rejects(wrong, name):
    lam = 25.0 if wrong is cut_tail else 1.0
    found = st.failures(planar.planar_p_values(lambda *args: wrong(*pair_sampler(*args), lam, args[2]), lam))
    assert any(name in failure for failure in found), found
