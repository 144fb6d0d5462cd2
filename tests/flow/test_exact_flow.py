"""The exact flow: its law by quadrature, its velocity as conditional expectation, its speed limit, and what it refuses."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from distillkac.base.random import generator
from distillkac.flow.exact_flow import ExactFlow, conditional_law, sliced_wasserstein
from distillkac.flow.processes import Gaussian, Planar, Telegraph
from distillkac.ops import reference
from tests.flow.exact_points import FEW_TURNS, POINTS, PROCESSES, by_name, expectation_z, pairs, toy2d


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
