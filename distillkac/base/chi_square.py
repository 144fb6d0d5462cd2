"""The chi-square test of two tables of counts."""

from collections.abc import Sequence

import torch


def chance(counts: Sequence[float], others: Sequence[float]) -> float:
    """How often two draws of one distribution would differ by at least as much as these: Pearson's test of homogeneity.

    counts, others: (n,) how often each of n things came in either draw, >= 0, each with a sum above 0; what came in neither
    does not count. The answer is in [0, 1], 1 where at most one thing came. It is an approximation, fair where most counts are
    5 or more.
    """
    table = torch.stack([torch.as_tensor(row, dtype=torch.float64) for row in (counts, others)])
    if table.shape[1] != len(counts) or bool((table < 0).any()) or not bool((table.sum(1) > 0).all()):
        raise ValueError(f"counts must be two tables of one length, >= 0 and not all 0, got {counts} and {others}")
    table = table[:, table.sum(0) > 0]
    if table.shape[1] == 1:
        return 1.0
    expected = table.sum(1, keepdim=True) * table.sum(0) / table.sum()
    distance = ((table - expected) ** 2 / expected).sum()
    freedom = torch.tensor((table.shape[1] - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(freedom, distance / 2))
