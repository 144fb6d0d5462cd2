"""Sets that are arrays in a few files: what their headers promise is checked before it is read, then one way to splits."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from distillkac.data.classes import number_classes, printable
from distillkac.data.config import DataConfig
from distillkac.data.dataset import Splits, check_own_test, content_key, hold_out, make_splits
from distillkac.data.image_files import fitted
from distillkac.data.records import say_narrow

RATIO = 1032  # deflate makes no more than this of a byte


@dataclass(frozen=True)
class Part:
    """images: (N, C, H, W) uint8, contiguous. labels: (N,) int64, or None where there are none."""

    images: np.ndarray
    labels: np.ndarray | None


def check_promise(where: Path | str, promised: int, held: int) -> None:
    """Raises ValueError if a packed file of `held` bytes cannot hold the bytes that it promises, or this machine cannot."""
    where = printable(str(where))
    if promised > held * RATIO:
        raise ValueError(
            f"{where}: its header promises {promised} bytes, which {held} packed bytes cannot hold; it is damaged or cut "
            "short, so fetch it anew"
        )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if promised > memory:
        raise ValueError(
            f"{where}: its header promises {promised} bytes, more than the {memory} bytes of memory here, in which all of "
            "them have to be"
        )


def array_splits(
    where: Path | str, train: Part, test: Part | None, config: DataConfig, names: Mapping[int, str] | None = None
) -> Splits:
    """names: what a label means, where that is known; else classes are called by their numbers. Without a test part some of
    the images are held out. Raises ValueError naming a label that means nothing, or the sizes that differ."""
    where = printable(str(where))
    if test is not None:
        check_own_test(where, config)
        if config.image_size is None and test.images.shape[1:] != train.images.shape[1:]:
            raise ValueError(
                f"{where}: images to learn from are {train.images.shape[1:]} but those of the test part "
                f"{test.images.shape[1:]}; give --data.image-size to bring them to one size"
            )
    images = torch.from_numpy(fitted(train.images, config.image_size, config.channels))
    labels, test_labels, class_names = _classes(where, train, test, config, names)
    say_narrow(where, float(images.min()), float(images.max()), (0, 255))
    if test is not None:
        test_images = torch.from_numpy(fitted(test.images, config.image_size, config.channels))
        return make_splits(images, labels, class_names, (test_images, test_labels), config.flip)
    raw = train.images
    rows, test_rows = hold_out(lambda row: content_key(raw[row].tobytes()), labels, class_names, config.held_out, where)
    if not test_rows:
        return make_splits(images, labels, class_names, None, config.flip)
    return make_splits(images[rows], labels[rows], class_names, (images[test_rows], labels[test_rows]), config.flip)


def _classes(
    where: str, train: Part, test: Part | None, config: DataConfig, names: Mapping[int, str] | None
) -> tuple[torch.Tensor, torch.Tensor, tuple[str, ...]]:
    """(labels, test labels, names of the classes), numbered from 0."""
    counts = len(train.images), 0 if test is None else len(test.images)
    if config.unconditional or train.labels is None:
        labels, test_labels = (torch.zeros(count, dtype=torch.int64) for count in counts)
        return labels, test_labels, ("all",)
    found = train.labels.tolist()
    test_found: list[int] = [] if test is None or test.labels is None else test.labels.tolist()
    if names is None:
        numbers, test_numbers, class_names = number_classes(where, found, test_found)
        return torch.tensor(numbers), torch.tensor(test_numbers, dtype=torch.int64), class_names
    if odd := {*found, *test_found} - names.keys():
        raise ValueError(f"{where}: label {min(odd)} means no class; labels are {_shown(sorted(names))}")
    present = sorted(set(found))
    if odd := set(test_found) - set(present):
        raise ValueError(f"{where}: the test part has class {names[min(odd)]!r}, which no training image has")
    place = {label: i for i, label in enumerate(present)}
    labels, test_labels = (
        torch.tensor([place[label] for label in part], dtype=torch.int64) for part in (found, test_found)
    )
    return labels, test_labels, tuple(names[label] for label in present)


def _shown(numbers: list[int]) -> str:
    whole = numbers == list(range(numbers[0], numbers[-1] + 1))
    return f"{numbers[0]} to {numbers[-1]}" if whole else ", ".join(map(str, numbers))
