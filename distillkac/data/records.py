"""Encoded images wherever they lie (files, tables, archives) -> pixels of one shape, in memory or read on demand.

A source is anything with the methods of `Records`. Every image is decoded and checked once, before a run begins.
"""

import hashlib
import math
import os
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import torch

from distillkac.data import cache
from distillkac.data.image_files import read_image, unreadable
from distillkac.progress import Bar

MEMORY_LIMIT = 4 << 30  # bytes; images that need more are decoded anew whenever they are read
NAMED = 5  # of the images that are left out


class Records(Protocol):
    """N encoded images in a fixed order."""

    def __len__(self) -> int: ...

    def name(self, row: int) -> str:
        """What errors call the image."""

    def open(self, row: int) -> Path | BinaryIO:
        """The encoded image. Raises OSError or ValueError if it cannot be had."""

    def identity(self) -> Iterable[str]:
        """Words that change when the images do; cheap, without reading them."""


@dataclass(frozen=True)
class Files:
    """Image files."""

    paths: Sequence[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, row: int) -> str:
        return str(self.paths[row])

    def open(self, row: int) -> Path:
        return self.paths[row]

    def identity(self) -> Iterable[str]:
        return (file_identity(path) for path in self.paths)


def file_identity(path: Path) -> str:
    status = path.stat()
    return f"{path.absolute()} {status.st_size} {status.st_mtime_ns}"


@dataclass(frozen=True)
class ImageFiles:
    """Images too large for memory together, read on demand as if they were one uint8 tensor of `shape` (N, C, H, W).

    rows: (N,) int64, which of the records they are.
    """

    records: Records = field(repr=False)
    rows: torch.Tensor = field(repr=False)
    shape: tuple[int, int, int, int]
    image_size: int | None

    def __getitem__(self, rows: torch.Tensor | slice) -> "torch.Tensor | ImageFiles":
        """rows: (n,) int64 -> (n, C, H, W) uint8, decoded now; or a slice -> those images.

        Raises ValueError if an image was damaged or changed its size since it was checked.
        """
        if isinstance(rows, slice):
            part = self.rows[rows]
            return ImageFiles(self.records, part, (len(part), *self.shape[1:]), self.image_size)
        images = torch.empty(len(rows), *self.shape[1:], dtype=torch.uint8)
        for image, row in zip(images, self.rows[rows].tolist(), strict=True):
            array = _decode(self.records, row, self.image_size, self.shape[1])
            if array.shape != self.shape[1:]:
                raise ValueError(f"{self.records.name(row)}: changed its size while it was in use; start again")
            image.copy_(torch.from_numpy(array))
        return images


def read_images(
    records: Records, order: Sequence[int], config
) -> tuple[torch.Tensor | ImageFiles, list[int], list[str]]:
    """(images, rows, left_out): images (N, C, H, W) uint8 of `order`, whose record numbers are `rows`.

    With config.bad_images "skip", records that cannot be read are missing there, and left_out has a sentence about each.
    Images that take more than MEMORY_LIMIT become `ImageFiles`; that all of them can be read is then remembered.
    C is config.channels, by default 1 if every image is grey and 3 otherwise. Raises ValueError naming the first image
    that cannot be read (unless skipped) or has another size than the first one.
    """
    size, depth, kept, rows, bad = None, config.channels or 1, [], [], {}
    key, known = _known(records, config)
    if known is None:
        threads = min(32, os.cpu_count() or 1)  # Pillow decodes without holding the interpreter lock
        with ThreadPoolExecutor(threads) as pool, Bar(order, title="reading images", unit="image") as bar:
            todo = iter(bar)
            # A few at a time: one map over all would decode far ahead of what is looked at here.
            while some := list(islice(todo, 8 * threads)):
                decoded = pool.map(lambda row: _attempt(records, row, config), some)
                for row, image in zip(some, decoded, strict=True):
                    if isinstance(image, ValueError):
                        bad[row] = str(image)
                        continue
                    size = size or image.shape[1:]
                    if image.shape[1:] != size:
                        raise ValueError(
                            f"{records.name(row)}: is {_size(image.shape[1:])} but {records.name(rows[0])} is "
                            f"{_size(size)}; give --data.image-size to bring all images to one size"
                        )
                    depth = max(depth, len(image))
                    kept.append(image)
                    rows.append(row)
                if size and math.prod((len(order), depth, *size)) > MEMORY_LIMIT:
                    kept.clear()
        if not rows:
            raise ValueError(f"{records.name(order[0])} and all other images cannot be read; look at one of them")
        shape, large = (len(rows), depth, *size), math.prod((len(order), depth, *size)) > MEMORY_LIMIT
        if large:
            cache.remember(key, {"shape": [depth, *size], "bad": {str(row): text for row, text in bad.items()}})
    else:
        bad = {int(row): text for row, text in known["bad"].items()}
        if bad and config.bad_images == "refuse":
            raise ValueError(next(iter(bad.values())))
        rows, large = [row for row in order if row not in bad], True
        shape = (len(rows), *known["shape"])
    if large:
        return ImageFiles(records, torch.tensor(rows), shape, config.image_size), rows, list(bad.values())
    images = torch.empty(shape, dtype=torch.uint8)
    for image, array in zip(images, kept, strict=True):
        image.copy_(torch.from_numpy(array))  # a grey image among coloured ones is broadcast over the channels
    return images, rows, list(bad.values())


def say_left_out(where: str, left_out: Sequence[str], total: int) -> None:
    """Warns of images that were skipped: how many, and the first of them by name."""
    if left_out:
        more = f"\n  and {len(left_out) - NAMED} more" if len(left_out) > NAMED else ""
        warnings.warn(
            f"{where}: left out {len(left_out)} of {total} images that cannot be read:\n  "
            + "\n  ".join(left_out[:NAMED])
            + more,
            stacklevel=2,
        )


def _known(records: Records, config) -> tuple[Path | None, dict | None]:
    """What an earlier check of exactly these images found, if they were too large for memory."""
    try:
        words = hashlib.blake2b("\0".join(records.identity()).encode()).hexdigest()
    except OSError:  # a file went missing: decoding says which
        return None, None
    path, content = cache.recall(config, "check 1", words, str(config.image_size), str(config.channels))
    valid = isinstance(content, dict) and content.keys() == {"shape", "bad"}
    return path, content if valid else None


def _decode(records: Records, row: int, image_size: int | None, channels: int | None) -> np.ndarray:
    name = records.name(row)
    try:
        source = records.open(row)
    except (OSError, ValueError) as error:
        raise ValueError(unreadable(name, error)) from None
    return read_image(source, image_size, channels, name)


def _attempt(records: Records, row: int, config) -> np.ndarray | ValueError:
    try:
        return _decode(records, row, config.image_size, config.channels)
    except ValueError as error:
        if config.bad_images == "refuse":
            raise
        return error


def _size(size: tuple[int, int]) -> str:
    return f"{size[1]} x {size[0]}"
