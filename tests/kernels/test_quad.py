"""The quad process: velocity and law in closed form, a direct simulation of the random flight, and wrong samplers."""

import math

import numpy as np
import pytest
import torch

from distillkac import ops
from distillkac.ops import reference
from tests.kernels import quad_statistics as quad
from tests.kernels import statistics_tools as st

LAMBDAS = [1e-3, 0.1, 1.0, 9.0, 25.0, 100.0, 1000.0]
ONE = torch.ones(1, dtype=torch.float64)
every_level = pytest.mark.parametrize("level", ops._native.simd_levels())


def four_sampler(lam, shape, seed):
    """(k, v) with a = lam, c = t = 1: x0 = 0 makes x_t = K and u = v."""
    return ops.kac_pair(torch.zeros(shape), torch.ones(shape[0]), "quad", lam, 1.0, seed=seed)


# Velocity


@every_level
@pytest.mark.parametrize("t", [1.0, 0.37, 3e-11, 6e10])
@pytest.mark.parametrize(("lam", "c"), [(9.0, 1.0), (1e4, 3.0), (1e-3, 1e-12), (30.0, 1e12)])
def test_velocity_is_the_closed_form(lam, c, t, level, simd_level):
    """v = x / 2t (z + 3) / (z + 2): error <= 5e-7 c, from the centre up to 3e-6 from the sphere; on it and a rounding
    outside, |v| = c."""
    simd_level(level)
    generator = torch.Generator().manual_seed(2)
    gap = torch.cat(
        [
            torch.rand(4000, generator=generator),
            3e-6 * 10 ** (5 * torch.rand(4000, generator=generator)),
            torch.zeros(99),
        ]
    ).double()
    direction = torch.randn(len(gap), 4, generator=generator, dtype=torch.float64)
    direction[::50] = torch.eye(4, dtype=torch.float64)[torch.arange(len(direction[::50])) % 4]
    k = (c * t * (1 - gap[:, None]) * direction / direction.norm(dim=-1, keepdim=True)).float().reshape(1, -1)
    v = ops.kac_velocity(k, t * ONE, "quad", lam / t, c).double().reshape(-1, 4)
    x = k.double().reshape(-1, 4) / (c * t)
    square = x.square().sum(-1, keepdim=True)
    z = lam * (1 - square)
    exact = torch.where(gap[:, None] == 0, x / square.sqrt(), x / 2 * (z + 3) / (z + 2))
    assert (v / c - exact).abs().max() <= 5e-7  # measured 1.2e-7
    assert v.norm(dim=-1).max() <= c * (1 + 2e-7)
    assert torch.allclose(reference.kac_velocity(k, t * ONE, "quad", lam / t, c).reshape(-1, 4), c * exact, rtol=1e-9)


def test_velocity_test_rejects_a_velocity_a_millionth_off(monkeypatch):
    right = ops.kac_velocity
    monkeypatch.setattr(ops, "kac_velocity", lambda *args: right(*args) * (1 - 2e-6))
    with pytest.raises(AssertionError):
        test_velocity_is_the_closed_form(9.0, 1.0, 1.0, ops._native.simd_level(), lambda level: None)


def test_velocity_vanishes_at_the_centre_and_is_a_nan_for_one():
    v = ops.kac_velocity(torch.zeros(2, 8), torch.tensor([0.0, 1.0]), "quad", 3.0, 2.0)
    assert (v == 0).all()
    k = torch.tensor([[0.1, math.nan, 0.2, 0.3, 0.1, 0.1, 0.1, 0.1]])
    v = ops.kac_velocity(k, ONE, "quad", 3.0, 2.0)[0]
    assert v[:4].isnan().all()
    assert v[4:].isfinite().all()


@pytest.mark.parametrize(("dtype", "share"), [(torch.float16, 0.99), (torch.bfloat16, 0.99), (torch.float32, 1.0)])
def test_atoms_keep_their_speed_in_every_type(dtype, share):
    """A draw that was rounded to its type still counts as on the sphere."""
    k = ops.kac_noise(ONE, (4000,), "quad", 1e-6, 1.0, 3, dtype=dtype)
    # What rounding carries outside the cone by more than its tolerance is refused: drawn inwards.
    speed = ops.kac_velocity(k, ONE, "quad", 1e-6, 1.0).double().unflatten(-1, (-1, 4)).norm(dim=-1)
    assert (speed > 0.95).double().mean() >= share


