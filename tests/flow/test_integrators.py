"""Integrators: order against closed forms, variable steps, exact counts of evaluations."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from distillkac.flow.guidance import GuidedVelocity
from distillkac.flow.integrators import integrate, restart_chain, time_grid
from distillkac.flow.processes import Telegraph
from tests.toys import SHAPE

Y = torch.zeros(1, dtype=torch.int64)


def field(w=0.0, **options):
    """dx/dt = 2 t x, whose solution from t = 1 is x(0) = x(1) e^{-1}; "no class" has the same field."""

    def network(x, t, y):
        return 2 * t.view(-1, 1) * x

    network.null_class = 1
    return GuidedVelocity(network, w, **options)


def error(method, steps, rho=1.0):
    x = integrate(field(), torch.ones(1, 1), Y, time_grid(steps, rho), method)
    return abs(x.item() - math.exp(-1))


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2), ("ab2", 2)])
@pytest.mark.parametrize("rho", [1.0, 2.0])
def test_order_of_convergence(method, order, rho):
    """Halving the step divides the error by 2^order, on even and on shrinking steps."""
    slope = math.log2(error(method, 16, rho) / error(method, 32, rho))
    assert order - 0.25 < slope < order + 0.6


def test_ab2_is_exact_for_velocities_linear_in_time_whatever_the_steps():
    """u = 1 + 3 t: after the Euler start AB-2 with variable steps makes no error; a fixed-step AB-2 would."""
    velocity = GuidedVelocity(lambda x, t, y: 1 + 3 * t.view(-1, 1).expand_as(x))
    grid = torch.tensor([1.0, 0.9, 0.5, 0.45, 0.1, 0.0], dtype=torch.float64)
    path = integrate(velocity, torch.zeros(1, 1), Y, grid, "ab2", path=True).flatten()
    exact = lambda t: t + 1.5 * t**2  # noqa: E731
    for i in range(1, 5):
        assert (path[i + 1] - path[i]).item() == pytest.approx((exact(grid[i + 1]) - exact(grid[i])).item(), abs=1e-6)


def test_per_row_grids_equal_row_by_row_integration():
    grids = torch.stack([time_grid(4, 1.5), time_grid(4, 1.0) * 0.6, time_grid(4, 2.0) * 0.3 + 0.2], dim=1)
    x, y = torch.tensor([[1.0], [2.0], [-1.0]]), torch.zeros(3, dtype=torch.int64)
    for method in ("euler", "heun", "ab2"):
        together = integrate(field(), x, y, grids, method)
        alone = [integrate(field(), x[b : b + 1], Y, grids[:, b], method) for b in range(3)]
        torch.testing.assert_close(together, torch.cat(alone))


@pytest.mark.parametrize(("method", "per_step"), [("euler", 1), ("ab2", 1), ("heun", 2)])
def test_nfe_is_exact(method, per_step):
    for w, factor in ((0.0, 1), (1.5, 2)):
        velocity = field(w)
        integrate(velocity, torch.ones(1, 1), Y, time_grid(7), method)
        assert velocity.nfe == 7 * per_step * factor
    # Euler at t = 1, .75, .5, .25: two of the four lie in the interval.
    velocity = field(1.5, interval=(0.5, 0.8))
    integrate(velocity, torch.ones(1, 1), Y, time_grid(4, 1.0), "euler")
    assert velocity.nfe == 2 + 4


def test_guided_step_equals_guided_velocity():
    """The fused path of the integrator and the plain guided field give the same trajectory."""

    def network(x, t, y):
        return (1 + y.view(-1, 1)) * x

    network.null_class = 1
    x = torch.tensor([[1.0, -3.0]])
    guided = integrate(GuidedVelocity(network, 2.0, max_speed=1.5), x, Y, time_grid(3), "euler")
    for t, t_next in zip(time_grid(3)[:-1], time_grid(3)[1:], strict=True):
        x = x - (t - t_next).item() * (x + 2.0 * (x - 2 * x)).clamp(-1.5, 1.5)
    torch.testing.assert_close(guided, x)


@pytest.mark.parametrize("rho", [0.7, 1.0, 1.5, 3.0])
def test_grid_runs_from_one_to_exactly_zero(rho):
    grid = time_grid(20, rho)
    assert grid.dtype == torch.float64
    assert grid[0] == 1
    assert grid[-1] == 0
    assert (grid[:-1] > grid[1:]).all()
    # A coarse grid is every n-th point of the fine one: distillation stages rely on it.
    torch.testing.assert_close(time_grid(20, rho)[::5], time_grid(4, rho), rtol=0, atol=1e-15)


def test_path_starts_at_x_and_ends_at_the_result():
    path = integrate(field(), torch.ones(1, 1), Y, time_grid(5), "ab2", path=True)
    assert path.shape == (6, 1, 1)
    assert path[0] == 1
    assert torch.equal(path[-1], integrate(field(), torch.ones(1, 1), Y, time_grid(5), "ab2"))


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="num_steps must be a whole number of at least 1"):
        time_grid(0)
    with pytest.raises(ValueError, match="rho must be positive"):
        time_grid(5, -1.0)
    with pytest.raises(ValueError, match="euler, heun, ab2"):
        integrate(field(), torch.ones(1, 1), Y, time_grid(2), "rk4")


@pytest.mark.parametrize("method", ["euler", "heun", "ab2"])
def test_gradients_flow_through_every_step_unless_they_are_not_wanted(method):
    """The end is linear in the start, so their quotient is the gradient; and the field below is linear in k."""
    x = torch.tensor([[0.7]], requires_grad=True)
    end = integrate(field(), x, Y, time_grid(8), method)
    (gradient,) = torch.autograd.grad(end.sum(), x)
    assert gradient.item() == pytest.approx(end.item() / 0.7, rel=1e-5)
    with torch.no_grad():
        assert not integrate(field(), x, Y, time_grid(8), method).requires_grad


def test_gradients_reach_the_weights_of_the_network():
    k, steps = torch.tensor(0.5, requires_grad=True), 10
    end = integrate(GuidedVelocity(lambda x, t, y: k * x), torch.ones(1, 1), Y, time_grid(steps, 1.0), "euler")
    end.sum().backward()
    # x (1 - k / N)^N, whose derivative is -(1 - k / N)^(N - 1).
    assert k.grad.item() == pytest.approx(-((1 - 0.5 / steps) ** (steps - 1)), rel=1e-5)


def test_any_callable_is_a_network_but_guidance_needs_its_null_class():
    velocity = GuidedVelocity(lambda x, t, y: x, w=1.0)
    with pytest.raises(ValueError, match="null_class, the label that means no class, got None of function"):
        integrate(velocity, torch.ones(1, 1), Y, time_grid(2))


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ([1.0, 0.0], r"tensor of times \(N \+ 1,\) or \(N \+ 1, 2\).*got list"),
        (torch.tensor(1.0), r"got \(\)"),
        (torch.tensor([1.0]), "N >= 1"),
        (torch.rand(3, 5), r"\(N \+ 1, 2\), got \(3, 5\)"),
        (torch.tensor([0.0, 1.0]), r"decreasing times in \[0, 1\]"),
        (torch.tensor([1000.0, 0.0]), r"decreasing times in \[0, 1\]"),
        (torch.tensor([1.0, math.nan, 0.0]), r"decreasing times in \[0, 1\]"),
    ],
)
def test_what_is_no_grid_is_refused(grid, message):
    field = GuidedVelocity(lambda x, t, y: x)
    with pytest.raises(ValueError, match=message):
        integrate(field, torch.ones(2, 3), None, grid)


def test_a_chain_of_restarts_goes_down_to_the_data():
    field = GuidedVelocity(lambda x, t, y: x)
    for grid, message in ((torch.tensor([1.0, 0.5]), "end at 0"), (torch.rand(3, 2), r"\(N \+ 1,\)")):
        with pytest.raises(ValueError, match=message):
            restart_chain(field, torch.ones(2, 3), None, grid, Telegraph(), 0.5, 0)


def test_each_step_restarts_other_coordinates():
    """Half of them in each: which ones are fresh after the first step says nothing of the second."""
    process, count, grid = Telegraph(), 400, time_grid(3, 1.0)
    x, y = process.prior(count, SHAPE, 3), torch.zeros(count, dtype=torch.int64)
    field = GuidedVelocity(lambda x, t, y: (x - 0.5) / t.view(-1, 1, 1, 1))
    path = restart_chain(field, x, y, grid, process, 0.5, 7, path=True)
    fresh = []
    for (t, t_next), x, after in zip(pairwise(grid.tolist()[:3]), path, path[1:], strict=False):
        fresh.append((after - (x - (t - t_next) * field(x, t, y))).abs() > 1e-5)
    # 6400 coordinates: the share of equal ones is 1/2 within 5 of its standard deviations, 0.0063.
    assert abs((fresh[0] == fresh[1]).float().mean() - 0.5) < 0.03


def test_a_network_alone_is_no_field():
    with pytest.raises(ValueError, match=r"wrap a network or a function .* as GuidedVelocity\(network\)"):
        integrate(lambda x, t, y: x, torch.ones(2, 3), None, time_grid(2))
    with pytest.raises(ValueError, match=r"whole number of at least 1, got 2\.5"):
        time_grid(2.5)


def test_a_grid_of_any_whole_number_of_steps():
    assert torch.equal(time_grid(np.int64(4), 1.5), time_grid(4, 1.5))
    for wrong in (0, -1, 2.0, "4", None, np.float64(4)):
        with pytest.raises(ValueError, match="num_steps must be a whole number"):
            time_grid(wrong)
