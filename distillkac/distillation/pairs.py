"""Pairs: a student learns where the teacher's own paths from pure noise lead, which are stored once (stored_paths.py).

The path from one noise has one end, so the squared loss has no blur of its own: what a student loses is lost by its size and
its time. With the student's times T_0 = 1 > ... > T_M = 0, the path's states x_k at T_k and Delta = T_k - T_{k+1}:

    loss = || x - Delta u_S(x, T_k) - x_{k+1} ||^2 / (Delta^2 D),

where x is x_k, or where the student's own steps from the same noise lead. No stage drifts from the teacher: whatever the
number of steps, it is the teacher's path that is learnt.

A student of any number of steps (consistency.py) may learn its own path of a few steps as one step, and keep at all other times
what it predicts there: then one network is good in one step and in several.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from distillkac import ops
from distillkac.base.random import derive_seed
from distillkac.base.tensors import column
from distillkac.distillation.endpoint import rolled_out
from distillkac.flow.processes import Process
from distillkac.training.batches import Batch

# Share of each step that is drawn anew, where nothing is asked for, of a student of any number of steps. At half, as of the
# student that it comes from, digits in 4 steps are too diverse (1.06) and a little further from the data.
KEPT_RESTART = 0.75

Source = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]
"""Paths by their numbers, see stored_paths.Paths: (states, classes, guidance weights)."""


@dataclass(frozen=True)
class PairsConfig:
    """The stored paths of the teacher, where pairs are learnt."""

    count: int = 8000
    """How many paths; more cost the teacher's time and make better students."""
    huber: float = 0.0
    """If above 0, the pseudo-Huber loss sqrt(e^2 + huber^2) - huber of the error e of an image, the root mean square of its
    velocity's, which large errors pull at less; 0 for the squared loss."""
    features: float = 0.0
    """Weight of a second loss, between the features that the teacher's blocks have of both ends."""
    by: Literal["teacher", "consistency"] = "teacher"
    """Whose steps the paths are. Consistency: a student of method consistency is made first (consistency.*), and its own steps,
    as many as the first of stages says, are the paths; the other students start from it."""
    teacher_steps: int | None = None
    """Steps of the teacher's paths for inverse distillation alone with inverse.pairs; elsewhere stages begin with them."""
    keep: float = 0.0
    """With by consistency and stages such as 2,1: weight of a second loss, on noised data, that keeps what the consistency
    student predicts there. The student that learns one step then takes any number of them, as that one does."""

    def __post_init__(self):
        if self.count < 1 or not min(self.huber, self.features, self.keep) >= 0:
            raise ValueError(
                "pairs: count must be at least 1, huber, features and keep at least 0, got "
                f"{self.count}, {self.huber}, {self.features} and {self.keep}"
            )
        if self.teacher_steps is not None and self.teacher_steps < 1:
            raise ValueError(f"pairs.teacher_steps must be at least 1, got {self.teacher_steps}")
        if self.keep and self.by == "teacher":
            raise ValueError(
                f"pairs.keep {self.keep:g} keeps what a consistency student predicts: give pairs.by consistency"
            )


@dataclass(frozen=True)
class DrawnPaths:
    """Which paths a batch learns from, and what they are.

    source: the paths. count: their number. growing: updates in which the part of them that is drawn from grows from a batch
    to all, so that the first ones are learnt while the others are made; 0 draws from all at once.
    """

    source: Source
    count: int
    growing: int
    seed: int

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """What `source` answers for as many paths as the batch has rows, each in a part of its own of those drawn from."""
        grown = self.count if not self.growing else -(-self.count * (batch.step + 1) // self.growing)
        among = min(self.count, max(grown, batch.total))
        return self.source((batch.stratified(self.seed, "path").double() * among).long())


@dataclass(frozen=True)
class EndLoss:
    """How far steps land from where they shall: docs/method.md, (17). features: a features.FeatureLoss, or None."""

    config: PairsConfig
    features: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor] | None = None

    def __call__(
        self, x: torch.Tensor, u: torch.Tensor, x_end: torch.Tensor, delta: torch.Tensor, y: torch.Tensor
    ) -> torch.Tensor:
        """x, u, x_end: (B, ...) states, velocities and ends. delta: (B,) lengths of the steps. y: (B,) classes."""
        huber = self.config.huber
        if huber == 0:
            loss = ops.endpoint_loss(x, u, x_end, delta)
        else:
            squares = (u - (x - x_end) / column(delta, x)).square().flatten(1).mean(1)
            loss = ((squares + huber**2).sqrt() - huber).mean()
        if self.features is None:
            return loss
        return loss + self.config.features * self.features(x - column(delta, x) * u, x_end, y)


@dataclass(frozen=True)
class Kept:
    """Predictions that a student shall keep: of `network`, on every second row of noised data, at any time.

    weight: of their mean squared error beside the loss of the ends.
    """

    network: nn.Module
    process: Process
    weight: float
    seed: int

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """(x_t, t, classes, velocities there) of these rows."""
        # By their number in the whole step, so that parts of a batch have the rows that it has.
        rows = (torch.arange(len(batch.x0), device=batch.x0.device) + batch.row) % 2 == 0
        t = batch.stratified(self.seed, "time")
        x, t, y = (
            self.process.bridge(batch.x0, t, derive_seed(self.seed, "noise"), batch.first)[rows],
            t[rows],
            batch.y[rows],
        )
        with torch.no_grad():
            return x, t, y, self.network(x, t, y).float()


@dataclass(frozen=True)
class PairsDistillation:
    """The objective for one student.

    paths: where its states come from. times: (M + 1,) float64, its grid, every n-th of the paths' times. backward: fraction of
    the rows whose state is the student's own. kept: what else it shall predict, for a student of any number of steps.
    """

    paths: DrawnPaths
    times: torch.Tensor
    backward: float
    loss: EndLoss
    seed: int
    kept: Kept | None = None

    def __call__(self, network: nn.Module, batch: Batch) -> torch.Tensor:
        states, y, w = self.paths(batch)
        num_steps, device = len(self.times) - 1, states.device
        every = (len(states) - 1) // num_steps
        weights = () if w is None else (w,)
        k = (batch.stratified(self.seed, "interval").double() * num_steps).long()
        rows, times = torch.arange(len(k), device=device), self.times.to(device)
        x, x_end = states[k * every, rows], states[(k + 1) * every, rows]
        if self.backward > 0:
            own = batch.uniform(self.seed, "backward") < self.backward
            x = torch.where(column(own, x), rolled_out(network, states[0], y, self.times, k * own, weights), x)
        start, delta = times[k].float(), (times[k] - times[k + 1]).float()
        if self.kept is None:
            return self.loss(x, network(x, start, y, *weights).float(), x_end, delta, y)
        x_t, t, y_t, u_t = self.kept(batch)
        u = network(torch.cat([x, x_t]), torch.cat([start, t]), torch.cat([y, y_t])).float()
        errors = (u[len(x) :] - u_t).square().flatten(1).mean(1)
        # Half of the rows, so twice their sum: a mean over the whole step, however it is cut into parts.
        return self.loss(x, u[: len(x)], x_end, delta, y) + self.kept.weight * 2 * errors.sum() / len(x)
