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

import torch
from torch import nn

from distillkac import ops
from distillkac.base.random import derive_seed
from distillkac.base.tensors import column, sent
from distillkac.distillation.endpoint import rolled_out
from distillkac.distillation.pairs_options import PairsConfig
from distillkac.flow.processes import Process
from distillkac.training.batches import HOST, Batch

Source = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]
"""Paths by their numbers, see stored_paths.Paths: (states, classes, guidance weights)."""


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
        return self.source((batch.stratified(self.seed, "path", HOST).double() * among).long())


@dataclass(frozen=True)
class EndLoss:
    """How far steps land from where they shall: docs/method.md, (17). features: a features.FeatureLoss, or None."""

    config: PairsConfig
    features: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor] | None = None

    def __call__(
        self, x: torch.Tensor, u: torch.Tensor, x_end: torch.Tensor, delta: torch.Tensor, y: torch.Tensor
    ) -> torch.Tensor:
        """x, u, x_end: (B, ...) states, velocities and ends. delta: (B,) lengths of the steps. y: (B,) classes."""
        huber, slopes = self.config.huber, self.config.slopes
        if huber == 0:
            loss = ops.endpoint_loss(x, u, x_end, delta)
        else:
            squares = _errors(x, u, x_end, delta).square().flatten(1).mean(1)
            loss = ((squares + huber**2).sqrt() - huber).mean()
        if slopes:
            loss = loss + slopes * _of_slopes(_errors(x, u, x_end, delta))
        if self.features is not None:
            loss = loss + self.config.features * self.features(x - column(delta, x) * u, x_end, y)
        return loss


def _errors(x: torch.Tensor, u: torch.Tensor, x_end: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    return u - (x - x_end) / column(delta, x)


def _of_slopes(errors: torch.Tensor) -> torch.Tensor:
    """Mean squares of the differences of neighbours in the images (B, C, ...), one for each direction, added up."""
    directions = [dim for dim in range(2, errors.dim()) if errors.shape[dim] > 1]
    return torch.stack([errors.new_zeros(()), *(errors.diff(dim=dim).square().mean() for dim in directions)]).sum()


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
        rows = slice(batch.row % 2, None, 2)
        t = batch.stratified(self.seed, "time")
        x_t = self.process.bridge(batch.x0, t, derive_seed(self.seed, "noise"), batch.first)
        x, t, y = (value[rows].contiguous() for value in (x_t, t, batch.y))
        if not len(x):  # a part of one row, which networks need not be able to answer
            return x, t, y, x.float()
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
        k = (batch.stratified(self.seed, "interval", HOST).double() * num_steps).long()
        rows, place = torch.arange(len(k), device=device), sent(k * every, device)
        x, x_end = states[place, rows], states[place + every, rows]
        if self.backward > 0:
            own = batch.uniform(self.seed, "backward", HOST) < self.backward
            rolled = rolled_out(network, states[0], y, self.times, k * own, weights)
            x = torch.where(column(sent(own, device), x), rolled, x)
        start = sent(self.times[k].float(), device)
        delta = sent((self.times[k] - self.times[k + 1]).float(), device)
        if self.kept is None:
            return self.loss(x, network(x, start, y, *weights).float(), x_end, delta, y)
        x_t, t, y_t, u_t = self.kept(batch)
        u = network(torch.cat([x, x_t]), torch.cat([start, t]), torch.cat([y, y_t])).float()
        errors = (u[len(x) :] - u_t).square().flatten(1).mean(1)
        # As a share of all rows of the step, every second of which is among them: their mean, however it is cut into parts.
        share = (batch.total + 1) // 2 / batch.total
        return self.loss(x, u[: len(x)], x_end, delta, y) + self.kept.weight * errors.sum() / (share * len(x))
