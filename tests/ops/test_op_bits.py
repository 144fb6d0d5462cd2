"""Bits of the ops that must not depend on SIMD level, threads, or how rows are split."""

import pytest
import torch

from distillkac import ops
from tests.ops.op_cases import CASES, A, C, rows, run, tensors
from tests.ops.op_parameters import ROUNDING, every_process, whole

LEVELS = ops._native.simd_levels()
two_levels = pytest.mark.skipif(len(LEVELS) < 2, reason=f"this CPU has one SIMD level, {LEVELS[0]}: nothing to compare")


def all_results(process, dtype=torch.float32, width=100_003):
    """Every bit of every op, the loss's gradient included."""
    inputs = tensors((3, whole(width, process)), dtype)
    results = [(name, result) for name in CASES for result in run(name, inputs, process)]
    gradient = torch.ops.distillkac.endpoint_loss(*inputs[:3], rows(3, 9, 0.1, 1), None)[1]
    return [*results, ("grad", gradient)]


def assert_same_bits(first, second):
    for (name, a), (_, b) in zip(first, second, strict=True):
        assert a.dtype == b.dtype
        kind = torch.int32 if a.dtype == torch.float32 else torch.int16
        assert torch.equal(a.reshape(-1).view(kind), b.reshape(-1).view(kind)), name


@two_levels
@every_process
@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("width", [75, 100_003])
def test_simd_levels_give_the_same_bits(process, dtype, width, simd_level):
    simd_level(LEVELS[0])
    first = all_results(process, dtype, width)
    for level in LEVELS[1:]:
        simd_level(level)
        assert ops._native.simd_level() == level
        assert_same_bits(first, all_results(process, dtype, width))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_results_of_every_size_are_rounded_as_torch_rounds_them(dtype, level, simd_level):
    """Every 16-bit number, NaN, infinite and subnormal ones too, with steps that end between two of them, or midway."""
    simd_level(level)
    x = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(dtype)
    for shift, h in ((0, 0.0), (1, 0.5), (12_345, 0.25), (777, 1 / 3)):
        inputs = [x[None], x.roll(shift)[None]]
        rounded = ops.guided_step(*inputs, None, None, None, h, None)[0]
        whole = ops.guided_step(*[v.float() for v in inputs], None, None, None, h, None)[0].to(dtype)
        nan = whole.isnan()
        assert torch.equal(rounded.isnan(), nan)
        assert torch.equal(rounded.view(torch.int16)[~nan], whole.view(torch.int16)[~nan])


@two_levels
@every_process
def test_simd_levels_draw_the_same_at_every_lambda(process, simd_level):
    """Rows where hardly any particle turned have a way of their own: enough draws that some did."""
    t = torch.tensor([1e-5, 3e-5, 1.1e-4, 1e-3, 1e-2, 0.1, 3.0, 100.0, 1e5], dtype=torch.float64)
    drawn = []
    for level in LEVELS:
        simd_level(level)
        drawn.append(ops.kac_noise(t, (1 << 19,), process, a=9.0, c=3.0, seed=5))
    assert all(torch.equal(drawn[0], other) for other in drawn[1:])
    if process == "telegraph":
        turned = (drawn[0].abs() < (3.0 * t).float()[:, None]).sum(1)
        assert turned[0] > 20


@every_process
def test_threads_give_the_same_bits(process, threads):
    threads(1)
    first = all_results(process)
    for count in (2, 4):
        threads(count)
        assert_same_bits(first, all_results(process))


