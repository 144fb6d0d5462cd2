"""Images to learn: scikit-learn's digits, a folder of image files, or an `.npz` of arrays.

Whatever the source, `load` decodes and checks every image of both splits before it returns, so that no run dies of a
bad file hours later. Every mistake is a ValueError that names the file and says what to do.
"""

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from distillkac.image_files import ImageFiles, list_images, read_images, to_array
from distillkac.random import generator

SPLITS = ("train", "test")
DIGITS_TRAIN = 1297
SPLIT_SEED = 1234  # of every split this module makes; fixed, so that no choice of seed moves an image between splits
ARRAYS = {  # names in an .npz, ours first; the others are those of the common mnist.npz
    "images": ("images", "x_train"),
    "labels": ("labels", "y_train"),
    "test_images": ("test_images", "x_test"),
    "test_labels": ("test_labels", "y_test"),
}


@dataclass(frozen=True)
class DataConfig:
    """Which images to learn."""

    path: str | None = None
    """A folder of images (a sub-folder per class, or none; train/ and test/ above them if both are there), or an .npz
    with images, labels, test_images, test_labels (all but the first optional). The digits of scikit-learn if not given.
    """
    image_size: int | None = None
    """Resize the shorter side to this and crop the centre. If not given, all images must have one size already."""
    channels: Literal[1, 3] | None = None
    """1 = grey, 3 = RGB. If not given, grey where every image is grey."""
    flip: bool = False
    """Learn every image together with its mirror image."""
    held_out: float = 0.1
    """Fraction of each class kept for evaluation, where the data has no test part of its own."""

    def __post_init__(self):
        if self.image_size is not None and self.image_size < 1:
            raise ValueError(f"data.image_size must be at least 1, got {self.image_size}")
        if self.channels not in (None, 1, 3):
            raise ValueError(f"data.channels must be 1 (grey) or 3 (RGB), got {self.channels}")
        if not 0 <= self.held_out < 1:
            raise ValueError(f"data.held_out must lie in [0, 1), got {self.held_out}")


@dataclass(frozen=True)
class ImageDataset:
    """Images with their classes, for a DataLoader that asks for whole batches.

    images: (N, C, H, W), uint8 or float32 in [-1, 1]; a tensor or `ImageFiles`. labels: (N,) int64.
    With `mirrored` there are 2 N samples, of which number N + i is image i mirrored: nothing is random here, and when
    a mirror image is met follows from the seed of the order in which the samples are visited.
    """

    images: torch.Tensor | ImageFiles = field(repr=False)
    labels: torch.Tensor = field(repr=False)
    class_names: tuple[str, ...]
    mirrored: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return tuple(self.images.shape[1:])

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def __len__(self) -> int:
        return len(self.labels) * (2 if self.mirrored else 1)

    def __getitems__(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """(x (n, C, H, W) float32 in [-1, 1], y (n,) int64), fresh memory. indices: each in [0, len)."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < len(self):
            raise IndexError(f"indices must lie in [0, {len(self)}), got {int(index.min())} to {int(index.max())}")
        rows = index % len(self.labels)
        x = self.images[rows]
        if x.dtype == torch.uint8:
            x = x.float() / 127.5 - 1
        flipped = index >= len(self.labels)
        x[flipped] = x[flipped].flip(-1)
        return x, self.labels[rows]


def load(config: DataConfig, split: Literal["train", "test"]) -> ImageDataset:
    """One split of the data; both are read and checked. Only the train split is mirrored.

    Raises ValueError naming the file: missing, unreadable, of another size, labels that do not match, empty.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    if config.path is None:
        splits = _digits(config)
    else:
        path = Path(config.path).expanduser()
        if path.is_dir():
            splits = _folder(path, config)
        elif path.suffix == ".npz" and path.is_file():
            splits = _npz(path, config)
        else:
            found = "which is a file of another kind" if path.exists() else "where there is nothing"
            raise ValueError(f"data.path must be a folder of images or an .npz file, got {path}, {found}")
    if splits[split] is None:
        raise ValueError(
            f"{config.path}: no images are held out for evaluation; set --data.held-out above 0, or add test images"
        )
    return splits[split]


Splits = dict[str, ImageDataset | None]


def _splits(images, labels: torch.Tensor, names: tuple[str, ...], test, flip: bool) -> Splits:
    """images, labels: of training. test: (images, labels) or None."""
    return {
        "train": ImageDataset(images, labels, names, flip),
        "test": None if test is None else ImageDataset(*test, names),
    }


def _held_out(labels: torch.Tensor, names: tuple[str, ...], fraction: float, path: Path) -> tuple[list, list]:
    """(train, test) indices: of each class a fixed random fraction, at least one image and never all, is held out."""
    train, test = [], []
    for label, name in enumerate(names):
        rows = torch.nonzero(labels == label).flatten()
        if fraction and len(rows) < 2:
            raise ValueError(
                f"{path}: class {name!r} has a single image, so none can be held out; add images or set "
                "--data.held-out 0"
            )
        count = min(max(round(len(rows) * fraction), 1), len(rows) - 1) if fraction else 0
        # A stream per class: a class that is added leaves the split of the others as it was.
        rows = rows[torch.randperm(len(rows), generator=generator(SPLIT_SEED, "held out", name))].tolist()
        test += rows[:count]
        train += rows[count:]
    return sorted(train), sorted(test)


# ---------------------------------------------------------------------------------------------- scikit-learn's digits


def _digits(config: DataConfig) -> Splits:
    """8 x 8 grey, classes 0-9, 1297 train and 500 held out, always the same; pixels 0..16 become [-1, 1]."""
    if config.image_size not in (None, 8) or config.channels not in (None, 1):
        raise ValueError(
            "the digits of scikit-learn are 8 x 8 and grey: leave --data.image-size and --data.channels away, or give "
            "--data.path"
        )
    from sklearn.datasets import load_digits  # a second to import, and only needed here

    digits = load_digits()
    images = torch.from_numpy(digits.images).float()[:, None] / 8 - 1
    labels = torch.from_numpy(digits.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SPLIT_SEED))
    train, test = order[:DIGITS_TRAIN], order[DIGITS_TRAIN:]
    names = tuple(str(name) for name in digits.target_names)
    return _splits(images[train], labels[train], names, (images[test], labels[test]), config.flip)


