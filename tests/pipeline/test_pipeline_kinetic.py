"""gamma, launch and landing in the pipeline and the scheduler: the images of `sample`, or a refusal."""

import dataclasses

import pytest
import torch

from distillkac import scheduler as schedulers
from distillkac.base.random import derive_seed
from distillkac.flow.methods import EVEN_UP_TO, rho_in
from distillkac.pipeline import KacPipeline
from distillkac.runs.run import open_run
from distillkac.runs.sampler import SamplerConfig, Trained
from distillkac.runs.sampling import field_of, generate
from distillkac.scheduler import KacScheduler
from tests.pipeline.kinds_of_runs import loaded, made, seeded
from tests.toys import run_config

LABELS = torch.tensor([0, 1, 1])
SEED = 7


def as_sample_draws(monkeypatch):
    """The seeds that `sample --seed 7` has, in place of those that a generator gives."""
    asked = []

    def seed(_):
        asked.append(0)
        return derive_seed(SEED, "prior" if len(asked) == 1 else "fresh")

    monkeypatch.setattr(schedulers, "_seed", seed)


@pytest.mark.parametrize(
    ("name", "steps", "kinetic", "sampler"),
    [
        ("teacher", 3, {"gamma": 0.0}, {}),
        ("teacher", 3, {"gamma": 0.5}, {}),
        ("teacher", 3, {"gamma": 0.5}, {"w": 1.0}),
        ("teacher", 3, {"gamma": 1.0}, {}),
        ("teacher", 9, {"launch": 0.3}, {}),
        ("teacher", 9, {"launch": 0.3, "landing": 0.04}, {"w": 1.0}),
        ("plain", 2, {"gamma": 0.5}, {}),
        ("plain", 3, {"gamma": 1.0}, {}),
    ],
    ids=str,
)
def test_the_images_are_those_of_sample(runs, monkeypatch, name, steps, kinetic, sampler):
    """Up to the rounding of a network that sees another batch: 1e-4 of images of size 1."""
    folder, pipe = loaded(runs, name)
    run = open_run(folder, "cpu")
    expected = generate(run, LABELS, SamplerConfig(steps, **kinetic, **sampler), SEED).images
    scale = 1 + sampler["w"] if sampler else None
    as_sample_draws(monkeypatch)
    got = pipe(LABELS, steps, scale, output_type="pt", **kinetic).images
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    if name == "teacher":
        monkeypatch.undo()
        as_sample_draws(monkeypatch)
        assert not torch.allclose(pipe(LABELS, steps, scale, output_type="pt").images, expected, atol=1e-3)
    # A call that asks for nothing is as if none had asked before.
    monkeypatch.undo()
    own = pipe.config.num_inference_steps
    fresh = loaded(runs, name)[1]
    both = [p(LABELS, own, generator=seeded(), output_type="pt").images for p in (pipe, fresh)]
    torch.testing.assert_close(*both, rtol=1e-5, atol=1e-5)  # convolutions may round by the place of their memory


def test_a_plain_loop_by_gamma_has_its_own_noise_for_each_generator(runs):
    folder, pipe = loaded(runs, "teacher")
    images = pipe(LABELS, 3, generator=[seeded(1), seeded(2), seeded(3)], output_type="pt", gamma=0.5).images
    alone = pipe(LABELS[1:2], 3, generator=seeded(2), output_type="pt", gamma=0.5).images
    torch.testing.assert_close(images[1:2], alone, rtol=1e-4, atol=1e-4)
    steps = KacScheduler.from_pretrained(folder)
    steps.set_timesteps(2, gamma=0.5)
    x = steps.prior((2, 1, 4, 4), seeded())
    out = steps.step(torch.zeros_like(x), 1.0, x, generator=seeded())
    # A teacher's velocity of 0 says more than x - t u of the data: they are inside of what x may hide.
    assert not torch.allclose(out.pred_original_sample, x)


def test_a_saved_pipeline_knows_what_its_network_answers(runs, tmp_path):
    for name in ("teacher", "plain"):
        _, pipe = loaded(runs, name)
        assert pipe.scheduler.config.predicts_data == (name == "plain")
        pipe.save_pretrained(tmp_path / name)
        again = KacPipeline.from_pretrained(tmp_path / name)
        assert again.scheduler.config.predicts_data == (name == "plain")
        assert again.scheduler.config.rho == (1.5 if name == "plain" else None)
        both = [p(LABELS, 2, generator=seeded(), output_type="pt", gamma=0.5).images for p in (pipe, again)]
        torch.testing.assert_close(*both, rtol=1e-5, atol=1e-5)  # as above


