"""Derivatives of the group norm with channels last: gradients that keep their graph, their gradients, forward mode."""

import copy

import pytest
import torch
from torch.nn import functional

from distillkac.flow.channels_last import group_norm
from tests.flow.norms import assert_near, problem


def test_the_gradient_has_a_gradient():
    """As a loss on gradients asks for it: by torch's own operations, of a float32 that the kernel took."""
    x, cotangent, norm = problem((2, 8, 3, 3, 2))

    def penalty(norm, x, cotangent, call):
        x = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(call(norm, x), x, cotangent, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), [x, norm.weight, norm.bias])

    got = penalty(norm, x, cotangent, lambda norm, x: group_norm(norm, x, True))
    wanted = penalty(
        copy.deepcopy(norm).double(), x.double(), cotangent.double(), lambda norm, x: functional.silu(norm(x))
    )
    assert_near(got, wanted, 1e-5)


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-4), (torch.bfloat16, 0.2)])
def test_gradients_that_keep_their_graph_are_those_of_one_norm_called_several_times(dtype, rounding):
    """A weight that is also behind x counts once for each call, as without create_graph. Rounding is enlarged by each of the
    five norms, in bfloat16 to 0.04; a weight counted too often is wrong by more than its own size."""
    x, cotangent, norm = problem((2, 8, 4, 4, 2), dtype)

    def both(norm, x, cotangent, call):
        y = x
        for _ in range(5):
            y = call(norm, y)
        (first,) = torch.autograd.grad(y, norm.weight, cotangent, create_graph=True)
        return first, *torch.autograd.grad(first.square().sum(), [norm.weight, norm.bias])

    got = both(norm, x, cotangent, lambda norm, x: group_norm(norm, x, True))
    wanted = both(
        copy.deepcopy(norm).double(), x.double(), cotangent.double(), lambda norm, x: functional.silu(norm(x))
    )
    assert_near(got, wanted, rounding)


def test_a_gradient_that_keeps_its_graph_passes_what_is_before_the_norm_once():
    x, _, norm = problem((2, 8, 3, 3, 2))
    leaf, calls = x.clone().requires_grad_(), []
    before = leaf * 1
    before.register_hook(lambda grad: calls.append(1))
    torch.autograd.grad(group_norm(norm, before, True).sum(), leaf, create_graph=True)
    assert calls == [1]


def test_forward_mode_over_the_gradient_is_refused_as_by_torch():
    x, cotangent, norm = problem((2, 8, 3, 3, 2))
    x.requires_grad_()
    for y in (group_norm(norm, x, False), norm(x)):
        with pytest.raises(NotImplementedError):
            torch.func.jvp(
                lambda grad, y=y: torch.autograd.grad(y, x, grad, retain_graph=True)[0], (cotangent,), (cotangent,)
            )
