"""Inverse distillation of several steps: the states of its generator, its losses, where they lead, resuming."""

import dataclasses

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from distillkac.base.random import derive_seed
from distillkac.distillation import PairsConfig
from distillkac.distillation.generator_states import GeneratorStates
from distillkac.distillation.inverse import GeneratorAndFake, RealUID, TeachersEnds
from distillkac.distillation.pairs import DrawnPaths, EndLoss
from distillkac.flow.guidance import GuidedVelocity
from distillkac.flow.integrators import restart_chain, time_grid
from distillkac.flow.processes import Gaussian, Telegraph
from distillkac.training.batches import Batch
from distillkac.training.loop import Trainer
from tests.distillation.batches import BATCH, DATA, Affine, every_process
from tests.toys import SHAPE, ToyData, optim

SEED = 6


def predict(network):
    return lambda x, t, y: x - t.view(-1, 1, 1, 1) * network(x, t, y)


def many(rows=1200, step=0):
    x0 = torch.linspace(-1, 1, rows * 16).view(rows, *SHAPE)
    return Batch(x0, torch.arange(rows) % 2, step, 0, rows)


# The states


def test_times_are_those_of_the_samplings_in_all_halves_of_the_steps():
    states = GeneratorStates(Telegraph(), SEED, 4, 1.5)
    _, t = states(predict(Affine()), many())
    grid = time_grid(4, 1.5)[:-1].float()
    shares = [(t == time).float().mean().item() for time in grid]
    assert shares == pytest.approx([7 / 12, 1 / 12, 1 / 4, 1 / 12], abs=0.005)
    # 5, 2, 1: the halves of an odd number have times of their own.
    _, t = GeneratorStates(Telegraph(), SEED, 5, 1.0)(predict(Affine()), many())
    assert t.unique().tolist() == pytest.approx([0.2, 0.4, 0.5, 0.6, 0.8, 1.0])


@every_process
@pytest.mark.parametrize("restart", [0.0, 0.6, 1.0])
def test_own_states_are_those_that_the_sampler_reaches(process, restart):
    network, batch = Affine(0.2, -0.1, 0.3), many(240, 3)
    states = GeneratorStates(process, SEED, 4, 1.5, restart, 1.0)
    x, t = states(predict(network), batch)
    which, k = states.moments(batch, "moment")
    noise = process.prior(240, SHAPE, derive_seed(SEED, "prior"), batch.first)
    seen = 0
    for number, steps in enumerate((4, 2, 1)):
        with torch.no_grad():
            path = restart_chain(
                GuidedVelocity(network),
                noise,
                batch.y,
                time_grid(steps, 1.5),
                process,
                restart,
                derive_seed(SEED, "fresh"),
                batch.first,
                path=True,
            )
        for step in range(steps):
            rows = (which == number) & (k == step)
            torch.testing.assert_close(x[rows], path[step][rows], rtol=1e-4, atol=1e-5)
            assert (t[rows] == time_grid(steps, 1.5)[step].float()).all()
            seen += int(rows.sum())
    assert seen == 240


def test_other_states_are_noised_data_and_half_of_them_own_by_half():
    process, batch = Telegraph(), many()
    noised, t = GeneratorStates(process, SEED, 4, backward=0.0)(predict(Affine()), batch)
    later = t < 1
    expected = process.bridge(batch.x0, t, derive_seed(SEED, "state noise"), batch.first)
    assert torch.equal(noised[later], expected[later])
    own, _ = GeneratorStates(process, SEED, 4, backward=1.0)(predict(Affine()), batch)
    some, _ = GeneratorStates(process, SEED, 4, backward=0.5)(predict(Affine()), batch)
    taken = [(some == other).flatten(1).all(1) for other in (own, noised)]
    assert (taken[0] | taken[1]).all()
    assert taken[0][later].float().mean() == pytest.approx(0.5, abs=0.06)
    assert torch.equal(own[~later], noised[~later])


def test_a_part_of_a_batch_has_the_states_of_the_whole():
    states, whole = GeneratorStates(Telegraph(), SEED, 4, 1.5, 0.5, 0.5), many(240, 2)
    x, t = states(predict(Affine()), whole)
    parts = [Batch(whole.x0[rows], whole.y[rows], 2, rows.start, 240) for rows in (slice(0, 100), slice(100, 240))]
    found = [states(predict(Affine()), part) for part in parts]
    assert torch.equal(torch.cat([t for _, t in found]), t)
    torch.testing.assert_close(torch.cat([x for x, _ in found]), x)


def test_the_asking_does_not_depend_on_what_was_drawn():
    """Every process asks as often as the others, whatever its rows are: sharded weights need it."""
    for rows in (1, 2, 24):
        asked = []

        def generate(x, t, y, asked=asked):
            asked.append(len(x))
            return x

        GeneratorStates(Telegraph(), SEED, 4)(generate, many(rows))
        assert len(asked) == 3
        assert min(asked) >= 1


