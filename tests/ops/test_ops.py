"""Every op against the reference, and against itself over strides, dtypes and places of the result."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from distillkac import ops
from distillkac.ops import reference
from distillkac.ops.schedules import F_NAMES, G_NAMES
from tests.ops.op_cases import CASES, PROCESSES, A, C, expected, pair, rows, run, step, tensors
from tests.ops.op_oracle import quad_rounding
from tests.ops.op_parameters import ROUNDING, every_process, whole

# Largest error in float32; measured on values up to 3: velocity 6e-8, pair 2.3e-7, guided_velocity 9e-8, step 4e-7.
TOLERANCE = {"kac_noise": 0, "kac_velocity": 4e-7, "kac_pair": 4e-7, "guided_velocity": 4e-7, "guided_step": 1e-6}
every_op = pytest.mark.parametrize("name", CASES)


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
        allowed = TOLERANCE[name.partition(" ")[0]] + relative * exact.abs() + absolute
        if name.startswith("kac_pair") and process == "planar" and i == 1:
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
        if name.startswith("kac_pair") and process == "quad" and i == 1:
            t = rows(len(exact), 4)
            k = ops.kac_noise(t * t, exact.shape[1:], process, A, C, 6).double()
            allowed = allowed + quad_rounding(k, reference.rows(C * t * t, k), reference.rows(A * t * t, k), C)
        assert ((value.double() - exact).abs() <= allowed).all(), float(
            ((value.double() - exact).abs() - allowed).max()
        )


@every_op
@every_process
@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("width", [1, 33, 100_003])
def test_matches_reference(name, process, dtype, batch, width):
    inputs = tensors((batch, whole(width, process)), dtype)
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
    x, cond, uncond, prev = tensors((3, 260))
    arguments = (x, cond, uncond if u_uncond else None, prev if u_prev else None)
    for got, truth in zip(
        step(ops, *arguments, process, max_speed), step(reference, *arguments, process, max_speed), strict=True
    ):
        assert (got - truth).abs().max() <= (4e-6 if max_speed is None else 1e-6)  # values up to 15, measured 2e-6


@every_process
def test_speed_limit(process):
    u = torch.tensor([[3.0, 4.0, -0.03, 0.04, 0.0, -0.0, 1e30, -1e30]])
    limited = ops.guided_velocity(u, u, 0.0, 0.5, process)[0]
    truth = {
        "telegraph": [0.5, 0.5, -0.03, 0.04, 0, 0, 0.5, -0.5],
        "planar": [0.3, 0.4, -0.03, 0.04, 0, 0, *[0.5**1.5, -(0.5**1.5)]],
        "quad": [*(v * 0.5 / math.sqrt(25.0025) for v in (3, 4, -0.03, 0.04)), 0, 0, *[0.5**1.5, -(0.5**1.5)]],
    }[process]
    assert torch.allclose(limited, torch.tensor(truth), rtol=3e-7, atol=0)
    assert torch.equal(ops.guided_velocity(u, u, 3.0, None, process), u)
    assert (ops.guided_velocity(u, u, 0.0, 0.0, process) == 0).all()
    assert ops.guided_velocity(torch.full((1, 4), torch.nan), u[:, :4], 1.0, 0.5, process).isnan().all()  # not hidden


@pytest.mark.parametrize("process", ["planar", "quad"])
def test_a_nan_in_a_group_keeps_the_limit_from_all_of_it(process):
    """Whichever of them it is."""
    for place in range(4):
        u = torch.full((1, 4), 1e9)
        u[0, place] = math.nan
        limited = ops.guided_velocity(u, u, 0.0, 0.5, process)[0]
        together = 2 if process == "planar" else 4
        expected = [i // together == place // together for i in range(4)]
        assert (limited.isnan() | (limited == 1e9)).tolist() == expected


@every_op
@every_process
@pytest.mark.parametrize("shape", [(0, 8), (3, 0), (0, 0, 4), (2, 4, 0)])
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
    inputs = tensors((3, 5, 7, 24), dtype)
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
    shape = [*shape, 4 * last]
    permutation = list(range(len(shape)))
    order.shuffle(permutation)
    inputs = tensors(shape)
    inverse = [permutation.index(i) for i in range(len(shape))]
    views = [x.permute(permutation).contiguous().permute(inverse) for x in inputs]
    flat = run(name, [x.reshape(len(x), -1) for x in inputs], process)
    for got, want in zip(run(name, views, process), flat, strict=True):
        assert torch.equal(got, want.reshape(got.shape))


@every_process
@pytest.mark.parametrize("dtype", ROUNDING)
def test_out_and_in_place(process, dtype):
    x, cond, uncond, prev = tensors((3, 5, 36), dtype)
    t, out = rows(3), [torch.full((3, 5, 36), torch.nan, dtype=dtype) for _ in range(2)]
    assert ops.kac_noise(t, (5, 36), process, A, C, 5, out=out[0]) is out[0]
    assert torch.equal(out[0], ops.kac_noise(t, (5, 36), process, A, C, 5, dtype=dtype))
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


@every_process
@pytest.mark.parametrize("width", [4, 64])
def test_a_time_of_minus_zero_is_zero(process, width):
    """Rounding gives it: -.2 rounded and clamped to [0, 1] is -0."""
    x = tensors((2, width))[0]
    for dtype in (torch.float32, torch.float64):
        zero = torch.zeros(2, dtype=dtype)
        for result in (
            lambda t: ops.kac_noise(t, (width,), process, A, C, 5),
            lambda t: ops.kac_velocity(x * 0, t, process, A, C),
            lambda t: torch.stack(ops.kac_pair(x, t, process, A, C, "cosine", "quadratic", 5)),
            lambda t: torch.stack(ops.kac_pair(x, t + 0.5, process, A, C, seed=5, t_to=t)),
        ):
            assert torch.equal(result(zero).view(torch.int32), result(-zero).view(torch.int32))  # the sign of 0 too


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
