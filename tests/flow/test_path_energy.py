"""The kinetic energy of paths, and shaped velocities: closed forms."""

import math

import pytest
import torch

from distillkac.flow.guidance import GuidedVelocity
from distillkac.flow.integrators import integrate, restart_chain, time_grid
from distillkac.flow.path_energy import PathEnergy
from distillkac.flow.processes import Telegraph
from distillkac.flow.shaping import Shaping

X = torch.tensor([[1.0, -2.0], [0.5, 0.0], [3.0, 1.0]])
Y = torch.zeros(3, dtype=torch.int64)


def growing(x, t, y):
    """dx/dt = x: x(t) = x(1) e^(t - 1), whose energy over [0, 1] is x(1)^2 (1 - e^-2) / 4, mean over coordinates."""
    return x * torch.where(y == 1, 0.5, 1.0)[:, None]


growing.null_class = 1


def energy_of(field, method="heun", steps=100, **options):
    energy = PathEnergy()
    integrate(field, X, Y, time_grid(steps, 1.5), method, energy=energy, **options)
    return energy.total


@pytest.mark.parametrize(("method", "close"), [("euler", 0.05), ("heun", 2e-4), ("ab2", 2e-4)])
def test_it_is_half_the_mean_square_velocity_of_the_path(method, close):
    expected = X.double().square().mean(1) * (1 - math.exp(-2)) / 4
    torch.testing.assert_close(energy_of(GuidedVelocity(growing), method), expected, rtol=close, atol=0)


@pytest.mark.parametrize("method", ["euler", "heun", "ab2"])
def test_it_is_of_the_steps_that_were_made_and_changes_none(method):
    """Guided, limited and shaped, with a grid for each row: the squares of the states' differences."""
    field = GuidedVelocity(growing, 1.0, max_speed=1.5, shaping=Shaping(0.2, 0.02))
    grid = torch.stack([time_grid(5, rho) for rho in (1.0, 1.5, 2.0)], 1)
    energy = PathEnergy()
    path = integrate(field, X, Y, grid, method, path=True, energy=energy)
    assert torch.equal(path, integrate(field, X, Y, grid, method, path=True))
    expected = (path.diff(dim=0).double().square().mean(-1) / -grid.diff(dim=0)).sum(0) / 2
    torch.testing.assert_close(energy.total, expected, rtol=1e-4, atol=0)
    assert len(energy.steps) == 5


def test_steps_drawn_anew_count_as_if_they_had_gone_along():
    energy, grid = PathEnergy(), time_grid(3)
    field = GuidedVelocity(lambda x, t, y: torch.full_like(x, 2.0))
    restart_chain(field, X, Y, grid, Telegraph(), 1.0, 0, energy=energy)
    torch.testing.assert_close(energy.total, torch.full((3,), 2.0, dtype=torch.float64))


def test_no_path_has_no_energy():
    with pytest.raises(ValueError, match="no path has been walked"):
        PathEnergy().total  # noqa: B018 - it raises


def test_shaping_is_that_of_its_source():
    """Values of the two formulas by hand: s = 0, .3, .6 and 1; k = 3, tau = .6."""
    shaping = Shaping(0.1, 0.02)
    expected = {1.0: 1.1, 0.7: 1.05, 0.4: 1.0, 0.2: 1 - 0.02 * (math.exp(1.5) - 1), 0.0: 1 - 0.02 * (math.exp(3) - 1)}
    for t, value in expected.items():
        assert shaping.factor(t) == pytest.approx(value, abs=1e-9)
    times = torch.tensor(list(expected), dtype=torch.float64)
    torch.testing.assert_close(shaping.factor(times), torch.tensor(list(expected.values()), dtype=torch.float64))


def test_a_shaped_velocity_is_multiplied_and_then_limited():
    plain, shaped = GuidedVelocity(growing, 1.0), GuidedVelocity(growing, 1.0, shaping=Shaping(0.5))
    limited = GuidedVelocity(growing, 1.0, max_speed=2.0, shaping=Shaping(0.5))
    u = plain(X, 1.0, Y)
    torch.testing.assert_close(shaped(X, 1.0, Y), 1.5 * u)
    torch.testing.assert_close(limited(X, 1.0, Y), (1.5 * u).clamp(-2, 2))
    times = torch.tensor([1.0, 0.4, 0.7])
    torch.testing.assert_close(shaped(X, times, Y), torch.tensor([[1.5], [1.0], [1.25]]) * plain(X, times, Y))


@pytest.mark.parametrize("method", ["euler", "heun", "ab2"])
def test_every_integrator_goes_along_the_shaped_flow(method):
    """dx/dt = eta(t) x ends in x(1) e^(-int eta): int eta = 1 + launch tau / 2 - landing (1 - tau) ((e^3 - 1) / 3 - 1)."""
    shaping = Shaping(0.3, 0.03)
    end = integrate(GuidedVelocity(growing, shaping=shaping), X, Y, time_grid(400, 1.0), method)
    total = 1 + 0.3 * 0.6 / 2 - 0.03 * 0.4 * (math.expm1(3) / 3 - 1)
    torch.testing.assert_close(end, X * math.exp(-total), rtol=3e-3 if method == "euler" else 1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"launch": -0.1}, r"launch must lie in \[0, 1\]"),
        ({"landing": 0.06}, r"landing must lie in \[0, 0\.05239\d+\]"),
        ({"turn": 1.0}, r"turn must lie in \(0, 1\)"),
    ],
)
def test_a_shaping_out_of_range_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        Shaping(**options)


def test_average_velocities_are_not_shaped():
    network = torch.nn.Identity()
    network.interval_embedding = True
    with pytest.raises(ValueError, match="omit shaping"):
        GuidedVelocity(network, shaping=Shaping(0.1))
