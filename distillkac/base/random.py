"""Independent random streams from one user seed.

Nothing in this package reads a global random state. Every draw is a pure function of (seed, what it is for, which
step or epoch, which row), so a resumed run draws on bit for bit and a batch may be split in any way.
"""

import hashlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from distillkac.base.paths import encode


def derive_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed that depends on `seed` and every name; different names give independent streams.

    seed: any int. names: strings and ints, for example ("noise",) or ("order", epoch). Stable across machines and
    versions (BLAKE2b of an unambiguous encoding).
    """
    parts = [f"{type(name).__name__}:{name}" for name in (int(seed), *names)]
    digest = hashlib.blake2b(encode("\0".join(parts)), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator at the start of the stream `derive_seed(seed, *names)`.

    torch's CPU generator starts from the low 32 bits of its seed: of n streams, about n^2/2^33 pairs are the same. Enough
    for one stream a step or an epoch, too few for one a row (hence `normal_rows`).
    """
    return torch.Generator().manual_seed(derive_seed(seed, *names))


def normal_rows(rows: int, size: tuple[int, ...], seed: int, offset: int = 0) -> torch.Tensor:
    """Standard normal (rows, *size) float32; row b depends on (seed, offset + b) only: a Philox key and counter."""
    return _rows(rows, size, seed, offset, lambda source, out: source.standard_normal(out=out, dtype=np.float32))


def uniform_rows(rows: int, size: tuple[int, ...], seed: int, offset: int = 0) -> torch.Tensor:
    """Uniform on [0, 1), (rows, *size) float32; row b depends on (seed, offset + b) only."""
    return _rows(rows, size, seed, offset, lambda source, out: source.random(out=out, dtype=np.float32))


def _rows(
    rows: int,
    size: tuple[int, ...],
    seed: int,
    offset: int,
    fill: Callable[[np.random.Generator, np.ndarray[Any, Any]], object],
) -> torch.Tensor:
    out = np.empty((rows, math.prod(size)), dtype=np.float32)
    key = derive_seed(seed, "rows")
    for b in range(rows):
        # 2^64 calls before the next row begins.
        fill(np.random.Generator(np.random.Philox(key=key, counter=(offset + b) << 64)), out[b])
    return torch.from_numpy(out).view(rows, *size)


class SampleOrder:
    """Which data sample the global sample index j meets: one permutation of the data per epoch, for ever.

    length: number of data samples. `order(start, stop)` gives the data indices of j = start .. stop - 1: (stop - start,).
    """

    def __init__(self, length: int, seed: int):
        if length < 1:
            raise ValueError("the data set is empty: nothing to train on")
        self.length, self.seed = length, seed
        self._epoch, self._permutation = -1, torch.empty(0, dtype=torch.int64)

    def __call__(self, start: int, stop: int) -> torch.Tensor:
        parts = []
        while start < stop:
            epoch, first = divmod(start, self.length)
            if epoch != self._epoch:
                self._permutation = torch.randperm(self.length, generator=generator(self.seed, "order", epoch))
                self._epoch = epoch
            part = self._permutation[first : first + stop - start]
            parts.append(part)
            start += len(part)
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)
