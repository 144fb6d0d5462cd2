"""Hugging Face data sets: folders of save_to_disk, parquet files, sets of the hub by name.

All of them end as Arrow tables that are mapped into memory, so images are read by row number in any order and only
those that are asked for. Python code that a data set brings along is never run (`datasets` asks for consent; none is
given).
"""

import contextlib
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from distillkac.base import optional, progress
from distillkac.base.paths import HUB
from distillkac.data import cache
from distillkac.data.classes import class_name, number_classes, printable
from distillkac.data.config import DataConfig
from distillkac.data.dataset import Splits, read_splits
from distillkac.data.file_splits import say_unread
from distillkac.data.labels import as_class
from distillkac.data.rows import Rows, row_name
from distillkac.data.splits import choose_splits, role
from distillkac.data.tables import ParquetSplit, is_saved, open_parquet, open_saved

LABELS = ("label", "labels", "class", "cls")


def read_arrow(path: str | Path, config: DataConfig) -> Splits:
    """Raises ValueError naming the data set: damaged, without images, of unclear columns, unknown split."""
    where, train, test = printable(str(path)), *open_splits(path, config)
    column, label = find_columns(where, train, test, config)
    labels, test_labels, names = _classes(where, train, test, label)
    records = Rows(encoded(train, [column]), None if test is None else encoded(test, [column]), column, where)
    first_test = None if test is None else len(train)
    return read_splits(where, records, torch.tensor(labels + test_labels), names, first_test, config)


def open_splits(path: str | Path, config: DataConfig, streaming: bool = False) -> tuple:
    """(training split, test split or None), as `datasets` gives them; streaming: as its IterableDataset."""
    with _explained(path):
        loaded = _load(path, config, streaming)
    names = _choose(path, loaded, config, streaming)
    with _explained(path):
        return tuple(None if name is None else _ready(loaded[name], config, streaming) for name in names)


def _choose(path: str | Path, loaded: dict, config: DataConfig, streaming: bool) -> tuple[str, str | None]:
    """The names of the splits to learn from and to measure against. Warns of those that are left unread."""
    # Of a stream nothing says that it is empty before it is read.
    empty = [] if streaming else [name for name, part in loaded.items() if not len(part)]
    train, test = config.split, config.test_split
    if train not in loaded and train == DataConfig.split:  # not asked for by this name
        train = choose_splits(path, list(loaded))[0] or train
    for option, name in (("split", train), ("test-split", test)):
        if name is not None and name not in loaded:
            raise ValueError(
                f"{path}: has no split {name!r}, only {', '.join(loaded)}; choose one with --data.{option}"
            )
    if test is None:
        test = choose_splits(path, [name for name in loaded if role(name) == "test" and name not in (train, *empty)])[1]
        if unread := [name for name in loaded if name not in (train, test, *empty)]:
            say_unread(path, "splits that are neither learned from nor measured against", unread)
    if test == train:
        raise ValueError(f"{path}: the split to learn from and the one to evaluate with are both {train!r}")
    if train in empty or test in empty:
        raise ValueError(f"{path}: the split {train if train in empty else test!r} is empty")
    return train, test


def find_columns(where: str, train, test, config: DataConfig) -> tuple[str, str | None]:
    """The columns of images and of classes, if there is one and it is wanted; both splits have them."""
    column = _image_column(where, train.features, config)
    label = None if config.unconditional else _label_column(where, train.features, column, config)
    for part in (train, test):
        if part is not None and not {column, label or column} <= set(part.column_names or ()):
            raise ValueError(
                f"{where}: the splits have different columns: {train.column_names} and {part.column_names}"
            )
    return column, label


def encoded(part, columns: list[str]):
    """These columns alone, of which the first is one of images: as bytes instead of decoded."""
    import datasets

    part = part.select_columns(columns).with_format(None)
    decoded = isinstance(part.features[columns[0]], datasets.Image)
    return part.cast_column(columns[0], datasets.Image(decode=False)) if decoded else part


@contextlib.contextmanager
def _explained(path: str | Path) -> Iterator[None]:
    """Names the data set in whatever goes wrong: the library and what lies below it (network, Arrow, file systems) fail in
    many ways."""
    optional.load("datasets", f"{path}: a Hugging Face data set or a table")
    try:
        yield
    except Exception as error:
        reason = error.__cause__ or error
        raise ValueError(printable(f"{path}: cannot be opened as a Hugging Face data set ({reason})")) from None


@progress.quiet("datasets")
def _load(path: str | Path, config: DataConfig, streaming: bool) -> dict:
    """Its splits by name; those of parquet files are converted later, by `_ready`."""
    import datasets

    if str(path).startswith(HUB):
        name, _, revision = str(path).removeprefix(HUB).partition("@")
        if not name:
            raise ValueError("it has no name: give hf://NAME or hf://NAME@REVISION")
        if not os.path.isabs(name) and os.path.exists(name):
            raise ValueError(
                f"a folder of this name is in the current one, and would be read instead; give --data.path {name}, or start "
                "from another folder"
            )
        options = {"cache_dir": str(cache.writable(cache.downloads(config)))} | (
            {"streaming": True} if streaming else {}
        )
        loaded = datasets.load_dataset(name, config.subset, revision=revision or None, **options)
        return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}
    return open_saved(Path(path)) if is_saved(Path(path)) else open_parquet(Path(path).expanduser(), config)


