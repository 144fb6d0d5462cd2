"""The classes of images that are drawn to be measured against real ones: as often as the real ones have them.

A distance between two sets of images counts how often each has its classes. Where a class makes nine tenths of the real images,
one that knows each class perfectly and draws all equally often is far from them.
"""

import warnings

import numpy as np
import torch

from distillkac.base.chi_square import chance
from distillkac.base.random import generator
from distillkac.data.config import Split
from distillkac.runs.config import RunConfig

__all__ = ["EQUAL", "drawn_as", "reference_labels", "shares_of_classes"]

EQUAL = 0.05
"""Counts of classes that equally frequent ones would have at least this often, by the chi-square test, are taken for such."""


def reference_labels(config: RunConfig, count: int, split: Split = "test") -> torch.Tensor:
    """(count,) int64 classes of images to be measured against those of a split of the run's data, count >= 1.

    As many of each class as that split has, to the nearest image, and none of a class that it lacks; the first n are so for
    any n. All in turn where the counts of the split could be those of equally frequent classes, see EQUAL, or are not known, as
    of a stream. Warns of fewer images than classes, which are then of classes chosen at random.
    """
    part = np.asarray(shares_of_classes(config, split))
    present = np.flatnonzero(part)
    if count < len(present):
        warnings.warn(
            f"{count} images are not one of each of the {len(present)} classes, so some are not measured: draw more (--num)",
            stacklevel=2,
        )
        order = torch.randperm(len(present), generator=generator(0, "reference labels")).numpy()
        return torch.from_numpy(present[order[:count]])
    labels, drawn, total = np.empty(count, np.int64), np.zeros(len(part), np.int64), int(part.sum())
    for i in range(count):
        # In whole numbers: of equally frequent classes, the first that is furthest behind is the next in turn.
        labels[i] = np.argmax(np.where(part > 0, part * (i + 1) - drawn * total, np.iinfo(np.int64).min))
        drawn[labels[i]] += 1
    return torch.from_numpy(labels)


def shares_of_classes(config: RunConfig, split: Split = "test") -> tuple[int, ...]:
    """In which proportion `reference_labels` draws the classes: the counts of the split, or ones."""
    equal = (1,) * len(config.class_names)
    known = config.fingerprint
    counts = () if known is None else (known.test if split == "test" else known.train)
    if len(counts) != len(equal) or not any(counts) or (min(counts) and _could_be_equal(counts)):
        return equal
    return tuple(counts)


def drawn_as(config: RunConfig, split: Split = "test") -> str:
    """How `reference_labels` draws the classes, in a few words."""
    if len(set(shares_of_classes(config, split))) == 1:
        return f"classes in turn ({len(config.class_names)})"
    return f"classes as often as the {split} split has them ({len(config.class_names)})"


def _could_be_equal(counts: tuple[int, ...]) -> bool:
    """Whether these are no further from equal counts than 1 in 1 / EQUAL draws of equally frequent classes."""
    return chance(counts, [1e15] * len(counts)) >= EQUAL  # beside so many, equal shares are known exactly
