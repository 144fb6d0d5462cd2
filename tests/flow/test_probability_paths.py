"""Gaussian paths by name and by function: their formulas by hand, velocities by autograd, and all that takes a process."""

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from distillkac.base.random import normal_rows
from distillkac.flow import PATHS, ExactFlow, ExactStart, Gaussian, add_path, from_dict, push, time_grid
from distillkac.flow.exact_flow import sampling_floor, sliced_wasserstein
from distillkac.flow.noise_stream import NoiseStream
from distillkac.flow.processes import Telegraph
from distillkac.runs.process_config import ProcessConfig, law
from tests.flow.exact_points import POINTS, expectation_z

NAMES = ("vp", "cosine", "sub-vp", "edm")


def to_the_fourth(t):
    """A path of a user's: alpha^2 + sigma^2 = 1, with little data left at the end."""
    return torch.cos(1.55 * t**2), torch.sin(1.55 * t**2)


ALL = [Gaussian(path=name) for name in NAMES] + [Gaussian(0.7, path=to_the_fourth), Gaussian(2.0, path="vp")]
by_path = pytest.mark.parametrize("process", ALL, ids=lambda p: f"{getattr(p.path, '__name__', p.path)}-{p.sigma}")


def by_hand(name: str, t: torch.Tensor):
    """((alpha, alpha'), (sigma, sigma')) written out, float64."""
    beta, integral = 0.1 + 19.9 * t, 0.1 * t + 9.95 * t**2
    alpha = torch.exp(-integral / 2)
    if name == "vp":
        sigma = (1 - torch.exp(-integral)).sqrt()
        return (alpha, -beta / 2 * alpha), (sigma, beta * torch.exp(-integral) / (2 * sigma))
    if name == "sub-vp":
        return (alpha, -beta / 2 * alpha), (1 - alpha**2, beta * alpha**2)
    if name == "cosine":
        c, s, h = torch.cos(math.pi / 2 * t), torch.sin(math.pi / 2 * t), math.pi / 2
        return (c, -h * s), (s, h * c)
    s, rate = 80 * t**5, 400 * t**4
    return ((1 + s**2) ** -0.5, -s * rate * (1 + s**2) ** -1.5), (s * (1 + s**2) ** -0.5, rate * (1 + s**2) ** -1.5)


@pytest.mark.parametrize("name", NAMES)
def test_formulas_are_those_of_the_papers(name):
    t = torch.linspace(0.01, 1, 200, dtype=torch.float64)
    for got, want in zip(Gaussian(path=name).schedules(t), by_hand(name, t), strict=True):
        torch.testing.assert_close(torch.stack(got), torch.stack(want), rtol=1e-11, atol=1e-14)
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    (alpha, d_alpha), (sigma, d_sigma) = Gaussian(path=name).schedules(ends)
    assert (alpha[0], sigma[0]) == (1, 0), "t = 0 is the data"
    assert alpha[1] < 0.0126
    assert torch.isfinite(torch.stack([d_alpha, d_sigma])).all()
    (near, _), _ = Gaussian(path=name).schedules(torch.tensor([0.25]))
    assert near.dtype == torch.float32


@by_path
def test_velocity_is_the_derivative_of_the_state(process):
    t = torch.linspace(1e-4, 1, 64, dtype=torch.float64)
    x0 = torch.linspace(-1, 1, 64 * 3, dtype=torch.float64).view(64, 3)
    x_t, u = process.pair(x0, t, seed=2)
    z = normal_rows(64, (3,), 2).double()

    def state(t):
        (alpha, _), (sigma, _) = process.schedules(t)
        return alpha[:, None] * x0 + process.sigma * sigma[:, None] * z

    torch.testing.assert_close(x_t, state(t), rtol=0, atol=0)
    torch.testing.assert_close(process.bridge(x0, t, seed=2), x_t, rtol=1e-6, atol=1e-6)
    h = 1e-6 * t
    slope = (state((t + h).clamp(max=1)) - state(t - h)) / ((t + h).clamp(max=1) - t + h)[:, None]
    torch.testing.assert_close(u, slope, rtol=1e-5, atol=1e-5)
    path = PATHS[process.path] if isinstance(process.path, str) else process.path
    moving = t.clone().requires_grad_()
    alpha, sigma = path(moving)
    moved = (alpha[:, None] * x0 + process.sigma * sigma[:, None] * z).sum(1)
    (by_autograd,) = torch.autograd.grad(moved.sum(), moving)
    torch.testing.assert_close(u.sum(1), by_autograd, rtol=1e-12, atol=1e-12)
    assert torch.isfinite(torch.stack(process.pair(x0, torch.zeros(64), 2))).all(), "also where the slope has no bound"
    with torch.inference_mode():
        assert torch.equal(process.pair(x0, t, seed=2)[1], u)


@by_path
def test_prior_is_what_is_there_for_data_of_variance_one(process):
    (alpha, _), (sigma, _) = process.schedules(torch.ones((), dtype=torch.float64))
    assert process.prior_std == pytest.approx(math.hypot(alpha, process.sigma * sigma), rel=1e-12)
    x = process.prior(200, (1, 1, 1000), seed=3)
    assert float(x.std()) == pytest.approx(process.prior_std, rel=0.01)
    torch.testing.assert_close(process.std(sigma), process.sigma * sigma)


