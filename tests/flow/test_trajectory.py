"""Trajectory-consistency sampling: the law of the noise at every stage, where the data are known."""

import pytest
import torch

from distillkac.flow.exact_flow import ExactFlow
from distillkac.flow.guidance import GuidedVelocity
from distillkac.flow.integrators import integrate, restart_chain, time_grid
from distillkac.flow.path_energy import PathEnergy
from distillkac.flow.processes import Gaussian, Planar, Quad, Telegraph
from distillkac.flow.trajectory import data_and_noise, trajectory_chain
from tests.flow.test_onward import critical, distance, sizes

ROWS = 3000
POINT = torch.tensor([[[[0.5, -0.25], [-1.0, 1.0]]]])
PROCESSES = [Telegraph(25.0, 2.0), Telegraph(3.0, 2.0, f="cosine", g="quadratic"), Planar(3.0, 2.0), Gaussian(0.4)]
by_process = pytest.mark.parametrize("process", PROCESSES, ids=lambda p: f"{p.name}-{p.f}")


def to_the_point(x, t, y):
    """A network of few steps whose picture of the data is right: x - t u = POINT."""
    return (x - POINT) / t.view(-1, 1, 1, 1)


@by_process
@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("means", ["data", "velocity"])
def test_the_law_is_kept_at_every_stage(process, gamma, means):
    """The noise that is left, x - f x_0, has the law of its time; a student's picture is right, as is an exact flow's."""
    of_student = GuidedVelocity(to_the_point, speed_norm=process.speed_norm)
    field = of_student if means == "data" else ExactFlow(process, POINT)
    grid, shape = time_grid(4, 1.5), tuple(POINT.shape[1:])
    x = process.prior(ROWS, shape, seed=3)
    path = trajectory_chain(field, x, None, grid, process, gamma, 5, path=True, means=means)
    for stage, t in enumerate(grid[:-1].tolist()):
        (f, _), (g, _) = process.schedules(torch.tensor([t], dtype=torch.float64))
        true = process.noise(g.expand(ROWS), shape, seed=11 + stage)
        left = (path[stage].double() - f * POINT).float()
        age, n = float(g), 2 * ROWS if isinstance(process, Planar) else 4 * ROWS
        assert distance(sizes(process, left, age), sizes(process, true, age)) < critical(n), (stage, gamma)
    torch.testing.assert_close(path[-1], POINT.expand_as(x), rtol=0, atol=1e-4)


@by_process
def test_data_and_noise_are_found_from_the_velocity(process):
    """The one data point whose conditional velocity at x is u."""
    x0 = torch.rand(500, 1, 2, 4, generator=torch.Generator().manual_seed(1)) * 2 - 1
    for t in (0.02, 0.4, 0.95, 1.0):
        x, u = process.pair(x0, torch.full((500,), t, dtype=torch.float64), seed=2)
        x_hat, k = data_and_noise(process, x, u, t, "velocity")
        # Next to the cone of planar noise v has the slope of a square root: of 1e-7 it makes 3e-4.
        torch.testing.assert_close(x_hat, x0, rtol=0, atol=2e-3)
        f = float(process.scales(torch.tensor(t, dtype=torch.float64))[0])
        torch.testing.assert_close(x, f * x_hat + k, rtol=0, atol=2e-3)


@by_process
def test_none_is_the_same_for_every_seed_and_all_is_the_restart(process):
    field, grid = GuidedVelocity(lambda x, t, y: x.sin() + t.view(-1, 1, 1, 1)), time_grid(3, 1.5)
    x = process.prior(16, (1, 2, 4), seed=3)
    none = [trajectory_chain(field, x, None, grid, process, 0.0, seed) for seed in (1, 2)]
    assert torch.equal(*none)
    some = [trajectory_chain(field, x, None, grid, process, 0.5, seed) for seed in (1, 2)]
    assert not torch.equal(*some)
    full = trajectory_chain(field, x, None, grid, process, 1.0, 1, offset=5)
    assert torch.equal(full, restart_chain(field, x, None, grid, process, 1.0, 1, offset=5))
    if isinstance(process, Gaussian):  # whose flow back is the line that an Euler step walks along
        torch.testing.assert_close(none[0], integrate(field, x, None, grid, "euler"), rtol=1e-5, atol=1e-6)


def test_a_step_is_one_evaluation_and_its_energy_that_of_the_answer():
    field, grid, process, energy = GuidedVelocity(to_the_point), time_grid(3), Telegraph(), PathEnergy()
    x = process.prior(16, (1, 2, 2), seed=3)
    path = trajectory_chain(field, x, None, grid, process, 0.5, 1, path=True, energy=energy)
    assert field.nfe == 3
    u = [to_the_point(state, torch.tensor(t), None) for state, t in zip(path, grid.tolist(), strict=False)]
    expected = sum(h * v.square().mean((1, 2, 3)) / 2 for v, h in zip(u, -grid.diff(), strict=False))
    torch.testing.assert_close(energy.total, expected.double(), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"gamma": 1.5}, r"gamma is the share of fresh noise, in \[0, 1\], got 1.5"),
        ({"grid": torch.tensor([1.0, 0.5])}, "grid must end at 0"),
        ({"means": "noise"}, "means must be one of data, velocity"),
        ({"process": Quad()}, "got quad: draw a share of each step anew by restart"),
    ],
)
def test_mistakes_are_told(change, said):
    good = {"grid": time_grid(2), "process": Telegraph(), "gamma": 0.5, "seed": 0}
    with pytest.raises(ValueError, match=said):
        trajectory_chain(GuidedVelocity(to_the_point), torch.zeros(2, 1, 2, 2), None, **(good | change))
