"""Consistency from data alone: it is the loss of distillation, and its optimum."""

import torch
from torch import nn

from distillkac.distillation import ConsistencyConfig, ConsistencyDistillation
from distillkac.flow.guidance import GuidedVelocity
from distillkac.flow.processes import Gaussian, Telegraph
from distillkac.training.batches import Batch
from distillkac.training.consistency import Consistency, Schedule
from tests.distillation.batches import BATCH, Affine


def test_it_is_the_loss_of_distillation_without_a_teachers_steps():
    schedule = Schedule(0.5, 3, 0.25, 12)
    learns = Consistency(Telegraph(), None, 0.0, 4, schedule)
    config = ConsistencyConfig(steps=12, teacher_steps=0, gap=0.5, phases=3)
    distils = ConsistencyDistillation(GuidedVelocity(Affine()), Telegraph(), config, "ab2", 4)
    network = Affine(0.2, 0.1, 0.4)
    assert learns(network, BATCH).item() == distils(network, BATCH).item()
    dropped = Consistency(Telegraph(), 2, 0.9, 4, schedule)
    assert (dropped.labels(BATCH) == 2).sum() >= 8
    assert dropped(network, BATCH).item() != distils(network, BATCH).item()


class NormalData(nn.Module):
    """f(x, t) = x (s / std(x_t))^power, exact for data N(0, s^2), Gaussian noise and power 1."""

    def __init__(self, power, s=0.7, sigma=0.4):
        super().__init__()
        self.power, self.s, self.sigma = nn.Parameter(torch.tensor(power)), s, sigma

    def forward(self, x, t, y):
        spread = (((1 - t) * self.s) ** 2 + (self.sigma * t) ** 2).sqrt().view(-1, 1, 1, 1)
        return x * (1 - (self.s / spread) ** self.power) / t.view(-1, 1, 1, 1)


def test_for_normal_data_its_gradient_vanishes_at_the_exact_solution():
    x0 = 0.7 * torch.randn(20_000, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    batch = Batch(x0, torch.zeros(20_000, dtype=torch.int64), 0, 0, 20_000)
    learns, slopes = Consistency(Gaussian(0.4), None, 0.0, 4, Schedule(0.0025, 1, 0.25, 1)), {}
    for power in (0.8, 1.0, 1.2):
        network = NormalData(power)
        (slopes[power],) = torch.autograd.grad(learns(network, batch), list(network.parameters()))
    assert slopes[0.8] < 0 < slopes[1.2]
    assert abs(slopes[1.0]) < 0.15 * min(-slopes[0.8], slopes[1.2])
