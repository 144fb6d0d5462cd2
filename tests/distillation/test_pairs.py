"""Pairs: the objective and its optimum, paths that are learnt as they are made, features, inverse with pairs."""

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from distillkac.base.random import derive_seed
from distillkac.distillation.features import EPS, TIME, FeatureLoss
from distillkac.distillation.inverse import GeneratorAndFake, RealUID, TeachersEnds
from distillkac.distillation.pairs import DrawnPaths, EndLoss, Kept, PairsConfig, PairsDistillation
from distillkac.flow.guidance import GuidedVelocity
from distillkac.flow.integrators import integrate, time_grid
from distillkac.flow.processes import Gaussian, Telegraph
from distillkac.runs.run import build_network
from distillkac.training.batches import Batch
from distillkac.training.loop import Trainer
from tests import toys
from tests.distillation.batches import BATCH, DATA, Affine, Shift, every_process
from tests.toys import SHAPE, optim, run_config

TELEGRAPH, SQUARED = Telegraph(), PairsConfig()


def known_paths(teacher, process=TELEGRAPH, num_steps=8, num_states=4, seed=9):
    """A source of paths that are found as they are asked for."""

    def source(index):
        z = torch.cat([process.prior(1, SHAPE, seed, i) for i in index.tolist()])
        states = integrate(GuidedVelocity(teacher), z, index % 2, time_grid(num_steps, 2.0), "ab2", path=True)
        return states[:: num_steps // num_states].detach(), index % 2, None

    return source


def pairs(teacher, times, backward=0.0, config=SQUARED, features=None, seed=3):
    drawn = DrawnPaths(known_paths(teacher), 40, 0, seed)
    return PairsDistillation(drawn, times, backward, EndLoss(config, features), seed)


@pytest.mark.parametrize(("num_steps", "backward"), [(1, 0.0), (2, 0.0), (4, 0.0), (4, 1.0)])
@pytest.mark.parametrize(("huber", "slopes"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.7), (0.3, 0.7)])
def test_the_loss_is_the_formula(num_steps, backward, huber, slopes):
    teacher, student, times = Affine(0.2, -0.3, 0.1), Affine(), time_grid(num_steps, 2.0)
    loss = pairs(teacher, times, backward, PairsConfig(huber=huber, slopes=slopes))(student, BATCH)
    index = (BATCH.stratified(3, "path").double() * 40).long()
    k = (BATCH.stratified(3, "interval").double() * num_steps).long()
    states, total = known_paths(teacher)(index)[0], 0.0
    for b in range(12):
        i, y = int(k[b]), index[b : b + 1] % 2
        x, every = states[i * 4 // num_steps, b : b + 1], 4 // num_steps
        if backward:
            x = states[0, b : b + 1]
            for t, after in zip(times[:i].float(), times[1 : i + 1].float(), strict=True):
                x = x - (t - after) * student(x, t.view(1), y)
        delta = (times[i] - times[i + 1]).item()
        u = student(x, times[i : i + 1].float(), y)
        difference = (x - delta * u - states[(i + 1) * every, b]) / delta
        error = difference.square().mean()
        down = (difference[:, :, 1:] - difference[:, :, :-1]).square().mean()
        across = (difference[..., 1:] - difference[..., :-1]).square().mean()
        total += (((error + huber**2).sqrt() - huber) if huber else error).item() / 12 + slopes * (
            down + across
        ).item() / 12
    assert loss.item() == pytest.approx(total, rel=1e-4)
    loss.backward()
    assert student.weight.grad != 0


@pytest.mark.parametrize("backward", [0.0, 1.0])
@pytest.mark.parametrize("config", [PairsConfig(), PairsConfig(huber=0.1), PairsConfig(slopes=2.0)], ids=str)
def test_the_student_that_lands_on_the_paths_has_no_loss(backward, config):
    """The teacher u = (x - m) / t leads straight to m: one step of any length follows its paths."""

    def straight(x, t, y, m=0.5):
        return (x - m) / t.view(-1, 1, 1, 1).clamp(min=1e-3)

    learns = pairs(straight, time_grid(4, 2.0), backward, config)
    assert learns(straight, BATCH) < 1e-8
    assert learns(lambda x, t, y: straight(x, t, y, 0.4), BATCH) > 0.005


@pytest.mark.parametrize("shape", [(4, 2), (4, 2, 1, 1), (4, 2, 1, 3)])
def test_slopes_of_what_has_no_neighbours_are_none(shape):
    """Values of (B, C), and sides of one pixel; elsewhere an error that is the same everywhere costs nothing more."""
    x, u, delta = torch.zeros(shape), torch.ones(shape), torch.full((4,), 0.5)
    plain, weighed = (EndLoss(PairsConfig(slopes=w))(x, u, x, delta, torch.zeros(4)).item() for w in (0.0, 3.0))
    assert weighed == plain == 1.0
    u[:2, ..., -1] = 3.0
    plain, weighed = (EndLoss(PairsConfig(slopes=w))(x, u, x, delta, torch.zeros(4)).item() for w in (0.0, 3.0))
    assert weighed - plain == pytest.approx(3.0 if shape[-1] == 3 else 0.0)


@every_process
def test_what_is_kept_is_the_predictions_at_every_second_row(process):
    before, student, times = Affine(0.1, 0.3, 0.2), Affine(), time_grid(1, 2.0)
    plain = pairs(before, times)
    learns = replace(plain, kept=Kept(before, process, 0.7, 5))
    t = BATCH.stratified(5, "time")
    x = process.bridge(BATCH.x0, t, derive_seed(5, "noise"), BATCH.first)
    found = [(student(x[b : b + 1], t[b : b + 1], BATCH.y[b : b + 1]), before(x[b : b + 1], t[b : b + 1], BATCH.y[b : b + 1]))
             for b in range(0, 12, 2)]  # fmt: skip
    kept = sum((u - known).square().mean() for u, known in found) / 6
    loss = learns(student, BATCH)
    assert loss.item() == pytest.approx((plain(student, BATCH) + 0.7 * kept).item(), rel=1e-5)
    gradients = torch.autograd.grad(loss, [student.weight, student.bias, student.time])
    expected = torch.autograd.grad(plain(student, BATCH) + 0.7 * kept, [student.weight, student.bias, student.time])
    torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-6)
    assert before.weight.grad is None
    # Parts of a batch, of odd sizes too, learn what the whole one does.
    parts = [
        Batch(BATCH.x0[a:b], BATCH.y[a:b], BATCH.step, BATCH.row + a, BATCH.total) for a, b in ((0, 5), (5, 6), (6, 12))
    ]
    in_parts = sum(learns(student, part) * len(part.x0) / 12 for part in parts)
    assert in_parts.item() == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("total", [1, 3, 5, 6])
