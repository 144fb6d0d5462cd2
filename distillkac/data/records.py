"""Encoded images wherever they lie (files, tables, archives) -> pixels of one shape, in memory or read on demand.

A source is anything with the methods of `Records`. Every image is decoded and checked once, before a run begins.
"""

import math
import os
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Protocol, overload

import numpy as np
import torch

from distillkac.base.progress import Bar
from distillkac.data import cache
from distillkac.data.classes import printable
from distillkac.data.image_files import read_image, unreadable

MEMORY_LIMIT = 4 << 30  # bytes; images that need more are decoded anew whenever they are read
NARROW = 0.26  # of the range; 14 bits in 16 come to 64 of 255
NAMED = 5  # of the images that are left out


class Records(Protocol):
    """N encoded images in a fixed order."""

    def __len__(self) -> int: ...

    def name(self, row: int) -> str:
        """What errors call the image."""

    def open(self, row: int) -> Path | BinaryIO:
        """The encoded image. Raises OSError or ValueError if it cannot be read."""

    def identity(self) -> Iterable[str]:
        """Words that change when the images do; cheap, without reading them."""

    def key(self, row: int) -> str:
        """What decides whether the image is held out: its own name inside the data set or a digest of its content; not
        where the data set lies, and nothing about other images."""

    def mark(self, row: int) -> str:
        """A word for the fingerprint: what is cheap to know of the image, wherever the data set lies."""


@dataclass(frozen=True)
class Files:
    """Image files below a folder."""

    paths: Sequence[Path]
    root: Path

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, row: int) -> str:
        return printable(str(self.paths[row]))

    def open(self, row: int) -> Path:
        return self.paths[row]

    def identity(self) -> Iterable[str]:
        return (file_identity(path) for path in self.paths)

    def key(self, row: int) -> str:
        # In Unicode's composed form, for some systems decompose the names of files that are copied to them.
        return unicodedata.normalize("NFC", str(self.paths[row]).removeprefix(f"{self.root}{os.sep}"))

    def mark(self, row: int) -> str:
        return f"{self.key(row)} {self.paths[row].stat().st_size}"


def file_identity(path: Path) -> str:
    status = path.stat()
    return f"{path.absolute()} {status.st_size} {status.st_mtime_ns}"


class Images(Protocol):
    """What a data set asks of its images: (N, C, H, W) in memory as a tensor, or on the disk."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: torch.Tensor, /) -> torch.Tensor: ...


@dataclass(frozen=True)
class ImageFiles:
    """Images too large for memory together, read on demand as if they were one uint8 tensor of `shape` (N, C, H, W).

    rows: (N,) int64, which of the records they are.
    """

    records: Records = field(repr=False)
    rows: torch.Tensor = field(repr=False)
    shape: tuple[int, int, int, int]
    image_size: int | None

    @overload
    def __getitem__(self, rows: slice) -> "ImageFiles": ...

    @overload
    def __getitem__(self, rows: torch.Tensor) -> torch.Tensor: ...

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
) -> tuple[torch.Tensor | ImageFiles, list[int], list[str], tuple[int, int]]:
    """(images, rows, left_out, limits): images (N, C, H, W) uint8 of `order`, whose record numbers are `rows`; their
    smallest and largest value.

    With config.bad_images "skip", records that cannot be read are missing there, and left_out has a sentence about each.
    Images that take more than MEMORY_LIMIT become `ImageFiles`; that all of them can be read is then remembered.
    C is config.channels, by default 1 if every image is grey and 3 otherwise. Raises ValueError naming the first image
    that cannot be read (unless skipped) or has another size than the first one.
    """
    key, known = _known(records, config)
    if known is None:
        found = _look(records, order, config)
        if found.large and key is not None:
            words = {str(row): text for row, text in found.bad.items()}
            cache.remember(key, {"shape": list(found.shape[1:]), "bad": words, "limits": [found.low, found.high]})
    else:
        found = _recalled(known, order, config)
    shape, left_out, limits = found.shape, list(found.bad.values()), (found.low, found.high)
    if found.large:
        return ImageFiles(records, torch.tensor(found.rows), shape, config.image_size), found.rows, left_out, limits
    images = torch.empty(shape, dtype=torch.uint8)
    for image, array in zip(images, found.kept, strict=True):
        image.copy_(torch.from_numpy(array))  # a grey image among coloured ones is broadcast over the channels
    return images, found.rows, left_out, limits


@dataclass
class _Found:
    """What is known of images: which can be read, what is wrong with the others, their common size, channels and limits."""

    count: int  # of the images that were asked for
    depth: int
    size: tuple[int, int] = (0, 0)  # height and width, once an image is known
    rows: list[int] = field(default_factory=list)
    bad: dict[int, str] = field(default_factory=dict)
    low: int = 255
    high: int = 0
    kept: list[np.ndarray] = field(default_factory=list)  # those of `rows`, unless they are too large together
    recalled: bool = False  # from an earlier look: nothing is kept

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, C, H, W) of those that can be read."""
        return (len(self.rows), self.depth, *self.size)

    @property
    def large(self) -> bool:
        return self.recalled or math.prod((self.count, self.depth, *self.size)) > MEMORY_LIMIT

    def add(self, records: Records, row: int, image: np.ndarray) -> None:
        """Raises ValueError if it is of another size than the first."""
        if not self.rows:
            self.size = (image.shape[1], image.shape[2])
        if image.shape[1:] != self.size:
            raise ValueError(
                f"{records.name(row)}: is {_size(image.shape[1:])} but {records.name(self.rows[0])} is "
                f"{_size(self.size)}; give --data.image-size to bring all images to one size"
            )
        self.depth = max(self.depth, len(image))
        self.low, self.high = min(self.low, int(image.min())), max(self.high, int(image.max()))
        self.kept.append(image)
        self.rows.append(row)


