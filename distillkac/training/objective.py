"""What a network is trained for."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from distillkac.base.random import derive_seed
from distillkac.flow.processes import Process
from distillkac.training.batches import Batch

Objective = Callable[[nn.Module, Batch], torch.Tensor]
"""(network, batch) -> scalar loss. An objective with an attribute `updates` makes that many optimizer updates a step, each
on a batch of its own; batch.step counts updates. A network with `param_groups()` has groups whose learning rates are
`lr_scale` times the schedule's, one with `averaged` a part that the moving average follows (see inverse.py)."""


@dataclass(frozen=True)
class FlowMatching:
    """The teacher's objective: E || u(x_t, t, y) - (f' x_0 + g' v(g, K)) ||^2 / D over uniform t, classes dropped."""

    process: Process
    null_class: int
    label_drop: float
    seed: int

    def __call__(self, network: nn.Module, batch: Batch) -> torch.Tensor:
        t = batch.stratified(self.seed, "time")
        x_t, u = self.process.pair(batch.x0, t, derive_seed(self.seed, "noise"), batch.first)
        dropped = batch.uniform(self.seed, "label") < self.label_drop
        y = torch.where(dropped, self.null_class, batch.y)
        return nn.functional.mse_loss(network(x_t, t, y), u)
