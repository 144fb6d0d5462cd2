"""A batch of toy data for the objectives."""

import pytest
import torch
from torch import nn

from distillkac.flow.processes import Gaussian, Planar, Telegraph
from distillkac.training.batches import Batch
from tests.toys import ToyData

DATA = ToyData()
BATCH = Batch(DATA.x[:12], DATA.y[:12], step=2, row=12, total=24)
PROCESSES = [Telegraph(9.0, 2.0), Planar(9.0, 2.0), Gaussian(0.4)]
every_process = pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.name)


class Affine(nn.Module):
    """u = x weight + bias + time t: small, curved enough, with an exact gradient."""

    null_class = 2

    def __init__(self, weight=0.3, bias=0.1, time=-0.5):
        super().__init__()
        self.weight, self.bias, self.time = (nn.Parameter(torch.tensor(v)) for v in (weight, bias, time))

    def forward(self, x, t, y):
        return self.weight * x + self.bias * (1 + y.view(-1, 1, 1, 1)) + self.time * t.view(-1, 1, 1, 1)


class Shift(nn.Module):
    """The flow of a single image m for the Gaussian process, u = (x - m)/t, with m to be learnt."""

    null_class = 2

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, x, t, y):
        return (x - self.value) / t.view(-1, 1, 1, 1).clamp(min=0.05)
