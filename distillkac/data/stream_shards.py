"""The shards of a Hugging Face data set that is streamed: what can be read of it, and from where."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from distillkac.base.progress import Bar
from distillkac.data.arrow import (
    check_label_kind,
    check_same_names,
    class_names,
    encoded,
    find_columns,
    open_splits,
)
from distillkac.data.classes import printable
from distillkac.data.config import DataConfig, Fingerprint
from distillkac.data.dataset import Splits, read_splits
from distillkac.data.file_splits import find_files
from distillkac.data.fingerprint import of_words
from distillkac.data.image_files import read_image, unreadable
from distillkac.data.labels import as_class
from distillkac.data.rows import image_of


@dataclass(frozen=True, slots=True)
class Record:
    """An encoded image. name: what errors call it. label: 0 <= label < number of classes."""

    name: str
    cell: Any = field(repr=False)
    label: int

    def open(self) -> Path | BinaryIO:
        return image_of(self.cell)

    def decode(self, config: DataConfig, channels: int | None) -> np.ndarray:
        """(C, H, W) uint8. Raises ValueError naming the record, see `read_image`."""
        try:
            source = self.open()
        except (OSError, ValueError) as error:
            raise ValueError(unreadable(self.name, error)) from None
        return read_image(source, config.image_size, channels, self.name)


@dataclass(frozen=True)
class Sample:
    """Records in memory, as `Records`."""

    records: list[Record]

    def __len__(self) -> int:
        return len(self.records)

    def name(self, row: int) -> str:
        return self.records[row].name

    def open(self, row: int) -> Path | BinaryIO:
        return self.records[row].open()

    key = mark = name

    def identity(self) -> Iterator[str]:
        return (f"{record.name} {zlib.crc32(repr(record.cell).encode())}" for record in self.records)


class StreamedSplit:
    """One split: `len` shards, each read from the front."""

    def __init__(self, where: str, part, split: str, column: str, label: str | None, names: tuple[str, ...]):
        self.where, self.split, self.column, self.label, self.names = where, split, column, label, names
        self.part = encoded(part, [column, label] if label else [column])

    def __len__(self) -> int:
        return self.part.num_shards

    def read(self, shard: int, start: int = 0) -> Iterator[Record]:
        """Its records from row `start` on. Raises ValueError if they cannot be read, or have no class."""
        rows = None
        for number in range(start, 1 << 62):
            name = printable(f"{self.where}: row {number} of shard {shard} of the {self.split} split")
            try:
                rows = rows or iter(self.part.shard(len(self), shard).skip(start))
                row = next(rows)
            except StopIteration:
                return
            # Network, file systems, Arrow, decompression: they fail in many ways.
            except Exception as error:
                raise ValueError(f"{name}: cannot be read ({error}); once it can be, go on with --resume") from None
            yield Record(name, row[self.column], self._class(row, name))

    def first(self, count: int, after: dict[int, int] | None = None) -> list[tuple[int, Record]]:
        """(shard, record) of the first `count`, shard by shard; of each shard the first after[shard] are passed over."""
        after = after or {}
        rows = ((shard, record) for shard in range(len(self)) for record in self.read(shard, after.get(shard, 0)))
        return list(Bar(islice(rows, count), title="reading a sample", unit="image", total=count))

    def check_classes(self, count: int, after: dict[int, int]) -> None:
        """Raises ValueError if the records that `first` would give do not show every class; reads their classes alone."""
        if self.label is None:
            return
        labels = self.part.select_columns([self.label])
        rows = (row for k in range(len(self)) for row in labels.shard(len(self), k).skip(after.get(k, 0)))
        try:
            values = [row[self.label] for row in islice(rows, count)]
        except Exception as error:
            raise ValueError(f"{self.where}: the classes cannot be read ({error})") from None
        shown = {self._class({self.label: value}, f"{self.where}: one of the first {count} rows") for value in values}
        if absent := sorted(set(range(len(self.names))) - shown):
            raise ValueError(
                f"{self.where}: the first {count} images show {len(self.names) - len(absent)} of {len(self.names)} classes, "
                f"not {self.names[absent[0]]!r}, so that nothing could be measured against them; raise --data.eval-images, or "
                "mix the rows of the data set"
            )

    def _class(self, row: dict, name: str) -> int:
        if self.label is None:
            return 0
        try:
            value = as_class(row[self.label])
        except ValueError as error:
            raise ValueError(f"{name}: column {self.label!r}: {error}") from None
        if isinstance(value, str) or not 0 <= value < len(self.names):
            raise ValueError(
                f"{name}: column {self.label!r} must hold classes from 0 to {len(self.names) - 1}, got {value!r}; choose "
                "another column with --data.label-column, or learn without classes with --data.unconditional"
            )
        return value


def open_shards(path: str, config: DataConfig) -> tuple[StreamedSplit, StreamedSplit | None]:
    """(training split, test split or None). Raises ValueError naming the data set, see `read_arrow`."""
    train, test = open_splits(path, config, streaming=True)
    if train.features is None:
        raise ValueError(f"{path}: does not say what its columns are; learn from it without --data.streaming")
    column, label = find_columns(path, train, test, config)
    if label is not None:
        check_same_names(path, train, test, label)
    names = _class_names(path, train.features, label, config)
    shards = StreamedSplit(path, train, config.split, column, label, names)
    return shards, None if test is None else StreamedSplit(path, test, "test", column, label, names)


def _class_names(path: str, features: dict, label: str | None, config: DataConfig) -> tuple[str, ...]:
    """The names that the data give, or the numbers below --data.num-classes. Raises ValueError if neither is known: a stream is
    not read to find out."""
    if config.num_classes == 1:
        raise ValueError(
            f"{path}: --data.num-classes 1 tells nothing apart; learn without classes with --data.unconditional"
        )
    if label is None:
        if config.num_classes is not None:
            raise ValueError(f"{path}: has no column of classes, so that --data.num-classes cannot be used; omit it")
        return ("all",)
    check_label_kind(path, features, label)
    if (names := class_names(path, features, label)) is not None:
        if config.num_classes not in (None, len(names)):
            raise ValueError(
                f"{path}: column {label!r} has {len(names)} classes, not {config.num_classes}; omit --data.num-classes"
            )
        return names
    if "string" in str(getattr(features[label], "dtype", "")):
        raise ValueError(
            f"{path}: column {label!r} holds words, and a stream is not read to find out which classes there are; omit "
            "--data.streaming, or learn without classes with --data.unconditional"
        )
    if config.num_classes is None:
        raise ValueError(
            f"{path}: column {label!r} does not say how many classes there are, and a stream is not read to find out; "
            "say it with --data.num-classes, or learn without classes with --data.unconditional"
        )
    return tuple(map(str, range(config.num_classes)))


def held_per_shard(train: StreamedSplit, test: StreamedSplit | None, config: DataConfig) -> dict[int, int]:
    """How many records at the front of each training shard are kept for evaluation."""
    held: dict[int, int] = {}
    for shard, _ in [] if test is not None else train.first(config.eval_images):
        held[shard] = held.get(shard, 0) + 1
    return held


def stream_fingerprint(path: str, config: DataConfig, train: StreamedSplit, test: StreamedSplit | None) -> Fingerprint:
    """The fingerprint of what is known before a stream is read: the sizes of local files, else the number of shards."""
    place = Path(path).expanduser()
    files = find_files(place, ".parquet", config) if place.exists() else []
    # The name of a single file is that of the data set, which may have another in another place.
    words = [f"{file.relative_to(place)} {file.stat().st_size}" for file in files]
    return of_words(words or [path, *(str(len(part)) for part in (train, test) if part is not None)])


def sample_stream(path: str, config: DataConfig) -> Splits:
    """config.eval_images images of each split in memory, to measure against; the training images are some of those that
    are learned, the others never are."""
    train, test = open_shards(path, config)
    held = held_per_shard(train, test, config)
    learned = [record for _, record in train.first(config.eval_images, held)]
    others = [record for _, record in (test or train).first(config.eval_images)]
    labels = torch.tensor([record.label for record in learned + others])
    if not learned:
        raise ValueError(
            f"{path}: no images are left to learn from beside {len(others)} held out for evaluation; lower "
            "--data.eval-images"
        )
    train.check_classes(config.eval_images, held)
    splits = read_splits(path, Sample(learned + others), labels, train.names, len(learned), config)
    known = stream_fingerprint(path, config, train, test)
    return {split: replace(part, fingerprint=known) if part is not None else None for split, part in splits.items()}