# The sampler


def words_of(seed, count):
    """(count, 4) words of the groups of row 0."""
    words = [ops._native.philox([group, 0, 0, 0], [seed, 0]) for group in range(count)]
    return np.array(words, dtype=np.uint64)


@every_level
@pytest.mark.parametrize("lam", [1e-6, 1e-3, 0.3, 2.0, 6.0, 12.0, 20.0, 30.0, 300.0, 1e4, 1e9])
def test_draws_are_quantiles_and_directions_of_their_words(lam, level, simd_level):
    """Radius, speed and direction to float32 rounding: |K| to 2.5e-7 (2 ulp), each coordinate to 4e-7 |K|."""
    simd_level(level)
    n = 3000
    words = words_of(5, n)
    k, v = (w.double().reshape(-1, 4) for w in ops.kac_pair(torch.zeros(1, 4 * n), ONE, "quad", lam, 1.0, seed=5))
    exponent = torch.from_numpy(-np.log((words[:, 0].astype(np.float64) + 0.5) / 2**32))
    rho = reference.quad_quantile(exponent, lam)[:, None]
    uniform = torch.from_numpy((words[:, 1:] + np.array([0.5, 0, 0])) / 2**32)
    share, first, second = uniform[:, 0], 2 * math.pi * uniform[:, 1], 2 * math.pi * uniform[:, 2]
    unit = [share.sqrt() * first.cos(), share.sqrt() * first.sin()]
    unit += [(1 - share).sqrt() * second.cos(), (1 - share).sqrt() * second.sin()]
    unit = torch.stack(unit, -1)
    atom = exponent[:, None] >= lam
    z = lam * (1 - rho.square())
    speed = torch.where(atom, 1.0, rho / 2 * (z + 3) / (z + 2))
    assert ((k - rho * unit).abs() / rho).max() <= 4e-7
    assert ((v - speed * unit).abs() / speed).max() <= 4e-7
    # The length alone: what the direction's own length lacks of 1 is the same on the sphere, as an atom of these words.
    sphere = ops.kac_noise(ONE, (4 * n,), "quad", 1e-12, 1.0, 5).double().reshape(-1, 4)
    ratio = (k.norm(dim=-1) / sphere.norm(dim=-1))[:, None] / rho - 1
    assert ratio.abs().max() <= 2.5e-7


@pytest.mark.parametrize("lam", LAMBDAS)
def test_sampler_passes_the_battery(lam):
    """1e6 groups: atoms, law of |K|, direction and radius together, tails, moments of coordinates, independence."""
    assert not st.failures(quad.quad_p_values(four_sampler, lam))


@pytest.mark.slow
@pytest.mark.parametrize("lam", LAMBDAS)
def test_sampler_passes_the_battery_with_5e7_draws(lam):
    assert not st.failures(quad.quad_p_values(four_sampler, lam, batches=24, seed=1000))


@pytest.mark.parametrize("lam", [0.1, 9.0])
def test_reference_sampler_passes_the_battery(lam):
    """The reference, by the number of turns, against the same closed form."""

    def sampler(lam, shape, seed):
        k = reference.kac_noise(torch.ones(shape[0]), shape[1:], "quad", lam, 1.0, seed)
        return k, reference.kac_velocity(k, torch.ones(shape[0]), "quad", lam, 1.0)

    assert not st.failures(quad.quad_p_values(sampler, lam, shape=(8, 16384)))


