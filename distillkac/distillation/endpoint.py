"""Endpoint distillation: a student whose one Euler step per interval lands where its teacher's many steps land.

The fine grid of N teacher steps is cut into M intervals of n = N / M steps, T_0 = 1 > ... > T_M = 0. From a state x at
T_k the teacher's n steps end in x_end, and the student's velocity there is fitted to the mean velocity between:

    loss = || x - Delta u_S(x, T_k) - x_end ||^2 / (Delta^2 D),        Delta = T_k - T_{k+1}.

The states x are noised data (DistillKac), or where the student's own steps from pure noise lead (backward distillation of
Imagine Flash: no difference between training and sampling), or some of both.
"""

import copy
from dataclasses import dataclass

import torch
from torch import nn

from distillkac import ops
from distillkac.base.random import derive_seed
from distillkac.base.tensors import column, sent
from distillkac.flow.guidance import GuidedVelocity
from distillkac.flow.integrators import Method, integrate
from distillkac.flow.processes import Process
from distillkac.training.batches import HOST, Batch
from distillkac.training.compiled import plain_calls


@dataclass(frozen=True)
class StudentStates:
    """Draws an interval k for each row of a batch and the state at its start T_k.

    times: (M + 1,) float64, the student's grid. backward: fraction of rows whose state comes from the student's own
    steps from the prior; the others are noised data.
    """

    process: Process
    times: torch.Tensor
    backward: float
    seed: int

    def __call__(self, student: nn.Module, batch: Batch, weights: tuple[torch.Tensor, ...] = ()):
        """(k (B,) on the CPU, T_k (B,) float32, x (B, ...)). weights: the guidance weights of the rows, if an input."""
        num_steps, device = len(self.times) - 1, batch.x0.device
        k = (batch.stratified(self.seed, "interval", HOST).double() * num_steps).long()
        start = sent(self.times[k].float(), device)
        x = self.process.bridge(batch.x0, start, derive_seed(self.seed, "noise"), batch.first)
        if self.backward > 0:
            own = batch.uniform(self.seed, "backward", HOST) < self.backward
            z = self.process.prior(
                len(k), tuple(batch.x0.shape[1:]), derive_seed(self.seed, "prior"), batch.first, device
            )
            rolled = rolled_out(student, z, batch.y, self.times, k * own, weights)
            x = torch.where(column(sent(own, device), x), rolled, x)
        return k, start, x


@torch.no_grad()
def rolled_out(
    student: nn.Module,
    noise: torch.Tensor,
    y: torch.Tensor,
    times: torch.Tensor,
    k: torch.Tensor,
    weights: tuple[torch.Tensor, ...],
) -> torch.Tensor:
    """The student's first k Euler steps from the noise, row by row as many as its k (B,), on the CPU, all but the last at most.
    times: its grid."""
    x, grid = noise.clone(), times.float().tolist()
    for step in range(len(grid) - 2):
        going = (k > step).nonzero().flatten()
        # One row where none is left: every process asks as often as the others, which sharded weights need.
        rows = sent(going if len(going) else torch.zeros(1, dtype=torch.int64), x.device)
        t = torch.full((len(rows),), grid[step], dtype=torch.float32, device=x.device)
        with plain_calls():
            u = student(x[rows], t, y[rows], *(w[rows] for w in weights)).float()
        if len(going):
            x[rows] -= (grid[step] - grid[step + 1]) * u
    return x


def with_drawn_w(
    teacher: GuidedVelocity, batch: Batch, seed: int, w_max: float | None
) -> tuple[GuidedVelocity, tuple[torch.Tensor, ...]]:
    """(teacher, further inputs of the student): with w_max, a weight in [0, w_max] for every row, for both."""
    if w_max is None:
        return teacher, ()
    guided = copy.copy(teacher)
    guided.w = w_max * batch.uniform(seed, "w")
    return guided, (guided.w,)


@dataclass(frozen=True)
class EndpointDistillation:
    """The student's objective for one stage; used by training.Trainer like the teacher's.

    teacher: the field whose endpoints are learnt; with w_max its weight is drawn afresh for every row.
    states: where the student is trained; its times are every n-th of grid. grid: (N + 1,) float64 fine times.
    method: the teacher's integrator.
    """

    teacher: GuidedVelocity
    states: StudentStates
    grid: torch.Tensor
    method: Method
    seed: int
    w_max: float | None = None

    def __call__(self, network: nn.Module, batch: Batch) -> torch.Tensor:
        teacher, weights = with_drawn_w(self.teacher, batch, self.seed, self.w_max)
        k, start, x = self.states(network, batch, weights)
        n = (len(self.grid) - 1) // (len(self.states.times) - 1)
        times = sent(self.grid[k * n + torch.arange(n + 1)[:, None]], batch.x0.device)
        with torch.no_grad():
            x_end = integrate(teacher, x, batch.y, times, self.method)
        delta = (times[0] - times[-1]).float()
        return ops.endpoint_loss(x, network(x, start, batch.y, *weights).float(), x_end, delta)
