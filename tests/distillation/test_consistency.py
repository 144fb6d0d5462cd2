"""Consistency distillation: its loss and optimum, resuming, what is refused, and its student at any number of steps."""

import dataclasses

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from distillkac.base.random import derive_seed
from distillkac.distillation import ConsistencyConfig, ConsistencyDistillation, DistillConfig, InverseConfig
from distillkac.distillation import stages as plans
from distillkac.flow.guidance import GuidedVelocity
from distillkac.flow.integrators import integrate
from distillkac.flow.processes import Gaussian, Telegraph
from distillkac.runs.sampler import SamplerConfig, Trained
from distillkac.training.batches import Batch
from distillkac.training.loop import Trainer
from tests.distillation.batches import BATCH, DATA, Affine, every_process
from tests.toys import SHAPE, optim

SEED = 4


def objective(process, teacher, method="ab2", w=0.0, w_max=None, **options):
    config = ConsistencyConfig(**{"steps": 12} | options)
    return ConsistencyDistillation(GuidedVelocity(teacher, w), process, config, method, SEED, w_max)


# The loss


@every_process
@pytest.mark.parametrize(("steps", "w"), [(0, 0.0), (1, 0.0), (3, 1.5)])
def test_the_loss_is_the_formula(process, steps, w):
    teacher, student = Affine(-0.2, 0.4, 0.3).requires_grad_(False), Affine()
    learns = objective(process, teacher, w=w, teacher_steps=steps, gap=0.3, phases=4)
    t, r = learns.times(BATCH)
    total = 0.0
    for b in range(12):
        at, before, y, row = t[b : b + 1], r[b : b + 1], BATCH.y[b : b + 1], BATCH.first + b
        x = process.bridge(BATCH.x0[b : b + 1], at, derive_seed(SEED, "noise"), row)
        if steps == 0:
            x_r = process.bridge(BATCH.x0[b : b + 1], before, derive_seed(SEED, "noise"), row)
        else:
            times = torch.linspace(float(at), float(before), steps + 1, dtype=torch.float64)
            x_r = integrate(GuidedVelocity(teacher, w), x, y, times, "ab2")
        aim = x_r - before * student(x_r, before, y)
        total += ((x - at * student(x, at, y) - aim.detach()) ** 2).mean() / at.squeeze() ** 2 / 12
    loss = learns(student, BATCH)
    assert loss.item() == pytest.approx(total.item(), rel=1e-4)
    expected = torch.autograd.grad(total, list(student.parameters()))
    for found, known in zip(torch.autograd.grad(loss, list(student.parameters())), expected, strict=True):
        torch.testing.assert_close(found, known, rtol=1e-3, atol=1e-5)


def test_times_come_nearer_over_the_training_and_a_share_of_them_is_one():
    learns = objective(Telegraph(), Affine(), steps=8, gap=0.5, phases=4, at_one=0.3)
    x0, y = torch.zeros(4000, *SHAPE), torch.zeros(4000, dtype=torch.int64)
    for step, gap in ((0, 1 / 2), (1, 1 / 2), (2, 1 / 4), (7, 1 / 16), (9, 1 / 16)):  # 9: a run that goes on for longer
        t, r = learns.times(Batch(x0, y, step, 0, 4000))
        assert abs((t == 1).float().mean() - 0.3) < 0.03
        assert t.min() >= 1e-3
        assert (r[t < 0.005] == 0).all()
        far = r > 0
        assert far.float().mean() > 0.95
        torch.testing.assert_close(r[far], (1 - gap) * t[far])


def test_both_sides_have_the_same_dropout():
    seen = []

    class Dropped(nn.Module):
        def forward(self, x, t, y):
            seen.append(nn.functional.dropout(torch.ones_like(x)))
            return seen[-1]

    learns = objective(Telegraph(), Affine(), teacher_steps=0)
    for _ in range(2):
        learns(Dropped(), BATCH)
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[2], seen[3])
    assert not torch.equal(seen[0], seen[2])


