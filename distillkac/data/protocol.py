"""What a data set is to the rest of the package."""

from collections.abc import Callable
from typing import Protocol

import torch

from distillkac.base.random import SampleOrder
from distillkac.data.config import Fingerprint


class Dataset(Protocol):
    """Labelled images that are read a batch at a time. Own ones inherit from this class, or have all of its members.

    To write: `shape`, `class_names`, `__getitems__` and, for the usual order, `__len__`. The others have defaults. What a
    row holds may not depend on anything but its number: runs that are resumed, or that several processes share, meet the
    images that an uninterrupted run on one process meets.
    """

    shape: tuple[int, int, int]
    """(C, H, W) of every image."""
    class_names: tuple[str, ...]
    """Names of the classes 0, 1, ...; one of any name for images without classes."""
    fingerprint: Fingerprint | None = None
    """What tells a run its images again (fingerprint.py). None: made from the first images that are met (`given.py`)."""
    readers: int = 0
    """Threads that are worth reading with: 0 for images in memory."""
    most_readers: int | None = None
    """At most so many threads may read at once, if that is limited."""

    def __getitems__(self, rows: list[int], /) -> tuple[torch.Tensor, torch.Tensor]:
        """(x (n, C, H, W), y (n,) int64, in fresh memory) of these rows.

        x: uint8 from 0 to 255, or float32 in [-1, 1]; of what is no picture (C other than 1 and 3) any finite float32.
        May be called by several threads at once, see `readers`.
        """
        ...

    def order(self, seed: int) -> Callable[[int, int], torch.Tensor]:
        """Which rows a run of this seed meets: a function (start, stop) -> (stop - start,) int64 rows of the samples number
        start, ..., stop - 1, for ever. The default needs `__len__`: every epoch is a permutation of all rows."""
        return SampleOrder(len(self), seed)  # type: ignore[arg-type]  # who takes this default has a length

    def stop(self) -> None:
        """Called when a training ends, also by an error: what is still being read ahead is waited for by nobody."""
        return None
