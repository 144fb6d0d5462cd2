"""The exact flow carries the prior to the data: continuity equation, quantiles, order of the integrators.

A velocity that is 5% off fails three of these tests, as test_a_wrong_velocity_fails shows.
"""

import math

import numpy as np
import pytest
import torch

from distillkac.base.random import generator
from distillkac.flow import integrators, patches
from distillkac.flow.exact_flow import ExactFlow, conditional_law, push, sampling_floor, sliced_wasserstein
from distillkac.flow.integrators import integrate, time_grid
from distillkac.flow.processes import Gaussian, Telegraph
from distillkac.ops import reference
from tests.flow.exact_points import FEW_TURNS, POINTS, PROCESSES, by_name, expectation_z, toy2d


class Wrong(ExactFlow):
    """5% too fast."""

    def __call__(self, x, t, y=None):
        return 1.05 * super().__call__(x, t, y)


@pytest.fixture
def float64(monkeypatch):
    """Integrators take their steps in float64, by the reference's guided_step."""
    for module in (integrators, patches):
        monkeypatch.setattr(module, "ops", reference)


def residual(flow, process, spread, t=0.4, step=2e-6):
    """|d rho / dt + div(rho u)| over the sum of the terms' sizes, at random places inside some cone: (n,)."""
    places = 1.6 * torch.rand(200, 2, dtype=torch.float64, generator=generator(0, "places")) - 0.8

    def density(x, t):
        log = conditional_law(
            process, x[:, None] - (1 - t) * POINTS, torch.full((len(x),), t, dtype=torch.float64), WIDTH, spread
        )[0]
        return log.exp().mean(1)

    rate = (density(places, t + step) - density(places, t - step)) / (2 * step)
    total, size = rate, rate.abs()
    for axis in torch.eye(2, dtype=torch.float64) * step:
        ahead, behind = ((density(x, t)[:, None] * flow(x, t)) @ axis / step for x in (places + axis, places - axis))
        flux = (ahead - behind) / (2 * step)
        total, size = total + flux, size + flux.abs()
    return (total.abs() / size)[density(places, t) > 1e-9]


WIDTH = torch.full((1, len(POINTS), 2), 1e-13, dtype=torch.float64)


@pytest.mark.parametrize("spread", [0.0, 0.1])
@pytest.mark.parametrize("process", PROCESSES + FEW_TURNS, ids=str)
def test_continuity_equation(process, spread):
    """Of the marginal law and velocity, between the cones and, with spread, right through them."""
    off = residual(ExactFlow(process, POINTS, spread), process, spread)
    assert len(off) > 40
    assert off.quantile(0.97) < 1e-6  # a place may lie within a step of a cone, where the law has an edge


def carried(flow, process, spread, times, q, x):
    """Largest distance of F_t(x_t) from F_1(x_1) = q along the flow in one dimension, for each of `times`."""
    found = []
    for t in times:
        x_t = integrate(flow, x, None, t + (1 - t) * time_grid(150, 2.0), "ab2")[:, 0]
        points = flow.data[:, 0]
        mixture = sum(cdf(process, x_t - (1 - t) * point, t, spread) for point in points) / len(points)
        found.append((mixture - q).abs().max().item())
    return found


def cdf(process, k, t, spread):
    """P(K_t <= k) in one dimension, atoms as wide as spread says: (N,)."""
    if isinstance(process, Gaussian):
        return torch.special.ndtr(k / (process.sigma * t))
    radius, lam = process.c * t, process.a * t
    xi = k / radius
    inside = torch.sign(k) * reference.telegraph_cdf_abs(xi.abs().clamp(max=1), lam) / 2 + -math.expm1(-lam) / 2
    atoms = torch.special.ndtr((xi - 1) / spread) + torch.special.ndtr((xi + 1) / spread)
    return inside + math.exp(-lam) / 2 * atoms


def starts(process, spread):
    """(x (n, 1), q (n,)): places of the prior with their quantiles, between 1e-4 and 1 - 1e-4."""
    x = 3 * torch.sin(torch.linspace(-1.57, 1.57, 150, dtype=torch.float64))
    q = cdf(process, x, 1.0, spread)
    inside = (q > 1e-4) & (q < 1 - 1e-4)
    return x[inside, None], q[inside]


LINE = torch.tensor([[-0.6], [0.0], [0.02], [0.1], [0.5]], dtype=torch.float64)


@pytest.mark.parametrize(
    "process", [Telegraph(a=25, c=2), Telegraph(a=4, c=1.5), Gaussian(sigma=0.5)], ids=lambda p: str(p)[:16]
)
def test_in_one_dimension_quantiles_are_kept_down_to_the_data(process, float64):
    """A flow on the line keeps the order, so F_t(x_t) is constant; and in the end each point has got its fifth."""
    spread, flow = 0.1, ExactFlow(process, LINE, 0.1)
    x, q = starts(process, spread)
    half, *late = carried(flow, process, spread, (0.5, 0.1, 0.02), q, x)
    assert half < 5e-4
    assert max(late) < 5e-3
    ends = push(flow, x, time_grid(150, 2.0))[:, 0]
    away_from_steps = ((5 * q) - (5 * q).round()).abs() > 0.03
    want = LINE[(5 * q).long().clamp(max=4), 0]
    torch.testing.assert_close(ends[away_from_steps], want[away_from_steps], atol=1e-4, rtol=0)


@by_name
def test_a_wrong_velocity_fails(process, float64):
    """5% off is seen by the conditional expectation, by the continuity equation and, on the line, by the quantiles."""
    assert expectation_z(Wrong(process, POINTS), process).abs().max() > 6
    assert residual(Wrong(process, POINTS), process, 0.0).median() > 1e-3
    if process.name != "planar":
        x, q = starts(process, 0.1)
        assert carried(Wrong(process, LINE, 0.1), process, 0.1, (0.5,), q, x)[0] > 2e-3


@pytest.mark.parametrize("make", [toy2d.checkerboard, toy2d.nine_gaussians], ids=lambda f: f.__name__)
@by_name
def test_in_the_plane_the_prior_becomes_the_data(process, make):
    data = make(120)
    prior = process.prior(400, (2,), 3)
    flow = ExactFlow(process, data, spread=0.1)
    ends = push(flow, prior, time_grid(50, 2.0), "heun" if process.name == "planar" else "ab2")
    floor = sampling_floor(data, len(prior))
    assert sliced_wasserstein(ends, data) < 2 * floor < 0.5 * sliced_wasserstein(prior, data)
    assert torch.cdist(ends.double(), data).amin(1).median() < 1e-3, "particles end on points"


@by_name
def test_order_of_the_integrators(process, float64):
    """Between t = 1 and 0.6 all cones overlap and the field is smooth."""
    flow = ExactFlow(process, POINTS)
    x = process.prior(64, (2,), 5).double()

    def ends(steps, method):
        return integrate(flow, x, None, 0.6 + 0.4 * time_grid(steps, 1.0), method)

    truth, steps = ends(500, "heun"), (10, 20, 40, 80)
    for method, order in (("euler", 1), ("heun", 2), ("ab2", 2)):
        errors = [(ends(n, method) - truth).square().mean().sqrt().item() for n in steps]
        slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
        assert abs(slope - order) < 0.15, (method, errors)
