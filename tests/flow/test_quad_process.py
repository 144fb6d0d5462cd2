"""The quad process in images: patches of 2x2 pixels move together, in draws, limits and restarts; its exact flow; refusals."""

import math

import pytest
import torch

from distillkac.base.random import generator
from distillkac.flow import patches
from distillkac.flow.exact_flow import ExactFlow, conditional_law, push
from distillkac.flow.guidance import GuidedVelocity
from distillkac.flow.integrators import integrate, restarted, time_grid
from distillkac.flow.processes import Gaussian, Planar, Quad, Telegraph
from distillkac.ops import reference
from distillkac.runs.process_config import ProcessConfig

ONE = torch.ones(1, dtype=torch.float64)


def by_hand(x):
    """(B, C, H, W) -> (B, C, H / 2, W / 2, 4): the numbers of each patch."""
    return torch.stack([x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)], -1)


def test_gathered_patches_are_neighbours_and_scattered_go_back():
    x = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    together = patches.gathered(x)
    assert together.shape == (2, 3, 2, 12)
    assert torch.equal(together.unflatten(-1, (-1, 4)), by_hand(x))
    assert torch.equal(patches.scattered(together), x)
    row = torch.rand(2, 8)
    assert patches.gathered(row) is row
    assert patches.scattered(row) is row


def test_what_never_turned_lies_on_the_sphere_of_its_patch():
    """In the image, not in the memory: at rate 1e-9 all particles are atoms."""
    k = Quad(1e-9, 3.0).noise(torch.full((4,), 0.5), (3, 4, 6), seed=2)
    torch.testing.assert_close(by_hand(k).norm(dim=-1), torch.full((4, 3, 2, 3), 1.5))
    assert (k.unflatten(-1, (-1, 2)).norm(dim=-1) - 1.5).abs().min() > 1e-3
    row = Quad(1e-9, 3.0).noise(torch.full((4,), 0.5), (8,), seed=2)
    torch.testing.assert_close(row.unflatten(-1, (-1, 4)).norm(dim=-1), torch.full((4, 2), 1.5))


def test_the_default_has_the_spread_of_the_telegraph():
    assert Quad().limit_std == pytest.approx(Telegraph().limit_std) == pytest.approx(Planar().limit_std)
    assert float(Quad().std(ONE)) == pytest.approx(float(Telegraph().std(ONE)), rel=0.02)
    assert Quad(9.0, 3.0).limit_std == pytest.approx(3 / math.sqrt(18))


@pytest.mark.parametrize("lam", [1e-3, 0.5, 9.0, 400.0])
def test_the_variance_is_that_of_the_law(lam):
    """E |K|^2 / 4 by quadrature of P(|K|^2 > s): s = r^2, so E s is the integral of 2 r P(|K| > r)."""
    nodes = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    middle = (nodes[1:] + nodes[:-1]) / 2
    beyond = 1 - reference.quad_cdf_radius(middle, lam)
    assert float(Quad(lam, 2.0).std(ONE)) ** 2 == pytest.approx(float((2 * middle * beyond).mean()), rel=1e-6)


def test_no_target_of_a_patch_is_faster_than_the_bound():
    x0 = torch.where(torch.rand(512, 1, 8, 8, generator=generator(2, "x0")) < 0.5, -1.0, 1.0)
    t = torch.rand(512, generator=generator(2, "t"))
    for f, g in (("linear", "linear"), ("cosine", "quadratic")):
        process = Quad(3.0, 2.0, f, g)
        fastest = by_hand(process.pair(x0, t, seed=0)[1]).norm(dim=-1).max()
        assert 0.6 * process.max_target_speed() < fastest <= process.max_target_speed() * (1 + 1e-6)
    assert Quad(3.0, 2.0).max_target_speed() == 4.0


@pytest.mark.parametrize(
    ("size", "sentence"),
    [
        ((3, 5, 4), "quad: moves patches of 2x2 pixels, so height and width must be even, got 5x4; resize"),
        ((3, 4, 7), "got 4x7; resize the images"),
        ((6,), "quad: moves four neighbouring numbers of a row, so their number must be divisible by 4, got 6"),
    ],
)
def test_sizes_that_do_not_fall_into_patches_are_refused(size, sentence):
    process, x = Quad(), torch.zeros(2, *size)
    t = torch.ones(2)
    for call in (
        lambda: process.check_shape(size),
        lambda: process.noise(t, size, 0),
        lambda: process.velocity(x, t),
        lambda: process.pair(x, t, 0),
        lambda: ExactFlow(process, x),
        lambda: patches.lengths(x, "quad"),
        lambda: patches.guided_step(x, x, None, None, 0.0, 0.1, None, 3.0, "quad"),
    ):
        with pytest.raises(ValueError, match=sentence):
            call()


class Field(torch.nn.Module):
    """Velocities of any size, others for no class."""

    null_class = 2

    def forward(self, x, t, y):
        return 5 * torch.sin(3 * x + y.view(-1, 1, 1, 1))


@pytest.mark.parametrize("w", [0.0, 3.0])
def test_a_speed_limit_holds_for_patches_of_the_image(w):
    x, y = torch.randn(4, 3, 4, 6, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 0, 1])
    free = GuidedVelocity(Field(), w, speed_norm="quad")(x, 0.5, y)
    limited = GuidedVelocity(Field(), w, max_speed=2.0, speed_norm="quad")
    u = limited(x, 0.5, y)
    speed = by_hand(free).norm(dim=-1, keepdim=True)
    want = by_hand(free) * (2 / speed).clamp(max=1)
    torch.testing.assert_close(by_hand(u), want)
    assert (speed > 2).any()
    torch.testing.assert_close(patches.lengths(u, "quad"), by_hand(u).norm(dim=-1))
    step = integrate(limited, x, y, torch.tensor([0.5, 0.4], dtype=torch.float64), "euler")
    torch.testing.assert_close(step, x - 0.1 * u)
    two = integrate(limited, x, y, torch.tensor([0.5, 0.4, 0.3], dtype=torch.float64), "ab2")
    torch.testing.assert_close(two, step - 0.1 * (1.5 * limited(step, 0.4, y) - 0.5 * u))


