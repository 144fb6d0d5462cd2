"""Half precision in every way that diffusers' users ask for it."""

import dataclasses
import warnings

import numpy as np
import pytest
import torch

from distillkac.pipeline import KacNet, KacPipeline
from distillkac.runs.sampler import Trained
from distillkac.scheduler import KacScheduler
from tests.autoencoders import autoencoder
from tests.pipeline.kinds_of_runs import loaded, seeded


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["teacher", "any-w"])
@pytest.mark.parametrize("keyword", ["torch_dtype", "dtype"])
@pytest.mark.parametrize("saved", [False, True])
def test_half_precision_gives_nearly_the_same_images(runs, tmp_path, dtype, name, keyword, saved):
    folder, pipe = loaded(runs, name)
    scale = 3.0
    expected = pipe([0, 1], 2, scale, seeded(), "pt").images
    if saved:
        pipe.save_pretrained(tmp_path)
        folder = tmp_path
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        half = KacPipeline.from_pretrained(folder, **{keyword: dtype})
    assert {p.dtype for p in half.unet.parameters()} == {dtype}
    images = half([0, 1], 2, scale, seeded(), "pt").images
    assert images.dtype == torch.float32
    assert images.isfinite().all()
    torch.testing.assert_close(images, expected, rtol=0, atol=0.1)
    assert (images - expected).abs().max() > 0
    assert half([0], 2, scale, seeded(), "np").images.dtype == np.float32
    assert len(half([0], 2, scale).images) == 1


def test_half_precision_of_a_transformer_and_by_to():
    network = {"backbone": "dit", "channels": [16], "head_dim": 8, "patch": 2}
    unet = KacNet(network, (1, 4, 4), ("a", "b")).eval()
    pipe = KacPipeline(unet, KacScheduler(), 3, trained=dataclasses.asdict(Trained(0.1)))
    torch.nn.init.normal_(unet.velocity.dit.proj_out_2.weight, std=0.1)
    expected = pipe(["a", "b"], 3, 2.0, seeded(), "pt").images
    torch.nn.Module.to(unet, torch.bfloat16)
    torch.testing.assert_close(pipe(["a", "b"], 3, 2.0, seeded(), "pt").images, expected, rtol=0, atol=0.1)


def test_times_keep_their_precision(runs):
    """In bfloat16 1000 times would be told as 256."""
    heard, net = [], loaded(runs, "teacher")[1].unet.to(torch.bfloat16)
    net.velocity.forward = lambda x, t, y, r: heard.append((x.dtype, t, r)) or x
    t, r = torch.tensor([0.1234567]), torch.tensor([0.7654321])
    assert net(torch.zeros(1, 1, 4, 4), t, torch.zeros(1).long(), r=r).dtype == torch.float32
    ((dtype, *times),) = heard
    assert dtype == torch.bfloat16
    assert all(map(torch.equal, times, (t, r)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_of_an_autoencoder(runs, dtype):
    folder, _ = loaded(runs, "teacher")
    vae = autoencoder(channels=1)
    assert vae.config.force_upcast
    expected = KacPipeline.from_pretrained(folder, 3, vae=vae)([0, 1], generator=seeded(), output_type="pt").images
    for dtypes in (dtype, {"vae": dtype, "default": torch.float32}):
        half = KacPipeline.from_pretrained(folder, 3, vae=autoencoder(channels=1), torch_dtype=dtypes)
        half.vae.load_state_dict(vae.state_dict())
        images = half([0, 1], generator=seeded(), output_type="pt").images
        assert images.dtype == torch.float32
        assert half.vae.dtype == dtype
        assert half.unet.dtype == (dtype if dtypes is dtype else torch.float32)
        torch.testing.assert_close(images, expected, rtol=0, atol=0.1)
