"""Inverse distillation: its losses, where they lead, resuming."""

import copy

import pytest
import torch
from accelerate import Accelerator

from distillkac.base.random import derive_seed
from distillkac.distillation.inverse import GeneratorAndFake, RealUID
from distillkac.distillation.inverse_options import InverseConfig
from distillkac.flow.guidance import GuidedVelocity
from distillkac.flow.processes import Gaussian, Telegraph
from distillkac.training.batches import Batch
from distillkac.training.loop import Trainer
from tests.distillation.batches import BATCH, DATA, Affine, Shift, every_process
from tests.toys import SHAPE, optim

# Inverse distillation


def uid(process, teacher, alpha=0.9, beta=0.95, fake_updates=2):
    return RealUID(GuidedVelocity(teacher), process, alpha, beta, fake_updates, seed=6)


@every_process
@pytest.mark.parametrize(("alpha", "beta"), [(0.9, 0.95), (0.9, 1.0), (1.0, 1.0)])
def test_losses_of_inverse_distillation_are_the_formulas(process, alpha, beta):
    teacher = Affine(0.2, -0.3, 0.1)
    pair = GeneratorAndFake(Affine(), teacher, 10.0)
    with torch.no_grad():
        pair.fake.weight += 0.25
    objective = uid(process, teacher.requires_grad_(False), alpha, beta)
    assert objective.updates == 3
    for step in range(3):
        batch = Batch(BATCH.x0, BATCH.y, step, 12, 24)
        t = batch.stratified(6, "time")
        z = process.prior(12, SHAPE, derive_seed(6, "prior"), batch.first)
        images = z - pair.generator(z, torch.ones(12), batch.y)
        x_t, target = process.pair(images, t, derive_seed(6, "noise"), batch.first)
        teach, fake = teacher(x_t, t, batch.y), pair.fake(x_t, t, batch.y)
        if step < 2:
            expected = alpha * (fake - beta / alpha * target).square().mean()
            if alpha < 1:
                x_t, target = process.pair(batch.x0, t, derive_seed(6, "real noise"), batch.first)
                real = pair.fake(x_t, t, batch.y) - (1 - beta) / (1 - alpha) * target
                expected = expected + (1 - alpha) * real.square().mean()
            expected_gradient = torch.autograd.grad(expected, list(pair.fake.parameters()))
        else:
            gap = (teach - beta / alpha * target).square() - (fake - beta / alpha * target).square()
            expected = alpha * gap.mean()
            expected_gradient = torch.autograd.grad(expected, list(pair.generator.parameters()))
        pair.zero_grad()
        loss = objective(pair, batch)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-6)
        loss.backward()
        active, idle = (pair.fake, pair.generator) if step < 2 else (pair.generator, pair.fake)
        for parameter, gradient in zip(active.parameters(), expected_gradient, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-5)
        assert all(parameter.grad is None for parameter in idle.parameters())


def test_inverse_distillation_moves_the_generator_to_the_teachers_image(tmp_path):
    """The teacher is the flow onto images that are all 0.6; the generator starts at -0.2 and must get there."""
    teacher = Shift(0.6).requires_grad_(False)
    pair = GeneratorAndFake(Shift(-0.2), Shift(-0.2), 3.0)
    objective = uid(Gaussian(0.5), teacher, 1.0, 1.0, fake_updates=3)
    config = optim(batch_size=24, lr=0.01, lr_end=1.0, warmup=1, weight_decay=0.0, beta1=0.0, beta2=0.99, ema=0.9)
    fit = Trainer(pair, objective, DATA, tmp_path, 150, config, 0, Accelerator(cpu=True)).fit()
    assert isinstance(fit.network, Shift)
    assert abs(fit.network.value.item() - 0.6) < 0.05


@pytest.mark.one_alignment
def test_both_networks_of_inverse_distillation_resume_exactly(tmp_path):
    def trained(folder, stops):
        for steps in stops:
            pair = GeneratorAndFake(Affine(), Affine(0.2, -0.3, 0.1), 4.0)
            objective = uid(Telegraph(), Affine(0.2, -0.3, 0.1).requires_grad_(False))
            trainer = Trainer(
                pair, objective, DATA, folder, 12, optim(save_every=4, lr_end=1.0), 0, Accelerator(cpu=True)
            )
            trainer.steps = steps  # a constant learning rate, so stopping early changes nothing
            fit = trainer.fit()
        return trainer.network, fit.network

    whole, average = trained(tmp_path / "whole", [12])
    resumed, resumed_average = trained(tmp_path / "cut", [4, 8, 12])
    fresh = GeneratorAndFake(Affine(), Affine(0.2, -0.3, 0.1), 4.0)
    before = copy.deepcopy(fresh.state_dict())
    for name, value in whole.state_dict().items():
        assert not torch.equal(value, before[name]), name
    for one, other in ((whole, resumed), (average, resumed_average)):
        for name, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": -1}, "steps must be at least 0"),
        ({"fake_updates": 0}, "fake_updates must be at least 1"),
        ({"alpha": 1.0}, "beta must be 1 where alpha is"),
        ({"warmup": -1}, "warmup must be at least 0"),
        ({"beta2": 1.0}, r"beta2 must lie in \[0, 1\)"),
        ({"alpha": 0.0}, r"must lie in \(0, 1\]"),
        ({"lr": 0.0}, "lr must be positive"),
    ],
)
def test_impossible_inverse_options_are_explained(options, message):
    with pytest.raises(ValueError, match=message):
        InverseConfig(**options)
