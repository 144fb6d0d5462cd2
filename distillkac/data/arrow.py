"""Hugging Face data sets: folders of save_to_disk, parquet files, sets of the hub by name.

All of them end as Arrow tables that are mapped into memory, so images are read by row number in any order and only
those that are asked for. Python code that a data set brings along is never run (`datasets` asks for consent; none is
given).
"""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from distillkac import progress
from distillkac.data.classes import number_classes
from distillkac.data.dataset import DataConfig, Splits, read_splits

HUB = "hf://"
TEST_SPLITS = ("test", "validation", "valid", "val")
PARQUET_ROWS = 100  # at a time; if not given, as many as the first row group has, and an empty file's cannot be read
LABELS = ("label", "labels", "class", "cls")


@dataclass(frozen=True)
class Rows:
    """A column of encoded images. where: how errors call the data set."""

    table: object
    column: str
    where: str
    first_test: int

    def __len__(self) -> int:
        return len(self.table)

    def name(self, row: int) -> str:
        part, number = ("training", row) if row < self.first_test else ("test", row - self.first_test)
        return f"{self.where}: row {number} of the {part} split"

    def open(self, row: int) -> Path | BinaryIO:
        return image_of(self.table[row][self.column])

    def identity(self) -> Iterable[str]:
        return (self.table._fingerprint, self.column, str(self.first_test))


def image_of(cell: dict | bytes | None) -> Path | BinaryIO:
    """What a column of encoded images holds: bytes, or the place of a file; of one on the hub if the set is from there."""
    content, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
    if content is not None:
        return io.BytesIO(content)
    if path is None:
        raise ValueError("it is empty")
    # In an archive of the hub: zip://NAME::hf://ARCHIVE. Nothing else that a table names is asked of the network.
    if not path.rpartition("::")[2].startswith(HUB):
        return Path(path)
    import fsspec

    with fsspec.open(path, "rb") as file:
        return io.BytesIO(file.read())


def is_saved(folder: Path) -> bool:
    """Whether the folder was written by save_to_disk."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def arrow(path: str | Path, config: DataConfig) -> Splits:
    """Raises ValueError naming the data set: damaged, without images, of unclear columns, unknown split."""
    where, train, test = str(path), *open_splits(path, config)
    column, label = find_columns(where, train, test, config)
    labels, test_labels, names = _classes(where, train, test, label)
    images = [encoded(part, [column]) for part in (train, test) if part is not None]
    import datasets

    table = datasets.concatenate_datasets(images) if len(images) > 1 else images[0]
    records = Rows(table, column, where, len(train))
    first_test = None if test is None else len(train)
    return read_splits(where, records, torch.tensor(labels + test_labels), names, first_test, config)


def open_splits(path: str | Path, config: DataConfig, streaming: bool = False) -> tuple:
    """(training split, test split or None), as `datasets` gives them; streaming: as its IterableDataset."""
    loaded = _load(path, config, streaming)
    for option, name in (("split", config.split), ("test_split", config.test_split)):
        if name is not None and name not in loaded:
            option = option.replace("_", "-")
            raise ValueError(
                f"{path}: has no split {name!r}, only {', '.join(loaded)}; choose one with --data.{option}"
            )
    if config.test_split == config.split:
        raise ValueError(f"{path}: the split to learn from and the one to evaluate with are both {config.split!r}")
    # Of a stream nothing says that it is empty before it is read.
    empty = [] if streaming else [name for name, part in loaded.items() if not len(part)]
    others = [name for name in TEST_SPLITS if name in loaded and name != config.split and name not in empty]
    test = config.test_split or (others[0] if others else None)
    if config.split in empty or test in empty:
        raise ValueError(f"{path}: the split {config.split if config.split in empty else test!r} is empty")
    return loaded[config.split], None if test is None else loaded[test]


def find_columns(where: str, train, test, config: DataConfig) -> tuple[str, str | None]:
    """The columns of images and of classes, if there is one; both splits have them."""
    column, label = _image_column(where, train.features, config), _label_column(where, train.features, config)
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


@progress.quiet("datasets")
def _load(path: str | Path, config: DataConfig, streaming: bool) -> dict:
    """Its splits by name."""
    try:
        import datasets
    except ImportError:
        raise ValueError(f"{path}: needs the package datasets: pip install 'distillkac[data]'") from None
    options = {"cache_dir": config.cache} | ({"streaming": True} if streaming else {})
    try:
        if str(path).startswith(HUB):
            name, _, revision = str(path).removeprefix(HUB).partition("@")
            revision = revision or None
            loaded = datasets.load_dataset(name, config.subset, revision=revision, **options)
        elif is_saved(Path(path)):
            loaded = datasets.load_from_disk(str(path))
        elif Path(path).is_dir():
            loaded = datasets.load_dataset("parquet", data_dir=str(path), batch_size=PARQUET_ROWS, **options)
        else:
            loaded = datasets.load_dataset("parquet", data_files=str(path), batch_size=PARQUET_ROWS, **options)
    # The library and what lies below it (network, Arrow, file systems) fail in many ways.
    except Exception as error:
        reason = error.__cause__ or error
        raise ValueError(f"{path}: cannot be opened as a Hugging Face data set ({reason})") from None
    return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}


def _image_column(where: str, features: dict, config: DataConfig) -> str:
    """By type: images, or what they are without the library's own notes: structs with bytes, then plain bytes."""
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


def _label_column(where: str, features: dict, config: DataConfig) -> str | None:
    import datasets

    if config.label_column is not None:
        if config.label_column not in features:
            raise ValueError(f"{where}: has no column {config.label_column!r}, only {_columns(features)}")
        return config.label_column
    found = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    if len(found) > 1:
        raise ValueError(
            f"{where}: has several columns of classes; choose one with --data.label-column: {', '.join(found)}"
        )
    return found[0] if found else next((name for name in LABELS if name in features), None)


def _classes(where: str, train, test, label: str | None) -> tuple[list, list, tuple[str, ...]]:
    """(numbers of the training images, of the test images, names); one class if there is no column."""
    import datasets

    if label is None:
        return [0] * len(train), [0] * (0 if test is None else len(test)), ("all",)
    values, test_values = _values(where, train, label), [] if test is None else _values(where, test, label)
    kind = train.features[label]
    if not isinstance(kind, datasets.ClassLabel):
        return number_classes(where, values, test_values)
    if test is not None and test.features[label] != kind:
        raise ValueError(f"{where}: the splits name the classes of {label!r} differently")
    for part in (values, test_values):
        if part and not 0 <= min(part) <= max(part) < kind.num_classes:
            raise ValueError(
                f"{where}: column {label!r} has classes from {min(part)} to {max(part)} instead of 0 to "
                f"{kind.num_classes - 1} (-1 stands for none); choose another split or column"
            )
    return values, test_values, tuple(kind.names)


def _values(where: str, part, label: str) -> list:
    import datasets

    kind = part.features[label]
    dtype = getattr(kind, "dtype", "")
    if not isinstance(kind, datasets.ClassLabel) and not str(dtype).startswith(
        ("int", "uint", "string", "large_string")
    ):
        raise ValueError(f"{where}: column {label!r} must hold classes as whole numbers or words, got {kind}")
    column = part.select_columns([label]).with_format("arrow")[:].column(label)
    if column.null_count:
        raise ValueError(f"{where}: column {label!r} says nothing for {column.null_count} images; fill or remove them")
    return column.to_pylist()


def _columns(features: dict) -> str:
    return ", ".join(f"{name} ({getattr(kind, 'dtype', type(kind).__name__)})" for name, kind in features.items())
