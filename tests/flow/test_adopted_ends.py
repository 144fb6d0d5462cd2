"""Where the flow of an adopted model ends, and the bounds that its sampler sets to the data."""

import dataclasses
import math

import diffusers
import pytest
import torch

from distillkac.flow.adopted import AdoptedNet, AdoptedNetwork
from distillkac.flow.noise_schedules import NoiseSchedule
from tests.flow.test_adopted import SETTINGS, SHAPE, TABLES, net, states


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
    """One step lands in the bounds, where DDIM lands; the gradient goes past the bounds."""
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
    landed = x - u
    inside = wanted.abs() < 0.5
    assert 0.05 < inside.float().mean() < 0.95
    assert (landed - wanted).abs()[inside].max() < 1e-3  # float32
    assert torch.equal(landed.detach()[~inside] > 0, wanted[~inside] > 0)
    assert (landed.detach()[~inside].abs() > 0.5 - 1e-4).all()
    # sigma eps is as it was: the distance beyond the bounds is divided by 1 / (1 - tau_max).
    beyond = (x - network(x, t, y)).abs().sub(0.5)[~inside]
    assert torch.allclose(landed.detach().abs()[~inside] - 0.5, beyond * (1 - config.tau_max), atol=1e-3)
    (gradient,) = torch.autograd.grad(u[~inside].sum(), clipped.model.conv_out.bias)
    assert gradient.abs() > 0


def test_a_clip_is_a_bound():
    for wrong in (0.0, -1.0, math.inf):
        with pytest.raises(ValueError, match="clip must be positive and finite"):
            AdoptedNetwork("UNet2DModel", SETTINGS, TABLES["linear"], clip=wrong)
