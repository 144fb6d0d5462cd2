"""From the last state to images: modes, latents, and arrays for whoever asks for them."""

import numpy as np
import torch

from distillkac.pipeline import KacPipeline
from tests.autoencoders import autoencoder
from tests.pipeline.kinds_of_runs import loaded, seeded


def test_latents_are_decoded_as_diffusers_does_it():
    """z / scaling_factor + shift_factor."""
    vae = autoencoder(channels=1)
    plain, latent = KacPipeline.from_pretrained("digits", 1), KacPipeline.from_pretrained("digits", 1, vae=vae)
    z, images = (pipe([0, 1], generator=seeded(), output_type="pt").images for pipe in (plain, latent))
    with torch.no_grad():
        expected = vae.decode(z / 0.7 + 0.2).sample
    torch.testing.assert_close(images, expected, rtol=1e-4, atol=1e-4)


def test_arrays_are_the_clamped_images_in_nought_to_one_with_channels_last(runs):
    _, pipe = loaded(runs, "plain")
    images, arrays = (pipe([0, 1], generator=seeded(), output_type=kind).images for kind in ("pt", "np"))
    assert images.abs().max() > 1
    expected = ((images.clamp(-1, 1) + 1) / 2).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(arrays, expected, atol=1e-5)
    assert not np.allclose(expected, expected.swapaxes(1, 2), atol=0.1)


def test_a_pipeline_of_a_run_draws_without_dropout(runs):
    assert not any(part.training for part in loaded(runs, "plain")[1].unet.modules())
