"""Energy of paths and rank correlations, against values by hand."""

import math
from types import SimpleNamespace

import pytest
import torch

from distillkac.evaluation import diagnostics
from distillkac.evaluation.energy_ranks import _sure, ranks, spearman, within
from distillkac.flow.integrators import time_grid
from tests.toys import SHAPE


def test_equal_values_share_the_mean_of_their_places():
    assert ranks(torch.tensor([3.0, 1.0, 3.0, 2.0, 3.0])).tolist() == [3.0, 0.0, 3.0, 1.0, 3.0]


def test_spearman_by_hand():
    x, y = torch.tensor([1.0, 2.0, 2.0, 4.0]), torch.tensor([10.0, 30.0, 20.0, 20.0])
    # Ranks (0, 1.5, 1.5, 3) and (0, 3, 1.5, 1.5): products of deviations 2.25 + 0 + 0 + 0, squares 4.5 and 4.5.
    assert spearman(x, y) == pytest.approx(2.25 / 4.5)
    assert spearman(x, x**3) == pytest.approx(1.0)
    assert spearman(x, torch.ones(4)) is None


def test_what_differs_from_class_to_class_counts_for_nothing_within():
    labels = torch.arange(100) % 2
    x = torch.arange(100) // 2 + 1000.0 * labels
    y = -(torch.arange(100) // 2) + 1000.0 * labels
    assert spearman(x, y) > 0.4
    assert within(x, y, labels) == pytest.approx(-1.0)


def test_a_large_class_weighs_no_more_by_its_ranks_than_a_small_one():
    """4 images in opposite order and 40 in the same: of places in [-1/2, 1/2], whatever the number of images."""
    sizes = (4, 40)
    labels, x = torch.tensor([0] * 4 + [1] * 40), torch.cat([torch.arange(n) for n in sizes])
    places = torch.cat([(torch.arange(n) - (n - 1) / 2) / n for n in sizes])
    opposite = torch.where(labels == 0, -places, places)
    y = torch.where(labels == 0, -x, x)
    assert within(x.float(), y.float(), labels) == pytest.approx(float(places @ opposite / places.square().sum()))


def test_how_sure_a_classifier_is_of_the_class_that_was_asked_for():
    """log p / (1 - p): of two classes the difference of their logits, of more the one against all others together."""
    logits = torch.tensor([[2.0, -1.0, -torch.inf], [2.0, -1.0, -torch.inf], [0.0, 0.0, 0.0]])
    sure = _sure(SimpleNamespace(logits=lambda images: images), logits, torch.tensor([0, 1, 2]))
    torch.testing.assert_close(sure, torch.tensor([3.0, -3.0, -math.log(2)]))


def test_energy_of_a_straight_and_of_a_bent_path():
    grid = time_grid(100, 1.0)
    u = torch.ones(100, 3, *SHAPE)
    assert diagnostics.kinetic_energy(u, grid) == pytest.approx(0.5)
    u *= torch.cos(2 * math.pi * grid[:-1]).view(-1, 1, 1, 1, 1).float()
    assert diagnostics.kinetic_energy(u, grid) == pytest.approx(0.25, rel=1e-3)