@every_process
@pytest.mark.parametrize("offset", [0, 2**40 + 1])
def test_noise_does_not_depend_on_the_split(process, offset):
    t, x0 = rows(7), tensors((7, 200))[0]
    noise = ops.kac_noise(t, (200,), process, A, C, 5, offset)
    pairs = ops.kac_pair(x0, t, process, A, C, seed=5, offset=offset)
    for cut in (1, 3, 6):
        for part, at in ((slice(None, cut), offset), (slice(cut, None), offset + cut)):
            assert torch.equal(ops.kac_noise(t[part], (200,), process, A, C, 5, at), noise[part])
            split = ops.kac_pair(x0[part], t[part], process, A, C, seed=5, offset=at)
            assert torch.equal(split[0], pairs[0][part])
            assert torch.equal(split[1], pairs[1][part])
    # Element i of a row is the same in rows of another size and shape; other seeds and rows are other noise.
    assert torch.equal(ops.kac_noise(t, (68,), process, A, C, 5, offset), noise[:, :68])
    assert torch.equal(ops.kac_noise(t, (2, 5, 20), process, A, C, 5, offset).flatten(1), noise)
    for other in (
        ops.kac_noise(t, (200,), process, A, C, 6, offset),
        ops.kac_noise(t, (200,), process, A, C, 5, offset + 1),
    ):
        assert (other != noise).float().mean() > 0.3  # atoms may coincide up to their sign


@every_process
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("offset", [0, 2**32 - 70, 2**40 + 1])
def test_short_rows_are_the_beginning_of_long_ones(process, level, offset, simd_level):
    """Rows of up to 16 elements are drawn side by side, one on each lane: the same draws and velocities."""
    simd_level(level)
    count = 203  # not whole vectors; with the second offset, row numbers pass 2^32
    t = torch.rand(count, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    t[:6] = torch.tensor([0.0, 1e-6, 3e-5, 1.0, 40.0, 4e6])  # atoms, small rows, the last nodes of the table
    x0 = tensors((count, 64))[0]
    noise = ops.kac_noise(t, (64,), process, A, C, 5, offset)
    pairs = ops.kac_pair(x0, t, process, A, C, seed=5, offset=offset)
    for width in {"planar": (2, 6, 16, 18), "quad": (4, 12, 16, 20)}.get(process, (1, 2, 7, 15, 16, 17)):
        assert torch.equal(ops.kac_noise(t, (width,), process, A, C, 5, offset), noise[:, :width])
        short = ops.kac_pair(x0[:, :width], t, process, A, C, seed=5, offset=offset)
        assert torch.equal(short[0], pairs[0][:, :width])
        assert torch.equal(short[1], pairs[1][:, :width])
        assert torch.equal(
            ops.kac_noise(t, (width,), process, A, C, 5, offset, dtype=torch.bfloat16), noise[:, :width].bfloat16()
        )


def test_rare_words_of_short_rows():
    """Enough rows of one element for words of the deep tail, which are drawn one by one."""
    t = torch.full((1 << 18,), 0.4)
    long = ops.kac_noise(t, (17,), "telegraph", A, C, 3)[:, :16]
    assert torch.equal(ops.kac_noise(t, (16,), "telegraph", A, C, 3), long)
    x0 = torch.zeros_like(long)
    longer = ops.kac_pair(torch.zeros(1 << 18, 17), t, "telegraph", A, C, seed=3)
    assert torch.equal(ops.kac_pair(x0, t, "telegraph", A, C, seed=3)[1], longer[1][:, :16])


@every_process
def test_seed_may_be_a_tensor_or_a_generator(process):
    t, x0 = rows(3), torch.zeros(3, 64)
    for seed in (0, 5, -1, 2**63 - 1, -(2**63)):
        noise, pairs = ops.kac_noise(t, (64,), process, A, C, seed), ops.kac_pair(x0, t, process, A, C, seed=seed)
        for tensor in (torch.tensor(seed), torch.tensor([seed])):
            assert torch.equal(ops.kac_noise(t, (64,), process, A, C, tensor), noise)
            assert all(map(torch.equal, ops.kac_pair(x0, t, process, A, C, seed=tensor), pairs))
            assert int(tensor) == seed
    first, second = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    drawn = ops.kac_noise(t, (64,), process, A, C, first)
    assert torch.equal(ops.kac_noise(t, (64,), process, A, C, second), drawn)
    assert not torch.equal(ops.kac_noise(t, (64,), process, A, C, first), drawn)  # the generator went on
    # Other seeds differing in one bit anywhere are other noise.
    noises = {tuple(ops.kac_noise(t, (64,), process, A, C, 1 << bit).flatten().tolist()) for bit in range(63)}
    assert len(noises) == 63
