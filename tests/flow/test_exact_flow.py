"""The exact flow: its law by quadrature, its velocity as conditional expectation and by the continuity equation, and the
prior carried to the data. A velocity that is 5% off fails three of these tests, as test_a_wrong_velocity_fails shows."""

import importlib.util
import math

import numpy as np
import pytest
import torch
from PIL import Image

from distillkac.base.random import generator
from distillkac.flow import integrators
from distillkac.flow.exact_flow import ExactFlow, conditional_law, push, sampling_floor, sliced_wasserstein
from distillkac.flow.integrators import integrate, time_grid
from distillkac.flow.processes import Gaussian, Planar, Telegraph
from distillkac.ops import reference
from tests.places import ROOT

SPEC = importlib.util.spec_from_file_location("toy2d", ROOT / "examples" / "toy2d.py")
toy2d = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(toy2d)

PROCESSES = [Telegraph(a=25, c=2), Planar(a=25, c=2), Gaussian(sigma=1.0)]
FEW_TURNS = [Telegraph(a=1.5, c=1), Planar(a=1.5, c=1), Gaussian(sigma=0.5)]
POINTS = torch.tensor([[-0.9, 0.1], [-0.2, -0.4], [0.1, 0.7], [0.8, 0.2], [0.3, 0.25]], dtype=torch.float64)
by_name = pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.name)


class Wrong(ExactFlow):
    """5% too fast."""

    def __call__(self, x, t, y=None):
        return 1.05 * super().__call__(x, t, y)


@pytest.fixture
def float64(monkeypatch):
    """Integrators take their steps in float64, by the reference's guided_step."""
    monkeypatch.setattr(integrators, "ops", reference)


def log_density(process, k, age, width=1e-13, spread=0.0):
    """(B, D) displacements -> (B,)."""
    return conditional_law(
        process, k, torch.full((len(k),), age, dtype=torch.float64), torch.full_like(k, width), spread
    )[0]


def gauss(low, high, panels=400):
    """Nodes and weights of a composite Gauss-Legendre rule, (panels * 10,) each."""
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(10))
    edges = torch.linspace(low, high, panels + 1, dtype=torch.float64)
    half = edges.diff()[:, None] / 2
    return (edges[:-1, None] + half * (nodes + 1)).flatten(), (half * weights).flatten()


@pytest.mark.parametrize("lam", [0.3, 5.0, 60.0])
def test_telegraph_density_is_the_references(lam):
    process, age = Telegraph(a=lam / 0.7, c=1.5), 0.7
    xi = torch.linspace(-0.999, 0.999, 301, dtype=torch.float64)
    ours = log_density(process, (xi * 1.5 * age)[:, None], age).exp()
    want = reference.telegraph_density(xi, torch.tensor(lam, dtype=torch.float64)) / (1.5 * age)
    torch.testing.assert_close(ours, want, rtol=1e-11, atol=0)


@pytest.mark.parametrize("lam", [0.3, 5.0, 60.0])
def test_planar_density_integrates_to_the_references_radii(lam):
    process, age = Planar(a=lam / 0.7, c=1.5), 0.7
    for rho in (0.1, 0.5, 0.9, 0.999):
        s, weights = gauss(1.5 * age * math.sqrt(1 - rho**2), 1.5 * age)  # r dr = s ds: no root at the circle
        r = torch.sqrt((1.5 * age - s) * (1.5 * age + s))
        k = torch.stack([0.6 * r, 0.8 * r], 1)
        mass = (2 * math.pi * s * log_density(process, k, age).exp()) @ weights
        assert mass.item() == pytest.approx(
            reference.planar_cdf_radius(torch.tensor(rho, dtype=torch.float64), lam).item(), rel=1e-9
        )


