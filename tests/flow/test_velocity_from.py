"""Predictions of others as velocities: formulas by hand in float64, and the exact field of a Gaussian mixture."""

import math

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from distillkac.base.random import generator
from distillkac.flow import Gaussian, GuidedVelocity, Planar, VelocityFrom, integrate, time_grid
from tests.adopted import unet
from tests.flow.exact_points import POINTS

END = 0.98


def shortened(t):
    """The cosine path as far as END, where some data are left."""
    return torch.cos(math.pi / 2 * END * t), torch.sin(math.pi / 2 * END * t)


PROCESSES = [Gaussian(path=name) for name in ("vp", "cosine", "sub-vp", "edm")]
PROCESSES += [Gaussian(path=shortened), Gaussian(1.3), Gaussian(0.7, path="vp"), Gaussian(2.0, tau_max=0.97)]
PREDICTIONS = ("epsilon", "v_prediction", "sample", "velocity")
NO_DATA_AT_ONE = {Gaussian(path="cosine"), Gaussian(1.3)}
CASES = [(p, q) for p in PROCESSES for q in PREDICTIONS if not (q == "epsilon" and p in NO_DATA_AT_ONE)]


def told(value):
    """A name that is the same in every process, without the address of a function."""
    return (
        value
        if isinstance(value, str)
        else f"{getattr(value.path, '__name__', value.path)}-{value.sigma}-{value.tau_max}"
    )


by_case = pytest.mark.parametrize(("process", "prediction"), CASES, ids=told)


def schedules(process, t):
    """(alpha, alpha', sigma, sigma') (B, 1) float64, the spread of the process in sigma."""
    (alpha, d_alpha), (age, d_age) = process.schedules(t.double())
    return [v[:, None] for v in (alpha, d_alpha, process.sigma * age, process.sigma * d_age)]


def predicted(process, prediction, x0, eps, t):
    """What a perfect model of this kind answers at x = alpha x_0 + sigma eps."""
    alpha, d_alpha, sigma, d_sigma = schedules(process, t)
    return {
        "epsilon": eps,
        "v_prediction": alpha * eps - sigma * x0,
        "sample": x0,
        "velocity": d_alpha * x0 + d_sigma * eps,
    }[prediction]


@by_case
def test_a_perfect_model_gives_the_velocity(process, prediction):
    source = generator(0, "models")
    x0, eps = (torch.randn(300, 2, dtype=torch.float64, generator=source) for _ in range(2))
    t = torch.linspace(1e-3, 1, 300, dtype=torch.float64)
    alpha, d_alpha, sigma, d_sigma = schedules(process, t)
    answer = predicted(process, prediction, x0, eps, t)
    seen = []

    def model(x, number, y):
        seen.append((x, number))
        return answer

    x, want = alpha * x0 + sigma * eps, d_alpha * x0 + d_sigma * eps
    u = VelocityFrom(model, process, prediction, lambda t: 1000 * t)(x, t, None)
    torch.testing.assert_close(u, want, rtol=1e-8, atol=1e-8)
    assert torch.equal(seen[0][0], x)
    assert torch.equal(seen[0][1], 1000 * t)
    wrong = VelocityFrom(lambda x, t, y: answer + 0.1, process, prediction)(x, t, None)
    assert (wrong - want).abs().median() > 1e-3


@by_case
def test_both_ends_are_safe(process, prediction):
    x, t = torch.randn(4, 2), torch.tensor([0.0, 1e-9, 0.5, 1.0])
    u = VelocityFrom(lambda x, t, y: torch.tanh(x), process, prediction, torch.log)(x, t, None)
    assert torch.isfinite(u).all()
    assert u.dtype == torch.float32
    # At the data, x_0 is x, and no noise is known: of a path whose slopes are bounded, so is the velocity.
    x0 = 0.5 * torch.ones(1, 2, dtype=torch.float64)
    answer = predicted(process, prediction, x0, torch.zeros(1, 2), torch.tensor([1e-5]))
    field = VelocityFrom(lambda x, t, y: answer, process, prediction)
    (alpha, d_alpha), _ = process.schedules(torch.tensor([1e-5], dtype=torch.float64))
    torch.testing.assert_close(field(alpha * x0, torch.zeros(1), None), d_alpha * x0, rtol=1e-6, atol=1e-6)


@by_case
def test_the_exact_answers_for_a_mixture_are_its_exact_field(process, prediction):
    """Five normals of spread 0.1 in the plane: E[x_0 | x] and the velocity are known, and the flow leads to them."""
    spread = 0.1

    def means(x, t):
        """(E[x_0 | x], E[eps | x])."""
        alpha, _, sigma, _ = schedules(process, t)
        variance = alpha**2 * spread**2 + sigma**2
        away = x[:, None] - alpha[:, None] * POINTS
        weights = torch.softmax(-away.square().sum(-1) / (2 * variance), 1)[..., None]
        gain = (alpha * spread**2 / variance)[:, None]
        x0 = (weights * (POINTS + gain * away)).sum(1)
        return x0, (x - alpha * x0) / sigma

    def model(x, t, y):
        t = t.clamp(min=1e-5)
        return predicted(process, prediction, *means(x, t), t)

    x, t = torch.randn(200, 2, dtype=torch.float64), torch.linspace(0.01, 1, 200, dtype=torch.float64)
    _, d_alpha, _, d_sigma = schedules(process, t)
    x0, eps = means(x, t)
    field = VelocityFrom(model, process, prediction)
    torch.testing.assert_close(field(x, t, None), d_alpha * x0 + d_sigma * eps, rtol=1e-7, atol=1e-7)
    wide = VelocityFrom(lambda x, t, y: model(x.double(), t, y).to(x), process, prediction)
    ends = integrate(GuidedVelocity(wide), process.prior(1000, (2,), 0), None, time_grid(40, 2.0), "heun")
    nearest = torch.cdist(ends.double(), POINTS).min(1).values
    assert float((nearest < 4 * spread).double().mean()) > 0.97
    assert 0.5 * spread < float(nearest.median()) < 2 * spread


