"""Endpoint distillation: the loss against its formula, the student's optimum on a field where it is known, the chain."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from distillkac.base.random import derive_seed
from distillkac.distillation import objectives
from distillkac.distillation.endpoint import EndpointDistillation, StudentStates, rolled_out
from distillkac.distillation.grids import for_teacher
from distillkac.distillation.inverse_options import InverseConfig
from distillkac.distillation.stages import DistillConfig, stages_of, student_config
from distillkac.flow.guidance import GuidedVelocity
from distillkac.flow.integrators import time_grid
from distillkac.flow.processes import Planar, Telegraph
from distillkac.runs.config import RunConfig
from distillkac.runs.optim_config import OptimConfig
from distillkac.runs.sampler import SamplerConfig, Trained
from distillkac.training.batches import Batch
from distillkac.training.loop import Trainer
from tests.toys import SHAPE, ToyData

DATA = ToyData()
BATCH = Batch(DATA.x[:12], DATA.y[:12], step=2, row=12, total=24)


class Curved(nn.Module):
    """A field with curvature in x and t that also depends on the class; "no class" is 2."""

    null_class = 2

    def forward(self, x, t, y):
        column = (-1, 1, 1, 1)
        return torch.sin(x + 3 * t.view(column)) * (1 + y.view(column)) + t.view(column) ** 2


def endpoint(x, times, y, method, w):
    """One row integrated by hand in float64. x: (1, C, H, W), times: list."""
    u_prev, h_prev = None, None
    for t, t_next in pairwise(times):
        h, field = t - t_next, Curved()
        at = torch.tensor([t], dtype=torch.float64)
        u = (1 + w) * field(x, at, y) - w * field(x, at, torch.full_like(y, 2))
        if method == "ab2" and u_prev is not None:
            x = x - h * ((1 + h / (2 * h_prev)) * u - h / (2 * h_prev) * u_prev)
        else:
            x = x - h * u
        u_prev, h_prev = u, h
    return x


def endpoint_objective(teacher, process, grid, num, method, seed, w_max=None, backward=0.0):
    states = StudentStates(process, grid[:: (len(grid) - 1) // num], backward, seed)
    return EndpointDistillation(teacher, states, grid, method, seed, w_max)


@pytest.mark.parametrize("method", ["euler", "ab2"])
@pytest.mark.parametrize("w", [0.0, 1.5])
@pytest.mark.parametrize("process", [Telegraph(9.0, 2.0), Planar(9.0, 2.0)], ids=lambda p: p.name)
def test_loss_is_the_formula(process, w, method):
    """mean over rows of || x - Delta u_S - x_end ||^2 / (Delta^2 D), row by row in float64."""
    steps, num, seed = 12, 3, 4
    grid = time_grid(steps, 1.5)
    objective = endpoint_objective(GuidedVelocity(Curved(), w), process, grid, num, method, seed)
    student = nn.Conv2d(1, 1, 3, padding=1)
    loss = objective(lambda x, t, y: student(x), BATCH)
    intervals = (BATCH.stratified(seed, "interval") * num).long()
    assert set(intervals.tolist()) == {0, 1, 2}
    total = 0.0
    for b, k in enumerate(intervals.tolist()):
        times = grid[4 * k : 4 * k + 5].tolist()
        start = torch.tensor([times[0]], dtype=torch.float32)
        x = process.bridge(BATCH.x0[b : b + 1], start, derive_seed(seed, "noise"), offset=BATCH.first + b)
        x_end = endpoint(x.double(), times, BATCH.y[b : b + 1], method, w)
        delta = times[0] - times[-1]
        miss = x.double() - delta * student(x).double() - x_end
        total += (miss**2).sum().item() / (delta**2 * x.numel())
    assert loss.item() == pytest.approx(total / 12, rel=1e-4)
    loss.backward()
    assert student.weight.grad.abs().max() > 0


class PerInterval(nn.Module):
    """u = theta_k x with one number for each start time of an interval."""

    def __init__(self, starts):
        super().__init__()
        self.register_buffer("starts", starts.float())
        self.theta = nn.Parameter(torch.zeros(len(starts)))

    def forward(self, x, t, y):
        k = (t[:, None] - self.starts).abs().argmin(1)
        return self.theta[k].view(-1, 1, 1, 1) * x


def test_student_of_a_linear_field_reaches_the_known_optimum(tmp_path):
    """Teacher u = 2 x: n Euler steps multiply x by prod(1 - 2 h), so theta_k must be (1 - prod) / Delta_k."""
    grid = time_grid(12, 1.5)
    teacher = GuidedVelocity(lambda x, t, y: 2 * x)
    objective = endpoint_objective(teacher, Telegraph(9.0, 2.0), grid, 3, "euler", seed=1)
    optim = OptimConfig(batch_size=24, lr=0.2, warmup=1, weight_decay=0.0, ema=0.9, clip=10.0, save_every=1000)
    student = PerInterval(grid[:-1:4])
    fit = Trainer(student, objective, DATA, tmp_path, 150, optim, 0, Accelerator(cpu=True)).fit()
    h = (grid[:-1] - grid[1:]).view(3, 4)
    optimum = (1 - (1 - 2 * h).prod(1)) / h.sum(1)
    torch.testing.assert_close(fit.network.theta.double(), optimum, rtol=0, atol=2e-3)
    assert (optimum - 2).abs().min() > 0.1  # the plain velocity would not pass


def test_a_student_conditioned_on_w_sees_the_weight_its_teacher_used():
    seen = {}

    class Teacher(Curved):
        def forward(self, x, t, y):
            return super().forward(x, t, y).detach()

    objective = endpoint_objective(
        GuidedVelocity(Teacher()), Telegraph(), time_grid(4, 1.5), 1, "euler", seed=4, w_max=3.0
    )
    loss = objective(lambda x, t, y, w: seen.update(w=w) or 0 * x, BATCH)
    w = seen["w"]
    assert w.shape == (12,)
    assert 0 <= w.min() < 1 < 2 < w.max() <= 3
    total = 0.0
    for b in range(12):
        x = (
            Telegraph()
            .bridge(BATCH.x0[b : b + 1], torch.ones(1), derive_seed(4, "noise"), offset=BATCH.first + b)
            .double()
        )
        x_end = endpoint(x, time_grid(4, 1.5).tolist(), BATCH.y[b : b + 1], "euler", w[b].item())
        total += ((x - x_end) ** 2).mean().item() / 12
    assert loss.item() == pytest.approx(total, rel=1e-4)


def test_chain_becomes_stages_each_on_every_nth_point_of_the_one_before():
    config = DistillConfig(stages=(100, 20, 4, 2, 1), w=2.0)
    links = stages_of(config)
    assert [(s.teacher_steps, s.num_steps, s.steps) for s in links] == [
        (100, 20, 150),
        (20, 4, 200),
        (4, 2, 200),
        (2, 1, 300),
    ]
    teacher = Curved()
    config = for_teacher(config, RunConfig(shape=SHAPE))
    learns = [objectives.objective(teacher, teacher, Telegraph(), stage, config) for stage in links]
    # The guidance weight is folded in once; after that the student has it in its weights.
    assert [o.teacher.w for o in learns] == [2.0, 0.0, 0.0, 0.0]
    assert [o.method for o in learns] == ["ab2", "euler", "euler", "euler"]
    assert len({o.seed for o in learns}) == 4
    for before, after in pairwise(learns):
        torch.testing.assert_close(before.states.times, after.grid, rtol=0, atol=1e-15)


def test_student_config_records_what_sampling_must_know():
    run = RunConfig(shape=SHAPE, class_names=("a", "b"))
    config = DistillConfig(stages=(4, 2), steps=(7,), rho=2.0, w=1.0, seed=3)
    student = student_config(run, stages_of(config)[0], config)
    assert (student.student.teacher_steps, student.student.num_steps) == (4, 2)
    assert (student.student.rho, student.student.w, student.steps, student.seed) == (2.0, 1.0, 7, 3)
    assert student.optim == config.optim
    assert not student.network.guidance_embedding
    conditioned = DistillConfig(stages=(4, 2), steps=(7,), w_max=2.0)
    assert student_config(run, stages_of(conditioned)[0], conditioned).network.guidance_embedding


@pytest.mark.parametrize(("side", "of_teacher", "of_student"), [(8, 2.0, 1.5), (16, 2.0, 1.5), (28, 1.0, 1.0)])
def test_the_grid_suits_the_size_of_the_images(side, of_teacher, of_student):
    run = RunConfig(shape=(1, side, side), class_names=("a", "b"))
    config = DistillConfig(stages=(4, 2), steps=(7,))
    assert for_teacher(config, run).rho == of_student
    assert student_config(run, stages_of(config)[0], config).student.rho == of_student
    assert for_teacher(replace(config, rho=3.0), run).rho == 3.0  # one that was asked for
    settled = Trained.of(run).settle(SamplerConfig(), "run")
    assert (settled.rho, Trained.of(run).settle(SamplerConfig(rho=3.0), "run").rho) == (of_teacher, 3.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": (20,)}, "at least two step counts"),
        ({"stages": (20, 0), "steps": (1,)}, "stages must be at least 1"),
        ({"stages": (20, 3), "steps": (1,)}, "must divide the one before it, got 20 then 3"),
        ({"stages": (4, 4), "steps": (1,)}, "got 4 then 4"),
        ({"steps": (1, 2)}, "one positive number for each of the 4 stages"),
        ({"integrator": "rk4"}, "euler, heun, ab2"),
        ({"w": 1.0, "w_max": 3.0}, "excludes a fixed w"),
        (
            {"stages": (1,), "method": "pairs", "inverse": InverseConfig(steps=1)},
            "alone: omit method pairs and a recipe",
        ),
    ],
)
def test_impossible_chains_are_explained(options, message):
    with pytest.raises(ValueError, match=message):
        DistillConfig(**options)


@pytest.mark.parametrize("k", [[0, 0, 0], [1, 0, 0], [3, 1, 0], [2, 3, 3]])
def test_every_process_calls_a_student_as_often_as_the_others(k):
    """Whatever steps its own rows need: the calls of a network that is spread over processes wait for each other."""
    times, calls = time_grid(4, 1.5), []

    def student(x, t, y):
        calls.append(len(x))
        return 0.5 * x + t.view(-1, 1, 1, 1)

    noise = BATCH.x0[:3]
    found = rolled_out(student, noise, BATCH.y[:3], times, torch.tensor(k), ())
    assert len(calls) == 3
    assert min(calls) >= 1
    for row, steps in enumerate(k):
        x = noise[row : row + 1]
        for t, after in zip(times[:steps].float(), times[1 : steps + 1].float(), strict=True):
            x = x - (t - after) * (0.5 * x + t)
        torch.testing.assert_close(found[row : row + 1], x, rtol=1e-6, atol=1e-6)
