"""Consistency distillation: one student that predicts the data from any time, and so takes any number of steps.

The loss and the two times r < t of a path are those of training/consistency.py. x_r is where the teacher's steps from x_t
lead, which also folds its guidance in (consistency distillation, Song et al. 2023); or x_t and x_r are one path of the process,
the same data and the same seed at two times (process.pair_to), which needs no teacher but has the noise of single images in its
targets.
"""

from dataclasses import dataclass

import torch
from torch import nn

from distillkac.base.random import derive_seed
from distillkac.distillation.consistency_options import ConsistencyConfig
from distillkac.distillation.endpoint import with_drawn_w
from distillkac.flow.guidance import GuidedVelocity
from distillkac.flow.integrators import Method, integrate
from distillkac.flow.processes import Process
from distillkac.training.batches import Batch
from distillkac.training.consistency import Schedule, consistency_loss


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
        seed = derive_seed(self.seed, "noise")
        if self.config.teacher_steps:
            x = self.process.bridge(batch.x0, t, seed, batch.first)
            with torch.no_grad():
                x_r = self._before(teacher, x, t, r, batch)
        else:
            x, _, x_r = self.process.pair_to(batch.x0, t, r, seed, batch.first)
        return consistency_loss(network, x, t, x_r, r, batch.y, *weights)

    def times(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """(t, r), each (B,), of this step: 0 <= r < t <= 1."""
        return self.schedule(batch, self.seed)

    @property
    def schedule(self) -> Schedule:
        return Schedule(*self.config.schedule, self.config.at_one, self.config.steps)

    def _before(self, teacher, x, t, r, batch):
        """Where the teacher's steps lead from x at t: a state at r."""
        shares = torch.linspace(0, 1, self.config.teacher_steps + 1, dtype=torch.float64, device=t.device)[:, None]
        return integrate(teacher, x, batch.y, torch.lerp(t.double(), r.double(), shares), self.method)
