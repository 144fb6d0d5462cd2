"""A model of diffusers as a velocity of our Gaussian flow, against formulas written out by hand in float64."""

import itertools
import math

import diffusers
import pytest
import torch

from distillkac.base.tensors import column
from distillkac.flow.adopted import AdoptedNet, AdoptedNetwork
from distillkac.flow.guidance import GuidedVelocity
from distillkac.flow.noise_schedules import NoiseSchedule
from distillkac.flow.processes import Gaussian, from_dict
from distillkac.runs.recorded import _Watch

SHAPE = (1, 8, 8)
SETTINGS = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
    "add_attention": False,
}
TABLES = {
    "linear": NoiseSchedule("linear"),
    "scaled_linear": NoiseSchedule("scaled_linear", 1000, 0.00085, 0.012),
    "cosine": NoiseSchedule("squaredcos_cap_v2"),
    "sigmoid": NoiseSchedule("sigmoid", 500),
    "trained": NoiseSchedule("trained_betas", 6, betas=(0.01, 0.02, 0.05, 0.1, 0.3, 0.5)),
    "zero": NoiseSchedule("scaled_linear", 1000, 0.00085, 0.012, zero_terminal_snr=True),
}
OF_DIFFUSERS = {
    "linear": {},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "sigmoid": {"beta_schedule": "sigmoid", "num_train_timesteps": 500},
    "trained": {"trained_betas": [0.01, 0.02, 0.05, 0.1, 0.3, 0.5], "num_train_timesteps": 6},
}
OF_DIFFUSERS["zero"] = OF_DIFFUSERS["scaled_linear"] | {"rescale_betas_zero_snr": True}
PREDICTIONS = ("epsilon", "v_prediction", "sample")


def net(schedule: NoiseSchedule, prediction: str, sigma: float = 1.0, **settings) -> AdoptedNet:
    torch.manual_seed(0)
    made = AdoptedNet(AdoptedNetwork("UNet2DModel", SETTINGS | settings, schedule, prediction, sigma=sigma), SHAPE, 1)
    return made.eval().requires_grad_(False)


def states(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(1)), torch.zeros(n, dtype=torch.int64)


