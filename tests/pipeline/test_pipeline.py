"""The diffusers side: a user's ten lines work with teacher and students, and give what our own sampler gives."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from diffusers import DiffusionPipeline
from huggingface_hub.errors import EntryNotFoundError

from distillkac.flow.guidance import GuidedVelocity
from distillkac.flow.integrators import integrate, time_grid
from distillkac.pipeline import KacPipeline
from distillkac.runs.process_config import ProcessConfig
from distillkac.scheduler import KacScheduler
from tests.closeness import assert_other, assert_same
from tests.pipeline.kinds_of_runs import seeded
from tests.toys import ToyData


@pytest.fixture
def run(digits_run):
    return digits_run


@pytest.mark.parametrize("steps", [5, 2])
def test_a_plain_loop_is_our_sampler(run, steps):
    """Teacher in 5 steps, student in 2."""
    folder = run if steps == 5 else run / "student-2"
    unet = KacPipeline.from_pretrained(run, steps).unet
    scheduler = KacScheduler.from_pretrained(folder)
    scheduler.set_timesteps(steps)
    start = x = scheduler.prior((6, 1, 8, 8), torch.Generator().manual_seed(1))
    y = torch.arange(6)
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(unet(x, t.expand(6), y), t, x).prev_sample
        grid = time_grid(steps, 1.0 if steps == 5 else 1.5)
        expected = integrate(GuidedVelocity(unet), start, y, grid, "ab2" if steps == 5 else "euler")
    torch.testing.assert_close(x, expected, rtol=1e-5, atol=1e-6)
    assert len(scheduler.timesteps) == steps


def test_calls_of_one_pipeline_at_once(run, monkeypatch):
    """A second call that begins and ends while the first is in its first step changes nothing of it."""
    pipeline = KacPipeline.from_pretrained(run, num_inference_steps=5)
    pipeline.set_progress_bar_config(disable=True)
    alone, inner, forward = pipeline([3], generator=seeded(0), output_type="pt").images, [], pipeline.unet.forward

    def call(*args, **more):
        if not inner:
            inner.append(None)  # not in the call within
            inner.append(pipeline([4], 3, generator=seeded(1), output_type="pt").images)
        return forward(*args, **more)

    monkeypatch.setattr(pipeline.unet, "forward", call)
    assert_same(pipeline([3], generator=seeded(0), output_type="pt").images, alone)
    monkeypatch.undo()
    assert_same(pipeline([4], 3, generator=seeded(1), output_type="pt").images, inner[1])


def test_pipeline_saves_loads_and_gives_the_same_images(run, tmp_path):
    pipeline = KacPipeline.from_pretrained(run, num_inference_steps=2)
    assert pipeline.scheduler.config.integrator == "euler"
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline([3, "1", 4], generator=torch.Generator().manual_seed(0)).images
    assert [image.size for image in images] == [(8, 8)] * 3
    pipeline.save_pretrained(tmp_path / "saved")
    again = KacPipeline.from_pretrained(tmp_path / "saved")
    again.set_progress_bar_config(disable=True)
    assert again.config.num_inference_steps == 2
    same = again([3, "1", 4], generator=torch.Generator().manual_seed(0), output_type="pt").images
    first = pipeline([3, "1", 4], generator=torch.Generator().manual_seed(0), output_type="pt").images
    assert_same(same, first)
    assert isinstance(again, DiffusionPipeline)
    other = again([3, "1", 4], generator=torch.Generator().manual_seed(1), output_type="pt").images
    assert_other(first, other)


def test_guidance_scale_is_one_plus_w(run):
    pipeline = KacPipeline.from_pretrained(run, num_inference_steps=3)
    pipeline.set_progress_bar_config(disable=True)

    def make(scale):
        source = torch.Generator().manual_seed(0)
        return pipeline([1, 2], guidance_scale=scale, generator=source, output_type="pt").images

    scheduler = pipeline.scheduler
    start = scheduler.prior((2, 1, 8, 8), torch.Generator().manual_seed(0))
    with torch.no_grad():
        field = GuidedVelocity(pipeline.unet, 2.0)
        expected = integrate(field, start, torch.tensor([1, 2]), time_grid(3, 1.0), "ab2")
    torch.testing.assert_close(make(3.0), expected, rtol=1e-4, atol=1e-5)
    assert_other(make(3.0), make(1.0))


@pytest.mark.parametrize("process", ["telegraph", "planar", "quad", "gaussian"])
def test_noise_and_velocity_are_the_training_pair(process):
    scheduler, x0 = KacScheduler(process, f="cosine", g="quadratic"), ToyData().x[:8]
    t = torch.linspace(0.1, 1.0, 8)
    noise = scheduler.sample_noise(x0, t, torch.Generator().manual_seed(3))
    x_t, u = scheduler.add_noise(x0, noise, t), scheduler.get_velocity(x0, noise, t)
    model = ProcessConfig(process, f="cosine", g="quadratic").build()
    seed = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(3)))
    expected = model.pair(x0, t, seed)
    torch.testing.assert_close(x_t, expected[0], rtol=1e-5, atol=1e-6)
    # The telegraph velocity of an atom is told by its flag in the pair, by |k| = c t here: the same.
    torch.testing.assert_close(u, expected[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("process", "coordinates"), [("telegraph", 1), ("planar", 2), ("quad", 4)])
def test_a_schedulers_bound_is_that_of_a_pixel_a_pair_or_a_patch(process, coordinates):
    scheduler, x = KacScheduler(process, integrator="euler", max_speed=1.0), torch.zeros(1, 1, 2, 2)
    scheduler.set_timesteps(1)
    landed = scheduler.step(torch.full_like(x, 3.0), 1.0, x).prev_sample
    torch.testing.assert_close(landed, torch.full_like(x, -(coordinates**-0.5)))


def test_misuse_is_explained(run):
    scheduler = KacScheduler()
    x = torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match="call set_timesteps before step"):
        scheduler.step(x, 1.0, x)
    scheduler.set_timesteps(2)
    with pytest.raises(ValueError, match=r"in order: expected 1 next, got 0\.5"):
        scheduler.step(x, 0.5, x)
    for t in scheduler.timesteps:
        scheduler.step(x, t, x)
    with pytest.raises(ValueError, match="all 2 steps are done"):
        scheduler.step(x, 0.0, x)
    with pytest.raises(ValueError, match="integrator must be one of"):
        KacScheduler(integrator="rk4")
    pipeline = KacPipeline.from_pretrained(run)
    with pytest.raises(ValueError, match="class 'cat' is unknown"):
        pipeline(["cat"])
    with pytest.raises(ValueError, match=r"guidance_scale is 1 \+ w"):
        pipeline([1], guidance_scale=0.5)


def test_what_is_pushed_to_the_hub_loads_again(run, tmp_path, monkeypatch):
    """Everything but the network: the upload keeps the folder it was given."""

    def upload(repo_id, *, folder_path, **_):
        shutil.copytree(folder_path, tmp_path / repo_id)

    def none_yet(*_, **__):
        raise EntryNotFoundError("a new repository has no card")

    repo = SimpleNamespace(repo_id="someone/kac")
    monkeypatch.setattr("diffusers.utils.hub_utils.ModelCard.load", none_yet)  # would ask the network five times
    monkeypatch.setattr("diffusers.utils.hub_utils.create_repo", lambda *_, **__: repo)
    monkeypatch.setattr("diffusers.utils.hub_utils.upload_folder", upload)
    pipeline = KacPipeline.from_pretrained(run, num_inference_steps=2)
    pipeline.push_to_hub("someone/kac")
    again = KacPipeline.from_pretrained(tmp_path / "someone" / "kac")
    images = []
    for either in (pipeline, again):
        either.set_progress_bar_config(disable=True)
        images.append(either([1, 2], generator=torch.Generator().manual_seed(0), output_type="pt").images)
    assert_same(*images)