@pytest.mark.parametrize(
    ("name", "kinetic", "said"),
    [
        ("teacher", {"gamma": 2.0}, "gamma must lie in"),
        ("teacher", {"gamma": 0.5, "launch": 0.1}, "omit one or the other"),
        ("teacher", {"launch": 2.0}, "launch must lie in"),
        ("teacher", {"landing": 0.1}, "landing must lie in"),
        ("plain", {"launch": 0.1}, "launch and landing are for a teacher"),
    ],
    ids=str,
)
def test_what_does_not_go_is_refused_by_the_pipeline(runs, name, kinetic, said):
    _, pipe = loaded(runs, name)
    with pytest.raises(ValueError, match=said):
        pipe(LABELS, 2, **kinetic)


def test_what_does_not_go_is_refused_by_the_scheduler(tmp_path):
    cases = (
        ({"process": "quad"}, {"gamma": 0.5}, "draw a share of each step anew by restart"),
        ({"integrator": "euler"}, {"gamma": 0.5}, "give predicts_data"),
        ({"integrator": "euler", "rho": 1.5, "num_steps": 2}, {"launch": 0.1}, "this is a student's scheduler"),
        ({"integrator": "euler", "average_velocity": True}, {"gamma": 0.5}, "not for average velocities"),
        ({"integrator": "euler", "restart": 0.5}, {"launch": 0.1}, "omit one or the other"),
    )
    for settings, kinetic, said in cases:
        steps = KacScheduler(**settings)
        with pytest.raises(ValueError, match=said):
            steps.set_timesteps(2, **kinetic)
    steps = KacScheduler(integrator="euler")
    steps.set_timesteps(2, gamma=0.5, predicts_data=True)
    with pytest.raises(ValueError, match="has a grid of its own: give its rho"):
        KacScheduler(integrator="euler", num_steps=2)
    folder = made(tmp_path / "quad", noise=dataclasses.replace(run_config().noise, process="quad"))
    with pytest.raises(ValueError, match="draw a share of each step anew by restart"):
        KacPipeline.from_pretrained(folder)(LABELS, 2, gamma=0.5)


@pytest.mark.parametrize("steps", [1, 2, EVEN_UP_TO, EVEN_UP_TO + 1, 20])
def test_one_rule_for_the_grid_of_a_teacher_everywhere(runs, steps):
    """Command line and library, pipeline and scheduler: even in few steps, and its usual one in many; students keep theirs."""
    folder, pipe = loaded(runs, "teacher")
    expected = (1 - torch.arange(steps, dtype=torch.float64) / steps) ** (1.0 if steps <= EVEN_UP_TO else 2.0)
    assert rho_in(steps) == (1.0 if steps <= EVEN_UP_TO else 2.0)
    _, grid, _ = field_of(open_run(folder, "cpu"), SamplerConfig(steps))
    torch.testing.assert_close(grid[:-1], expected)
    pipe(LABELS, steps)
    for scheduler in (pipe.scheduler, KacScheduler(), KacScheduler.from_pretrained(folder)):
        scheduler.set_timesteps(steps)
        torch.testing.assert_close(scheduler.timesteps, expected.float())
    trained = Trained.of(run_config(shape=(1, 32, 32)))
    assert trained.settle(SamplerConfig(steps), "it").rho == 1.0  # a larger image
    assert trained.settle(SamplerConfig(steps, rho=3.0), "it").rho == 3.0
    shifted = dataclasses.replace(Trained.of(run_config()), shift=2.0)
    assert shifted.settle(SamplerConfig(steps), "it").rho == 1.0
    student = Trained(0.1, num_steps=steps, rho=1.5)
    assert student.settle(SamplerConfig(steps), "it").rho == 1.5
    # As an earlier version saved it.
    old = KacScheduler(rho=2.0)
    old.set_timesteps(steps)
    torch.testing.assert_close(old.timesteps, ((1 - torch.arange(steps) / steps) ** 2).float())
