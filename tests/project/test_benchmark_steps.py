"""The whole steps that the benchmarks time can be made: with few images each, and without a clock."""

import dataclasses

import torch

from benchmarks.steps import DIGITS, Steps


def test_every_step_that_is_timed_can_be_made():
    steps = Steps(dataclasses.replace(DIGITS, batch=4), torch.device("cpu"))
    steps.start_training()
    weights, images = [p.clone() for p in steps.network.parameters()], steps.x0.clone()
    for step in (
        lambda: steps.training(steps.pair),
        lambda: steps.training(steps.public_pair),
        lambda: steps.distilling(steps.distillation()),
    ):
        step()
        assert not all(map(torch.equal, weights, steps.network.parameters()))
        weights = [p.clone() for p in steps.network.parameters()]
    for advance in (steps.advance, steps.eager_advance):
        steps.sampling(advance)
    assert torch.equal(images, steps.x0)
    for few in (1, 2):
        assert steps.images(few).shape == steps.eager_images(few).shape == images.shape
