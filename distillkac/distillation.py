"""Endpoint distillation: a student whose one Euler step per interval lands where its teacher's many steps land.

The fine grid of N teacher steps is cut into M intervals of n = N / M steps, T_0 = 1 > ... > T_M = 0. From a data state
x at T_k the teacher's n steps end in x_end, and the student's velocity there is fitted to the mean velocity between:

    loss = || x - Delta u_S(x, T_k) - x_end ||^2 / (Delta^2 D),        Delta = T_k - T_{k+1}.

Stages follow each other, 100 -> 20 -> 4 -> 2 -> 1 by default; each student is the next teacher and starts from it. The
guidance weight is folded in at the first stage (docs/method.md, section 5).
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from distillkac import ops
from distillkac.config import OptimConfig, RunConfig, StudentConfig
from distillkac.guidance import GuidedVelocity
from distillkac.integrators import METHODS, integrate, time_grid
from distillkac.processes import Process
from distillkac.random import derive_seed
from distillkac.training import Batch


@dataclass(frozen=True)
class DistillConfig:
    """How a chain of students is distilled."""

    chain: tuple[int, ...] = (100, 20, 4, 2, 1)
    """Step counts, the teacher's grid first; each must be a multiple of the next."""
    steps: tuple[int, ...] = (150, 200, 200, 300)
    """Optimizer steps of each stage."""
    integrator: str = "ab2"
    """The teacher's integrator in the first stage: euler, heun or ab2. Later teachers are students: Euler."""
    rho: float = 1.5
    """Exponent of the time grid."""
    w: float = 0.0
    """Guidance weight folded in at the first stage; 0 = none (diffusers' guidance_scale is 1 + w)."""
    w_max: float | None = None
    """If set, w becomes an input of the students, trained on [0, w_max] instead of one fixed w."""
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            batch_size=64, lr=1e-3, warmup=20, weight_decay=0.0, ema=0.99, save_every=200
        )
    )
    seed: int = 0
    """Seed of everything random."""

    def __post_init__(self):
        if len(self.chain) < 2 or any(n < 1 for n in self.chain):
            raise ValueError(f"chain needs at least two step counts of at least 1, got {self.chain}")
        for coarse, fine in zip(self.chain[1:], self.chain[:-1], strict=True):
            if fine % coarse or fine == coarse:
                raise ValueError(f"chain: each step count must divide the one before it, got {fine} then {coarse}")
        if len(self.steps) != len(self.chain) - 1 or any(n < 1 for n in self.steps):
            raise ValueError(
                f"steps needs one positive number for each of the {len(self.chain) - 1} stages of chain {self.chain}, "
                f"got {self.steps}"
            )
        if self.integrator not in METHODS:
            raise ValueError(f"integrator must be one of {', '.join(METHODS)}, got {self.integrator!r}")
        if self.w_max is not None and (self.w_max <= 0 or self.w):
            raise ValueError(f"w_max must be positive and excludes a fixed w, got w_max {self.w_max}, w {self.w}")


@dataclass(frozen=True)
class EndpointDistillation:
    """The student's objective for one stage; used by training.Trainer like the teacher's.

    teacher: the field whose endpoints are learnt; with w_max its weight is drawn afresh for every row.
    grid: (N + 1,) float64 fine times. num_steps: M, a divisor of N. method: the teacher's integrator.
    """

    teacher: GuidedVelocity
    process: Process
    grid: torch.Tensor
    num_steps: int
    method: str
    seed: int
    w_max: float | None = None

    def __call__(self, network: nn.Module, batch: Batch) -> torch.Tensor:
        device = batch.x0.device
        n = (len(self.grid) - 1) // self.num_steps
        k = (batch.stratified(self.seed, "interval").double() * self.num_steps).long()
        times = self.grid.to(device)[k * n + torch.arange(n + 1, device=device)[:, None]]
        start, delta = times[0].float(), (times[0] - times[-1]).float()
        x = self.process.bridge(batch.x0, start, derive_seed(self.seed, "noise"), batch.first)
        teacher, inputs = self.teacher, (x, start, batch.y)
        if self.w_max is not None:
            w = self.w_max * batch.uniform(self.seed, "w")
            teacher = GuidedVelocity(teacher.network, w, teacher.interval, teacher.max_speed, teacher.process)
            inputs = (*inputs, w)
        with torch.no_grad():
            x_end = integrate(teacher, x, batch.y, times, self.method)
        return ops.endpoint_loss(x, network(*inputs).float(), x_end, delta)


@dataclass(frozen=True)
class Stage:
    """One link of the chain: a teacher on a grid of `teacher_steps`, a student on `num_steps`."""

    teacher_steps: int
    num_steps: int
    steps: int
    first: bool


def stages(config: DistillConfig) -> list[Stage]:
    """The chain as stages, in order."""
    links = zip(config.chain[:-1], config.chain[1:], config.steps, strict=True)
    return [Stage(fine, coarse, steps, i == 0) for i, (fine, coarse, steps) in enumerate(links)]


def student_config(teacher: RunConfig, stage: Stage, config: DistillConfig) -> RunConfig:
    """The config.json of the student of one stage."""
    network = replace(teacher.network, guidance_embedding=config.w_max is not None)
    student = StudentConfig(stage.teacher_steps, stage.num_steps, config.rho, config.w, config.w_max)
    return replace(teacher, network=network, optim=config.optim, steps=stage.steps, seed=config.seed, student=student)


def objective(teacher: nn.Module, process: Process, stage: Stage, config: DistillConfig) -> EndpointDistillation:
    """What the student of `stage` learns from `teacher`, the network of the stage before."""
    velocity = GuidedVelocity(teacher, config.w if stage.first else 0.0, process=process.speed_norm)
    return EndpointDistillation(
        velocity,
        process,
        time_grid(stage.teacher_steps, config.rho),
        stage.num_steps,
        config.integrator if stage.first else "euler",
        derive_seed(config.seed, "student", stage.num_steps),
        config.w_max,
    )


def student_folder(run: Path, num_steps: int) -> Path:
    """Where the student of `num_steps` steps of a run lives."""
    return run / f"student-{num_steps}"
