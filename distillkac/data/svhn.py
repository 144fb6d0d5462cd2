"""SVHN's cropped digits, train_32x32.mat and test_32x32.mat (http://ufldl.stanford.edu/housenumbers): X (H, W, 3, N) and y."""

import re
from pathlib import Path

import numpy as np

from distillkac.data.arrays import Part, array_splits
from distillkac.data.classes import printable
from distillkac.data.config import DataConfig
from distillkac.data.dataset import Splits
from distillkac.data.listing import Tree
from distillkac.data.mat import read_mat

NAMED = re.compile(r"(train|test)_([0-9]+x[0-9]+)\.mat", re.IGNORECASE)
ZERO = 10  # MATLAB counts from 1, and the digit 0 was given the last number


def find_svhn(tree: Tree) -> list[Path]:
    """Its files directly in the folder."""
    return [path for path in tree.files if len(tree.inside(path)) == 1 and NAMED.fullmatch(path.name)]


def read_svhn(path: Path, files: tuple[Path, ...], config: DataConfig) -> Splits:
    """path: the folder, or one file, which is learned from. files: SVHN's files there. With the train file the test file
    of that size beside it is read. Raises ValueError naming the file that is missing, damaged, of another kind or double."""
    parts = _parts(path, files)
    train = path if path.is_file() else parts.get("train")
    if train is None:
        raise ValueError(
            f"{printable(str(path))}: holds {printable(parts['test'].name)} but no train_32x32.mat; add it, or give the path "
            "of the file to learn from"
        )
    test = parts.get("test") if _named(train, 1) == "train" else None
    return array_splits(path, _read(train, config), None if test is None else _read(test, config), config)


def _parts(path: Path, files: tuple[Path, ...]) -> dict[str | None, Path]:
    """The file of each split; beside a file that is given itself those of its size."""
    parts: dict[str | None, Path] = {}
    for file in files:
        split, size = _named(file, 1), _named(file, 2)
        if path.is_file() and (split == "train" or size != _named(path, 2)):
            continue
        if (other := parts.setdefault(split, file)) != file:
            raise ValueError(
                f"{printable(str(path))}: {printable(other.name)} and {printable(file.name)} are both {split} files; keep one "
                "of them there, or give the path of the file to learn from"
            )
    return parts


def _named(path: Path, part: int) -> str | None:
    """1: the split that a file's name says, 2: the size, such as 32x32."""
    named = NAMED.fullmatch(path.name)
    return named[part].casefold() if named else None


def _read(path: Path, config: DataConfig) -> Part:
    where, arrays = printable(str(path)), read_mat(path, ("X", "y"))
    if "X" not in arrays or "y" not in arrays:
        raise ValueError(f"{where}: is no file of SVHN's cropped digits, which has the arrays X and y")
    images, labels = arrays["X"], arrays["y"].reshape(-1)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[2] != 3 or 0 in images.shape:
        raise ValueError(
            f"{where}: X must be (H, W, 3, N) unsigned bytes and not empty, got {images.shape} {images.dtype}"
        )
    if len(labels) != images.shape[3]:
        raise ValueError(f"{where}: has {images.shape[3]} images and {len(labels)} labels; fetch it anew")
    if not np.isin(labels, np.arange(1, ZERO + 1)).all():
        raise ValueError(
            f"{where}: labels must be whole numbers from 1 to {ZERO}, where {ZERO} is the digit 0; fetch it anew"
        )
    pixels = np.ascontiguousarray(images.transpose(3, 2, 0, 1))
    return Part(pixels, None if config.unconditional else labels.astype(np.int64) % ZERO)
