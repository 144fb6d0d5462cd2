"""The same seed at several times is one path of the flow: x_t moves with u, K keeps its quantile, and leaves an atom where the
atom does. And `kac_pair(..., t_to=)` gives two points of it in one pass, with the bits of two calls.

That the flow has the right law at every time is tests/kernels/test_continuity.py. The CUDA kernels have the same bits:
tests/kernels/test_cuda_on_cpu.py.
"""

import math

import pytest
import torch

from distillkac import ops
from distillkac.ops import reference

GROUPS = {"telegraph": 1, "planar": 2, "quad": 4}
PROCESSES = tuple(GROUPS)
LEVELS = ops._native.simd_levels()
RATES = ((25.0, 2.0), (9.0, 3.0))
H = 1e-3
every_process = pytest.mark.parametrize("process", PROCESSES)


def images(rows, width, seed=1):
    return 2 * torch.rand(rows, width, generator=torch.Generator().manual_seed(seed)) - 1


def sizes(k, process):
    """|K| of every element, of pairs and fours for all of their elements."""
    group = GROUPS[process]
    return k.double().unflatten(-1, (-1, group)).norm(dim=-1).repeat_interleave(group, -1)


def slope_errors(x0, t, process, a, c, f, g, kappa=1.0, step=H, factor=1.0):
    """(|(x at t + step - x at t - step) / (2 step) - factor u|, whether the cone was left between the two)."""

    def at(t_to):
        return ops.kac_pair(x0, t, process, a, c, f, g, seed=3, kappa=kappa, t_to=t_to)

    (_, u, before), (_, _, after) = at(t - step), at(t + step)
    ages = [(v if g == "linear" else v * v) for v in (t - step, t + step)]
    on_cone = [
        sizes(ops.kac_noise(age, x0.shape[1:], process, a, c, 3), process) >= c * age[:, None] * (1 - 1e-6)
        for age in ages
    ]
    slope = (after.double() - before.double()) / (2 * step)
    return (slope - factor * u.double()).abs(), on_cone[0] & ~on_cone[1]


@every_process
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("a", "c"), RATES)
def test_x_moves_with_u(process, level, a, c, simd_level):
    """Central differences: their own error is a rounding of x over the step, and in the mean no more than 1e-4."""
    simd_level(level)
    t = torch.tensor([0.05, 0.3, 0.9], dtype=torch.float64)
    x0 = images(3, 20_000)
    for f, g in (("linear", "linear"), ("cosine", "quadratic"), ("exp", "linear")):
        error, left = slope_errors(x0, t, process, a, c, f, g)
        rounding = 4 * 2**-24 * (1 + c) / (2 * H)
        assert error[~left].median() <= rounding, (f, g)
        # Next to the cone the planar slope bends like a square root; a telegraph or quad particle jumps from c as it leaves.
        assert (error[~left] > 20 * rounding).double().mean() <= 0.02, (f, g)
        assert (error <= 2.1 * c * 2).all()
        if process == "telegraph":
            assert 0 < left.sum() < 0.05 * left.numel()


@every_process
def test_a_velocity_a_thousandth_off_is_noticed(process):
    """What the test before asks is sharp enough: the median is then a thousandth of u, 20 roundings."""
    t = torch.tensor([0.3], dtype=torch.float64)
    error, left = slope_errors(images(1, 20_000), t, process, 9.0, 3.0, "linear", "linear", factor=1.001)
    assert error[~left].median() > 4 * 2**-24 * (1 + 3.0) / (2 * H)


@every_process
def test_the_path_is_never_faster_than_c(process):
    """Over any two times, atoms and their leaving included: |K - K'| <= c |t - t'|."""
    times = torch.linspace(0, 1, 81, dtype=torch.float64)
    k = ops.kac_noise(times, (2000,), process, 9.0, 3.0, 5) * 0
    for b, time in enumerate(times):
        k[b] = ops.kac_noise(time[None], (2000,), process, 9.0, 3.0, 5)[0]
    assert (sizes(k[1:] - k[:-1], process) <= 3.0 / 80 * (1 + 1e-5) + 1e-6).all()


def test_a_telegraph_path_keeps_its_quantile():
    """P(|K_t| >= |k|), atoms included, is that of the random word at every time; so is the sign. It is an atom up to the time
    when the atoms have so little mass."""
    a, c, width = 9.0, 3.0, 800
    times = [0.02, 0.1, 0.3, 1.0]
    k = [ops.kac_noise(torch.tensor([t]).double(), (width,), "telegraph", a, c, 8)[0].double() for t in times]
    assert all(torch.equal(k[0] < 0, later < 0) for later in k[1:])
    atom = [value.abs() >= c * t * (1 - 1e-7) for value, t in zip(k, times, strict=True)]
    above = [1 - reference.telegraph_cdf_abs(v.abs() / (c * t), a * t) for v, t in zip(k, times, strict=True)]
    word = above[-1]  # where the particle is inside at the last time, its word
    for t, here, survival in zip(times, atom, above, strict=True):
        assert not (atom[-1] & ~here).any()
        inside = ~here & ~atom[-1]
        assert (survival[inside] - word[inside]).abs().max() <= 3e-6  # two errors of the sampler's law, 5.4e-7 each
        clear = ((word - math.exp(-a * t)).abs() > 3e-6) & ~atom[-1]
        assert torch.equal(here[clear], (word < math.exp(-a * t))[clear])
    assert atom[0].sum() > atom[1].sum() > atom[2].sum() > 20


