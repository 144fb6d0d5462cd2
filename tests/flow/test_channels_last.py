"""Channels last in memory on a CPU: the kernel of group norm and SiLU, and where torch's own operations do the work."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from distillkac import ops
from distillkac.base.random import generator
from distillkac.flow.channels_last import group_norm, served, twice, with_channels_last
from tests.closeness import assert_same
from tests.flow.norms import ROUNDING, SHAPES, assert_near, exact, ours, problem

LEVELS = ops._native.simd_levels()


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_kernel_is_torchs_norm_in_float64(shape, dtype, silu):
    given = problem(shape, dtype)
    got = ours(*given, silu)
    assert got[0].dtype == got[1].dtype == dtype
    assert got[2].dtype == got[3].dtype == torch.float32
    assert got[0].is_contiguous(memory_format=torch.channels_last)
    if shape[2:4] != (1, 1):
        assert_near(got, exact(*given, silu), ROUNDING[dtype])
    else:  # a group of two numbers: its gradient is what is left of a difference
        assert_near(got[:1], exact(*given, silu)[:1], ROUNDING[dtype])


def test_a_mean_far_from_zero_costs_no_more_than_the_input_has_lost():
    """Of numbers near 1000 float32 keeps 6e-5; a variance by the difference of two sums would be wrong by a tenth."""
    given = problem((2, 32, 14, 14, 4), mean=1000.0, deviation=1.0)
    assert_near(ours(*given, True), exact(*given, True), 3e-4)


@pytest.mark.parametrize("value", [0.0, 100.1, -1000.1, 1e30])
def test_an_image_of_one_value_is_normalised_to_nothing(value):
    """However the value rounds: beside the smallest deviation that eps leaves, 0.003, an error of the mean would be large."""
    _, cotangent, norm = problem((2, 8, 17, 16, 2))
    y, grad, *_ = ours(torch.full((2, 8, 17, 16), value), cotangent, norm, False)
    assert torch.equal(y, norm.bias[:, None, None].expand_as(y))
    assert grad.isfinite().all()


@pytest.mark.parametrize("value", [-1e37, -200.0, -88.0, -20.0, 0.0, 20.0, 88.0, 200.0])
def test_silu_of_every_size(value):
    norm = nn.GroupNorm(1, 2)
    with torch.no_grad():
        norm.bias.fill_(value)
    y, grad, *_ = ours(torch.tensor([[[[1.0]], [[-1.0]]]]), torch.ones(1, 2, 1, 1), norm, True)
    wanted = functional.silu(torch.tensor([value + 1, value - 1]).double())
    torch.testing.assert_close(y.flatten().double(), wanted, rtol=2e-5, atol=1e-30)  # 1 and -1 are normalised to 5e-6
    assert torch.isfinite(grad).all()


def test_what_is_not_finite_stays_so_in_its_own_row():
    x, cotangent, norm = problem((3, 16, 4, 4, 2))
    x[1, 3, 2, 2] = float("nan")
    y, grad, *_ = ours(x, cotangent, norm, True)
    assert y[1, :8].isnan().all()
    assert y[1, 8:].isfinite().all()
    assert y[[0, 2]].isfinite().all()
    assert grad[[0, 2]].isfinite().all()


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_level_and_any_number_of_threads_give_the_same_bits(shape, dtype, simd_level):
    given = problem((40, *shape[1:]), dtype)
    simd_level(LEVELS[0])
    first, threads = ours(*given, True), torch.get_num_threads()
    for level in LEVELS:
        simd_level(level)
        for count in (1, 3):
            torch.set_num_threads(count)
            try:
                again = ours(*given, True)
            finally:
                torch.set_num_threads(threads)
            assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True)), (level, count)


def test_any_order_of_memory_gives_the_same_bits():
    x, cotangent, norm = problem((2, 24, 6, 10, 3))
    orders = [
        x,
        x.contiguous(memory_format=torch.channels_last),
        x.transpose(2, 3).contiguous().transpose(2, 3),
        torch.cat([x, x], 1)[:, :24],
    ]
    first = ours(orders[0], cotangent, norm, True)
    for other in orders[1:]:
        again = ours(other, cotangent.contiguous(memory_format=torch.channels_last), norm, True)
        assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))


def test_images_without_pixels_and_batches_without_images():
    _, _, norm = problem((1, 8, 2, 2, 2))
    for shape in ((0, 8, 2, 2), (2, 8, 0, 3)):
        y, grad, grad_weight, grad_bias = ours(torch.zeros(shape), torch.zeros(shape), norm, True)
        assert y.shape == grad.shape == torch.Size(shape)
        assert not grad_weight.any()
        assert not grad_bias.any()
        rows = torch.zeros(shape).permute(0, 2, 3, 1)
        _, mean, inverse = torch.ops.distillkac.group_norm(rows, norm.weight, norm.bias, 2, 1e-5, False)
        assert not mean.any()
        assert not inverse.any()


def test_answers_may_be_changed_in_place():
    x, cotangent, norm = problem((2, 8, 3, 3, 2))
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(group_norm(norm, leaf, True).mul_(2), leaf, cotangent)
    assert_near([grad / 2], [exact(x, cotangent, norm, True)[1]], ROUNDING[torch.float32])
    (grad,) = torch.autograd.grad(twice(leaf).add_(1), leaf, torch.ones(2, 8, 6, 6))
    assert torch.equal(grad, torch.full_like(x, 4))


def test_a_norm_without_weights_is_torchs():
    x, _, _ = problem((2, 8, 3, 3, 2))
    norm = nn.GroupNorm(2, 8, affine=False)
    assert_same(group_norm(norm, x, True), functional.silu(norm(x)))
    norm = nn.GroupNorm(2, 8)
    norm.register_parameter("bias", None)
    assert_same(group_norm(norm, x, True), functional.silu(norm(x)))


def test_weights_that_are_frozen_or_of_16_bits():
    x, cotangent, norm = problem((2, 16, 3, 3, 2))
    norm.requires_grad_(False)
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(group_norm(norm, leaf, True), leaf, cotangent)
    assert_near([grad], [exact(x, cotangent, norm.requires_grad_(), True)[1]], ROUNDING[torch.float32])
    half = copy.deepcopy(norm).bfloat16()
    y, *grads = ours(x.bfloat16(), cotangent.bfloat16(), half, True)
    assert {y.dtype, *(grad.dtype for grad in grads)} == {torch.bfloat16}
    assert_near([y], exact(x.bfloat16(), cotangent, half, True)[:1], ROUNDING[torch.bfloat16])


def test_what_torch_looks_into_is_left_to_torch():
    x, cotangent, norm = problem((2, 8, 3, 3, 2))
    assert served(x)
    assert not served(x.double())
    assert not served(x.to("meta"))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        assert served(x)
        assert not served(x[:1])
    finally:
        torch.set_num_threads(threads)
    wanted = exact(x, cotangent, norm, True)[0]
    _, moved = torch.func.jvp(lambda x: group_norm(norm, x, True), (x,), (cotangent,))
    weights = (norm.num_groups, norm.weight, norm.bias, norm.eps)
    _, by_hand = torch.func.jvp(lambda x: functional.silu(functional.group_norm(x, *weights)), (x,), (cotangent,))
    assert_same(moved, by_hand)
    mapped = torch.func.vmap(lambda row: group_norm(norm, row[None], True)[0])(x)
    assert_same(mapped, wanted.float())
    seen = torch.export.export(Norm(norm), (x,)).graph
    assert not any("distillkac" in str(node.target) for node in seen.nodes)
    traced = torch.jit.trace(Norm(norm), (x,)).inlined_graph
    assert not any("distillkac" in node.kind() or "Python" in node.kind() for node in traced.nodes())


class Norm(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        return group_norm(self.norm, x, True)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"x": torch.zeros(4)}, r"group_norm: x must be \(B, ..., C\), got float32 \(4,\)"),
        ({"x": torch.zeros(2, 3, 8).double()}, "group_norm: x must be float32, bfloat16 or float16, got float64"),
        ({"groups": 3}, "group_norm: groups must divide the channels, 8, got 3"),
        ({"groups": 0}, "group_norm: groups must divide the channels, 8, got 0"),
        ({"eps": -1.0}, "group_norm: eps must be >= 0, got -1"),
        ({"weight": torch.zeros(7)}, r"group_norm: weight must be float32 \(8,\), got float32 \(7,\)"),
        ({"bias": torch.zeros(8).double()}, r"group_norm: bias must be float32 \(8,\), got float64 \(8,\)"),
    ],
)
def test_a_wrong_argument_is_named(change, sentence):
    given = {"x": torch.zeros(2, 3, 8), "weight": torch.zeros(8), "bias": torch.zeros(8), "groups": 2, "eps": 1e-5}
    with pytest.raises(ValueError, match=sentence):
        torch.ops.distillkac.group_norm(**given | change, silu=True)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"grad_y": torch.zeros(2, 4, 8)}, "grad_y"),
        ({"weight": torch.zeros(9)}, "weight"),
        ({"x": torch.zeros(2), "grad_y": torch.zeros(2)}, "x"),
        ({"mean": torch.zeros(2, 3)}, "mean"),
        ({"mean": torch.zeros(16)}, "mean"),
        ({"inverse_deviation": torch.zeros(2, 4)}, "inverse_deviation"),
    ],
)
def test_a_wrong_argument_of_the_gradient_is_named(change, name):
    rows, channels, moments = torch.zeros(2, 3, 8), torch.zeros(8), torch.zeros(2, 2)
    given = {"grad_y": rows, "x": rows, "weight": channels, "bias": channels, "mean": moments}
    with pytest.raises(ValueError, match=f"group_norm_grad: {name} must "):
        torch.ops.distillkac.group_norm_grad(**given | {"inverse_deviation": moments} | change, silu=True)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_pixel_four_times(channels):
    x = torch.randn(2, channels, 3, 5, generator=generator(0, "pixels")).double().requires_grad_()
    assert torch.equal(twice(x), functional.interpolate(x, scale_factor=2.0, mode="nearest"))
    assert torch.autograd.gradcheck(twice, x)


@pytest.mark.parametrize("shape", [(2, 1, 4, 6), (2, 3, 4, 6)])
def test_the_order_of_memory_is_one_that_convolutions_see(shape):
    x = torch.randn(shape, generator=generator(0, "pixels"), requires_grad=True)
    moved = with_channels_last(x)
    assert torch.equal(moved, x)
    answer = functional.conv2d(moved, torch.ones(8, shape[1], 3, 3), padding=1)
    assert answer.is_contiguous(memory_format=torch.channels_last)
    (grad,) = torch.autograd.grad(moved, x, x.detach())
    assert torch.equal(grad, x)
