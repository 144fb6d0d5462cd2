"""Noise that is drawn anew in each step is an image's own: it follows from the image's number, not from its block."""

import pytest
import torch

from distillkac.runs.run import Run, build_network
from distillkac.runs.sampler import SamplerConfig
from distillkac.runs.sampling import generate
from tests.toys import SHAPE, run_config


@pytest.mark.parametrize("options", [{"restart": 1.0}, {"restart": 0.5}, {"gamma": 1.0}, {"gamma": 0.5}], ids=str)
def test_images_of_blocks_are_those_of_all_at_once(tmp_path, monkeypatch, options):
    config = run_config()
    network = build_network(config).eval()
    for number, parameter in enumerate(network.parameters()):
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    run = Run(tmp_path, config, config.noise.build(), network, torch.device("cpu"))
    labels, images = torch.zeros(4, dtype=torch.int64), []
    for rows in (2, 4):
        monkeypatch.setattr("distillkac.runs.sampling.CPU_PIXELS", rows * SHAPE[1] * SHAPE[2])
        images.append(generate(run, labels, SamplerConfig(3, **options), seed=1).images)
    torch.testing.assert_close(*images, rtol=1e-4, atol=1e-4)
    later = generate(run, labels[2:], SamplerConfig(3, **options), seed=1, offset=2).images
    torch.testing.assert_close(later, images[0][2:], rtol=1e-4, atol=1e-4)
    assert (images[0][:2] - images[0][2:]).abs().max() > 0.01