def test_what_is_kept_is_a_mean_also_of_odd_batches_and_in_parts_of_one_row(total):
    """A student whose error is 1 at every row; and no network is asked for no rows."""

    def one_more(x, t, y):
        assert len(x)
        return before(x, t, y) + 1

    def before(x, t, y):
        assert len(x)
        return 0.3 * x

    learns = replace(pairs(before, time_grid(1, 2.0)), kept=Kept(before, TELEGRAPH, 2.0, 5))
    plain = replace(learns, kept=None)
    parts = [Batch(BATCH.x0[a : a + 1], BATCH.y[a : a + 1], 0, a, total) for a in range(total)]
    whole = Batch(BATCH.x0[:total], BATCH.y[:total], 0, 0, total)
    for batches in ([whole], parts):
        kept = sum((learns(one_more, b) - plain(one_more, b)).item() * len(b.x0) / total for b in batches)
        assert kept == pytest.approx(2.0, rel=1e-4)


class Ends(nn.Module):
    """A 1-step student u = z - (weight z + bias): its optimum is found by least squares."""

    null_class = 2

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.tensor(0.0)), nn.Parameter(torch.tensor(0.0))

    def forward(self, x, t, y):
        return x - (self.weight * x + self.bias)


def test_training_leads_to_the_least_squares_of_the_teachers_ends(tmp_path):
    """The ends of an affine teacher are an affine function of the noise, which the student can be: nothing blurs it."""

    def teacher(x, t, y):
        return 0.7 * x - 0.3

    ends = integrate(GuidedVelocity(teacher), torch.tensor([0.0, 1.0]).view(2, 1, 1, 1), None, time_grid(8, 2.0))
    bias, weight = ends[0].item(), (ends[1] - ends[0]).item()
    objective = pairs(teacher, time_grid(1, 2.0))
    config = optim(batch_size=24, lr=0.03, lr_end=0.0, warmup=1, weight_decay=0.0, ema=0.5)
    fit = Trainer(Ends(), objective, DATA, tmp_path, 200, config, 0, Accelerator(cpu=True)).fit()
    assert fit.network.weight.item() == pytest.approx(weight, abs=2e-3)
    assert fit.network.bias.item() == pytest.approx(bias, abs=2e-3)
    assert objective(fit.network, BATCH) < 1e-5


