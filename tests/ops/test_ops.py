"""Every op against the reference, and against itself over strides, dtypes, threads, SIMD levels, splits and seeds."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from distillkac import ops
from distillkac.ops import reference
from distillkac.ops.schedules import F_NAMES, G_NAMES
from tests.ops.op_cases import CASES, PROCESSES, A, C, expected, pair, rows, run, step, tensors

LEVELS = ops._native.simd_levels()
# Unit roundoff of the result, on top of float32 arithmetic; the float16 term is half its smallest subnormal.
ROUNDING = {torch.float32: (0, 0), torch.bfloat16: (2**-8, 0), torch.float16: (2**-11, 2**-25)}
# Largest error in float32; measured on values up to 3: velocity 6e-8, pair 2.3e-7, guided_velocity 9e-8, step 4e-7.
TOLERANCE = {"kac_noise": 0, "kac_velocity": 4e-7, "kac_pair": 4e-7, "guided_velocity": 4e-7, "guided_step": 1e-6}
every_op = pytest.mark.parametrize("name", CASES)
every_process = pytest.mark.parametrize("process", PROCESSES)


def even(width, process):
    return width + width % 2 if process == "planar" else width


def assert_close(name, got, truth, inputs, process, dtype):
    relative, absolute = ROUNDING[dtype]
    if name == "endpoint_loss":
        assert got[0].dtype == torch.float32
        assert got[0].shape == ()
        assert abs(got[0].double() - truth[0]) <= 4e-7 * truth[0]
        return
    for i, (value, exact) in enumerate(zip(got, truth, strict=True)):
        assert value.shape == exact.shape
        assert value.dtype == dtype
        assert value.is_contiguous()
        allowed = TOLERANCE[name] + relative * exact.abs() + absolute
        if name == "kac_pair" and process == "planar" and i == 1:
            # v comes from the words, the reference's from the rounded K: 6e-7 in |K|^2 moves s by at most 6e-7 / s.
            t = rows(len(exact), 4)
            k = ops.kac_noise(t * t, exact.shape[1:], process, A, C, 6).double()
            xi2 = (
                (k / (C * t * t).reshape(-1, *[1] * (k.dim() - 1)))
                .unflatten(-1, (-1, 2))
                .square()
                .sum(-1, keepdim=True)
            )
            s = (1 - xi2).clamp(min=6e-7).sqrt().expand(*xi2.shape[:-1], 2).flatten(-2)
            allowed = allowed + 6e-7 / s
        assert ((value.double() - exact).abs() <= allowed).all(), float(
            ((value.double() - exact).abs() - allowed).max()
        )


@every_op
@every_process
@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("width", [1, 33, 100_003])
def test_matches_reference(name, process, dtype, batch, width):
    inputs = tensors((batch, even(width, process)), dtype)
    before = [x.clone() for x in inputs]
    got = run(name, inputs, process)
    assert_close(name, got, expected(name, inputs, process), inputs, process, dtype)
    for x, was in zip(inputs, before, strict=True):
        assert x._version == 0
        assert torch.equal(x, was)


@every_process
@pytest.mark.parametrize("f", F_NAMES)
@pytest.mark.parametrize("g", G_NAMES)
def test_schedules_of_the_pair(process, f, g):
    """x0 = 1 against x0 = 0, t = 0 and 1 included: f and f' by the difference, K_{g(t)} by the noise op."""
    t = torch.cat([torch.tensor([0.0, 1.0], dtype=torch.float64), rows(20)])
    kappa, half = 0.7, torch.pi / 2
    f_t = {"linear": 1 - t, "cosine": torch.cos(half * t), "exp": torch.exp(-kappa * t)}[f]
    df = {"linear": -torch.ones_like(t), "cosine": -half * torch.sin(half * t), "exp": -kappa * torch.exp(-kappa * t)}[
        f
    ]
    g_t, dg = {"linear": (t, torch.ones_like(t)), "quadratic": (t * t, 2 * t)}[g]
    zero, one = (ops.kac_pair(torch.full((22, 40), x), t, process, A, C, f, g, 6, 3, kappa) for x in (0.0, 1.0))
    assert torch.equal(zero[0], ops.kac_noise(g_t, (40,), process, A, C, 6, 3))
    assert ((one[0] - zero[0]).double() - f_t[:, None]).abs().max() <= 3e-7
    assert ((one[1] - zero[1]).double() - df[:, None]).abs().max() <= 5e-7
    if f != "exp":
        assert torch.equal(one[0][1], zero[0][1])  # f(1) = 0 exactly: the prior holds nothing of x0
    assert (zero[1].double().abs() <= C * dg[:, None] * (1 + 2e-7)).all()
    slow = ops.kac_pair(torch.zeros(22, 40), t, process, A, C, f, "linear", 6, 3, kappa)
    if g == "linear":
        assert torch.equal(slow[1], zero[1])


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize(("u_uncond", "u_prev"), [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("max_speed", [None, 0.5])
def test_guided_step_with_and_without_its_parts(process, u_uncond, u_prev, max_speed):
    x, cond, uncond, prev = tensors((3, 258))
    arguments = (x, cond, uncond if u_uncond else None, prev if u_prev else None)
    for got, truth in zip(
        step(ops, *arguments, process, max_speed), step(reference, *arguments, process, max_speed), strict=True
    ):
        assert (got - truth).abs().max() <= (4e-6 if max_speed is None else 1e-6)  # values up to 15, measured 2e-6


@every_process
def test_speed_limit(process):
    u = torch.tensor([[3.0, 4.0, -0.03, 0.04, 0.0, -0.0, 1e30, -1e30]])
    limited = ops.guided_velocity(u, u, 0.0, 0.5, process)[0]
    truth = (
        [0.5, 0.5, -0.03, 0.04, 0, 0, 0.5, -0.5]
        if process == "telegraph"
        else [0.3, 0.4, -0.03, 0.04, 0, 0, *[0.5**1.5, -(0.5**1.5)]]
    )
    assert torch.allclose(limited, torch.tensor(truth), rtol=3e-7, atol=0)
    assert torch.equal(ops.guided_velocity(u, u, 3.0, None, process), u)
    assert (ops.guided_velocity(u, u, 0.0, 0.0, process) == 0).all()
    assert ops.guided_velocity(torch.full((1, 2), torch.nan), u[:, :2], 1.0, 0.5, process).isnan().all()  # not hidden


@every_op
@every_process
@pytest.mark.parametrize("shape", [(0, 8), (3, 0), (0, 0, 2), (2, 4, 0)])
def test_zero_size(name, process, shape):
    inputs = tensors(shape)
    if name == "endpoint_loss":
        with pytest.raises(ValueError, match=r"endpoint_loss: x must not be empty.*got float32 \("):
            run(name, inputs, process)
        return
    for result in run(name, inputs, process):
        assert result.shape == shape
        assert result.dtype == torch.float32


def layouts(x):
    """The same values in other memory: channels last, transposed, every second element, an odd address."""
    yield x.to(memory_format=torch.channels_last)
    yield x.transpose(1, -1).contiguous().transpose(1, -1)
    yield torch.stack([x, torch.full_like(x, torch.nan)], -1).flatten(-2)[..., ::2]
    padded = torch.full((x.numel() + 1,), torch.nan, dtype=x.dtype)
    padded[1:] = x.flatten()
    yield padded[1:].view(x.shape)
    yield x.flip(0).contiguous().flip(0)


@every_op
@every_process
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_strides_do_not_matter(name, process, dtype):
    inputs = tensors((3, 5, 7, 22), dtype)
    wanted = run(name, inputs, process)
    for views in zip(*map(layouts, inputs), strict=True):
        assert all(torch.equal(view, x) for view, x in zip(views, inputs, strict=True))
        for got, want in zip(run(name, views, process), wanted, strict=True):
            assert torch.equal(got, want)
            assert got.is_contiguous()
    mixed = [inputs[0], *[x.to(memory_format=torch.channels_last) for x in inputs[1:]]]
    assert all(torch.equal(got, want) for got, want in zip(run(name, mixed, process), wanted, strict=True))
    row = [x[:1].expand(3, -1, -1, -1) for x in inputs]
    solid = run(name, [x.contiguous() for x in row], process)
    assert all(torch.equal(got, want) for got, want in zip(run(name, row, process), solid, strict=True))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    name=some.sampled_from(list(CASES)),
    process=some.sampled_from(PROCESSES),
    shape=some.lists(some.integers(1, 9), min_size=1, max_size=4),
    last=some.integers(1, 40),
    order=some.randoms(use_true_random=False),
)
def test_any_shape_and_order_of_dimensions(name, process, shape, last, order):
    shape = [*shape, 2 * last]
    permutation = list(range(len(shape)))
    order.shuffle(permutation)
    inputs = tensors(shape)
    inverse = [permutation.index(i) for i in range(len(shape))]
    views = [x.permute(permutation).contiguous().permute(inverse) for x in inputs]
    flat = run(name, [x.reshape(len(x), -1) for x in inputs], process)
    for got, want in zip(run(name, views, process), flat, strict=True):
        assert torch.equal(got, want.reshape(got.shape))


def all_results(process, dtype=torch.float32, width=100_003):
    """Every bit of every op, the loss's gradient included."""
    inputs = tensors((3, even(width, process)), dtype)
    results = [(name, result) for name in CASES for result in run(name, inputs, process)]
    gradient = torch.ops.distillkac.endpoint_loss(*inputs[:3], rows(3, 9, 0.1, 1), None)[1]
    return [*results, ("grad", gradient)]


def assert_same_bits(first, second):
    for (name, a), (_, b) in zip(first, second, strict=True):
        assert a.dtype == b.dtype
        kind = torch.int32 if a.dtype == torch.float32 else torch.int16
        assert torch.equal(a.reshape(-1).view(kind), b.reshape(-1).view(kind)), name


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
    assert torch.equal(ops.kac_noise(t, (66,), process, A, C, 5, offset), noise[:, :66])
    assert torch.equal(ops.kac_noise(t, (2, 10, 10), process, A, C, 5, offset).flatten(1), noise)
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
    for width in (2, 6, 16, 18) if process == "planar" else (1, 2, 7, 15, 16, 17):
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


@every_process
@pytest.mark.parametrize("dtype", ROUNDING)
def test_out_and_in_place(process, dtype):
    x, cond, uncond, prev = tensors((3, 5, 34), dtype)
    t, out = rows(3), [torch.full((3, 5, 34), torch.nan, dtype=dtype) for _ in range(2)]
    assert ops.kac_noise(t, (5, 34), process, A, C, 5, out=out[0]) is out[0]
    assert torch.equal(out[0], ops.kac_noise(t, (5, 34), process, A, C, 5, dtype=dtype))
    wanted = ops.kac_pair(x, t, process, A, C, seed=5)
    assert all(map(torch.equal, ops.kac_pair(x, t, process, A, C, seed=5, out=tuple(out)), wanted))
    assert all(map(torch.equal, out, wanted))
    assert out[0]._version >= 2  # autograd must see that it was written
    in_place = x.clone()
    ops.kac_pair(in_place, t, process, A, C, seed=5, out=(in_place, out[1]))
    assert torch.equal(in_place, wanted[0])
    assert torch.equal(out[1], wanted[1])
    for guidance in (uncond, None):
        for before in (prev, None):
            arguments = (guidance, before, 2.0, 0.1, 0.2, 0.5, process)
            wanted = ops.guided_step(x, cond, *arguments)
            ops.guided_step(x, cond, *arguments, out=tuple(out))
            assert all(map(torch.equal, out, wanted))
            x2, u2 = x.clone(), (prev if before is not None else cond).clone()
            ops.guided_step(x2, cond, guidance, u2 if before is not None else None, *arguments[2:], out=(x2, u2))
            assert torch.equal(x2, wanted[0])
            assert torch.equal(u2, wanted[1])


def test_row_scalars_may_be_numbers_or_tensors():
    x, cond, uncond, prev = tensors((3, 8))
    wanted = ops.guided_step(x, cond, uncond, prev, 2.0, 0.25, 0.5)
    for make in (torch.tensor, lambda v: torch.full((3,), v), lambda v: torch.full((3,), v).double()):
        got = ops.guided_step(x, cond, uncond, prev, make(2.0), make(0.25), make(0.5))
        assert all(map(torch.equal, got, wanted))
    assert torch.equal(ops.guided_velocity(cond, uncond, torch.tensor(2.0)), ops.guided_velocity(cond, uncond, 2))
    assert torch.equal(
        pair(ops, x, "telegraph")[0], ops.kac_pair(x, rows(3, 4), "telegraph", A, C, "cosine", "quadratic", 6)[0]
    )