def test_noise_and_pair_draw_the_same_bits_inside_the_sphere():
    t = torch.tensor([0.0, 1e-7, 0.3, 1.0, 1e3], dtype=torch.float64)
    k, v = ops.kac_pair(torch.zeros(5, 20_000), t, "quad", 9.0, 3.0, seed=4)
    assert torch.equal(k, ops.kac_noise(t, (20_000,), "quad", 9.0, 3.0, 4))
    radius, speed = (w.double().unflatten(-1, (-1, 4)).norm(dim=-1) for w in (k, v))
    assert (radius <= 3 * t[:, None] * (1 + 4e-7)).all()
    assert (speed <= 3 * (1 + 4e-7)).all()
    assert speed[0].min() >= 3 * (1 - 4e-7)  # at t = 0 nobody has turned
    for width in (4, 8, 12, 16, 20, 60, 64, 68, 132):  # short rows side by side, and the tails of long ones
        assert torch.equal(ops.kac_noise(t, (width,), "quad", 9.0, 3.0, 4), k[:, :width])


@pytest.mark.parametrize(("a", "c"), [(25.0, 2 * math.sqrt(2)), (9.0, 3.0)])
@pytest.mark.parametrize("t", [0.05, 0.3, 0.9])
def test_velocity_is_the_slope_of_the_path_of_a_seed(a, c, t):
    """The same seed at two times is two points of one path. Central differences in float32: the median error of a step of
    1e-3 is 1e-4 c; a particle that leaves the sphere in it sees part of the jump."""
    step, size = 5e-4, (40_000,)
    _, v = ops.kac_pair(torch.zeros(1, *size), t * ONE, "quad", a, c, seed=8)
    ahead, behind = (ops.kac_noise((t + s) * ONE, size, "quad", a, c, 8).double() for s in (step, -step))
    error = ((ahead - behind) / (2 * step) - v).abs()
    assert error.median() <= 1e-4 * c
    assert (error > 0.01 * c).double().mean() <= 2 * step * a * math.exp(-a * t) + 1e-3
    assert ((ahead - behind) / (2 * step) - 1.01 * v).abs().median() > 5e-4 * c


# A direct simulation


def random_flight(lam, particles, seed):
    """Positions and final velocities at t = 1: speed 1, a fresh uniform direction in R^4 after each exponential wait."""
    rng = np.random.default_rng(seed)
    position, velocity = np.zeros((2, particles, 4))
    clock, flying = np.zeros(particles), np.arange(particles)
    while len(flying):
        normal = rng.normal(size=(len(flying), 4))
        velocity[flying] = normal / np.linalg.norm(normal, axis=1, keepdims=True)
        wait = np.minimum(rng.exponential(1 / lam, len(flying)), 1 - clock[flying])
        position[flying] += wait[:, None] * velocity[flying]
        clock[flying] += wait
        flying = flying[clock[flying] < 1]
    return position, velocity


def flight_p_values(position, drawn):
    """Two-sample Kolmogorov-Smirnov tests of the radius and of four projections."""
    p = {}
    turned = [w[np.linalg.norm(w, axis=1) < 1 - 1e-6] for w in (position, drawn)]  # the others never turned: tied radii
    p["radius"] = st.ks_two_sample_p(*(np.linalg.norm(w, axis=1) for w in turned))
    for direction in ((1, 0, 0, 0), (0, 0, 0, 1), (0.6, 0, 0.8, 0), (0.5, 0.5, -0.5, 0.5)):
        p[f"along {direction}"] = st.ks_two_sample_p(position @ direction, drawn @ direction)
    return p


@pytest.mark.parametrize("lam", [0.5, 3.0, 12.0])
def test_law_and_velocity_are_those_of_the_random_flight(lam):
    n = 300_000
    position, velocity = random_flight(lam, n, seed=3)
    drawn = ops.kac_noise(ONE, (4 * n,), "quad", lam, 1.0, 9).double().numpy().reshape(-1, 4)
    p = flight_p_values(position, drawn)
    k = torch.from_numpy(position).float().reshape(1, -1)
    v = ops.kac_velocity(k, ONE, "quad", lam, 1.0).double().numpy().reshape(-1, 4)
    radius = np.linalg.norm(position, axis=1)
    moved = radius < 1 - 3e-6
    p["atoms"] = st.binomial_p(int((~moved).sum()), n, math.exp(-lam))
    # v(t, K) is the mean of the final velocity given K: along K.
    outward = position[moved] / radius[moved, None]
    speed, along = (v[moved] * outward).sum(-1), (velocity[moved] * outward).sum(-1)
    cell = np.digitize(radius[moved], np.linspace(0, 1, 21)[1:-1])
    for i in range(20):
        difference = (along - speed)[cell == i]
        if len(difference) > 50:
            p[f"velocity {i}"] = st.normal_p(difference.sum() / (difference.std() * math.sqrt(len(difference))))
    assert not st.failures(p)

    def regression(factor):
        products = (along - factor * speed) * speed
        return {"regression": st.normal_p(products.sum() / math.sqrt((products**2).sum()))}

    assert not st.failures(regression(1))
    assert st.failures(p | regression(0.97))
    assert st.failures(flight_p_values(position, 0.99 * drawn))