def test_a_denoiser_of_edm_sees_its_own_states():
    """docs/teachers.md: x_0 + s z undivided, and s itself; whatever time t is given, and exact."""
    seen = []

    def denoiser(x, s, y):
        seen.append((x, s))
        return x0

    x0, z = torch.randn(2, 5, 3, dtype=torch.float64, generator=generator(0, "edm"))
    t = torch.linspace(0.2, 1, 5, dtype=torch.float64)
    process, s = Gaussian(path="edm"), (80 * t**5)[:, None]
    x = (x0 + s * z) / (1 + s**2).sqrt()
    model = lambda x, s, y: denoiser(x * (1 + s * s).sqrt()[:, None], s, y)  # noqa: E731
    u = VelocityFrom(model, process, "sample", lambda t: 80 * t**5)(x, t, None)
    torch.testing.assert_close(seen[-1][0], x0 + s * z)
    torch.testing.assert_close(seen[-1][1], s[:, 0])
    rate = (400 * t**4)[:, None]  # ds/dt; EDM's own velocity is dx/ds = (x - x_0) / s = z
    want = rate * z / (1 + s**2).sqrt() - s * rate / (1 + s**2) * x
    torch.testing.assert_close(u, want, rtol=1e-9, atol=1e-9)


def test_its_attributes_are_those_of_the_model():
    class Net(nn.Module):
        null_class, guidance_embedding = 2, True

        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x, t, y, w):
            return self.layer(x) * w[:, None]

        def feature_layers(self):
            return [self.layer]

    made = VelocityFrom(Net(), Gaussian(), "sample")
    assert (made.null_class, made.guidance_embedding, made.feature_layers()) == (2, True, [made.model.layer])
    assert made(torch.ones(3, 2), torch.ones(3), None, torch.ones(3)).shape == (3, 2)
    assert not hasattr(made, "outer_layers")
    plain = VelocityFrom(lambda x, t, y: x, Planar(), "velocity")
    assert not hasattr(plain, "null_class")
    assert torch.equal(plain(torch.ones(1, 2), torch.zeros(1), None), torch.ones(1, 2))


def test_an_answer_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"must answer like x, \(2, 3, 4, 4\), got \(2, 1, 4, 4\)"):
        VelocityFrom(lambda x, t, y: x[:, :1], Gaussian(), "sample")(torch.ones(2, 3, 4, 4), torch.ones(2), None)


def test_an_answer_in_a_wrapping_of_diffusers_is_refused():
    model = unet().eval()
    made = VelocityFrom(model, Gaussian(path="vp"), "epsilon")
    with pytest.raises(ValueError, match=r"got a UNet2DOutput: give a torch.nn.Module .*model\(x, t, y\).sample"):
        made(torch.zeros(2, 1, 8, 8), torch.ones(2), None)


def test_mistakes_are_told():
    answer = lambda x, t, y: x  # noqa: E731
    for arguments, message in (
        ((3, Gaussian(), "sample"), "model must be"),
        ((nn.Linear, Gaussian(), "sample"), "model must be"),
        ((answer, "vp", "sample"), "process must be"),
        ((answer, Gaussian(), "noise"), "prediction must be one of epsilon, v_prediction, sample, velocity"),
        ((answer, Planar(), "epsilon"), "noise of planar is no scaled normal"),
        ((answer, Gaussian(), "epsilon"), "nothing of them is left, at t = 1"),
        ((answer, Gaussian(path="cosine"), "epsilon"), "nothing of them is left, at t = 1"),
        ((answer, Gaussian(), "sample", 1000), "time must be a function"),
        ((answer, Gaussian(), "sample", lambda t: 1000), "time must be a function"),
        ((answer, Gaussian(), "sample", lambda t: 1 / (t - 1)), "time must be a function"),
    ):
        with pytest.raises(ValueError, match=message):
            VelocityFrom(*arguments)


def test_what_wraps_a_model_is_refused_and_parts_of_it_are_no_methods():
    class Model(nn.Module):
        null_class = 2

        def __init__(self):
            super().__init__()
            self.feature_layers = nn.ModuleList([nn.Conv2d(1, 1, 1)])

        def forward(self, x, t, y):
            return self.feature_layers[0](x)

    for wrapper in (nn.DataParallel, AveragedModel):
        with pytest.raises(
            ValueError, match=f"model is a {wrapper.__name__}, which wraps another: give .* its .module"
        ):
            VelocityFrom(wrapper(Model()), Gaussian(), "velocity")
    made = VelocityFrom(Model(), Gaussian(), "velocity")
    assert made.null_class == 2
    assert [name for name, _ in made.named_parameters(remove_duplicate=False)] == [
        f"model.feature_layers.0.{name}" for name in ("weight", "bias")
    ]