# ------------------------------------------------------------------------------------------------- folders of images


def _folder(root: Path, config: DataConfig) -> Splits:
    parts = [(root / name).is_dir() for name in SPLITS]
    if all(parts):
        (train, labels, names), (test, test_labels, test_names) = (_list_classes(root / name) for name in SPLITS)
        if names != test_names:
            odd = ", ".join(sorted(set(names) ^ set(test_names)))
            raise ValueError(f"{root}: train and test must have the same classes; only one of them has {odd}")
    elif any(parts):
        raise ValueError(f"{root}: has only one of train and test; add the other, or give the folder of the classes")
    else:
        files, all_labels, names = _list_classes(root)
        rows, test_rows = _held_out(all_labels, names, config.held_out, root)
        train, labels = [files[i] for i in rows], all_labels[rows]
        test, test_labels = [files[i] for i in test_rows], all_labels[test_rows]
    # One call for both, so that size and channels are the same for both.
    images = read_images(train + test, config.image_size, config.channels)
    n = len(train)
    return _splits(images[:n], labels, names, (images[n:], test_labels) if test else None, config.flip)


def _list_classes(root: Path) -> tuple[list[Path], torch.Tensor, tuple[str, ...]]:
    """(files, labels, class names) in alphabetical order: a class per sub-folder, or one class if there is none."""
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    loose = list_images(root, recursive=False)
    if not folders:
        if not loose:
            raise ValueError(f"{root}: holds no images; put image files there, or in one sub-folder per class")
        return loose, torch.zeros(len(loose), dtype=torch.int64), ("all",)
    if loose:
        raise ValueError(
            f"{root}: holds both sub-folders (classes) and loose images such as {loose[0].name}; move the images into "
            "a class, or the sub-folders away"
        )
    files = {folder.name: list_images(folder, recursive=True) for folder in folders}
    for name, images in files.items():
        if not images:
            raise ValueError(f"{root / name}: holds no images; fill this class folder or remove it")
    labels = [label for label, images in enumerate(files.values()) for _ in images]
    return [path for images in files.values() for path in images], torch.tensor(labels), tuple(files)


# -------------------------------------------------------------------------------------------------------- .npz arrays


