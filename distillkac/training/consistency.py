"""Consistency: a network that predicts the data from any time, and so takes any number of steps.

f(x, t) = x - t u(x, t) is the network's picture of the data at the end of the path through x, and f(x, 0) = x. Along one
path it is the same at every time, so two times r < t of one path teach it:

    loss = || f(x_t, t) - f(x_r, r) ||^2 / (t^2 D),

where the second is the target and has no gradient. As f is known at t = 0, knowledge moves up the paths from the data to the
noise. r = t (1 - gap^(k + 1)), where k may grow over the training: far pairs first, near ones at the end (ECT, Geng et al.
2024). From data alone x_t and x_r are one path of the process, the same data and the same seed at two times
(process.pair_to); in distillation x_r is where the teacher's steps lead (distillation/consistency.py).
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from distillkac import ops
from distillkac.base.random import derive_seed
from distillkac.base.tensors import column
from distillkac.training.batches import Batch
from distillkac.training.objective import FromData, like

SMALLEST_T, SMALLEST_R = 1e-3, 5e-3  # earlier times are this one; earlier targets are the data themselves


@dataclass(frozen=True)
class Schedule:
    """The two times of every row. gap, phases, at_one: as in ConsistencyTraining. steps: over which the phases are spread."""

    gap: float
    phases: int
    at_one: float
    steps: int

    def __call__(self, batch: Batch, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(t, r), each (B,), of this step: 0 <= r < t <= 1."""
        t = batch.stratified(seed, "time").clamp(min=SMALLEST_T)
        t = torch.where(batch.uniform(seed, "at one") < self.at_one, 1.0, t)
        r = t * (1 - self.gap ** (self.phase(batch.step) + 1))
        return t, torch.where(r < SMALLEST_R, 0.0, r)

    def phase(self, step: int) -> int:
        """Of a step, from 0."""
        return min(step * self.phases // self.steps, self.phases - 1)


def consistency_loss(
    network: nn.Module, x: torch.Tensor, t: torch.Tensor, x_r: torch.Tensor, r: torch.Tensor, *inputs: Any
) -> torch.Tensor:
    """Of states x at t and x_r at r of the same paths. inputs: further arguments of the network, first y."""
    # The same dropout on both sides: what is drawn for the target is drawn once more for the prediction.
    with torch.random.fork_rng([x.device] if x.is_cuda else []), torch.no_grad():
        guess = x_r - column(r, x) * network(x_r, r, *inputs).float()
        target = torch.where(column(r, x) > 0, guess, x_r)  # f(x, 0) = x, whatever a network says there
    return ops.endpoint_loss(x, like(x, network(x, t, *inputs)).float(), target, t)


@dataclass(frozen=True)
class Consistency(FromData):
    """Consistency from data alone: the objective of a run. Both states are on one path of the process."""

    schedule: Schedule

    evaluations: ClassVar[int] = 1

    def __call__(self, network: nn.Module, batch: Batch) -> torch.Tensor:
        t, r = self.schedule(batch, self.seed)
        x, _, x_r = self.process.pair_to(batch.x0, t, r, derive_seed(self.seed, "noise"), batch.first)
        return consistency_loss(network, x, t, x_r, r, self.labels(batch))