def test_paths_are_drawn_from_more_and_more_and_each_batch_from_all_of_them():
    asked = []
    drawn = DrawnPaths(lambda index: asked.append(index), 1000, 20, seed=1)
    for step in range(30):
        drawn(Batch(BATCH.x0, BATCH.y, step, 0, 12))
        among = min(1000, 50 * (step + 1))
        found, edges = asked[-1].sort().values, torch.arange(13).double() * among / 12
        assert (found >= edges[:-1].floor()).all()
        assert (found < edges[1:]).all()
    DrawnPaths(lambda index: asked.append(index), 1000, 0, seed=1)(Batch(BATCH.x0, BATCH.y, 0, 0, 12))
    assert asked[-1].max() >= 1000 * 11 // 12
    DrawnPaths(lambda index: asked.append(index), 1000, 1000, seed=1)(Batch(BATCH.x0, BATCH.y, 0, 0, 12))
    assert asked[-1].sort().values.tolist() == list(range(12))
    halves = [DrawnPaths(lambda index: index, 1000, 0, 1)(Batch(DATA.x[:6], DATA.y[:6], 3, row, 12)) for row in (0, 6)]
    whole = DrawnPaths(lambda index: index, 1000, 0, 1)(Batch(BATCH.x0, BATCH.y, 3, 0, 12))
    assert torch.equal(torch.cat(halves), whole)


# ------------------------------------------------------------------------------------------------------- features


@pytest.mark.parametrize("network", [{}, {"backbone": "dit", "channels": (16,), "head_dim": 8}], ids=["unet", "dit"])
def test_the_feature_loss_is_that_of_the_blocks_answers(network):
    teacher = build_network(run_config(network=replace(toys.TINY, **network)))
    with torch.no_grad():
        for parameter in teacher.parameters():  # a new network answers 0
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    one, two, y = DATA.x[:3].requires_grad_(), DATA.x[3:6], DATA.y[:3]
    loss = FeatureLoss(teacher)(one, two, y)
    seen = []
    for layer in teacher.feature_layers():
        layer.register_forward_hook(lambda _, inputs, out: seen.append(out[0] if isinstance(out, tuple) else out))
    for images in (one, two):
        teacher(images, torch.full((3,), TIME), y)
    scaled = [s.flatten(1) / (s.flatten(1).square().mean(1, keepdim=True).sqrt() + EPS) for s in seen]
    blocks = len(teacher.feature_layers())
    expected = sum((a - b).square().mean() for a, b in zip(scaled[:blocks], scaled[blocks:], strict=True)) / blocks
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    (gradient,) = torch.autograd.grad(loss, one)
    assert gradient.abs().max() > 0
    assert FeatureLoss(teacher)(two, two, y) == 0


