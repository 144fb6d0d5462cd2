"""CIFAR-100's own files, the binary version and the Python version (https://www.cs.toronto.edu/~kriz/cifar.html): 100 fine
classes in 20 coarse ones."""

from pathlib import Path

import numpy as np
import torch

from distillkac.data.cifar import PIXELS, SHAPE, unpickled
from distillkac.data.classes import class_name, printable
from distillkac.data.config import DataConfig
from distillkac.data.dataset import Splits, check_own_test, make_splits, without_classes
from distillkac.data.listing import Tree

FOLDERS = ("", "cifar-100-binary", "cifar-100-python")
COUNTS = {"fine": 100, "coarse": 20}
MOST_NAMES = 1 << 16  # bytes of a file of names


def find_cifar100(tree: Tree) -> list[Path]:
    """The files of training of either version, in the folder or in those that its archives unpack to in it."""
    binary = [tree.root / name / "train.bin" for name in FOLDERS]
    pickled = [tree.root / name / "train" for name in FOLDERS]
    found = [path for path in binary if path.is_file() and (path.parent / "fine_label_names.txt").is_file()]
    return found + [path for path in pickled if path.is_file() and (path.parent / "meta").is_file()]


def read_cifar100(train: Path, config: DataConfig) -> Splits:
    """train: the file of training. Raises ValueError naming the file that is missing, cut short or of another kind."""
    folder, kind = train.parent, "coarse" if config.coarse else "fine"
    if config.image_size not in (None, 32) or config.channels not in (None, 3):
        raise ValueError(f"{folder}: CIFAR-100 is 32 x 32 in colour: omit --data.image-size and --data.channels")
    check_own_test(str(folder), config)
    test = train.with_name(train.name.replace("train", "test"))
    if not test.is_file():
        raise ValueError(f"{folder}: {test.name} is missing; unpack CIFAR-100's archive anew")
    read, read_names = (_read_binary, _names_in_text) if train.suffix == ".bin" else (_read_pickled, _names_in_meta)
    names = read_names(folder, kind)
    if len(names) != COUNTS[kind] or len(set(names)) != len(names):
        raise ValueError(
            f"{folder}: names {len(set(names))} {kind} classes, not {COUNTS[kind]}; unpack the archive anew"
        )
    (images, labels), (test_images, test_labels) = (_checked(path, *read(path, kind), kind) for path in (train, test))
    labels, test_labels, names = without_classes(config, labels, test_labels, names)
    return make_splits(images, labels, names, (test_images, test_labels), config.flip)


def _read_binary(path: Path, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Records of a coarse label, a fine one, and the pixels."""
    size = path.stat().st_size
    if size == 0 or size % (PIXELS + 2):
        raise ValueError(f"{path}: {size} bytes are not whole records of {PIXELS + 2}; unpack the archive anew")
    records = np.fromfile(path, dtype=np.uint8).reshape(-1, PIXELS + 2)
    return np.ascontiguousarray(records[:, 2:]), records[:, 0 if kind == "coarse" else 1]


def _read_pickled(path: Path, kind: str) -> tuple[np.ndarray, np.ndarray]:
    images, labels = unpickled(path, "file of CIFAR-100", b"data", f"{kind}_labels".encode())
    return images, labels


def _names_in_text(folder: Path, kind: str) -> tuple[str, ...]:
    path = folder / f"{kind}_label_names.txt"
    if not path.is_file() or path.stat().st_size > MOST_NAMES:
        raise ValueError(f"{path}: is missing, or no list of names; unpack CIFAR-100's archive anew")
    return tuple(
        class_name(line.strip())
        for line in path.read_text(errors="replace", encoding="utf-8").splitlines()
        if line.strip()
    )


def _names_in_meta(folder: Path, kind: str) -> tuple[str, ...]:
    (names,) = unpickled(folder / "meta", "file of CIFAR-100", f"{kind}_label_names".encode())
    if names.ndim != 1 or names.dtype.kind not in "SU":
        raise ValueError(
            f"{folder / 'meta'}: {kind}_label_names must be a list of names; unpack CIFAR-100's archive anew"
        )
    return tuple(
        class_name(name if isinstance(name, str) else name.decode(errors="replace")) for name in names.tolist()
    )


def _checked(path: Path, images: np.ndarray, labels: np.ndarray, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    where, most = printable(str(path)), COUNTS[kind] - 1
    if images.dtype != np.uint8 or labels.ndim != 1 or images.shape != (len(labels), PIXELS) or not len(labels):
        raise ValueError(
            f"{where}: data must be (N, {PIXELS}) uint8 with a label a row, got {images.shape} {images.dtype} and labels "
            f"{labels.shape}"
        )
    if labels.dtype.kind not in "iu" or not 0 <= labels.min() <= labels.max() <= most:
        raise ValueError(f"{where}: {kind} labels must be whole numbers from 0 to {most}; unpack the archive anew")
    return torch.from_numpy(images.reshape(-1, *SHAPE)), torch.from_numpy(labels.astype(np.int64))