def answers(model: torch.nn.Module, x: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
    """In float32, as the wrapper has them: the model's own rounding is not what is tested."""
    return model(x.float(), number.float(), return_dict=False)[0].double()


@pytest.mark.parametrize("name", TABLES)
def test_the_table_is_that_of_diffusers(name):
    bars = diffusers.DDPMScheduler(**OF_DIFFUSERS[name]).alphas_cumprod.double()
    assert torch.equal(TABLES[name].ratios(), ((1 - bars) / bars).sqrt())


@pytest.mark.parametrize("sigma", [1.0, 0.5])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", TABLES)
def test_at_every_timestep_it_is_the_formula(name, prediction, sigma):
    schedule = TABLES[name]
    if name == "zero" and prediction == "epsilon":
        pytest.skip("refused, see below")
    network = net(schedule, prediction, sigma)
    bars = diffusers.DDPMScheduler(**OF_DIFFUSERS[name]).alphas_cumprod.double()
    numbers = torch.linspace(0, schedule.timesteps - 1, 6).round().long().unique()
    alpha, noise = bars[numbers].sqrt(), (1 - bars[numbers]).sqrt()
    tau = noise / (sigma * alpha + noise)  # R / (s + R)
    x, y = states(len(numbers))
    seen = x.double() * column((sigma * alpha + noise) / sigma, x)  # alpha x / (1 - tau)
    answer = answers(network.model, seen, numbers)
    alpha, noise, wide = column(alpha, x), column(noise, x), seen
    if prediction == "epsilon":
        eps, data = answer, (wide - noise * answer) / alpha
    elif prediction == "sample":
        eps, data = (wide - alpha * answer) / noise, answer
    else:
        eps, data = noise * wide + alpha * answer, alpha * wide - noise * answer
    wanted = (sigma * eps - data) * network.config.tau_max
    u = network(x, (tau / tau[-1].new_tensor(network.config.tau_max)).float(), y).double()
    assert ((u - wanted).flatten(1).norm(dim=1) <= 1e-5 * wanted.flatten(1).norm(dim=1)).all()


def test_between_timesteps_the_ratio_is_that_of_the_number():
    schedule = TABLES["linear"]
    network, ratios = net(schedule, "epsilon"), TABLES["linear"].ratios()
    between = (ratios[300] * ratios[301]).sqrt()  # half way in the logarithm
    times = torch.stack([between / (1 + between), ratios[0] / (1 + ratios[0]) / 2]) / network.config.tau_max
    number = network.coefficients(times)[3]
    assert number[0].item() == pytest.approx(300.5, abs=1e-6)
    assert number[1].item() == 0  # less noise than the model has ever seen


def test_a_schedule_ends_where_nothing_of_the_data_is_left():
    network = net(TABLES["zero"], "v_prediction")
    a, b, scale, number = network.coefficients(torch.ones(1))
    assert network.config.tau_max == 1
    assert number.item() == 999
    assert (a.item(), b.item(), scale.item()) == (
        1,
        1,
        1,
    )  # there v is minus the data, and x the noise: u = eps - x_0 = x + v
    assert Gaussian(tau_max=network.config.tau_max).prior_std == 1


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_edm(prediction):
    scheduler = diffusers.EDMEulerScheduler(prediction_type=prediction)
    network = net(NoiseSchedule("edm"), prediction, 0.5)
    sigmas = torch.tensor([0.002, 0.1, 1.0, 80.0], dtype=torch.float64)
    x, y = states(4)
    tau = sigmas / (0.5 + sigmas)
    for row, sigma in enumerate(sigmas):
        seen = x[row : row + 1].double() / (1 - tau[row])
        answer = answers(network.model, scheduler.precondition_inputs(seen, sigma), scheduler.precondition_noise(sigma))
        data = scheduler.precondition_outputs(seen, answer, sigma)
        wanted = (0.5 * (seen - data) / sigma - data) * network.config.tau_max
        time = (tau[row] / network.config.tau_max).reshape(1)
        u = network(x[row : row + 1], time, y[:1]).double()
        assert (u - wanted).norm() <= 2e-5 * wanted.norm()


@pytest.mark.parametrize("sigma", [1.0, 0.5])
def test_flow(sigma):
    network = net(NoiseSchedule("flow"), "flow", sigma)
    noise = torch.tensor([0.001, 0.3, 0.9, 1.0], dtype=torch.float64)
    x, y = states(4)
    seen = x.double() * column(1 - noise + noise / sigma, x)
    answer, noise = answers(network.model, seen, 1000 * noise), column(noise, x)
    eps, data = seen + (1 - noise) * answer, seen - noise * answer
    u = network(x, (noise / (sigma * (1 - noise) + noise)).flatten(), y).double()
    wanted = sigma * eps - data
    assert (u - wanted).norm() <= 1e-5 * wanted.norm()
    if sigma == 1:
        assert (wanted - answer).norm() <= 1e-12 * wanted.norm()  # as it is


class Calm(torch.nn.Module):
    """A model whose answers are those of data of standard deviation 0.5: images come out, and not noise blown up."""

    def __init__(self, schedule: NoiseSchedule, prediction: str):
        super().__init__()
        bars = 1 / (1 + schedule.ratios().square())
        self.alphas, self.sigmas, self.prediction = bars.sqrt(), (1 - bars).sqrt(), prediction

    def forward(self, x, number, return_dict=False):
        number = torch.as_tensor(number).reshape(-1).long().expand(len(x))
        alpha, sigma = column(self.alphas[number], x), column(self.sigmas[number], x)
        data = torch.tanh(alpha * x.double() / (alpha**2 + 4 * sigma**2))
        eps = (x.double() - alpha * data) / sigma
        return ({"epsilon": eps, "sample": data, "v_prediction": alpha * eps - sigma * data}[self.prediction].to(x),)


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", TABLES)
def test_euler_steps_at_its_timesteps_are_ddim(name, prediction, spacing):
    """x_tau is linear in x_0 and eps, and so is DDIM's step: the same network, noise and times give the same images."""
    schedule = TABLES[name]
    if name == "zero" and prediction == "epsilon":
        pytest.skip("refused, see below")
    scheduler = diffusers.DDIMScheduler(
        trained_betas=diffusers.DDPMScheduler(**OF_DIFFUSERS[name]).betas,  # DDIM's own know no sigmoid
        num_train_timesteps=schedule.timesteps,
        prediction_type=prediction,
        clip_sample=False,
        timestep_spacing=spacing,
    )
    scheduler.set_timesteps(min(10, schedule.timesteps))
    network = net(schedule, prediction)
    network.model = Calm(schedule, prediction)
    # In float64: with epsilon at a ratio of 20 000, where the cosine schedule ends, float32 leaves three digits of the data.
    noise, y = states(3)
    wanted = noise = noise.double()
    for t in scheduler.timesteps:
        wanted = scheduler.step(network.model(wanted, t)[0], t, wanted).prev_sample
    bars = scheduler.alphas_cumprod[scheduler.timesteps].double()
    taus = (1 - bars).sqrt() / (bars.sqrt() + (1 - bars).sqrt())
    x = noise / (bars[0].sqrt() + (1 - bars[0]).sqrt())  # (1 - tau) / alpha, also where alpha is 0
    grid = (torch.cat([taus, torch.zeros(1)]) / network.config.tau_max).clamp(max=1)
    field = GuidedVelocity(network)
    for t, t_next in itertools.pairwise(grid.tolist()):
        x = x - (t - t_next) * field(x, t, y)
    assert (x - wanted).abs().max() <= 1e-5
    if spacing == "trailing":  # which begins where the process does
        assert grid[0].item() == pytest.approx(1, abs=1e-12)
        assert Gaussian(tau_max=network.config.tau_max).prior_std == pytest.approx(
            1 / (bars[0].sqrt() + (1 - bars[0]).sqrt())
        )


@pytest.mark.parametrize(
    ("schedule", "prediction", "sentence"),
    [
        ({"name": "trained_betas", "timesteps": 4, "betas": (0.1, 0.0, 0.1, 0.1)}, "epsilon", "cannot be inverted"),
        ({"name": "trained_betas", "timesteps": 4, "betas": (0.1, -0.2, 0.1, 0.1)}, "epsilon", "must lie in"),
        ({"name": "trained_betas", "timesteps": 4, "betas": (0.1, float("nan"), 0.1, 0.1)}, "epsilon", "must lie in"),
        ({"name": "linear", "beta_end": 2.0}, "epsilon", "must lie in"),
        ({"name": "linear", "timesteps": 1}, "epsilon", "must have 3 to"),
        ({"name": "linear", "timesteps": 10**12}, "epsilon", "must have 3 to"),
        ({"name": "trained_betas", "timesteps": 4, "betas": (0.1, 0.2)}, "epsilon", "one for each of the 4"),
        ({"name": "edm", "sigma_max": 0.001}, "epsilon", "0 < sigma_min < sigma_max"),
        ({"name": "linear", "zero_terminal_snr": True}, "epsilon", "use fewer timesteps of it"),
        ({"name": "linear", "used": 2}, "epsilon", "3 to 1000 timesteps of a table"),
        ({"name": "flow", "used": 500}, "flow", "3 to 1000 timesteps of a table"),
        ({"name": "flow"}, "epsilon", "predicts flow, got epsilon"),
        ({"name": "edm"}, "sample", "predicts epsilon or v_prediction, got sample"),
        ({"name": "linear"}, "flow", "predicts epsilon or v_prediction or sample, got flow"),
    ],
)
def test_what_is_refused(schedule, prediction, sentence):
    with pytest.raises(ValueError, match=sentence):
        AdoptedNetwork("UNet2DModel", SETTINGS, NoiseSchedule(**schedule), prediction)


def test_settings_that_make_no_model_are_refused():
    for wrong in ({"in_channels": "1"}, {"layers_per_block": 10**9}, {"down_block_types": 5}, {"norm_num_groups": 5}):
        with pytest.raises(
            ValueError, match=r"samples of 1 channels|layers_per_block 1000|of no UNet2D|make no UNet2D"
        ):
            AdoptedNet(AdoptedNetwork("UNet2DModel", SETTINGS | wrong, NoiseSchedule("linear")), SHAPE, 1)


def test_another_size_is_refused():
    config = AdoptedNetwork("UNet2DModel", SETTINGS, NoiseSchedule("linear"))
    for shape, classes, sentence in (
        ((3, 8, 8), 1, "samples of 1 channels, and these are 3x8x8"),
        ((1, 9, 8), 1, "does not go up in 1x9x8"),
        ((1, 8, 8), 10, "no classes, and there are 10"),
    ):
        with pytest.raises(ValueError, match=sentence):
            AdoptedNet(config, shape, classes)


def test_the_process_reaches_as_far_as_the_model():
    process, x0 = Gaussian(sigma=0.5, tau_max=0.9), torch.full((40000, 1), 0.7)
    x, u = process.pair(x0, torch.ones(len(x0)), 0)
    z = (x - 0.1 * 0.7) / (0.5 * 0.9)
    assert torch.allclose(u, 0.9 * (0.5 * z - 0.7), atol=1e-6)
    assert z.mean().abs() < 0.02
    assert (z.std() - 1).abs() < 0.02
    assert torch.equal(process.bridge(x0, torch.ones(len(x0)), 0), x)
    prior = process.prior(40000, (1,), 0)
    assert prior.std().item() == pytest.approx(math.hypot(0.1, 0.45), rel=0.02)
    assert "tau_max" not in Gaussian().to_dict()
    assert from_dict(process.to_dict()) == process
    for wrong in ({"tau_max": 1.1}, {"tau_max": 0.0}, {"tau_max": 0.5, "f": "cosine"}):
        with pytest.raises(ValueError, match="tau_max"):
            Gaussian(**wrong)


@pytest.mark.parametrize("name", sorted(TABLES))
def test_no_evaluation_copies_a_table_to_the_device_of_the_weights(name):
    """On a device meta, which has no values to wait for: a copy would keep an adopted teacher from being recorded as a graph.
    Back from there the answers are what they were."""
    made, (x, y), t = net(TABLES[name], "v_prediction"), states(3), torch.tensor([0.1, 0.5, 1.0])
    before, weights = made(x, t, y), made.state_dict()
    inputs = [value.to("meta") for value in (x, t, y)]
    made.to("meta")
    with _Watch(torch.device("meta")) as watch:
        made(*inputs)
    assert not watch.found
    made.to_empty(device="cpu").load_state_dict(weights)
    torch.testing.assert_close(made(x, t, y), before, rtol=1e-5, atol=1e-5)  # the weights lie elsewhere now


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_of_float32_whatever_the_default_dtype_is(name):
    """diffusers sets it while it loads a pipeline in half precision."""
    expected = TABLES[name].all_betas()
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = TABLES[name].all_betas()
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