def _npz(path: Path, config: DataConfig) -> Splits:
    arrays = _read_npz(path)
    if "images" not in arrays:
        raise ValueError(f"{path}: needs an array named images (N, H, W) or (N, H, W, C)")
    for part in ("", "test_"):
        if f"{part}labels" in arrays and f"{part}images" not in arrays:
            raise ValueError(f"{path}: has {part}labels but no {part}images")
    if "test_images" in arrays and ("labels" in arrays) != ("test_labels" in arrays):
        raise ValueError(f"{path}: needs labels for both images and test_images, or for neither")
    images, labels = (_check_images(path, arrays, "images", config), _check_labels(path, arrays, "labels"))
    names = tuple(str(i) for i in range(int(labels.max()) + 1)) if "labels" in arrays else ("all",)
    if missing := sorted(set(range(len(names))) - set(labels.tolist())):
        raise ValueError(f"{path}: labels must number the classes 0 to {len(names) - 1}, but no image has {missing[0]}")
    if "test_images" in arrays:
        test = _check_images(path, arrays, "test_images", config), _check_labels(path, arrays, "test_labels")
        if test[0].shape[1:] != images.shape[1:]:
            raise ValueError(f"{path}: images are {tuple(images.shape[1:])} but test_images {tuple(test[0].shape[1:])}")
        if test[1].max() >= len(names):
            raise ValueError(f"{path}: test_labels reach {int(test[1].max())}, labels only {len(names) - 1}")
    else:
        rows, test_rows = _held_out(labels, names, config.held_out, path)
        test = (images[test_rows], labels[test_rows]) if test_rows else None
        images, labels = images[rows], labels[rows]
    return _splits(images, labels, names, test, config.flip)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays that ARRAYS names, under our names. Pickled ones are refused: they could run code."""
    arrays = {}
    try:
        with np.load(path, allow_pickle=False) as file:
            for ours, names in ARRAYS.items():
                if found := [name for name in names if name in file.files]:
                    arrays[ours] = file[found[0]]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read as an .npz of plain arrays ({error}); save it anew") from None
    return arrays


def _check_images(path: Path, arrays: dict[str, np.ndarray], key: str, config: DataConfig) -> torch.Tensor:
    """(N, C, H, W), uint8 or float32; brought to the configured size and channels if uint8."""
    images = arrays[key]
    images = images[..., None] if images.ndim == 3 else images
    if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
        raise ValueError(
            f"{path}: {key} must be (N, H, W), (N, H, W, 1) or (N, H, W, 3) and not empty, got {arrays[key].shape}"
        )
    size, channels = config.image_size, config.channels or images.shape[3]
    fits = (size is None or images.shape[1:3] == (size, size)) and images.shape[3] == channels
    if images.dtype == np.uint8:
        if not fits:
            pictures = (Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image) for image in images)
            return torch.from_numpy(np.stack([to_array(picture, size, channels) for picture in pictures]))
    elif images.dtype.kind == "f":
        if not fits:
            raise ValueError(
                f"{path}: {key} are {images.shape[1:]}; floating-point images are not resized or converted, so leave "
                "--data.image-size and --data.channels away, or store them as uint8"
            )
        images = images.astype(np.float32)
        if not np.isfinite(images).all():
            bad = int(np.argmin(np.isfinite(images).all(axis=(1, 2, 3))))
            raise ValueError(f"{path}: {key}[{bad}] has values that are not finite; repair or remove that image")
        if np.abs(images).max() > 1 or images.min() >= 0:  # [0, 1] would train on half the range without a word
            raise ValueError(
                f"{path}: floating-point {key} must span [-1, 1], got [{images.min():g}, {images.max():g}]; rescale "
                "them or store them as uint8"
            )
    else:
        raise ValueError(f"{path}: {key} must be uint8, or floating point in [-1, 1], got {images.dtype}")
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def _check_labels(path: Path, arrays: dict[str, np.ndarray], key: str) -> torch.Tensor:
    """(N,) int64; zeros if there are none."""
    count = len(arrays[key.replace("labels", "images")])
    if key not in arrays:
        return torch.zeros(count, dtype=torch.int64)
    labels = arrays[key]
    if labels.dtype.kind not in "iu":
        raise ValueError(f"{path}: {key} must be integers, got {labels.dtype}; number the classes from 0")
    if labels.shape != (count,):
        raise ValueError(f"{path}: {key} must be ({count},), one per image, got {labels.shape}")
    if labels.min() < 0:
        raise ValueError(f"{path}: {key} must number the classes from 0, got {labels.min()}")
    return torch.from_numpy(labels.astype(np.int64))