# Wrong samplers


def grouped(function):
    """A wrong sampler that changes (k, v) as (..., n, 4)."""

    def wrong(k, v, lam, seed):
        return tuple(w.flatten(-2) for w in function(k.unflatten(-1, (-1, 4)), v.unflatten(-1, (-1, 4)), lam, seed))

    wrong.__name__ = function.__name__
    return wrong


@grouped
def reflected(k, v, lam, seed):
    """The second angle over half a circle."""
    return tuple(torch.cat([w[..., :3], w[..., 3:].abs()], -1) for w in (k, v))


@grouped
def narrow_share(k, v, lam, seed):
    """The share of the first two coordinates is an angle's, not uniform: the classic mistake on a sphere of R^4."""
    _, share, *_ = quad.directions(k)
    wanted = torch.sin(math.pi / 2 * share).square()
    factor = torch.stack([wanted / share, (1 - wanted) / (1 - share)], -1).sqrt().repeat_interleave(2, -1).float()
    return k * factor, v * factor


def without_atoms(k, v, lam, seed):
    """U conditioned on a turn, instead of sending U < e^-lambda to the sphere."""
    again = four_sampler(lam, k.shape, seed + 10**6)
    atom = (v.unflatten(-1, (-1, 4)).norm(dim=-1) > 0.9).repeat_interleave(4, -1)
    return torch.where(atom, again[0], k), torch.where(atom, again[1], v)


def wrong_rate(k, v, lam, seed):
    """The atoms are right, the radii inside are those of a rate 1% higher."""
    other = four_sampler(1.01 * lam, k.shape, seed)
    atom = (v.unflatten(-1, (-1, 4)).norm(dim=-1) > 0.9).repeat_interleave(4, -1)
    return torch.where(atom, k, other[0]), torch.where(atom, v, other[1])


def velocity_factor(k, v, lam, seed):
    return k, 1.003 * v


@grouped
def cut_tail(k, v, lam, seed):
    radius = k.norm(dim=-1, keepdim=True)
    factor = (quad.quad_law(lam).tail_radius(1 / 4096) / radius).clamp(max=1)
    return k * factor, v * factor


@grouped
def shared_directions(k, v, lam, seed):
    """One in fifty groups takes the direction of that 16 further on: words of Philox calls mixed up."""
    unit = v / v.norm(dim=-1, keepdim=True).clamp(min=1e-30)
    copy = (torch.rand(k.shape[:-1], generator=torch.Generator().manual_seed(seed)) < 0.02)[..., None]
    return tuple(torch.where(copy, w.norm(dim=-1, keepdim=True) * unit.roll(16, 1), w) for w in (k, v))


WRONG = [
    (reflected, "second angle"),
    (narrow_share, "share"),
    (without_atoms, "atom mass"),
    (wrong_rate, "law of |K|"),
    (velocity_factor, "velocity"),
    (cut_tail, "tail"),
    (shared_directions, "element + 16"),
]


@pytest.mark.parametrize(("wrong", "name"), WRONG, ids=[wrong.__name__ for wrong, _ in WRONG])
def test_battery_rejects(wrong, name):
    lam = 25.0 if wrong is cut_tail else 1.0
    found = st.failures(quad.quad_p_values(lambda *args: wrong(*four_sampler(*args), lam, args[2]), lam))
    assert any(name in failure for failure in found), found
