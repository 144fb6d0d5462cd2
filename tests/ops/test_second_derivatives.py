"""Gradients of gradients of the endpoint loss, whose kernel makes the first; what has none is refused; rows of one value."""

import pytest
import torch
from torch.autograd import forward_ad

from distillkac import ops
from distillkac.ops import _tangents, reference
from tests.ops.op_cases import CASES, DIFFERENTIABLE, A, C, run, tensors
from tests.ops.op_parameters import every_process


def batch(seed=0):
    source = torch.Generator().manual_seed(seed)
    x, u, x_end = torch.randn(3, 3, 2, 4, generator=source)
    return x, u, x_end, torch.tensor([0.5, 0.3, 0.7]), torch.tensor([1.0, 2.0, 0.5])


@pytest.mark.parametrize("name", DIFFERENTIABLE)
@every_process
def test_gradients_of_every_op_by_one_batched_pass(name, process):
    inputs = tuple(tensors((2, 2, 8))[: CASES[name][1]])

    def results(*given):
        return run(name, given, process)

    one, many = (
        torch.autograd.functional.jacobian(results, inputs, vectorize=vectorize) for vectorize in (False, True)
    )
    torch.testing.assert_close(one, many)


@every_process
def test_nothing_moves_at_time_0(process):
    """Not by infinitely much either: a gradient of 0, and so is the gradient of that."""
    k = torch.zeros(2, 8, requires_grad=True)
    v = ops.kac_velocity(k, torch.tensor([0.0, 1.0]), process, A, C)
    (slope,) = torch.autograd.grad(v.sum(), k, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.square().sum(), k)
    assert not slope[0].any()
    assert slope[1].all()
    assert curvature.isfinite().all()
    # A time that is none, which a GPU answers with NaN, has no gradient either.
    none = _tangents.along_velocity(k.detach(), torch.tensor([torch.nan, 1.0]), torch.ones(2, 8), process, A, C)
    assert none[0].isnan().all()
    assert none[1].isfinite().all()


@pytest.mark.parametrize("weighed", [False, True])
def test_second_derivatives_of_the_loss_are_those_of_the_reference(weighed):
    *given, delta, weight = batch()
    weight = weight if weighed else None
    ours, theirs = (
        torch.autograd.functional.hessian(lambda *states, loss=loss: loss(*states, delta, weight), tuple(given))
        for loss in (ops.endpoint_loss, lambda *all: reference.endpoint_loss(*all).float())
    )
    for mine, known in zip(ours, theirs, strict=True):
        for one, two in zip(mine, known, strict=True):
            assert two.abs().max() > 0.01
            torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


def test_a_penalty_on_the_gradient_reaches_the_network():
    x, _, x_end, delta, _ = batch()
    found = []
    for loss in (ops.endpoint_loss, reference.endpoint_loss):
        weight, given = torch.full((4, 4), 0.2, requires_grad=True), x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(loss(given, torch.tanh(given @ weight), x_end, delta), given, create_graph=True)
        found += torch.autograd.grad(grad.square().sum(), weight)
    torch.testing.assert_close(found[0], found[1].float(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_the_incoming_gradient_keeps_its_graph(scale):
    x, u, x_end, delta, _ = batch()
    factor, u = torch.tensor(scale, requires_grad=True), u.requires_grad_()
    (grad,) = torch.autograd.grad(factor * ops.endpoint_loss(x, u, x_end, delta), u, create_graph=True)
    (found,) = torch.autograd.grad(grad.square().sum(), factor)
    assert found.item() == pytest.approx(2 * grad.square().sum().item() / scale, rel=1e-5)


def test_several_gradients_of_the_loss_at_once():
    x, u, x_end, delta, _ = batch()
    one, many = (
        torch.autograd.functional.jacobian(
            lambda u: torch.stack([ops.endpoint_loss(x, u, x_end, delta), ops.endpoint_loss(x, 2 * u, x_end, delta)]),
            u,
            vectorize=vectorize,
        )
        for vectorize in (False, True)
    )
    torch.testing.assert_close(one, many)


@pytest.mark.parametrize("name", ["kac_velocity", "endpoint_loss", "guided_velocity"])
def test_a_tangent_of_a_gradient_is_refused_where_it_would_be_lost(name):
    x, u, x_end, delta, _ = batch()
    with forward_ad.dual_level():
        given = forward_ad.make_dual(u.requires_grad_(), torch.ones_like(u))
        results = {
            "kac_velocity": lambda: ops.kac_velocity(given.clamp(-2, 2), torch.full((3,), 3.0), "telegraph", 9.0, 1.0),
            "endpoint_loss": lambda: ops.endpoint_loss(x, given, x_end, delta),
            "guided_velocity": lambda: ops.guided_velocity(given, x, delta.clone().requires_grad_()),
        }
        result = results[name]()
        with pytest.raises(NotImplementedError, match="forward mode over the gradient"):
            torch.autograd.grad(result.sum(), u)
    assert torch.autograd.grad(results[name]().sum(), given)[0].shape == u.shape


def test_rows_of_one_value_have_derivatives():
    w, one, two = torch.rand(3, requires_grad=True), torch.rand(3), torch.rand(3)
    torch.testing.assert_close(torch.autograd.grad(ops.guided_velocity(one, two, w).sum(), w)[0], one - two)
    x, u, x_end, delta = (torch.rand(3) + 0.1 for _ in range(4))
    moved = torch.func.jvp(lambda u: ops.endpoint_loss(x, u, x_end, delta), (u,), (torch.ones(3),))[1]
    torch.testing.assert_close(moved, (-2 * (x - delta * u - x_end) / delta).mean())


@pytest.mark.parametrize("process", ["telegraph", "planar", "quad"])
def test_what_is_refused_in_place_is_refused_at_once(process):
    """Asked a second time, the op would read what it has written, all of which is possible."""
    k = torch.full((2, 1, 4, 4), 0.5)
    k[1, 0, 2, 1] = 50.0
    t = torch.full((2,), 2.0)
    with pytest.raises(ValueError, match=r"kac_velocity: .*\|k\| <= c\*t"):
        ops.kac_velocity(k, t, process, 9.0, 1.0, out=k)
    inside = torch.full((2, 1, 4, 4), 0.5)
    expected = ops.kac_velocity(inside, t, process, 9.0, 1.0)
    assert torch.equal(ops.kac_velocity(inside, t, process, 9.0, 1.0, out=inside), expected)


def test_an_out_of_the_wrong_kind_is_named():
    k, t = torch.zeros(2, 4), torch.ones(2)
    for out in ((), (torch.zeros(2, 4),), (torch.zeros(2, 4),) * 20, [torch.zeros(2, 4)]):
        with pytest.raises(ValueError, match="kac_velocity: out"):
            ops.kac_velocity(k, t, "telegraph", 9.0, 1.0, out=out)
        if len(out) != 2:
            with pytest.raises(ValueError, match="kac_pair: out"):
                ops.kac_pair(k, t, "telegraph", 9.0, 1.0, seed=0, out=out)