@pytest.mark.parametrize("lam", [0.3, 5.0])
def test_with_its_atoms_the_law_has_mass_one(lam):
    x, weights = gauss(-2, 2, 4000)
    assert log_density(Telegraph(a=lam, c=1), x[:, None], 1.0, spread=0.05).exp() @ weights == pytest.approx(
        1, abs=1e-6
    )
    # The circle's density has a root 1/s there: the inside in s, the outside in r.
    s, weights = gauss(1e-9, 1.0)
    r = torch.sqrt((1 - s) * (1 + s))
    outer, outer_weights = gauss(1.0, 2.0)
    process = Planar(a=lam, c=1)
    inside = (2 * math.pi * s * log_density(process, torch.stack([r, 0 * r], 1), 1.0, spread=0.05).exp()) @ weights
    outside = (
        2 * math.pi * outer * log_density(process, torch.stack([0 * outer, outer], 1), 1.0, spread=0.05).exp()
    ) @ outer_weights
    assert inside + outside == pytest.approx(1, abs=1e-6)


def test_coordinates_and_pairs_are_independent():
    k = torch.tensor([[0.1, -0.3, 0.2, 0.05]], dtype=torch.float64)
    for process, size in ((Telegraph(), 1), (Planar(), 2), (Gaussian(), 1)):
        parts = [log_density(process, part, 0.5) for part in k.split(size, 1)]
        torch.testing.assert_close(log_density(process, k, 0.5), sum(parts))


