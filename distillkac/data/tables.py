"""Tables of images that lie on this machine: parquet files, and folders that `datasets` wrote with save_to_disk.

They are opened here rather than by `datasets.load_dataset`, to which a path is a pattern or an address ("a?b", "e::f"), and
which takes only those files of a folder whose names it understands. Parquet is converted to Arrow once, because only that
can be mapped into memory and read by row number.
"""

import contextlib
import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distillkac.base import files
from distillkac.base.progress import Bar
from distillkac.data import cache
from distillkac.data.classes import printable
from distillkac.data.config import DataConfig
from distillkac.data.file_splits import find_files, split_files
from distillkac.data.records import file_identity

ROWS = 100  # at a time: a row group may be larger than memory


def is_saved(folder: Path) -> bool:
    """Whether the folder was written by save_to_disk."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def open_saved(folder: Path) -> dict:
    """Its splits by name as `datasets.Dataset`, mapped into memory."""
    if (folder / "dataset_dict.json").is_file():
        return {name: _saved_split(folder / name) for name in _json(folder / "dataset_dict.json")["splits"]}
    return {"train": _saved_split(folder)}


def _saved_split(folder: Path):
    import datasets

    info = datasets.DatasetInfo.from_dict(_json(folder / "dataset_info.json"))
    return _map([folder / file["filename"] for file in _json(folder / "state.json")["_data_files"]], info)


def _json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def _map(paths: list[Path], info):
    import datasets
    import pyarrow

    # As bytes, which need not be UTF-8.
    mapped = [pyarrow.memory_map(os.fsencode(path)) for path in paths]
    tables = [pyarrow.ipc.open_stream(file).read_all() for file in mapped]
    # Of a split without rows no file is written.
    table = pyarrow.concat_tables(tables or [info.features.arrow_schema.empty_table()])
    fingerprint = cache.digest(map(file_identity, paths))
    return datasets.Dataset(datasets.table.InMemoryTable(table), info, fingerprint=fingerprint)


@dataclass(frozen=True)
class ParquetSplit:
    """Parquet files that are one split. features: the columns of all of them. len: rows."""

    files: list[Path]
    features: Any = field(repr=False)
    rows: int

    def __len__(self) -> int:
        return self.rows

    def stream(self):
        """An `IterableDataset` with a shard for each file."""
        import datasets
        from datasets.iterable_dataset import ArrowExamplesIterable

        examples = ArrowExamplesIterable(_tables, {"files": self.files, "features": self.features})
        return datasets.IterableDataset(examples, info=datasets.DatasetInfo(features=self.features))

    def convert(self, config: DataConfig):
        """A `Dataset` in the cache that a later run finds again. Raises ValueError if it cannot be written there."""
        words = ("parquet 1", *map(file_identity, self.files))
        kept = cache.downloads(config) / f"parquet-{cache.digest(words)}.arrow"
        if (found := self._kept(kept)) is not None:
            return found
        folder = kept.parent
        if os.access(kept, os.R_OK):
            warnings.warn(printable(f"{kept}: is damaged, so it is made again from the parquet files"), stacklevel=2)
        elif os.path.exists(kept):  # one that another user keeps for himself is left alone
            folder = cache.own()
        path = cache.writable(folder) / kept.name
        with _alone(path) as alone:
            if (found := self._kept(path)) is None:  # another process may have made it
                self._write(path, alone)
                found = self._kept(path)
        if found is None:
            raise ValueError(f"{path}: the parquet files changed while they were converted to it; start again")
        return found

    def _kept(self, path: Path):
        """The rows that were written to `path`, mapped into memory; None if these are not all of them."""
        import datasets
        import pyarrow

        try:
            found = _map([path], datasets.DatasetInfo(features=self.features))
        except (pyarrow.ArrowException, OSError, ValueError):
            return None
        return found if len(found) == self.rows else None

    def _write(self, path: Path, alone: bool) -> None:
        import pyarrow

        try:
            with (
                files.replacing(path, shared=not alone) as file,
                pyarrow.ipc.new_stream(file, self.features.arrow_schema) as writer,
                Bar(title="converting parquet", unit="row", total=self.rows) as bar,
            ):
                for _, table in _tables(self.files, self.features):
                    writer.write_table(table)
                    bar.update(len(table))
        except OSError as error:  # what cannot be read is a ValueError
            raise ValueError(
                f"{path}: cannot be written ({error.__cause__}); make room, or choose another folder with --data.cache"
            ) from None


def open_parquet(path: Path, config: DataConfig) -> dict[str, ParquetSplit]:
    """The splits of a file or of all files below a folder. Raises ValueError naming a file that is damaged."""
    found = find_files(path, ".parquet", config)
    splits = {"train": found} if path.is_file() else split_files(path, found)
    return {name: _parquet_split(part) for name, part in splits.items()}


def _parquet_split(files: list[Path]) -> ParquetSplit:
    import datasets

    schemas, rows = [], []
    for path in files:
        with _parquet(path) as file:
            rows.append(file.metadata.num_rows)
            schemas.append(file.schema_arrow)
    # An empty table knows the types of its columns as little as their values.
    known = [(path, schema) for path, schema, count in zip(files, schemas, rows, strict=True) if count]
    (first, schema), *others = known or [(files[0], schemas[0])]
    features = datasets.Features.from_arrow_schema(schema)
    for path, other in others:
        if set(other.names) != set(schema.names):
            raise ValueError(f"{path}: has columns {', '.join(other.names)} but {first} has {', '.join(schema.names)}")
        if other.metadata != schema.metadata:  # where names of classes are
            for name, kind in datasets.Features.from_arrow_schema(other).items():
                if getattr(kind, "names", None) != getattr(features[name], "names", None):
                    raise ValueError(f"{path}: names the classes of {name!r} otherwise than {first}")
    return ParquetSplit(files, features, sum(rows))


@contextlib.contextmanager
def _parquet(path: Path) -> Iterator:
    """Raises ValueError naming the file, also for what goes wrong while it is read."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.OSFile(os.fsencode(path)) as source, pyarrow.parquet.ParquetFile(source) as file:
            yield file
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: {error}") from None


def _tables(files: list[Path], features) -> Iterator[tuple]:
    """(key, table of a few rows) of the files one after the other, as `datasets` wants them."""
    import pyarrow
    from datasets.table import table_cast

    for number, path in enumerate(files):
        with _parquet(path) as file:
            if file.metadata.num_rows:
                for i, batch in enumerate(file.iter_batches(ROWS)):
                    table = pyarrow.Table.from_batches([batch]).select(list(features))
                    yield (number, i), table_cast(_locate(table, path.parent), features.arrow_schema)


def _locate(table, folder: Path):
    """Cells of images that are files beside the table get whole paths: they are not files of the current folder."""
    import pyarrow

    for i, column in enumerate(table.schema):
        if not pyarrow.types.is_struct(column.type) or {"bytes", "path"} - {part.name for part in column.type}:
            continue
        cells = table.column(i).combine_chunks()
        if cells.field("bytes").null_count == 0:
            continue
        cells = [
            cell
            if cell is None or cell["bytes"] is not None or cell["path"] is None or "://" in cell["path"]
            else cell | {"path": str(folder.absolute() / cell["path"])}
            for cell in cells.to_pylist()
        ]
        table = table.set_column(i, column, pyarrow.array(cells, column.type))
    return table


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Lets one process convert while the others wait for it; where there are no locks (False), each converts for itself."""
    from filelock import FileLock

    lock = FileLock(f"{path}.lock")
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError, NotImplementedError):
            held.enter_context(lock)
        yield lock.is_locked