def test_a_weight_that_is_an_input_is_the_one_that_guides_the_teacher():
    class Listening(nn.Module):
        guidance_embedding = True

        def __init__(self):
            super().__init__()
            self.heard = []

        def forward(self, x, t, y, w):
            self.heard.append(w)
            return 0 * x

    student, guided = Listening(), []

    class Recorded(GuidedVelocity):
        def evaluate(self, x, t, y):
            guided.append(self.w)
            return super().evaluate(x, t, y)

    learns = objective(Telegraph(), Affine(), w_max=3.0)
    dataclasses.replace(learns, teacher=Recorded(Affine()))(student, BATCH)
    assert all(torch.equal(w, guided[0]) for w in student.heard)
    assert len(student.heard) == 2
    assert 0 <= guided[0].min() < guided[0].max() <= 3


# Its optimum


class Shift(nn.Module):
    """The flow that ends in one image m from anywhere, u = (x - m)/t, with m to be learnt."""

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, x, t, y):
        return (x - self.value) / t.view(-1, 1, 1, 1)


@every_process
def test_the_loss_is_nought_for_the_student_that_is_right_at_every_time_and_for_no_other(process):
    teacher = Shift(0.6).requires_grad_(False)
    for step in range(12):
        batch = Batch(BATCH.x0, BATCH.y, step, 12, 24)
        assert objective(process, teacher, teacher_steps=2)(Shift(0.6), batch) < 1e-6
    assert objective(process, teacher, teacher_steps=2, gap=1.0)(Shift(0.4), BATCH) > 0.03


def test_the_student_learns_where_the_teachers_paths_end(tmp_path):
    """Every target below t = 1 is the student's own, but for the earliest: it must come up the paths from there."""
    learns = objective(Telegraph(), Shift(0.6).requires_grad_(False), steps=200, gap=0.2)
    config = optim(batch_size=24, lr=0.02, lr_end=1.0, warmup=1, weight_decay=0.0, ema=0.9)
    fit = Trainer(Shift(-0.2), learns, DATA, tmp_path, 200, config, 0, Accelerator(cpu=True)).fit()
    assert abs(fit.network.value.item() - 0.6) < 0.05


class NormalData(nn.Module):
    """f(x, t) = x (s / std(x_t))^power. Power 1 is exact for data N(0, s^2) and Gaussian noise: x_0 = x s / std(x_t)."""

    def __init__(self, power, s=0.7, sigma=0.4):
        super().__init__()
        self.power, self.s, self.sigma = nn.Parameter(torch.tensor(power)), s, sigma

    def forward(self, x, t, y):
        spread = (((1 - t) * self.s) ** 2 + (self.sigma * t) ** 2).sqrt().view(-1, 1, 1, 1)
        return x * (1 - (self.s / spread) ** self.power) / t.view(-1, 1, 1, 1)


class NormalFlow(nn.Module):
    """The velocity of the same law: u = x d/dt log std(x_t)."""

    def forward(self, x, t, y, s=0.7, sigma=0.4):
        variance = ((1 - t) * s) ** 2 + (sigma * t) ** 2
        return x * ((sigma**2 * t - s**2 * (1 - t)) / variance).view(-1, 1, 1, 1)


