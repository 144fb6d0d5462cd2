"""A teacher that diffusers alone has trained (examples/ddpm-fashion, made by examples/ddpm_teacher.py): clothes come out."""

import shutil

import diffusers
import torch

from distillkac.base import files
from distillkac.evaluation import evaluators
from distillkac.evaluation.classifier import Classifier
from distillkac.flow.guidance import GuidedVelocity
from distillkac.flow.integrators import integrate
from distillkac.runs import SamplerConfig, adopt, class_labels, generate
from distillkac.runs.back import save_for_diffusers
from tests.places import ROOT

MODEL = ROOT / "examples" / "ddpm-fashion"
SHAPE = (1, 28, 28)


def share_named(images: torch.Tensor, labels: torch.Tensor) -> float:
    """Of the images that the shipped classifier of Fashion-MNIST takes for the class that was asked for."""
    known = evaluators.shipped(files.read_json(evaluators.FOLDER / evaluators.INDEX)["fashion"]["fingerprint"])
    classifier = Classifier(SHAPE, 10).eval()
    classifier.load_state_dict(known.weights)
    with torch.no_grad():
        return float((classifier(images).argmax(1) == labels).double().mean())


def test_its_classes_come_out_in_ten_steps(tmp_path):
    run = adopt(MODEL, tmp_path / "run", null_class=True)
    assert (len(run.config.class_names), run.config.shape, run.network.null_class) == (10, SHAPE, 10)
    assert run.config.network.schedule.ends[1] < 160
    labels = class_labels(run.config, 60)
    assert share_named(generate(run, labels, SamplerConfig(10)).images, labels) > 0.4
    assert share_named(generate(run, labels, SamplerConfig(5, w=2.0)).images, labels) > 0.5  # the null class serves


def test_from_the_same_noise_at_the_same_times_ddim_draws_the_same_images(tmp_path):
    shutil.copytree(MODEL, tmp_path / "model")
    config = tmp_path / "model" / "scheduler" / "scheduler_config.json"
    files.write_json(config, files.read_json(config) | {"clip_sample": False})  # with a clip DDIM's step is not Euler's
    run = adopt(tmp_path / "model", tmp_path / "run", null_class=True)
    scheduler = diffusers.DDIMScheduler.from_pretrained(tmp_path / "model" / "scheduler")
    scheduler.set_timesteps(8)
    bars = scheduler.alphas_cumprod[scheduler.timesteps].double()
    taus = (1 - bars).sqrt() / (bars.sqrt() + (1 - bars).sqrt())
    y = torch.arange(4)
    theirs = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(0))
    ours = (theirs / (bars[0].sqrt() + (1 - bars[0]).sqrt())).float()  # (1 - tau) / alpha
    with torch.no_grad():
        grid = torch.cat([taus, torch.zeros(1)]) / run.config.network.tau_max
        ours = integrate(GuidedVelocity(run.network), ours, y, grid, "euler")
        for t in scheduler.timesteps:
            theirs = scheduler.step(run.network.model(theirs, t, y).sample, t, theirs).prev_sample
    assert theirs.abs().max() > 0.9
    assert (ours - theirs).abs().max() <= 1e-4


def test_its_step_given_back_to_diffusers_makes_the_same_images(tmp_path):
    run = adopt(MODEL, tmp_path / "run", null_class=True)
    save_for_diffusers(run, tmp_path / "back")
    labels, x = class_labels(run.config, 4), run.process.prior(4, SHAPE, 0)
    model = diffusers.UNet2DModel.from_pretrained(tmp_path / "back" / "unet").eval()
    scheduler = diffusers.DDIMScheduler.from_pretrained(tmp_path / "back" / "scheduler")
    scheduler.set_timesteps(1)
    noise = x / run.process.prior_std
    with torch.no_grad():
        ours = integrate(GuidedVelocity(run.network), x, labels, torch.tensor([1.0, 0.0]), "euler").clamp(-1, 1)
        answer = model(noise, scheduler.timesteps[0], class_labels=labels).sample
        theirs = scheduler.step(answer, scheduler.timesteps[0], noise).prev_sample
    assert theirs.std() > 0.1
    assert (ours - theirs).abs().max() <= 1e-2  # an error of float32 in the noise is 128 times as large in the data
