"""The images in a column of a table."""

import functools
import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from distillkac.base.paths import HUB
from distillkac.data.dataset import content_key


@dataclass(frozen=True)
class Rows:
    """A column of encoded images in the training split and the test split, one after the other. where: how errors call them."""

    train: Any
    test: Any
    column: str
    where: str

    def __len__(self) -> int:
        return len(self.train) + (0 if self.test is None else len(self.test))

    def name(self, row: int) -> str:
        return row_name(self.where, *self._place(row))

    def open(self, row: int) -> Path | BinaryIO:
        return image_of(self._cell(row))

    def identity(self) -> Iterable[str]:
        return (self.column, *(part._fingerprint for part in self._parts))

    def key(self, row: int) -> str:
        return self._keys[row]

    def mark(self, row: int) -> str:
        return self._marks[row]

    @functools.cached_property
    def _keys(self) -> list[str]:
        cells = (cell for chunk in self._chunks() for cell in chunk.to_pylist())
        contents = ((cell, cell.get("bytes") if isinstance(cell, dict) else cell) for cell in cells)
        return [_file_name(cell) if content is None else content_key(content) for cell, content in contents]

    @functools.cached_property
    def _marks(self) -> list[str]:
        """Of each image its size or, where the table only names a file, that name. No image is read."""
        import pyarrow.compute as compute

        marks = []
        for cells in self._chunks():
            content = compute.struct_field(cells, "bytes") if hasattr(cells, "field") else cells
            sizes = compute.binary_length(content).to_pylist()
            marks += [_file_name(cells[i].as_py()) if size is None else str(size) for i, size in enumerate(sizes)]
        return marks

    def _chunks(self) -> Iterator:
        """The column, a few images at a time: they may be more than memory holds."""
        for part in self._parts:
            for batch in part.with_format("arrow").iter(100):
                yield from batch.column(self.column).chunks

    @property
    def _parts(self) -> list:
        return [part for part in (self.train, self.test) if part is not None]

    def _place(self, row: int) -> tuple[str, int]:
        first_test = len(self.train)
        return ("training", row) if row < first_test else ("test", row - first_test)

    def _cell(self, row: int) -> dict | bytes | None:
        part, number = self._place(row)
        return (self.train if part == "training" else self.test)[number][self.column]


def row_name(where: str, part: str, row: int) -> str:
    return f"{where}: row {row} of the {part} split"


def _file_name(cell: dict | None) -> str:
    """What a table calls an image that lies elsewhere: file and folder, for where the folder lies is another matter."""
    path = (cell or {}).get("path") or ""
    return "/".join(PurePosixPath(path.partition("::")[0]).parts[-2:])


def image_of(cell: dict | bytes | None) -> Path | BinaryIO:
    """What a column of encoded images holds: bytes, or the place of a file; of one on the hub if the set is from there."""
    content, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
    if content is not None:
        return io.BytesIO(content)
    if path is None:
        raise ValueError("it is empty")
    # In an archive of the hub: zip://NAME::hf://ARCHIVE. Nothing else that a table names is asked of the network.
    if path.rpartition("::")[2].startswith(HUB):
        import fsspec

        with fsspec.open(path, "rb") as file:
            return io.BytesIO(file.read())
    if "://" in path:
        raise ValueError(f"it is an address, {path}, and nothing is fetched; put the images themselves into the table")
    if not os.path.isabs(path):
        raise ValueError(
            f"it is a file called {path}, and nothing says in which folder; save the set with the images in it"
        )
    return Path(path)
