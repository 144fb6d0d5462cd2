"""Where the flow of an adopted model ends, and the bounds that its sampler sets to the data."""

import dataclasses
import itertools
import math

import diffusers
import pytest
import torch

from distillkac.flow.adopted import AdoptedNet, AdoptedNetwork
from distillkac.flow.guidance import GuidedVelocity
from distillkac.flow.noise_schedules import NoiseSchedule
from tests.flow.test_adopted import PREDICTIONS, SETTINGS, SHAPE, TABLES, Calm, net, states


@pytest.mark.parametrize("name", ["cosine", "zero", "trained"])
def test_fewer_timesteps_are_the_first_ones_of_the_same_table(name):
    whole = TABLES[name]
    fewer = whole.up_to(1.0)
    assert fewer.used == (whole.ratios() <= 1).sum() < whole.timesteps
    assert torch.equal(fewer.ratios(), whole.ratios()[: fewer.used])
    assert fewer.ends[1] <= 1
    if name == "zero":  # and the noise can be predicted then
        AdoptedNetwork("UNet2DModel", SETTINGS, fewer, "epsilon")
    of_all, of_fewer = net(whole, "v_prediction"), net(fewer, "v_prediction")
    tau = torch.linspace(0.02, of_fewer.tau_max, 7, dtype=torch.float64)
    for one, other in zip(
        of_all.coefficients(tau / of_all.tau_max), of_fewer.coefficients(tau / of_fewer.tau_max), strict=True
    ):
        # A time within float32's rounding of a timestep is that timestep, in one of the two.
        assert torch.allclose(one / one.abs().max(), other / other.abs().max(), rtol=1e-5, atol=1e-5)
    assert whole.up_to(1e9 if name != "zero" else math.inf) is whole


def test_without_the_noisiest_part_an_edm_schedule_ends_earlier():
    assert NoiseSchedule("edm").up_to(20.0) == NoiseSchedule("edm", sigma_max=20.0)
    for schedule, ratio, sentence in (
        (NoiseSchedule("flow"), 5.0, "omit max_ratio"),
        (NoiseSchedule("edm"), 0.001, "leaves nothing"),
        (TABLES["trained"], 0.01, "leaves nothing"),
        (TABLES["trained"], 0.2, "3 to 6 timesteps"),
    ):
        with pytest.raises(ValueError, match=sentence):
            schedule.up_to(ratio)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_clipped_data_are_those_of_ddim(name):
    """One step lands where DDIM lands; the gradient goes past the bounds."""
    schedule = TABLES[name].up_to(2.0)
    network = net(schedule, "epsilon")
    config = dataclasses.replace(network.config, clip=0.5)
    clipped = AdoptedNet(config, SHAPE, 1).eval()
    clipped.load_state_dict(network.state_dict())
    bars = 1 / (1 + schedule.ratios().square())
    scheduler = diffusers.DDIMScheduler(
        schedule.used, clip_sample_range=0.5, timestep_spacing="trailing", trained_betas=schedule.all_betas()
    )
    scheduler.set_timesteps(1)
    x, y = states(4)
    t = torch.ones(4)
    seen = x * (bars[-1].sqrt() + (1 - bars[-1]).sqrt()).float()
    number = scheduler.timesteps[0]
    wanted = scheduler.step(network.model(seen, number).sample, number, seen).prev_sample
    u = clipped(x, t, y)
    inside = wanted.abs() < 0.5
    assert 0.05 < inside.float().mean() < 0.95
    assert (x - u - wanted).abs().max() < 1e-4
    (gradient,) = torch.autograd.grad(u[~inside].sum(), clipped.model.conv_out.bias)
    assert gradient.abs() > 0


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_steps_with_a_clip_are_those_of_ddim(name, prediction):
    """Of DDIM that makes the noise of the clipped data anew, as DDPM does, on which a short step has a short way."""
    schedule = TABLES[name]
    network = net(schedule, prediction)
    clipped = AdoptedNet(dataclasses.replace(network.config, clip=0.3), SHAPE, 1).eval()
    network.model = clipped.model = Calm(schedule, prediction)
    scheduler = diffusers.DDIMScheduler(
        trained_betas=schedule.all_betas().tolist(),
        clip_sample_range=0.3,
        prediction_type=prediction,
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(10)
    noise, y = states(3)
    wanted = noise = noise.double()
    for t in scheduler.timesteps:
        answer = network.model(wanted, t)[0]
        wanted = scheduler.step(answer, t, wanted, use_clipped_model_output=True).prev_sample
    bars = scheduler.alphas_cumprod[scheduler.timesteps].double()
    taus = (1 - bars).sqrt() / (bars.sqrt() + (1 - bars).sqrt())
    grid = (torch.cat([taus, torch.zeros(1)]) / network.config.tau_max).clamp(max=1).tolist()
    found = []
    for field in (GuidedVelocity(clipped), GuidedVelocity(network)):
        x = noise / (bars[0].sqrt() + (1 - bars[0]).sqrt())
        for t, t_next in itertools.pairwise(grid):
            x = x - (t - t_next) * field(x, t, y)
        found.append(x)
    assert (found[0] - wanted).abs().max() <= 1e-5
    assert (found[1] - wanted).abs().max() > 0.05  # the clip has a part in it


def test_a_clip_is_a_bound():
    for wrong in (0.0, -1.0, math.inf):
        with pytest.raises(ValueError, match="clip must be positive and finite"):
            AdoptedNetwork("UNet2DModel", SETTINGS, TABLES["linear"], clip=wrong)


def test_a_schedule_without_signal_at_its_end_goes_on_as_before_and_cannot_predict_noise_there():
    whole = NoiseSchedule("scaled_linear", zero_terminal_snr=True)
    before, last = whole.knots().diff()[-2:].tolist()
    assert last == pytest.approx(before)
    ends = {used: dataclasses.replace(whole, used=used).ends_in_noise for used in (None, 1000, 999)}
    assert ends == {None: True, 1000: True, 999: False}
