"""MNIST and the sets that come in its form, as IDX files: Fashion-MNIST, KMNIST, QMNIST, EMNIST.

A set is the files of one folder whose names are the same but for the words that say what they hold: train or t10k, images or
labels. What a file is, its content says; which belong together, only names can say.
"""

import hashlib
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from distillkac.data.arrays import Part, array_splits
from distillkac.data.classes import class_name, printable
from distillkac.data.config import DataConfig
from distillkac.data.dataset import Splits
from distillkac.data.fashion_mnist import FASHION
from distillkac.data.idx_files import IdxFile, is_idx, open_idx, plain_name, read_idx_file
from distillkac.data.listing import Tree
from distillkac.data.splits import role

FOLDERS = ("raw", "gzip")  # what torchvision, and EMNIST's archive, put the files into
CONTENT = ("images", "image", "labels", "label")
SPLIT = {"t10k": "test"}  # beside the names of splits that every source knows
QMNIST_COLUMNS, DIGITS = 8, range(10)  # class, series, writer, ...
MOST_MAPPING = 1 << 16  # bytes of an EMNIST mapping
# Names that no file of the set says, by the SHA-256 of all labels: zcat train-labels-idx1-ubyte.gz | tail -c +9 | sha256sum
KNOWN = {
    "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7": FASHION,
    "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9": FASHION,
}


@dataclass
class IdxSet:
    """The files of one set by their splits: "train", "test", or None where the names say none."""

    folder: Path
    family: str
    images: dict[str | None, IdxFile] = field(default_factory=dict)
    labels: dict[str | None, IdxFile] = field(default_factory=dict)

    @property
    def is_emnist(self) -> bool:
        return "emnist" in self.family.split("-")


def find_idx(tree: Tree) -> list[Path]:
    """The IDX files of a folder: those directly in it, or in a sub-folder that such files are usually unpacked to."""
    files = []
    for path in tree.files:
        *above, _ = tree.inside(path)
        if (not above or (len(above) == 1 and above[0].casefold() in FOLDERS)) and is_idx(path):
            files.append(path)
    return files


def read_idx(path: Path, files: tuple[Path, ...], config: DataConfig) -> Splits:
    """path: the folder, or one file of images, which then says which set is meant. files: the IDX files that lie there.

    Raises ValueError naming the file that is missing, damaged or does not fit the others."""
    found = _choose(path, files)
    split, images = _training(path, found)
    train = _read_part(found, split, config)
    test = None
    if split == "train" and "test" in found.images:
        test = _read_part(found, "test", config)
    names = None if config.unconditional else _names(found, split, train)
    if found.is_emnist:
        _say_emnist(images, names)
    return array_splits(path, train, test, config, names)


def _place(path: Path) -> tuple[str, str | None]:
    """(what the set is called, its split or None), by the name of a file."""
    name = re.sub(r"[-._]idx[0-9][-._][a-z0-9]+$", "", plain_name(path))
    words = [word for word in re.split(r"[-._\s]+", name) if word and word not in CONTENT]
    splits = [SPLIT.get(word) or role(word) for word in words]
    roles = {split for split in splits if split}
    if len(roles) > 1:
        raise ValueError(f"{printable(str(path))}: its name says train and test; rename it")
    return "-".join(word for word, split in zip(words, splits, strict=True) if not split), next(iter(roles), None)


def _choose(path: Path, files: tuple[Path, ...]) -> IdxSet:
    """The one set that is meant. Raises ValueError if there are several."""
    groups: dict[tuple[Path, str], list[Path]] = {}
    for file in files:
        groups.setdefault((file.parent, _place(file)[0]), []).append(file)
    if path.is_file():
        key = path.parent, _place(path)[0]
    elif len(groups) == 1:
        key = next(iter(groups))
    else:
        ways = ", ".join(printable(str(group[0].relative_to(path))) for group in groups.values())
        raise ValueError(
            f"{printable(str(path))}: holds {len(groups)} sets of IDX files ({ways}); give the path of the images of the one "
            "that is meant, or call files that belong together by one name, as in train-images-idx3-ubyte"
        )
    found = IdxSet(*key)
    for file in _unpacked(path, groups[key]):
        opened = open_idx(file)
        parts = found.images if len(opened.shape) > 2 else found.labels
        split = _place(file)[1]
        if split in parts:
            raise ValueError(f"{opened.name} and {parts[split].name} are the same part of one set; keep one of them")
        parts[split] = opened
    return found


def _unpacked(path: Path, files: list[Path]) -> list[Path]:
    """Of a file and its packed twin the plain one, but for one that was named itself."""
    forms: dict[str, list[Path]] = {}
    for file in files:
        forms.setdefault(plain_name(file), []).append(file)
    kept = [path if path in twins else min(twins, key=lambda one: len(one.name)) for twins in forms.values()]
    if left := sorted(printable(file.name) for file in files if file not in kept):
        where = printable(str(path))
        warnings.warn(
            f"{where}: {len(left)} IDX files are here plain and packed; left out {', '.join(left)}", stacklevel=4
        )
    return kept