def pairs(process, n=20_000):
    """n drawn (x_t, u, t) with data POINTS, from the reference sampler, atoms included."""
    source = generator(0, "pairs")
    x0 = POINTS[torch.randint(len(POINTS), (n,), generator=source)]
    t = 0.02 + 0.98 * torch.rand(n, dtype=torch.float64, generator=source)
    if isinstance(process, Gaussian):
        return *process.pair(x0, t, 1), t
    # Row by row is what the reference is for; a few rows of many pairs are faster.
    rows, time = x0.view(20, -1), t.view(20, -1)[:, 0]
    x, u = reference.kac_pair(rows, time, process.name, process.a, process.c, seed=1)
    return x.view(-1, 2), u.view(-1, 2), time.repeat_interleave(n // 20)


def expectation_z(flow, process):
    """z scores of E[(u - u_exact) phi] = 0 for several phi(t, x): what a conditional expectation is."""
    x, u, t = pairs(process)
    exact = flow(x, t)
    tests = torch.stack([exact, x, torch.ones_like(x), torch.sign(x), exact * x.abs()])
    products = ((u - exact) * tests).sum(-1)
    return products.mean(1) / products.std(1) * math.sqrt(len(x))


@pytest.mark.parametrize("process", PROCESSES + FEW_TURNS, ids=str)
def test_the_velocity_is_the_conditional_expectation(process):
    """Also where up to 97% of the mass is atoms. 4.4 is the two-sided level 1e-5."""
    assert expectation_z(ExactFlow(process, POINTS), process).abs().max() < 4.4


@pytest.mark.parametrize("process", PROCESSES[:2] + FEW_TURNS[:2], ids=str)
def test_atoms_tell_where_they_come_from(process):
    """On the cone of a point, inside those of all others, the velocity is that point's alone."""
    t, flow = 0.45, ExactFlow(process, POINTS)
    cone = torch.tensor([[process.c * t * 0.6, process.c * t * 0.8]], dtype=torch.float64)
    if isinstance(process, Telegraph):
        cone[:] = process.c * t
    u = flow((1 - t) * POINTS[1:2] + cone, t)
    torch.testing.assert_close(u, -POINTS[1:2] + cone / t)


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


@pytest.mark.parametrize("process", FEW_TURNS[:2], ids=lambda p: p.name)
def test_the_field_obeys_the_speed_limit(process):
    """|u| <= |f'| max |x_0| + g' c wherever drawn states lie (eq. 9)."""
    x, _, t = pairs(process)
    u = ExactFlow(process, POINTS)(x, t)
    size = u.abs() if process.name == "telegraph" else u.norm(dim=1)
    largest = POINTS.abs().max() if process.name == "telegraph" else POINTS.norm(dim=1).max()
    assert size.max() <= (largest + process.c) * (1 + 1e-9)


@by_name
def test_lost_states_go_to_the_point_whose_cone_is_nearest(process):
    flow, t = ExactFlow(process, POINTS), 1e-3
    x = (1 - t) * POINTS + torch.tensor([0.02, 0.01])
    torch.testing.assert_close(x - t * flow(x, t), POINTS)


@by_name
def test_rows_dtypes_and_shapes(process):
    data = torch.randn(7, 1, 2, 4, generator=generator(0, "data"))
    flow, t = ExactFlow(process, data), torch.tensor([1.0, 0.3, 0.05])
    x = process.bridge(data[:3], t, 2)
    together = flow(x, t)
    assert together.shape == x.shape
    assert together.dtype == torch.float32
    for b in range(3):
        torch.testing.assert_close(together[b], flow(x[b : b + 1], t[b].item())[0])
    smooth = process.prior(3, (1, 2, 4), 1)
    torch.testing.assert_close(flow(smooth.double(), 0.9).float(), flow(smooth, 0.9), rtol=1e-5, atol=1e-5)
    assert flow.evaluate(x[:0], 0.5)[0].shape == (0, 1, 2, 4)


def test_quadratic_and_cosine_schedules():
    """One point: the flow is the conditional one, u = f' x_0 + g' v, for any schedules."""
    for process in (Telegraph(f="cosine", g="quadratic"), Planar(f="cosine", g="quadratic")):
        t = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
        x0 = POINTS[3:4].expand(3, 2)
        x, u = reference.kac_pair(x0, t, process.name, process.a, process.c, "cosine", "quadratic", seed=3)
        torch.testing.assert_close(ExactFlow(process, POINTS[3:4])(x, t), u)


def test_mistakes():
    with pytest.raises(ValueError, match="n >= 1 points"):
        ExactFlow(Telegraph(), torch.zeros(0, 2))
    with pytest.raises(ValueError, match="spread must lie in"):
        ExactFlow(Telegraph(), POINTS, spread=0.2)
    with pytest.raises(ValueError, match="must be even, got 3"):
        ExactFlow(Planar(), torch.zeros(4, 3))
    flow = ExactFlow(Telegraph(), POINTS)
    for t in (0.0, 1.5, torch.tensor([0.5, math.nan])):
        with pytest.raises(ValueError, match="defined for t in"):
            flow(POINTS[:2], t)
    with pytest.raises(ValueError, match="2 numbers a row"):
        flow(torch.zeros(1, 3), 0.5)


def test_sliced_wasserstein_against_a_shift():
    """Moved by a vector, the distance in a direction is the shift's projection; sizes may differ."""
    x = torch.randn(50, 2, dtype=torch.float64, generator=generator(0, "w"))
    moved = sliced_wasserstein(x.repeat(3, 1), x + torch.tensor([3.0, 4.0]), directions=4000)
    assert moved == pytest.approx(5 * 2 / math.pi, rel=0.03)
    # The same projections in another order: torch's matrix product may round each differently, in float64.
    assert sliced_wasserstein(x, x.flip(0)) == pytest.approx(0, abs=1e-14)


def test_the_example_films_the_flow(tmp_path, capsys):
    options = ["--num", "40", "--points", "20", "--steps", "5"]
    for process, name in (("telegraph", "toy.gif"), ("planar", "toy.webp"), ("gaussian", "toy.GIF")):
        out = tmp_path / "new" / name
        assert toy2d.main(["--process", process, "--data", "nine-gaussians", "--out", str(out), *options]) == 0
        assert "sliced Wasserstein distance 0." in capsys.readouterr().out
        with Image.open(out) as film:
            assert film.n_frames == 6
            assert min(film.size) > 200
    assert toy2d.main(["--steps", "1"]) == 1
    assert capsys.readouterr().err.startswith("error: num and points")
    assert toy2d.main(["--out", str(tmp_path / "toy.mp4")]) == 1
    assert "must end in one of .gif, .webp" in capsys.readouterr().err
