"""A student with w as an input hears the weight of each row, which is also its teacher's, wherever it is asked."""

import pytest
import torch

from distillkac.distillation.endpoint import EndpointDistillation, StudentStates
from distillkac.distillation.pairs import DrawnPaths, EndLoss, PairsConfig, PairsDistillation
from distillkac.distillation.reconstruction import ReconstructionConfig, ShiftedReconstruction
from distillkac.flow.guidance import GuidedVelocity
from distillkac.flow.integrators import time_grid
from distillkac.flow.processes import Telegraph
from tests.distillation.batches import BATCH, Affine
from tests.toys import SHAPE

SEED, W_MAX = 3, 3.0
GRID = time_grid(4, 1.5)


def answers(student, w, backward, kind):
    """The loss of one batch, by an objective of that kind; of paths that were stored with their weights w."""
    if kind == "pairs":
        stored = torch.randn(5, len(w), *SHAPE, generator=torch.Generator().manual_seed(1))
        paths = DrawnPaths(lambda index: (stored, index % 2, w), len(w), 0, SEED)
        return PairsDistillation(paths, GRID, backward, EndLoss(PairsConfig()), SEED)(student, BATCH)
    teacher, states = GuidedVelocity(Affine()), StudentStates(Telegraph(), GRID[::2], backward, SEED)
    if kind == "reconstruction":
        config = ReconstructionConfig()
        return ShiftedReconstruction(teacher, states, config, 1.5, "euler", SEED, W_MAX)(student, BATCH)
    return EndpointDistillation(teacher, states, GRID, "euler", SEED, W_MAX)(student, BATCH)


@pytest.mark.parametrize("backward", [0.0, 1.0], ids=["noised data", "own states"])
@pytest.mark.parametrize("kind", ["endpoint", "reconstruction", "pairs"])
def test_each_row_is_asked_with_its_weight(kind, backward):
    heard = []

    def student(x, t, y, w):
        assert len(w) == len(x)
        heard.append(w)
        return 0 * x

    w = torch.linspace(0.5, 3, 12) if kind == "pairs" else W_MAX * BATCH.uniform(SEED, "w")
    answers(student, w, backward, kind)
    assert torch.equal(heard[-1], w)
    assert all(set(some.tolist()) <= set(w.tolist()) for some in heard)
    assert len(heard) > 1 or not backward