def _training(path: Path, found: IdxSet) -> tuple[str | None, IdxFile]:
    """(the split to learn from, its images)."""
    where = printable(str(path))
    if path.is_file():
        for split, images in found.images.items():
            if images.path == path:
                return split, images
        raise ValueError(f"{where}: holds labels; give the path of their images")
    if not found.images:
        raise ValueError(f"{where}: holds {next(iter(found.labels.values())).name} but no IDX file of images")
    if None in found.images and len(found.images) > 1:
        names = " and ".join(images.path.name for images in found.images.values())
        raise ValueError(f"{where}: {printable(names)} cannot all be parts of one set; move those away that are not")
    split = None if None in found.images else "train"
    if split not in found.images:
        name = printable(found.images["test"].path.name)
        raise ValueError(
            f"{where}: holds {name} but no images to learn from; add train-images-idx3-ubyte, or give the path of {name} "
            "itself to learn from it"
        )
    return split, found.images[split]


def _read_part(found: IdxSet, split: str | None, config: DataConfig) -> Part:
    """One split. Nothing is read before the headers of images and labels are known to fit."""
    images, labels = found.images[split], found.labels.get(split)
    if images.dtype != np.uint8 or len(images.shape) != 3:
        raise ValueError(
            f"{images.name}: images must be N x height x width of unsigned bytes, got {len(images.shape)} dimensions of "
            f"{images.dtype.name}"
        )
    if config.unconditional:
        labels = None
    elif labels is None:
        raise ValueError(
            f"{images.name}: has no labels beside it; add them, called as it is but for labels in the place of images, or "
            "add --data.unconditional to learn without classes"
        )
    else:
        _check_labels(images, labels)
    pixels = read_idx_file(images)
    if found.is_emnist:
        pixels = np.ascontiguousarray(pixels.transpose(0, 2, 1))
    return Part(pixels[:, None], None if labels is None else _read_labels(labels))


def _check_labels(images: IdxFile, labels: IdxFile) -> None:
    if labels.shape[0] != images.shape[0]:
        raise ValueError(
            f"{labels.name}: has {labels.shape[0]} labels, but {images.path.name} has {images.shape[0]} images; they are of "
            "different sets, or one of them was cut short"
        )
    columns = labels.shape[1] if len(labels.shape) == 2 else 1
    if labels.dtype.kind not in "iu" or columns not in (1, QMNIST_COLUMNS):
        raise ValueError(
            f"{labels.name}: labels must be whole numbers, one an image, or QMNIST's tables of {QMNIST_COLUMNS}, got "
            f"{' x '.join(map(str, labels.shape))} of {labels.dtype.name}"
        )


def _read_labels(labels: IdxFile) -> np.ndarray:
    found = read_idx_file(labels)
    if found.ndim == 2:
        found = found[:, 0]
        if labels.shape[1] == QMNIST_COLUMNS and not DIGITS[0] <= found.min() <= found.max() <= DIGITS[-1]:
            raise ValueError(
                f"{labels.name}: QMNIST's labels are 0 to 9, got {found.min()} to {found.max()}; fetch it anew"
            )
    return found.astype(np.int64)


def _names(found: IdxSet, split: str | None, train: Part) -> Mapping[int, str] | None:
    """What the labels mean, where the set says so or is known by all of its labels."""
    if found.is_emnist:
        name = f"{found.family}-mapping.txt"
        mapping = next(
            (file for file in found.folder.iterdir() if file.name.casefold() == name and file.is_file()), None
        )
        return None if mapping is None else _read_mapping(mapping)
    if train.labels is None or found.labels[split].dtype != np.uint8:
        return None
    names = KNOWN.get(hashlib.sha256(train.labels.astype(np.uint8).tobytes()).hexdigest())
    return None if names is None else dict(enumerate(names))


def _read_mapping(path: Path) -> dict[int, str]:
    """EMNIST's lines "label character [character]", the characters by their numbers; a class of two is called by both."""
    where = printable(str(path))
    names: dict[int, str] = {}
    if path.stat().st_size > MOST_MAPPING:
        raise ValueError(f"{where}: is too large for a mapping of EMNIST; fetch it anew")
    for number, line in enumerate(path.read_text(errors="replace", encoding="utf-8").splitlines(), 1):
        words = line.split()
        if not words:
            continue
        if len(words) < 2 or not all(re.fullmatch("[0-9]{1,6}", word) for word in words):
            raise ValueError(
                f"{where}: line {number} must be a label and one or two characters by their numbers, got {line!r}"
            )
        label, *characters = map(int, words)
        name = class_name("".join(map(chr, characters)))
        if label in names or name in names.values():
            raise ValueError(
                f"{where}: line {number} says label {label} or class {name!r} a second time; fetch it anew"
            )
        names[label] = name
    return names


def _say_emnist(images: IdxFile, names: Mapping[int, str] | None) -> None:
    called = "" if names else "; no mapping of this set lies beside them, so classes are called by their numbers"
    warnings.warn(
        f"{images.name}: is taken for EMNIST by its name, whose images lie on their side: they are turned upright{called}",
        stacklevel=3,
    )
