"""Shifted reconstruction: the student's picture of the data, noised again and repaired by the teacher, is its target.

After Imagine Flash (Kohler et al. 2024, section 3.2), for flows. At the state x of time T_k the student predicts the data
in one Euler step, x_hat = x - T_k u_S(x, T_k). That prediction is noised to the earlier time gamma(T_k), and the teacher
carries it from there to 0; the student learns to land there at once:

    loss = || x - T_k u_S - x_end ||^2 / (T_k^2 D).

gamma = scale * T_k^power: near 1 the teacher repairs structure, near 0 only detail. gamma(1) must be below 1, since no
data is left at t = 1.

The noise is what the student itself takes for noise in x, K = x - f x_hat, scaled to the spread of the earlier time: one x,
one target. With fresh noise one x has many targets and the student learns their mean, which the teacher repairs to a mode:
measured on the digits, that keeps only a few pictures of each class (docs/results.md).
"""

from dataclasses import dataclass

import torch
from torch import nn

from distillkac import ops
from distillkac.base.random import derive_seed
from distillkac.base.tensors import column, sent
from distillkac.distillation.endpoint import StudentStates, with_drawn_w
from distillkac.distillation.reconstruction_options import ReconstructionConfig
from distillkac.flow.guidance import GuidedVelocity
from distillkac.flow.integrators import Method, integrate, time_grid
from distillkac.flow.time_shift import shifted
from distillkac.training.batches import Batch


@dataclass(frozen=True)
class ShiftedReconstruction:
    """The objective for one stage.

    teacher: the original network, which knows every time. states: where the student is trained. rho, shift, method: the
    teacher's grid from gamma to 0, and its integrator. w_max: as in EndpointDistillation.
    """

    teacher: GuidedVelocity
    states: StudentStates
    config: ReconstructionConfig
    rho: float
    method: Method
    seed: int
    w_max: float | None = None
    shift: float = 1.0

    def __call__(self, network: nn.Module, batch: Batch) -> torch.Tensor:
        teacher, weights = with_drawn_w(self.teacher, batch, self.seed, self.w_max)
        _, t, x = self.states(network, batch, weights)
        u = network(x, t, batch.y, *weights).float()
        gamma = self.config.scale * t**self.config.power
        with torch.no_grad():
            guess = x - column(t, x) * u
            noised = self._noised(x, guess, t, gamma, batch)
            times = self._times(gamma)
            x_end = integrate(teacher, noised, batch.y, times, self.method)
        return ops.endpoint_loss(x, u, x_end, t)

    def _times(self, gamma: torch.Tensor) -> torch.Tensor:
        """(N + 1, B) from gamma (B,) down to 0: the grid of what gamma is shifted from, shifted."""
        process, grid = self.states.process, sent(time_grid(self.config.steps, self.rho), gamma.device)[:, None]
        return shifted(shifted(gamma.double(), process, 1 / self.shift) * grid, process, self.shift)

    def _noised(self, x, guess, t, gamma, batch):
        process = self.states.process
        if self.config.noise == "fresh":
            return process.bridge(guess, gamma, derive_seed(self.seed, "shift"), batch.first)
        ((f, _), (g, _)), ((f_gamma, _), (g_gamma, _)) = process.schedules(t), process.schedules(gamma)
        shrink = (process.std(g_gamma) / process.std(g)).to(x)
        return column(f_gamma, x) * guess + column(shrink, x) * (x - column(f, x) * guess)
