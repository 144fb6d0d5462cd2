"""Power averages and their reconstruction, against sums over all steps and integrals."""

import numpy as np
import pytest
import torch
from torch import nn

from distillkac.training import averages, power_averages
from distillkac.training.averages import PowerAverage

LENGTHS = [0.03, 0.05, 0.08, 0.1, 0.15, 0.2]


def profile(gamma, points):
    """The profile of an average after time 1, at these points: written anew, from the paper's formula."""
    return (gamma + 1) * points**gamma


@pytest.mark.parametrize("length", LENGTHS)
def test_the_exponent_gives_the_relative_length(length):
    """By the moments of the profile, integrated numerically."""
    points = (np.arange(200_000) + 0.5) / 200_000
    density = profile(power_averages.exponent(length), points)
    mean = (density * points).mean()
    assert density.mean() == pytest.approx(1, rel=1e-6)
    assert np.sqrt((density * (points - mean) ** 2).mean()) == pytest.approx(length, rel=1e-5)


def test_inner_products_are_the_integrals():
    steps, gammas = np.array([30, 100]), np.array([1.5, 16.7])
    others, theirs = np.array([100, 64]), np.array([6.9, 0.3])
    points = (np.arange(400_000) + 0.5) / 400_000 * 100

    def at(step, gamma):
        return np.where(points < step, profile(gamma, np.minimum(points / step, 1)) / step, 0)

    ours, other = list(zip(steps, gammas, strict=True)), list(zip(others, theirs, strict=True))
    expected = [[(at(*one) * at(*two)).mean() * 100 for two in other] for one in ours]
    np.testing.assert_allclose(power_averages.inner(steps, gammas, others, theirs), expected, rtol=1e-4)


class Walk(nn.Module):
    """Weights that move with the step, in float64: 200 that wander, one that stands still."""

    def __init__(self, steps):
        super().__init__()
        source = torch.Generator().manual_seed(0)
        self.path = torch.randn(steps, 200, generator=source, dtype=torch.float64).cumsum(0) / steps**0.5
        self.w = nn.Parameter(torch.zeros(200, dtype=torch.float64))
        self.still = nn.Parameter(torch.full((1,), 0.7, dtype=torch.float64))

    def go(self, step):
        self.w.data.copy_(self.path[step - 1])


def direct(walk, gamma, step):
    """The average by its definition: a sum over all steps."""
    k = torch.arange(1, step + 1, dtype=torch.float64)
    weights = (k ** (gamma + 1) - (k - 1) ** (gamma + 1)) / step ** (gamma + 1)
    assert float(weights.sum()) == pytest.approx(1)
    return weights @ walk.path[:step]


def test_the_average_that_is_kept_is_the_sum_over_all_steps():
    walk = Walk(300)
    found = {length: PowerAverage(walk, length) for length in LENGTHS}
    for step in range(1, 301):
        walk.go(step)
        for average in found.values():
            average.update(walk)
    for average in found.values():
        torch.testing.assert_close(average.weights["w"], direct(walk, average.gamma, 300), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("step", [400, 225])
@pytest.mark.parametrize("length", LENGTHS)
def test_an_average_of_any_length_is_made_of_snapshots_of_two(length, step):
    """At the end and at a snapshot before it. The nearest of the snapshots alone is much farther away."""
    walk, taken, weights = Walk(400), [], []
    pair = [PowerAverage(walk, 0.05), PowerAverage(walk, 0.10)]
    for now in range(1, step + 1):
        walk.go(now)
        for own, average in zip((0.05, 0.10), pair, strict=True):
            average.update(walk)
            if now % 25 == 0:
                taken.append((now, own))
                weights.append({key: value.clone() for key, value in average.weights.items()})
    combined = power_averages.combination(taken, step, length)
    assert sum(combined.weights) == pytest.approx(1, abs=1e-9)
    assert combined.error < averages.LARGEST_ERROR
    made = sum(c * w["w"] for c, w in zip(combined.weights, weights, strict=True))
    wanted = direct(walk, power_averages.exponent(length), step)
    error = float((made - wanted).norm())
    assert error < 0.02 * float(wanted.norm())
    if length not in (0.05, 0.1):
        assert error < 0.35 * min(float((w["w"] - wanted).norm()) for w in weights)
    # What stands still stays, to rounding: the weights sum to one.
    assert float(sum(c * w["still"] for c, w in zip(combined.weights, weights, strict=True))) == pytest.approx(
        0.7, abs=1e-8
    )


def test_what_cannot_be_combined_is_refused():
    with pytest.raises(ValueError, match="no snapshots"):
        power_averages.combination([], 10, 0.1)
    with pytest.raises(ValueError, match="after 10 steps cannot be made of a snapshot of step 12"):
        power_averages.combination([(12, 0.1)], 10, 0.1)
    for length in (0, -0.1, 0.3):
        with pytest.raises(ValueError, match=r"lies in \(0, 0.28\]"):
            power_averages.exponent(length)
