"""Pipelines of latents without classes, LDMPipeline(vqvae, unet, scheduler): adopted, sampled by the quantiser, given back."""

import diffusers
import numpy as np
import pytest
import torch

from distillkac.data import vae
from distillkac.distillation import DistillConfig, PairsConfig, distill
from distillkac.flow.guidance import GuidedVelocity
from distillkac.flow.integrators import integrate
from distillkac.pipeline import KacPipeline
from distillkac.runs import OptimConfig, SamplerConfig, adopt, class_labels, generate
from distillkac.runs.back import save_for_diffusers
from distillkac.runs.data_place import DataPlace
from distillkac.runs.run_data import RunData
from tests.adopted import saved_ldm

CPU = torch.device("cpu")


@pytest.fixture
def run(tmp_path):
    vae.decoder.cache_clear()
    return adopt(saved_ldm(tmp_path / "ldm"), tmp_path / "run")


def test_the_same_noise_and_times_are_the_same_images(run, tmp_path):
    """Of DDIM by the pipeline itself."""
    pipeline = diffusers.LDMPipeline.from_pretrained(tmp_path / "ldm")
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(4, torch.Generator().manual_seed(1), num_inference_steps=10, output_type="np").images
    bars = pipeline.scheduler.alphas_cumprod[pipeline.scheduler.timesteps].double()
    taus = (1 - bars).sqrt() / (bars.sqrt() + (1 - bars).sqrt())
    grid = (torch.cat([taus, torch.zeros(1)]) / run.config.network.tau_max).clamp(max=1)
    x = run.process.prior_std * torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        z = integrate(GuidedVelocity(run.network), x, torch.zeros(4, dtype=torch.int64), grid, "euler")
    autoencoder = vae.decoder(run.config.latent, CPU)
    assert type(autoencoder) is diffusers.VQModel
    ours = (vae.decode(autoencoder, run.config.latent, z) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    assert np.abs(ours - theirs).max() <= 1e-4
    # The quantiser has a part in it.
    with torch.no_grad():
        unquantised = autoencoder.decode(z / 0.7, force_not_quantize=True).sample
    assert np.abs((unquantised / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy() - theirs).max() > 1e-2


def test_its_latents_are_scaled_as_it_says(run):
    latent = run.config.latent
    assert (latent.scaling_factor, latent.shift_factor, latent.shape) == (pytest.approx(0.7), 0.0, (3, 16, 16))
    autoencoder = vae.decoder(latent, CPU)
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(vae.encode(autoencoder, latent, x), 0.7 * autoencoder.encode(x).latents)


def test_it_is_sampled_distilled_and_given_back(run, tmp_path):
    drawn = generate(run, class_labels(run.config, 2), SamplerConfig(2)).images
    assert drawn.shape == (2, 3, 16, 16)
    plan = DistillConfig(
        stages=(2, 1), steps=(1,), method="pairs", pairs=PairsConfig(4), optim=OptimConfig(batch_size=2)
    )
    (student,) = distill(run, config=plan)
    pictures = KacPipeline.from_pretrained(student.folder)([0, 0], output_type="pt").images
    assert pictures.shape == (2, 3, 16, 16)
    save_for_diffusers(student, tmp_path / "back")
    assert "from diffusers import LDMPipeline" in (tmp_path / "back" / "README.md").read_text(encoding="utf-8")
    pipeline = diffusers.LDMPipeline.from_pretrained(tmp_path / "back")
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(3, torch.Generator().manual_seed(1), num_inference_steps=1, output_type="np").images
    x = run.process.prior_std * torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        z = x - student.network(x, torch.ones(3), torch.zeros(3, dtype=torch.int64))
    ours = vae.decode(vae.decoder(run.config.latent, CPU), run.config.latent, z) / 2 + 0.5
    assert np.abs(ours.clamp(0, 1).permute(0, 2, 3, 1).numpy() - theirs).max() <= 1e-4


def test_images_in_place_of_its_latents_are_refused_by_name(run, tmp_path):
    np.savez(tmp_path / "x.npz", images=np.zeros((4, 16, 16, 3), np.uint8))
    with pytest.raises(ValueError, match=r"x\.npz holds no latents, but .*run learned latents: name the folder"):
        RunData(run.folder, run.config, DataPlace(str(tmp_path / "x.npz")))


def test_latents_of_an_autoencoder_without_a_quantiser_are_given_back_as_parts(tmp_path):
    """Not as a pipeline of images, which they are not."""
    run = adopt(saved_ldm(tmp_path / "ldm", "AutoencoderKL"), tmp_path / "run")
    save_for_diffusers(run, tmp_path / "back")
    assert "What it gives are latents z of the autoencoder" in (tmp_path / "back" / "README.md").read_text(
        encoding="utf-8"
    )
    assert not (tmp_path / "back" / "model_index.json").exists()


def test_parts_that_do_not_belong_together_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"vqvae makes latents of 3 channels, and .*unet takes 4: they do not belong together"
    ):
        adopt(saved_ldm(tmp_path / "ldm", in_channels=4, out_channels=4), tmp_path / "run")
    assert not (tmp_path / "run").exists()