def _ready(part, config: DataConfig, streaming: bool):
    if not isinstance(part, ParquetSplit):
        return part
    return part.stream() if streaming else part.convert(config)


def _image_column(where: str, features: dict, config: DataConfig) -> str:
    """By type: images, or, in files that `datasets` did not write, structs with bytes, then plain bytes."""
    import datasets

    by_type = (
        [name for name, kind in features.items() if isinstance(kind, datasets.Image)],
        [name for name, kind in features.items() if isinstance(kind, dict) and "bytes" in kind],
        [name for name, kind in features.items() if getattr(kind, "dtype", None) in ("binary", "large_binary")],
    )
    if config.image_column is not None:
        if not any(config.image_column in names for names in by_type):
            raise ValueError(f"{where}: {config.image_column!r} is no column of images; there are {_columns(features)}")
        return config.image_column
    found = next((names for names in by_type if names), [])
    if len(found) != 1:
        what = f"several columns of images ({', '.join(found)})" if found else "no column of images"
        raise ValueError(f"{where}: has {what}; choose one with --data.image-column; there are {_columns(features)}")
    return found[0]


def _label_column(where: str, features: dict, image: str, config: DataConfig) -> str | None:
    import datasets

    if config.label_column is not None:
        if config.label_column not in features:
            raise ValueError(f"{where}: has no column {config.label_column!r}, only {_columns(features)}")
        return config.label_column
    found = [
        name
        for name, kind in features.items()
        if name != image and (isinstance(kind, datasets.ClassLabel) or name.casefold() in LABELS)
    ]
    if len(found) > 1:
        raise ValueError(
            f"{where}: has several columns of classes; choose one with --data.label-column: {', '.join(found)}"
        )
    if found:
        return found[0]
    if others := {name: kind for name, kind in features.items() if name != image}:
        warnings.warn(
            f"{where}: none of its columns is called label, so there are no classes to learn; there are {_columns(others)}. "
            "Choose one with --data.label-column, or say --data.unconditional",
            stacklevel=2,
        )
    return None


def _classes(where: str, train, test, label: str | None) -> tuple[list, list, tuple[str, ...]]:
    """(numbers of the training images, of the test images, names); one class if there is no column."""
    if label is None:
        return [0] * len(train), [0] * (0 if test is None else len(test)), ("all",)
    values = _values(where, train, label, "training")
    test_values = [] if test is None else _values(where, test, label, "test")
    check_same_names(where, train, test, label)
    if (names := class_names(where, train.features, label)) is None:
        return number_classes(where, values, test_values)
    for part in (values, test_values):
        if part and not 0 <= min(part) <= max(part) < len(names):
            raise ValueError(
                f"{where}: column {label!r} has classes from {min(part)} to {max(part)} instead of 0 to "
                f"{len(names) - 1} (-1 stands for none); choose another split or column"
            )
    return values, test_values, names


def class_names(where: str, features: dict, label: str) -> tuple[str, ...] | None:
    """The names that the column's type gives to its classes, in their order; None if it gives none."""
    if (names := getattr(features[label], "names", None)) is None:
        return None
    names = tuple(map(class_name, names))
    if len(set(names)) < len(names):
        (twice, _), *_ = Counter(names).most_common(1)
        raise ValueError(f"{where}: column {label!r} calls two classes {twice!r}; give each a name of its own")
    return names


def check_same_names(where: str, train, test, label: str) -> None:
    """Raises ValueError if one number is not one class in both splits."""
    names = [
        getattr(part.features[label], "names", None) for part in (train, test) if part is not None and part.features
    ]
    if any(other != names[0] for other in names):
        raise ValueError(f"{where}: the splits name the classes of {label!r} differently")


def check_label_kind(where: str, features: dict, label: str) -> None:
    """Raises ValueError unless the column may hold classes: numbers, truth values or words."""
    kind = features[label]
    known = ("int", "uint", "bool", "float", "string", "large_string")
    if getattr(kind, "names", None) is None and not str(getattr(kind, "dtype", "")).startswith(known):
        raise ValueError(f"{where}: column {label!r} must hold classes as whole numbers or words, got {kind}")


def _values(where: str, part, label: str, split: str) -> list[Any]:
    check_label_kind(where, part.features, label)
    column = part.select_columns([label]).with_format("arrow")[:].column(label)
    if column.null_count:
        row = next(i for i, value in enumerate(column) if not value.is_valid)
        raise ValueError(
            f"{where}: column {label!r} is empty for {column.null_count} images, such as row {row} of the {split} split; "
            "fill or remove them, or learn without classes with --data.unconditional"
        )
    values = []
    for row, value in enumerate(column.to_pylist()):
        try:
            values.append(as_class(value))
        except ValueError as error:
            raise ValueError(f"{row_name(where, split, row)}: column {label!r}: {error}") from None
    return values


def _columns(features: dict) -> str:
    return ", ".join(f"{name} ({getattr(kind, 'dtype', type(kind).__name__)})" for name, kind in features.items())