@pytest.mark.parametrize("steps", [0, 2])
def test_for_normal_data_the_gradient_vanishes_at_the_exact_solution(steps):
    """Of near pairs. With the teacher's steps the loss vanishes too; on the coupled path the targets stay noisy, and right in
    the mean."""
    process, rows = Gaussian(0.4), 20_000
    x0 = 0.7 * torch.randn(rows, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    batch = Batch(x0, torch.zeros(rows, dtype=torch.int64), 0, 0, rows)
    learns = objective(process, NormalFlow(), "heun", teacher_steps=steps, gap=0.0025, at_one=0.25)
    losses, slopes = {}, {}
    for power in (0.8, 1.0, 1.2):
        student = NormalData(power)
        loss = learns(student, batch)
        losses[power], (slopes[power],) = loss.item(), torch.autograd.grad(loss, list(student.parameters()))
    assert slopes[0.8] < 0 < slopes[1.2]
    assert abs(slopes[1.0]) < (0.02 if steps else 0.15) * min(-slopes[0.8], slopes[1.2])
    if steps:
        assert losses[1.0] < 0.01 * min(losses[0.8], losses[1.2])


# The run


def test_a_training_that_was_stopped_ends_with_the_same_weights(tmp_path):
    def trained(folder, stops):
        for steps in stops:
            learns = objective(Telegraph(), Affine(0.2, -0.3, 0.1).requires_grad_(False), phases=3)
            config = optim(save_every=4, lr_end=1.0)
            trainer = Trainer(Affine(), learns, DATA, folder, 12, config, 0, Accelerator(cpu=True))
            trainer.steps = steps  # a constant learning rate, so stopping early changes nothing
            fit = trainer.fit()
        return {**trainer.network.state_dict(), **{f"ema.{n}": v for n, v in fit.network.state_dict().items()}}

    whole, cut = trained(tmp_path / "whole", [12]), trained(tmp_path / "cut", [5, 8, 12])
    assert whole["weight"] != Affine().weight
    assert all(torch.equal(value, cut[name]) for name, value in whole.items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"consistency": ConsistencyConfig(teacher_steps=0), "w": 2.0}, r"^w 2.0 is of the teacher's steps"),
        ({"consistency": ConsistencyConfig(teacher_steps=0), "w_max": 2.0}, "^w_max 2.0 is of the teacher's steps"),
        ({"consistency": ConsistencyConfig(teacher_steps=0), "exact_start": True}, "^exact_start True is of the"),
        ({"consistency": ConsistencyConfig(teacher_steps=0), "integrator": "heun"}, "^integrator heun is of the"),
        ({"stages": (20, 4), "steps": (100,)}, "one student in one stage: omit stages and steps"),
        ({"steps": (100,) * 4}, "one student in one stage: omit stages and steps"),
        ({"backward": 0.5}, r"not own states: omit backward 0\.5"),
        ({"inverse": InverseConfig(steps=5)}, "are two commands: omit inverse.steps"),
        ({"method": "endpoint", "consistency": ConsistencyConfig(phases=2)}, "got method endpoint"),
    ],
)
def test_what_it_does_not_use_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DistillConfig(**{"method": "consistency"} | options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, r"consistency\.steps must be at least 1"),
        ({"num_steps": 0}, r"consistency\.num_steps must be at least 1"),
        ({"teacher_steps": -1}, r"consistency\.teacher_steps must be at least 0"),
        ({"phases": 0}, "phases must be at least 1"),
        ({"gap": 0.0}, "gap must lie in"),
        ({"at_one": 1.5}, r"consistency\.at_one must lie in"),
    ],
)
def test_impossible_options_are_explained(options, message):
    with pytest.raises(ValueError, match=message):
        ConsistencyConfig(**options)


def test_far_pairs_are_for_the_teachers_steps():
    assert ConsistencyConfig().schedule == (0.75, 1)
    assert ConsistencyConfig(teacher_steps=0).schedule == (0.5, 6)
    assert ConsistencyConfig(teacher_steps=0, gap=0.25, phases=2).schedule == (0.25, 2)


def test_its_student_knows_what_decides_its_weights():
    config = DistillConfig(method="consistency", consistency=ConsistencyConfig(steps=7, num_steps=8, phases=2), rho=1.5)
    (stage,) = plans.stages_of(config)
    assert (stage.num_steps, stage.steps, stage.title) == (8, 7, "1 to 8")
    options = plans.deciding(config, stage)
    assert "--consistency.phases 2" in options
    assert "--consistency.gap 0.75" in options
    assert "--integrator ab2" in options
    assert not any(word.startswith(("--consistency.steps", "--backward")) for word in options)


def test_the_share_of_a_student_is_what_none_means_and_others_have_none():
    student = Trained(0.1, 4, 1.5, restart=0.25)
    assert student.settle(SamplerConfig(3), "it").restart == 0.25
    assert student.settle(SamplerConfig(3, restart=1.0), "it").restart == 1.0
    assert student.settle(SamplerConfig(3, restart=0.0, rho=3.0), "it").restart == 0.0
    assert student.measured_steps() == (4, 2, 1)
    assert Trained(0.1, 4, 1.5).settle(SamplerConfig(4), "it").restart == 0.0
    assert Trained(0.1, 4, 1.5).measured_steps() == (4,)
    assert Trained(0.1).settle(SamplerConfig(20), "it").restart == 0.0
    with pytest.raises(ValueError, match="is a student of 4 Euler steps"):
        Trained(0.1, 4, 1.5).settle(SamplerConfig(3), "it")
    with pytest.raises(ValueError, match="takes Euler steps"):
        student.settle(SamplerConfig(3, integrator="ab2"), "it")
