"""Consistency distillation: one student that predicts the data from any time, and so takes any number of steps.

The loss and the two times r < t of a path are those of training/consistency.py. x_r is where the teacher's steps from x_t
lead, which also folds its guidance in (consistency distillation, Song et al. 2023); or x_t and x_r are one path of the process,
the same data and the same seed at two times (process.bridge), which needs no teacher but has the noise of single images in its
targets.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from distillkac.base.random import derive_seed
from distillkac.distillation.endpoint import with_drawn_w
from distillkac.flow.guidance import GuidedVelocity
from distillkac.flow.integrators import Method, integrate
from distillkac.flow.processes import Process
from distillkac.runs.objectives import check_schedule
from distillkac.training.batches import Batch
from distillkac.training.consistency import Schedule, consistency_loss


@dataclass(frozen=True)
class ConsistencyConfig:
    """Consistency distillation, where it is the method: its one student."""

    steps: int = 500
    """Optimizer steps."""
    num_steps: int = 4
    """Steps that the student takes where none is asked for, and the most that it is chosen for."""
    teacher_steps: int = 6
    """The teacher's steps from x_t to x_r; 0: none, both are on one path of the process, and no guidance can be folded in."""
    gap: float | None = None
    """Of r = t (1 - gap^(k + 1)). By default 0.75 with the teacher's steps, 0.5 without."""
    phases: int | None = None
    """How many k there are, 0, 1, ..., for an equal share of the steps each. By default 1 with the teacher's steps, 6 without:
    far targets of the coupled path are right in the mean only."""
    at_one: float = 0.25
    """Share of the training states at t = 1, where every sampling begins; the others have any time."""

    def __post_init__(self):
        for name, least in (("steps", 1), ("num_steps", 1), ("teacher_steps", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"consistency.{name} must be at least {least}, got {getattr(self, name)}")
        check_schedule(*self.schedule, self.at_one)

    @property
    def schedule(self) -> tuple[float, int]:
        """(gap, phases), with nothing left open."""
        gap, phases = (0.75, 1) if self.teacher_steps else (0.5, 6)
        return gap if self.gap is None else self.gap, phases if self.phases is None else self.phases


@dataclass(frozen=True)
class ConsistencyDistillation:
    """The objective of the one stage.

    teacher: the original network, with the guidance that is folded in; without teacher steps it is not asked. method: its
    integrator. w_max: as in EndpointDistillation.
    """

    teacher: GuidedVelocity
    process: Process
    config: ConsistencyConfig
    method: Method
    seed: int
    w_max: float | None = None

    def __call__(self, network: nn.Module, batch: Batch) -> torch.Tensor:
        teacher, weights = with_drawn_w(self.teacher, batch, self.seed, self.w_max)
        t, r = self.times(batch)
        x = self._on_path(batch, t)
        with torch.no_grad():
            x_r = self._before(teacher, x, t, r, batch)
        return consistency_loss(network, x, t, x_r, r, batch.y, *weights)

    def times(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """(t, r), each (B,), of this step: 0 <= r < t <= 1."""
        return Schedule(*self.config.schedule, self.config.at_one, self.config.steps)(batch, self.seed)

    def _on_path(self, batch: Batch, t: torch.Tensor) -> torch.Tensor:
        return self.process.bridge(batch.x0, t, derive_seed(self.seed, "noise"), batch.first)

    def _before(self, teacher, x, t, r, batch):
        """The state at r of the path that is in x at t."""
        steps = self.config.teacher_steps
        if steps == 0:
            return self._on_path(batch, r)
        shares = torch.linspace(0, 1, steps + 1, dtype=torch.float64, device=t.device)[:, None]
        return integrate(teacher, x, batch.y, torch.lerp(t.double(), r.double(), shares), self.method)


def check_options(config: Any) -> None:
    """Raises ValueError if a stages.DistillConfig has consistency options where no such student is made, or with options that
    it does not use."""
    own, defaults = config.consistency, type(config)
    before_pairs = config.method == "pairs" and config.pairs.by == "consistency"
    if config.method != "consistency" and not before_pairs:
        if own != ConsistencyConfig():
            raise ValueError(
                f"consistency.* are options of method consistency and of pairs.by consistency, got method {config.method}"
            )
        return
    if before_pairs:
        if config.w_max is not None:
            raise ValueError("pairs.by consistency makes students without w as an input: omit w_max")
    else:
        _check_alone(config)
    if own.teacher_steps == 0:
        asked = {"w": config.w, "w_max": config.w_max, "exact_start": config.exact_start}
        asked["integrator"] = config.integrator if config.integrator != defaults.integrator else None
        if used := [name for name, value in asked.items() if value]:
            raise ValueError(
                f"{used[0]} {asked[used[0]]} is of the teacher's steps, and consistency.teacher_steps is 0: raise that, or "
                f"omit {used[0]}"
            )


def _check_alone(config: Any) -> None:
    """Raises ValueError if a plan of the one stage has options of other stages."""
    defaults = type(config)
    if (config.stages, config.steps) != (defaults.stages, defaults.steps):
        raise ValueError(
            "method consistency makes one student in one stage: omit stages and steps, and give consistency.steps and "
            "consistency.num_steps"
        )
    if config.inverse.steps:
        raise ValueError(
            "method consistency and inverse distillation are two commands: omit inverse.steps, then distil with stages "
            f"{config.inverse.num_steps}, inverse.steps and start, the folder of the consistency student"
        )
    if config.backward:
        raise ValueError(f"method consistency takes noised data, not own states: omit backward {config.backward:g}")