def test_a_restart_draws_whole_patches_anew():
    process, x, there = Quad(), torch.full((64, 1, 4, 4), 7.0), torch.zeros(64, 1, 4, 4)
    drawn = by_hand(restarted(process, x, there, 0.5, 0.3, seed=1, step=0)) != 7
    assert torch.equal(drawn.any(-1), drawn.all(-1))
    assert 0.15 < drawn.any(-1).float().mean() < 0.45


def test_a_config_builds_it_and_a_path_is_refused():
    assert ProcessConfig("quad", 9.0, 3.0, f="cosine").build() == Quad(9.0, 3.0, "cosine")
    assert ProcessConfig.of(Quad(9.0, 3.0)) == ProcessConfig("quad", 9.0, 3.0)
    with pytest.raises(ValueError, match="is of process gaussian, got quad"):
        ProcessConfig("quad", path="vp").build()


# The exact flow

POINTS = torch.randn(5, 1, 2, 4, generator=generator(0, "quad points"), dtype=torch.float64) / 2


def log_density(lam, radius, spread=0.0, width=1e-13):
    k = radius[:, None] * torch.tensor([0.1, 0.7, 0.5, 0.5], dtype=torch.float64)  # of length 1
    return conditional_law(Quad(lam, 1.0), k, torch.ones(len(k)).double(), torch.full_like(k, width), spread)[0]


@pytest.mark.parametrize("lam", [0.3, 5.0, 60.0])
def test_the_density_is_that_of_the_law_and_has_mass_one(lam):
    r = torch.linspace(1e-4, 0.999, 400, dtype=torch.float64)
    area = 2 * math.pi**2 * r**3
    step = 1e-6
    slope = (reference.quad_cdf_radius(r + step, lam) - reference.quad_cdf_radius(r - step, lam)) / (2 * step)
    torch.testing.assert_close(area * log_density(lam, r).exp(), slope, rtol=1e-6, atol=1e-9)
    r = torch.linspace(1e-9, 2, 400_001, dtype=torch.float64)
    mass = (2 * math.pi**2 * r**3 * log_density(lam, r, spread=0.02).exp()).mean() * 2
    assert float(mass) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("process", [Quad(), Quad(a=1.5, c=1.0)], ids=str)
def test_the_velocity_is_the_conditional_expectation(process):
    """z scores of E[(u - u_exact) phi] = 0 over drawn pairs, of images; 4.4 is the two-sided level 1e-5. 5% off is seen."""
    n, flow = 20_000, ExactFlow(process, POINTS)
    x0 = POINTS[torch.randint(len(POINTS), (n,), generator=generator(0, "pairs"))]
    t = 0.02 + 0.98 * torch.rand(n, dtype=torch.float64, generator=generator(1, "pairs"))
    x, u = (patches.scattered(v) for v in _reference_pairs(process, patches.gathered(x0), t))
    exact = flow(x, t)

    def z(found):
        tests = torch.stack([exact, x, torch.ones_like(x), torch.sign(x), exact * x.abs()])
        products = ((u - found) * tests).flatten(2).sum(-1)
        return (products.mean(1) / products.std(1) * math.sqrt(n)).abs().max()

    assert z(exact) < 4.4
    assert z(0.95 * exact) > 6


def _reference_pairs(process, x0, t):
    """Blocks of rows that share a time, because the reference draws row by row."""
    rows, times = x0.reshape(40, -1), t.view(40, -1)[:, :1]
    t[:] = times.expand(40, len(t) // 40).reshape(-1)
    x, u = reference.kac_pair(rows, times[:, 0], process.name, process.a, process.c, seed=1)
    return x.view(x0.shape), u.view(x0.shape)


def test_the_exact_flow_carries_the_prior_onto_the_data():
    process = Quad()
    flow = ExactFlow(process, POINTS, spread=0.05)
    ends = push(flow, process.prior(200, (1, 2, 4), 3), time_grid(50, 2.0)).flatten(1).double()
    distance, nearest = torch.cdist(ends, POINTS.flatten(1)).min(1)
    assert distance.median() < 1e-3
    assert nearest.bincount(minlength=5).min() > 15
    with pytest.raises(ValueError, match="no density is known"):
        conditional_law(object(), torch.zeros(1, 4).double(), ONE, torch.ones(1, 4).double())


def test_groups_of_the_other_processes():
    x = torch.arange(24.0).view(1, 1, 4, 6)
    assert patches.size_of_groups("planar", (1, 4, 6)) == (1, 4, 3)
    assert patches.size_of_groups(Gaussian.speed_norm, (1, 4, 6)) == (1, 4, 6)
    assert patches.size_of_groups("quad", (8,)) == (2,)
    for norm in ("telegraph", "planar", "quad"):
        assert patches.repeated(patches.lengths(x, norm), norm).shape == x.shape
    assert torch.equal(patches.repeated(torch.tensor([[1.0, 2.0]]), "quad"), torch.tensor([[1.0] * 4 + [2.0] * 4]))


def test_a_run_has_no_other_kappa():
    assert ProcessConfig.of(Telegraph(f="exp")).build() == Telegraph(f="exp")
    with pytest.raises(ValueError, match="runs of f exp have kappa 1, got a process of kappa 3"):
        ProcessConfig.of(Telegraph(f="exp", kappa=3.0))