def test_a_planar_path_keeps_its_direction_and_the_time_of_its_last_turn():
    """P(|K_t| <= r) = 1 - exp(-a (t - s/c)), so t - s/c is kept once the particle is inside the light circle."""
    a, c, width = 9.0, 3.0, 8000
    times = [0.02, 0.1, 0.3, 1.0]
    k = [ops.kac_noise(torch.tensor([t]).double(), (width,), "planar", a, c, 8)[0].double() for t in times]
    pairs = [value.unflatten(-1, (-1, 2)) for value in k]
    last, radius = pairs[-1], pairs[-1].norm(dim=-1)
    for t, here in zip(times[:-1], pairs[:-1], strict=True):
        size = here.norm(dim=-1)
        cross = here[:, 0] * last[:, 1] - here[:, 1] * last[:, 0]
        assert (cross.abs() <= 1e-6 * size * radius).all()
        assert ((here * last).sum(-1) > 0).all()
        turned = [t_ - (((c * t_) ** 2 - r**2).clamp(min=0)).sqrt() / c for t_, r in ((t, size), (1.0, radius))]
        inside = size < c * t * 0.999  # closer to the circle, the root loses half of the digits
        assert inside.sum() > 100
        assert (turned[0] - turned[1])[inside & (radius < 0.999 * c)].abs().max() <= 1e-5


@every_process
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_two_times_have_the_bits_of_two_calls(process, level, dtype, simd_level):
    """Rows short and long, of whole blocks and not, beyond a chunk; t_to before t, after it, the same, 0; every schedule."""
    simd_level(level)
    t = torch.tensor([0.5, 0.0, 1.0, 1e-5, 0.3], dtype=torch.float64)
    t_to = torch.tensor([0.2, 0.7, 0.0, 1.0, 0.3], dtype=torch.float64)
    for width in (4, 16, 20, 64, 124, 4100, 16_392) if process == "quad" else (2, 16, 18, 64, 126, 4100, 16_390):
        x0 = images(5, width).to(dtype)
        for f, g in (("linear", "linear"), ("cosine", "quadratic"), ("exp", "linear")):
            options = (process, 9.0, 3.0, f, g, 7, 2**32 - 3, 0.7)
            both, first, second = (
                ops.kac_pair(x0, t, *options, t_to=t_to),
                ops.kac_pair(x0, t, *options),
                ops.kac_pair(x0, t_to, *options),
            )
            assert torch.equal(both[0], first[0])
            assert torch.equal(both[1], first[1])
            assert torch.equal(both[2], second[0])
            assert torch.equal(both[0][4], both[2][4])  # at the same time
    x0 = images(5, 100).to(dtype)
    assert torch.equal(ops.kac_pair(x0, t, process, 9.0, 3.0, t_to=t.float() * 0)[2], x0)  # at t = 0 the data


@pytest.mark.parametrize("place", range(3))
def test_each_result_may_take_the_place_of_the_data(place):
    """An image is read before any of the three is written."""
    x0, t, t_to = images(3, 200), torch.tensor([0.2, 0.5, 0.9]), torch.tensor([0.4, 0.1, 0.9])
    wanted = ops.kac_pair(x0, t, "telegraph", 9.0, 3.0, t_to=t_to)
    out = [torch.empty_like(x0) for _ in range(3)]
    out[place] = data = x0.clone()
    got = ops.kac_pair(data, t, "telegraph", 9.0, 3.0, out=tuple(out), t_to=t_to)
    assert all(map(torch.equal, got, wanted))
    assert got[place] is data


def test_rare_words_at_either_time():
    """Words of the deep tail of one time are common at the other: 4e6 draws hold some 60 of each."""
    x0 = torch.zeros(4, 1 << 20)
    t, t_to = torch.full((4,), 1.0), torch.full((4,), 0.1)
    both = ops.kac_pair(x0, t, "telegraph", 9.0, 3.0, t_to=t_to)
    assert torch.equal(both[0], ops.kac_pair(x0, t, "telegraph", 9.0, 3.0)[0])
    assert torch.equal(both[2], ops.kac_pair(x0, t_to, "telegraph", 9.0, 3.0)[0])
