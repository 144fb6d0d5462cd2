"""Averages of weights whose length is a share of the training, and their reconstruction afterwards at any length.

After Karras et al. 2024 (arXiv 2312.02696, section 3 and appendix C). The power average of the weights w(1), w(2), ... after
t steps weighs step k by k^gamma, nearly:

    p(k) = (k^(gamma+1) - (k-1)^(gamma+1)) / t^(gamma+1),    a(t) = b a(t-1) + (1 - b) w(t),    b = (1 - 1/t)^(gamma+1).

With the weights of each step held still until the next this is, without any error, the integral of the profile
(gamma+1) k^gamma / t^(gamma+1) over [0, t]. Its standard deviation is always the same share of t, the relative length sigma:

    sigma = (gamma+1)^(1/2) (gamma+2)^(-1) (gamma+3)^(-1/2).

Snapshots of two such averages at several steps are functions of time that others can be combined of: the combination whose
profile is nearest to the wanted one, in the sense of least squares. Ours sums to one besides, which the paper does not ask:
a weight that stands still then keeps its value.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distillkac.runs.optim_config import LONGEST_AVERAGE


def exponent(length: float) -> float:
    """gamma of the power average of this relative length: the largest root of sigma^2 (g+2)^2 (g+3) = g + 1.

    Raises ValueError for a length that is not in (0, 0.28].
    """
    if not 0 < length <= LONGEST_AVERAGE:
        raise ValueError(f"the relative length of an average lies in (0, {LONGEST_AVERAGE}], got {length}")
    return float(np.roots([1, 7, 16 - length**-2, 12 - length**-2]).real.max())


def decay(step: int, gamma: float) -> float:
    """b of step `step`, from 1: what of the average before is kept. 0 at the first."""
    return (1 - 1 / step) ** (gamma + 1)


def inner(steps: np.ndarray, gammas: np.ndarray, others: np.ndarray, their_gammas: np.ndarray) -> np.ndarray:
    """Inner products of the profiles of (steps, gammas), (n,) each, with those of (others, their_gammas), (m,) each: (n, m)."""
    s, g = steps[:, None].astype(float), gammas[:, None]
    t, h = others[None].astype(float), their_gammas[None]
    power = np.where(s < t, h, g)  # the ratio is at most 1: no power overflows
    ratio = np.minimum(s, t) / np.maximum(s, t)
    return (g + 1) * (h + 1) / (g + h + 1) * ratio**power / np.maximum(s, t)


@dataclass(frozen=True)
class Combination:
    """weights: of the snapshots, in their order; their sum is 1. error: how far the combined profile is from the wanted one,
    as a share of its own norm."""

    weights: tuple[float, ...]
    error: float


def combination(snapshots: Sequence[tuple[int, float]], step: int, length: float) -> Combination:
    """How the power average of relative length `length` after `step` steps is made of snapshots (step, relative length).

    Raises ValueError if there are none, or one is of a later step.
    """
    if not snapshots:
        raise ValueError("there are no snapshots to combine")
    if (last := max(taken for taken, _ in snapshots)) > step:
        raise ValueError(f"an average after {step} steps cannot be made of a snapshot of step {last}")
    steps, gammas = np.array([taken for taken, _ in snapshots]), np.array([exponent(own) for _, own in snapshots])
    wanted = np.array([step]), np.array([exponent(length)])
    scale = float(step)  # so that all numbers are near 1
    gram, right = scale * inner(steps, gammas, steps, gammas), scale * inner(steps, gammas, *wanted)[:, 0]
    one = np.ones(len(steps))
    # The multiplier of the constraint is the last unknown. Least squares, because snapshots may lie close to each other.
    system = np.block([[gram, one[:, None]], [one[None], np.zeros((1, 1))]])
    found = np.linalg.lstsq(system, np.append(right, 1.0), rcond=1e-13)[0][:-1]
    norm = scale * float(inner(*wanted, *wanted)[0, 0])
    rest = float(found @ gram @ found) - 2 * float(found @ right) + norm
    return Combination(tuple(found.tolist()), float(np.sqrt(max(rest, 0.0) / norm)))