@by_path
def test_exact_field_is_the_mean_of_the_velocities_and_leads_to_the_data(process):
    assert expectation_z(ExactFlow(process, POINTS), process).abs().max() < 4.5
    assert expectation_z(ExactFlow(Gaussian(process.sigma), POINTS), process).abs().max() > 10
    # Where the slope has no bound, the last step, Euler's, leaves half of the noise that is left.
    ends = push(ExactFlow(process, POINTS), process.prior(2000, (2,), 0), time_grid(60, 2.0), "heun")
    assert sliced_wasserstein(ends, POINTS) < 3 * sampling_floor(POINTS, 2000)


@by_path
def test_exact_start_is_the_velocity_for_the_mean_image(process):
    means = torch.rand(3, 1, 1, 2) - 0.5
    field = ExactStart(lambda x, t, y: x * torch.nan, process, means)
    x, y = process.prior(2, (1, 1, 2), 0), torch.tensor([0, 1])
    (alpha, d_alpha), (sigma, d_sigma) = (
        map(float, pair) for pair in process.schedules(torch.ones((), dtype=torch.float64))
    )
    want = d_alpha * means[y] + d_sigma / sigma * (x - alpha * means[y])
    torch.testing.assert_close(field(x, 1.0, y), want, rtol=1e-5, atol=1e-6)


@by_path
def test_a_stream_draws_its_rows(process):
    stream, x0, t = NoiseStream(process, 4), torch.rand(5, 2), torch.rand(5)
    x1 = stream.prior_like(x0)
    assert torch.equal(stream.pair(x0, t, x1)[1], process.pair(x0, t, 4, 0)[1])
    (alpha, _), (sigma, _) = process.schedules(torch.ones(()))
    left = alpha * x0 + process.sigma * sigma / process.prior_std * x1
    torch.testing.assert_close(stream.pair(x0, torch.ones(5), x1)[0], left, rtol=1e-5, atol=1e-6)


def test_threads_do_not_disturb_each_other():
    """Stored paths are made in a thread beside the training. With forward mode this raises within a few rounds."""
    process, t = Gaussian(path="vp"), torch.linspace(0, 1, 50)
    want = process.schedules(t)[1][1]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: process.schedules(t)[1][1], range(200)))
    assert all(torch.equal(slope, want) for slope in found)


def test_old_processes_are_as_they_were():
    assert Gaussian().to_dict() == {"name": "gaussian", "sigma": 1.0, "f": "linear", "g": "linear", "kappa": 1.0}
    assert Gaussian(0.3, f="cosine").prior_std == 0.3
    assert Gaussian(0.3, f="exp").prior_std == 0.3
    assert Gaussian(1.5, tau_max=0.9).prior_std == math.hypot(1 - 0.9, 1.5 * 0.9)
    assert "path" not in Telegraph().to_dict()
    assert law(ProcessConfig("gaussian", sigma=0.5)) == "gaussian (sigma 0.5)"


def test_names_are_kept_and_functions_need_one():
    assert from_dict(Gaussian(0.5, path="vp").to_dict()) == Gaussian(0.5, path="vp")
    assert law(ProcessConfig("gaussian", path="edm")) == "gaussian (edm, sigma 1)"
    with pytest.raises(ValueError, match="its path is a function: give it a name"):
        Gaussian(path=to_the_fourth).to_dict()
    with pytest.raises(ValueError, match="a config keeps names"):
        ProcessConfig("gaussian", path=to_the_fourth)
    config = ProcessConfig("gaussian", path="to the fourth")
    with pytest.raises(
        ValueError, match=r"path must be one of vp, cosine, sub-vp, edm, .*add_path, got 'to the fourth'"
    ):
        config.build()
    add_path("to the fourth", to_the_fourth)
    try:
        t = torch.linspace(0, 1, 9)
        assert torch.equal(config.build().schedules(t)[1][1], Gaussian(path=to_the_fourth).schedules(t)[1][1])
        assert from_dict(config.build().to_dict()) == config.build()
    finally:
        del PATHS["to the fourth"]
    with pytest.raises(ValueError, match="other than vp"):
        add_path("vp", to_the_fourth)


ONES = torch.ones_like
MISTAKES = {
    "two tensors like t": lambda t: 1 - t,
    "got float, torch.float64": lambda t: (1.0, t),
    "like t, torch.float64": lambda t: (1 - t.float(), t.float()),
    "failed with": lambda t: (1 - t, torch.from_numpy(t.numpy())),
    "torch's derivative": lambda t: (1 - t, t.detach()),
    r"alpha\(0\) must be 1": lambda t: (0.9 - 0.9 * t, t),
    r"sigma\(0\) must be 0": lambda t: (1 - t, t + 0.01),
    "is not finite": lambda t: (1 - t, t / (t - t)),
    "the other times": lambda t: (1 - t, t * len(t) / 1025),
    "must grow": lambda t: (1 - t, t + torch.sin(20 * t) ** 2),
    "with alpha at least 0": lambda t: (1 - 1.1 * t, t),
    r"alpha\(1\) must be at most 0.1 sigma": lambda t: (1 - t / 2, t),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_what_is_no_path_is_refused(message):
    for make in (lambda path: Gaussian(path=path), lambda path: add_path("mine", path)):
        with pytest.raises(ValueError, match=message) as refusal:
            make(MISTAKES[message])
        assert "\n" not in str(refusal.value)
    assert "mine" not in PATHS


def test_a_path_goes_with_nothing_that_it_says():
    for other in ({"f": "cosine"}, {"g": "quadratic"}, {"tau_max": 0.9}):
        with pytest.raises(ValueError, match="omit these, or the path"):
            Gaussian(path="vp", **other)
    with pytest.raises(ValueError, match="is of process gaussian, got planar"):
        ProcessConfig("planar", path="vp").build()