# The losses


def test_one_step_is_as_it_was():
    pair, process = GeneratorAndFake(Affine(), Affine(), 10.0), Telegraph()
    x, t = GeneratorStates(process, SEED, 1, 1.5, 0.5, 0.5)(predict(Affine()), BATCH)
    assert torch.equal(x, process.prior(12, SHAPE, derive_seed(SEED, "prior"), BATCH.first))
    assert torch.equal(t, torch.ones(12))
    assert torch.equal(pair("generate", x, t, BATCH.y), x - pair.generator(x, torch.ones(12), BATCH.y))
    assert GeneratorStates(process, SEED, 1).on_paths(BATCH, 4)[0].eq(0).all()


@every_process
@pytest.mark.parametrize(("alpha", "beta"), [(0.9, 0.95), (1.0, 1.0)])
def test_the_losses_are_the_formulas_at_these_states(process, alpha, beta):
    teacher = Affine(0.2, -0.3, 0.1).requires_grad_(False)
    pair = GeneratorAndFake(Affine(), teacher, 10.0)
    with torch.no_grad():
        pair.fake.weight += 0.25
    states = GeneratorStates(process, SEED, 4, 1.5, 1.0, 0.5)
    objective = RealUID(GuidedVelocity(teacher), process, alpha, beta, 1, SEED, states=states)
    for step in range(2):
        batch = Batch(BATCH.x0, BATCH.y, step, 12, 24)
        x, s = states(predict(pair.generator), batch)
        t = batch.stratified(SEED, "time")
        images = predict(pair.generator)(x.detach(), s, batch.y)
        x_t, target = process.pair(images, t, derive_seed(SEED, "noise"), batch.first)
        teach, fake = teacher(x_t, t, batch.y), pair.fake(x_t, t, batch.y)
        scaled = beta / alpha * target
        expected = alpha * ((teach - scaled).square() - (fake - scaled).square()).mean()
        if step == 0:
            expected = alpha * (fake - scaled).square().mean()
            if alpha < 1:
                x_t, target = process.pair(batch.x0, t, derive_seed(SEED, "real noise"), batch.first)
                real = pair.fake(x_t, t, batch.y) - (1 - beta) / (1 - alpha) * target
                expected = expected + (1 - alpha) * real.square().mean()
        active = pair.generator if step else pair.fake
        gradients = torch.autograd.grad(expected, list(active.parameters()))
        pair.zero_grad()
        loss = objective(pair, batch)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-6)
        loss.backward()
        for parameter, gradient in zip(active.parameters(), gradients, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("num_states", [1, 2, 4])
def test_pairs_hold_it_at_the_times_that_are_stored(num_states):
    process, source = Telegraph(), torch.Generator().manual_seed(2)
    stored = torch.randn(num_states + 1, 40, *SHAPE, generator=source)
    drawn = DrawnPaths(lambda index: (stored[:, index], index % 2, None), 40, 0, SEED)
    states = GeneratorStates(process, SEED, 4, 1.5)
    batch, teacher = many(240, 1), Affine().requires_grad_(False)
    pair = GeneratorAndFake(Affine(0.1, 0.2, 0.3), teacher, 10.0)
    index, t = states.on_paths(batch, num_states)
    assert torch.equal(t, time_grid(num_states, 1.5).float()[index])
    shares = {1: [1], 2: [10 / 12, 2 / 12], 4: [7 / 12, 1 / 12, 1 / 4, 1 / 12]}[num_states]
    assert [(index == i).float().mean().item() for i in range(num_states)] == pytest.approx(shares, abs=0.02)
    plain = RealUID(GuidedVelocity(teacher), process, 0.9, 0.95, 1, SEED, states=states)
    ends = TeachersEnds(drawn, EndLoss(PairsConfig()), 0.5)
    found = dataclasses.replace(plain, ends=ends)(pair, batch) - plain(pair, batch)
    paths, y, _ = drawn(batch)
    x = paths[index, torch.arange(240)]
    missed = (predict(pair.generator)(x, t, y) - paths[-1]) / t.view(-1, 1, 1, 1)
    assert found.item() == pytest.approx(0.5 * missed.square().mean().item(), rel=1e-3)


# Where they lead


class NormalData(nn.Module):
    """The prediction x (s / std(x_t))^power. Power 1 gives N(0, s^2) from every time of data N(0, s^2) and Gaussian noise."""

    def __init__(self, power, s=0.7, sigma=0.4):
        super().__init__()
        self.power, self.s, self.sigma = nn.Parameter(torch.tensor(power)), s, sigma

    def forward(self, x, t, y):
        spread = (((1 - t) * self.s) ** 2 + (self.sigma * t) ** 2).sqrt().view(-1, 1, 1, 1)
        return x * (1 - (self.s / spread) ** self.power) / t.view(-1, 1, 1, 1)


class NormalFlow(nn.Module):
    """The velocity of data N(0, s^2), u = x d/dt log std(x_t), with s to be learnt."""

    def __init__(self, s=0.7, sigma=0.4):
        super().__init__()
        self.s, self.sigma = nn.Parameter(torch.tensor(s)), sigma

    def forward(self, x, t, y):
        variance = ((1 - t) * self.s) ** 2 + (self.sigma * t) ** 2
        return x * ((self.sigma**2 * t - self.s**2 * (1 - t)) / variance).view(-1, 1, 1, 1)


def normal(rows, step=0):
    x0 = 0.7 * torch.randn(rows, *SHAPE, generator=torch.Generator().manual_seed(1))
    return Batch(x0, torch.zeros(rows, dtype=torch.int64), step, 0, rows)


@pytest.mark.parametrize("backward", [0.0, 1.0])
def test_the_gradient_vanishes_where_all_predictions_have_the_law_of_the_data_and_nowhere_else(backward):
    process, rows = Gaussian(0.4), 4000
    states = GeneratorStates(process, SEED, 4, 1.5, 1.0, backward)
    objective = RealUID(GuidedVelocity(NormalFlow().requires_grad_(False)), process, 1.0, 1.0, 1, SEED, states=states)
    slopes = {}
    for power in (0.8, 1.0, 1.2):
        pair = GeneratorAndFake(NormalData(power), NormalFlow(), 1.0)
        fit = torch.optim.LBFGS(pair.fake.parameters(), max_iter=6, line_search_fn="strong_wolfe")

        def missed(pair=pair, fit=fit):
            fit.zero_grad()
            loss = objective(pair, normal(rows, 0))
            loss.backward()
            return loss

        fit.step(missed)  # the fake model is fitted to what is generated, as the generator's loss takes it to be
        assert (pair.fake.s > 0.7) == (power > 1) or power == 1
        (slopes[power],) = torch.autograd.grad(objective(pair, normal(rows, 1)), list(pair.generator.parameters()))
    assert slopes[0.8] < 0 < slopes[1.2]
    assert abs(slopes[1.0]) < 0.1 * min(-slopes[0.8], slopes[1.2])


class NormalToys(ToyData):
    def __post_init__(self):
        super().__post_init__()
        self.x = 0.7 * torch.randn(self.count, *self.shape, generator=torch.Generator().manual_seed(3))


def test_training_moves_the_samples_of_every_number_of_steps_to_the_law_of_the_data(tmp_path):
    process = Gaussian(0.4)
    pair = GeneratorAndFake(NormalData(0.3), NormalFlow(0.6), 2.0)
    states = GeneratorStates(process, SEED, 4, 1.5, 1.0, 0.5)
    objective = RealUID(GuidedVelocity(NormalFlow().requires_grad_(False)), process, 1.0, 1.0, 3, SEED, states=states)

    def spreads(network):
        y, noise = torch.zeros(1000, dtype=torch.int64), process.prior(1000, SHAPE, 5)
        with torch.no_grad():
            chains = [
                restart_chain(GuidedVelocity(network), noise, y, time_grid(steps, 1.5), process, 1.0, 7)
                for steps in (4, 2, 1)
            ]
        return [images.std().item() for images in chains]

    assert max(spreads(pair.generator)) < 0.6
    config = optim(batch_size=48, lr=0.02, lr_end=0.1, warmup=1, weight_decay=0.0, beta1=0.0, beta2=0.99, ema=0.9)
    fit = Trainer(pair, objective, NormalToys(400), tmp_path, 150, config, 0, Accelerator(cpu=True)).fit()
    assert spreads(fit.network) == pytest.approx([0.7] * 3, rel=0.06)


@pytest.mark.one_alignment
def test_it_resumes_exactly(tmp_path):
    def trained(folder, stops):
        for steps in stops:
            pair = GeneratorAndFake(Affine(), Affine(0.2, -0.3, 0.1), 4.0)
            states = GeneratorStates(Telegraph(), SEED, 4, 1.5, 1.0, 0.5)
            teacher = GuidedVelocity(Affine(0.2, -0.3, 0.1).requires_grad_(False))
            objective = RealUID(teacher, Telegraph(), 0.9, 0.95, 2, SEED, states=states)
            trainer = Trainer(
                pair, objective, DATA, folder, 12, optim(save_every=4, lr_end=1.0), 0, Accelerator(cpu=True)
            )
            trainer.steps = steps  # a constant learning rate, so stopping early changes nothing
            fit = trainer.fit()
        return {**trainer.network.state_dict(), **{f"ema.{n}": v for n, v in fit.network.state_dict().items()}}

    whole, cut = trained(tmp_path / "whole", [12]), trained(tmp_path / "cut", [5, 8, 12])
    assert whole["generator.weight"] != Affine().weight
    assert all(torch.equal(value, cut[name]) for name, value in whole.items())
