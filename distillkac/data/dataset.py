"""What a data set is to the rest of the package: its configuration, its splits, images in batches."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from distillkac.data.image_files import ImageFiles
from distillkac.random import generator

SPLITS = ("train", "test")
SPLIT_SEED = 1234  # of every split this package makes; fixed, so that no choice of seed moves an image between splits


@dataclass(frozen=True)
class DataConfig:
    """Which images to learn."""

    path: str | None = None
    """A folder of images (a sub-folder per class, or none; train/ and test/ above them if both are there), or an .npz
    with images, labels, test_images, test_labels (all but the first optional), or CIFAR-10's folder, binary or Python
    version. Built-in images if not given.
    """
    builtin: Literal["digits", "patches"] = "digits"
    """Without a path: scikit-learn's digits (8 x 8, grey), or patches of its two photographs (32 x 32, colour)."""
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


Splits = dict[str, ImageDataset | None]


def make_splits(images, labels: torch.Tensor, names: tuple[str, ...], test, flip: bool) -> Splits:
    """images, labels: of training. test: (images, labels) or None."""
    return {
        "train": ImageDataset(images, labels, names, flip),
        "test": None if test is None else ImageDataset(*test, names),
    }


def held_out(labels: torch.Tensor, names: tuple[str, ...], fraction: float, path: Path) -> tuple[list, list]:
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