def test_the_feature_loss_is_of_both_ends_and_weighted():
    teacher, seen = Affine(0.2, -0.3, 0.1), []

    def features(images, targets, y):
        seen.append((images, targets, y))
        return torch.tensor(2.0)

    times, config = time_grid(2, 2.0), PairsConfig(features=0.25)
    plain, both = pairs(teacher, times)(Affine(), BATCH), pairs(teacher, times, 0.0, config, features)(Affine(), BATCH)
    assert both.item() == pytest.approx(plain.item() + 0.5, rel=1e-5)
    ((landed, targets, y),) = seen
    index = (BATCH.stratified(3, "path").double() * 40).long()
    k = (BATCH.stratified(3, "interval").double() * 2).long()
    states = known_paths(teacher)(index)[0]
    assert torch.equal(targets, states[2 * k + 2, torch.arange(12)])
    assert torch.equal(y, index % 2)
    x, delta = states[2 * k, torch.arange(12)], (times[k] - times[k + 1]).float().view(-1, 1, 1, 1)
    torch.testing.assert_close(landed, x - delta * Affine()(x, times[k].float(), y), rtol=1e-5, atol=1e-6)


def test_networks_without_named_blocks_are_refused():
    with pytest.raises(ValueError, match="Affine does not name them: give it a method feature_layers"):
        FeatureLoss(Affine())


# ------------------------------------------------------------------------------------------------- inverse with pairs


def test_inverse_distillation_with_pairs_adds_the_loss_to_the_ends():
    teacher, process = Affine(0.2, -0.3, 0.1).requires_grad_(False), Telegraph()
    pair = GeneratorAndFake(Affine(), teacher, 10.0)
    drawn = DrawnPaths(known_paths(teacher, num_states=1), 40, 0, 6)
    plain = RealUID(GuidedVelocity(teacher), process, 0.9, 0.95, 2, 6)
    both = RealUID(GuidedVelocity(teacher), process, 0.9, 0.95, 2, 6, TeachersEnds(drawn, EndLoss(SQUARED), 3.0))
    for step in range(3):
        batch = Batch(BATCH.x0, BATCH.y, step, 12, 24)
        states, y, _ = drawn(batch)
        to_ends = 3.0 * (states[0] - pair.generator(states[0], torch.ones(12), y) - states[-1]).square().mean()
        expected = plain(pair, batch) + (to_ends if step == 2 else 0)
        found = both(pair, batch)
        assert found.item() == pytest.approx(expected.item(), rel=1e-5)
        active = pair.generator if step == 2 else pair.fake
        for one, two in zip(
            torch.autograd.grad(found, list(active.parameters())),
            torch.autograd.grad(expected, list(active.parameters())),
            strict=True,
        ):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


def test_both_losses_lead_to_the_teachers_image(tmp_path):
    teacher, process = Shift(0.6).requires_grad_(False), Gaussian(0.5)
    drawn = DrawnPaths(known_paths(teacher, process, num_states=1), 40, 0, 6)
    objective = RealUID(GuidedVelocity(teacher), process, 1.0, 1.0, 2, 6, TeachersEnds(drawn, EndLoss(SQUARED), 0.5))
    config = optim(batch_size=24, lr=0.02, lr_end=0.1, warmup=1, weight_decay=0.0, beta1=0.0, beta2=0.99, ema=0.9)
    pair = GeneratorAndFake(Shift(-0.2), Shift(-0.2), 3.0)
    fit = Trainer(pair, objective, DATA, tmp_path, 120, config, 0, Accelerator(cpu=True)).fit()
    assert abs(fit.network.value.item() - 0.6) < 0.03