def _look(records: Records, order: Sequence[int], config) -> _Found:
    """Decodes all images. Raises ValueError as `read_images`."""
    found = _Found(len(order), config.channels or 1)
    threads = min(32, os.cpu_count() or 1)  # Pillow decodes without holding the interpreter lock
    with ThreadPoolExecutor(threads) as pool, Bar(order, title="reading images", unit="image") as bar:
        todo = iter(bar)
        # A few at a time: one map over all would decode far ahead of what is looked at here.
        while some := list(islice(todo, 8 * threads)):
            decoded = pool.map(lambda row: _attempt(records, row, config), some)
            for row, image in zip(some, decoded, strict=True):
                if isinstance(image, ValueError):
                    found.bad[row] = str(image)
                else:
                    found.add(records, row, image)
            if found.large:
                found.kept.clear()
    if not found.rows:
        raise ValueError(f"{records.name(order[0])} and all other images cannot be read; look at one of them")
    return found


def _recalled(known: dict, order: Sequence[int], config) -> _Found:
    """What an earlier `_look` at images too large for memory found. Raises ValueError if one was bad and none is skipped."""
    bad = {int(row): text for row, text in known["bad"].items()}
    if bad and config.bad_images == "refuse":
        raise ValueError(next(iter(bad.values())))
    (depth, height, width), (low, high) = known["shape"], known["limits"]
    rows = [row for row in order if row not in bad]
    return _Found(len(order), depth, (height, width), rows, bad, low, high, recalled=True)


def say_narrow(where: str, low: float, high: float, full: tuple[float, float]) -> None:
    """Warns of images that use a small part of the range `full`, from `low` to `high`: they would be learned as nearly flat
    ones, black most often, as 12 bits in files of 16 are."""
    if high - low <= NARROW * (full[1] - full[0]):
        warnings.warn(
            f"{where}: the pixels of all images that were looked at lie between {low:g} and {high:g}, a small part of "
            f"{full[0]:g} to {full[1]:g}, and will be learned with as little contrast as they have; if that is not meant, "
            "spread them over the range first (12 bits in files of 16: multiply by 16)",
            stacklevel=3,
        )


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
        words = cache.digest(records.identity())
    except OSError:  # a file went missing: decoding says which
        return None, None
    return cache.recall(config, "check 3", words, str(config.image_size), str(config.channels))


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


def _size(size: tuple[int, ...]) -> str:
    return f"{size[1]} x {size[0]}"
