"""What a KacScheduler is given: numbers and times of every kind, and what does not go together."""

import numpy as np
import pytest
import torch

from distillkac.runs.sampler import SamplerConfig, Trained
from distillkac.scheduler import KacScheduler

ROWS = torch.zeros(3, 1, 4, 4)


@pytest.mark.parametrize(
    "t", [torch.tensor([0.5]), torch.tensor(0.5), 0.5, torch.tensor([0, 1, 1]), torch.full((3,), 500.0)], ids=str
)
@pytest.mark.parametrize("process", ["telegraph", "gaussian"])
def test_each_row_has_a_time_of_its_own(process, t):
    steps = KacScheduler(process)
    words = (
        r"timesteps must (be a floating-point tensor of one time in \[0, 1\] for each row, \(3,\)|be times in \[0, 1\])"
    )
    with pytest.raises(ValueError, match=words):
        steps.sample_noise(ROWS, t)
    with pytest.raises(ValueError, match=words):
        steps.add_noise(ROWS, ROWS, t)
    with pytest.raises(ValueError, match=words):
        steps.get_velocity(ROWS, ROWS, t)
    assert steps.sample_noise(ROWS[:1], torch.tensor([0.5])).shape == (1, 1, 4, 4)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_speed": "3"}, "max_speed must be a number, got '3'"),
        ({"max_speed": -1}, "max_speed must be positive and finite, got -1"),
        ({"max_speed": 0}, "max_speed must be positive and finite, got 0"),
        ({"restart": "1"}, "restart must be a number, got '1'"),
        ({"restart": 2, "integrator": "euler"}, r"restart must lie in \[0, 1\], got 2"),
        ({"restart": 0.5}, "give integrator euler with restart 0.5, got ab2"),
        ({"rho": "1"}, "rho must be a number, got '1'"),
        ({"num_steps": 2.5, "rho": 1.0}, "num_steps must be a whole number of at least 1, got 2.5"),
    ],
    ids=str,
)
def test_settings_are_looked_at_where_they_are_given(settings, said):
    with pytest.raises(ValueError, match=said):
        KacScheduler(**settings)


@pytest.mark.parametrize("steps", ["4", 2.5, 0, True, None])
def test_a_number_of_steps_is_whole(steps):
    with pytest.raises(ValueError, match="num_inference_steps must be a whole number of at least 1, got"):
        KacScheduler().set_timesteps(steps)


def test_numbers_of_numpy_are_numbers_and_are_saved(tmp_path):
    half = np.float32(0.5)
    given = {"a": np.int64(9), "rho": np.float32(1.5), "max_speed": np.float64(3), "num_steps": np.int32(4)}
    steps = KacScheduler(**given, c=half, restart=half, integrator="euler")
    steps.set_timesteps(np.int64(4))
    steps.save_pretrained(tmp_path)
    loaded = KacScheduler.from_pretrained(tmp_path)
    assert (loaded.process, loaded.config.restart) == (steps.process, 0.5)
    assert {name: loaded.config[name] for name in given} == given


CURVED = ({"process": "gaussian", "path": "vp"}, {"f": "cosine"}, {"g": "quadratic"})


@pytest.mark.parametrize("noise", CURVED, ids=str)
@pytest.mark.parametrize("data", [False, True])
def test_a_step_is_drawn_anew_from_data_alone(noise, data):
    """A scheduler refuses what `sample` refuses, in the same words; a student of any number of steps may do it."""
    model = Trained(0.0, num_steps=4 if data else None, rho=1.5, straight=False)
    kind = {"integrator": "euler", "predicts_data": data, "num_steps": model.num_steps, "rho": 1.5}
    said = "which one step of its velocity does not lead to the data"
    steps = KacScheduler(**noise, **kind, restart=0.5)
    with pytest.raises(ValueError, match=said):
        model.settle(SamplerConfig(4, restart=0.5), "run")
    with pytest.raises(ValueError, match=said):
        steps.set_timesteps(4)
    if data:
        with pytest.raises(ValueError, match=said):
            model.settle(SamplerConfig(4, gamma=0.5), "run")
        with pytest.raises(ValueError, match=said):
            steps.set_timesteps(4, gamma=0.5)
        KacScheduler(**noise, **kind | {"num_steps": None}, restart=0.5).set_timesteps(4)
    else:
        model.settle(SamplerConfig(4, gamma=0.5), "run")
        steps.set_timesteps(4, gamma=0.5)
    with pytest.raises(ValueError, match="give predicts_data"):
        KacScheduler(**noise, integrator="euler", restart=0.5).set_timesteps(4)
