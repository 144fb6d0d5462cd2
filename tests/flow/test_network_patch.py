"""network.patch: the U-Net of space to depth, of which nothing outside knows; the planar pairs stay neighbours in the image."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from distillkac.base.random import generator
from distillkac.flow.networks import NetworkConfig, VelocityNet
from distillkac.flow.processes import Planar
from distillkac.runs.run import Run
from distillkac.runs.sampling import SamplerConfig, generate
from distillkac.training.batches import Batch
from distillkac.training.objective import FlowMatching
from tests.toys import run_config

SMALL = NetworkConfig(channels=(16,), head_dim=8)


def made(config, shape) -> VelocityNet:
    """With weights away from their start, where every velocity is zero."""
    network, source = VelocityNet(config, shape, 10), generator(1, "weights")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=source))
    return network.eval()


def space_to_depth(x, p):
    """(B, C, H, W) -> (B, C p^2, H/p, W/p): every p-th pixel of every p-th row, from each of the p^2 starts."""
    return torch.stack([x[:, c, i::p, j::p] for c in range(x.shape[1]) for i in range(p) for j in range(p)], 1)


@pytest.mark.parametrize(
    ("config", "patch", "shape"),
    [
        (NetworkConfig(), 2, (1, 28, 28)),
        (NetworkConfig(channels=(8, 16), head_dim=8, guidance_embedding=True), 2, (1, 12, 20)),
        (NetworkConfig(channels=(8, 16, 24), head_dim=8, attention=(1,)), 4, (3, 32, 16)),
        (replace(SMALL, scale_shift=True), 3, (2, 9, 6)),
        (SMALL, 4, (1, 4, 4)),
        (SMALL, 1, (3, 5, 7)),
    ],
)
@torch.no_grad()
def test_it_is_the_unet_of_the_unshuffled_image(config, patch, shape):
    network = made(replace(config, patch=patch), shape)
    channels, height, width = shape
    plain = VelocityNet(replace(config, patch=None), (channels * patch**2, height // patch, width // patch), 10).eval()
    plain.load_state_dict(network.state_dict())  # the names are those of a U-Net without patches
    source = generator(0, "inputs")
    x, t = torch.randn(3, *shape, generator=source), torch.rand(3, generator=source)
    y = torch.tensor([0, 7, 10])
    w = (torch.tensor([0.0, 1.0, 4.0]),) if config.guidance_embedding else ()
    u = network(x, t, y, *w)
    assert u.shape == x.shape
    assert u.norm() > 0.1
    torch.testing.assert_close(space_to_depth(u, patch), plain(space_to_depth(x, patch), t, y, *w))
    strided = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(network(strided, t, y, *w), u, rtol=1e-4, atol=1e-5)


# The planar process moves pairs of pixels in the plane. At rate 1 a good third of them never turns and lies on the circle
# that it reaches at full speed, which two pixels that are no pair do with probability 0: so images tell which pixels they are.

PLANAR = Planar(a=1.0, c=2.0)
SHAPE = (1, 6, 12)
PATCHES = (1, 2, 3)  # a patch of 3 cuts pairs in two


def first_input(patch, work) -> tuple[torch.Tensor, ...]:
    """What a network is given first by `work`, a function of the network."""
    network, seen = made(replace(SMALL, patch=patch), SHAPE), []
    network.register_forward_pre_hook(lambda _, args: seen.append(args))
    work(network)
    return seen[0]


def lengths(k):
    """Of the displacement of each two pixels beside each other in a row: the first and second, the third and fourth, ..."""
    return k.unflatten(-1, (-1, 2)).norm(dim=-1)


def on_circle(k, radius) -> float:
    """The share of them that is as long as a pair's can be."""
    return float(((lengths(k) - radius).abs() < 1e-4 * radius + 1e-6).double().mean())


@pytest.mark.parametrize("patch", PATCHES)
@torch.no_grad()
def test_noise_that_planar_samples_begin_with_is_of_neighbours_in_the_image(patch):
    labels = torch.zeros(400, dtype=torch.int64)

    def draw(network):
        config = run_config(shape=SHAPE, network=network.config)
        generate(Run(Path("run"), config, PLANAR, network, torch.device("cpu")), labels, SamplerConfig(steps=1))

    x = first_input(patch, draw)[0][: len(labels)]
    assert x.shape[1:] == SHAPE
    pairs = x.numel() / 2
    never_turned = torch.tensor(-PLANAR.a).exp()
    error = (never_turned * (1 - never_turned) / pairs).sqrt()
    assert abs(on_circle(x, PLANAR.c) - never_turned) < 4 * error
    assert (lengths(x) < PLANAR.c + 1e-5).all()
    # The check can tell: pixels above each other, those beside each other in the unshuffled image, and pairs that begin at
    # the second pixel are none.
    for other in (x.mT, x[..., 1:-1], *(space_to_depth(x, p) for p in (2, 3))):
        assert on_circle(other, PLANAR.c) < 0.01
        assert (lengths(other) > 1.1 * PLANAR.c).any()
    assert torch.equal(x, first_input(1, draw)[0][: len(labels)])


@pytest.mark.parametrize("patch", PATCHES)
@torch.no_grad()
def test_planar_training_pairs_are_of_neighbours_in_the_image(patch):
    x0 = 2 * torch.rand(400, *SHAPE, generator=generator(0, "images")) - 1
    batch = Batch(x0, torch.zeros(len(x0), dtype=torch.int64), 3, 0, len(x0))

    def learn(network):
        FlowMatching(PLANAR, network.null_class, 0.1, seed=5)(network, batch)

    x_t, t, _ = first_input(patch, learn)
    k = x_t - (1 - t.view(-1, 1, 1, 1)) * x0
    radius, never_turned = PLANAR.c * t.view(-1, 1, 1, 1), (-PLANAR.a * t).exp().mean()
    assert abs(on_circle(k, radius) - never_turned) < 4 * (0.25 / (x0.numel() / 2)) ** 0.5
    assert (lengths(k) < radius + 1e-5).all()
    assert torch.equal(x_t, first_input(1, learn)[0])
