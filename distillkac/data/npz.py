"""Arrays in an .npz file."""

import math
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distillkac.data.arrays import check_promise
from distillkac.data.classes import number_classes, printable
from distillkac.data.config import DataConfig
from distillkac.data.dataset import Splits, check_own_test, content_key, hold_out, make_splits
from distillkac.data.image_files import fitted
from distillkac.data.records import say_left_out, say_narrow

# Names of the arrays, ours first; then those of mnist.npz and of MedMNIST. Of several parts to measure with the first is
# read, as of the splits of every other source.
TRAIN = (("images", "labels"), ("x_train", "y_train"), ("train_images", "train_labels"))
TEST = (("test_images", "test_labels"), ("x_test", "y_test"), ("val_images", "val_labels"), ("x_val", "y_val"))


def read_npz(path: Path, config: DataConfig) -> Splits:
    where = printable(str(path))
    arrays, parts, unread = _read_arrays(where, path, config)
    (key, label_key), (test_key, test_label_key) = parts
    if unread:
        wanted = label_key or config.unconditional
        classes = "" if wanted else f"; labels would be called {dict(TRAIN)[key]}, so there are no classes to learn"
        warnings.warn(
            f"{where}: left out {len(unread)} arrays that are not read: {', '.join(unread)}{classes}", stacklevel=2
        )
    images, bad = _check_images(where, arrays[key], key, config)
    test_images: torch.Tensor | None = None
    test_bad: dict[int, str] = {}
    if test_key is not None:
        check_own_test(where, config)
        test_images, test_bad = _check_images(where, arrays[test_key], test_key, config)
        if test_images.shape[1:] != images.shape[1:]:
            raise ValueError(
                f"{where}: {key} are {tuple(images.shape[1:])} but {test_key} {tuple(test_images.shape[1:])}"
            )
    test_count = 0 if test_images is None else len(test_images)
    if label_key is None:
        names: tuple[str, ...] = ("all",)
        numbers, test_numbers = [0] * len(images), [0] * test_count
    else:
        found = _check_labels(where, arrays[label_key], label_key, len(images))
        test_found: Sequence[int | str] = ()  # where there are test images they have labels, if the others have
        if test_label_key is not None:
            test_found = _check_labels(where, arrays[test_label_key], test_label_key, test_count)
        numbers, test_numbers, names = number_classes(where, found, test_found)
    labels, test_labels = torch.tensor(numbers), torch.tensor(test_numbers, dtype=torch.int64)
    if test_images is not None:
        test = _without(test_images, test_labels, range(test_count), test_bad)
        images, labels = _without(images, labels, range(len(labels)), bad)
    else:
        raw = arrays[key]
        rows, test_rows = hold_out(lambda row: content_key(raw[row].tobytes()), labels, names, config.held_out, path)
        test = _without(images, labels, test_rows, bad)
        images, labels = _without(images, labels, rows, bad)
    left_out = (*bad.values(), *test_bad.values())
    say_left_out(where, left_out, len(arrays[key]) + test_count)
    if absent := sorted(set(range(len(names))) - set(labels.tolist())):
        raise ValueError(f"{where}: no image of class {names[absent[0]]} is there to learn from; add or repair some")
    full = (0, 255) if images.dtype == torch.uint8 else (-1, 1)
    say_narrow(where, float(images.min()), float(images.max()), full)
    return make_splits(images, labels, names, test if len(test[1]) else None, config.flip, left_out)


def _without(images, labels, rows: Sequence[int], bad: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """(images, labels) of the rows that are not bad."""
    good = [row for row in rows if row not in bad]
    return (images, labels) if len(good) == len(labels) else (images[good], labels[good])


Names = tuple[str, str | None]  # of images and labels; None if there are none
TestNames = Names | tuple[None, None]


def _read_arrays(
    where: str, path: Path, config: DataConfig
) -> tuple[dict[str, np.ndarray], tuple[Names, TestNames], list[str]]:
    """(the arrays that are read, their names for training and test, the names of the others). Pickled ones are refused:
    they could run code."""
    try:
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise ValueError("it is an .npy, a single array without a name")
        with file:
            parts = _choose(where, file.files, config)
            used = [name for part in parts for name in part if name is not None]
            _check_promises(where, path, used)
            arrays = {name: _plain(where, file, name) for name in used}
            meant = {label for pairs in (TRAIN, TEST) for _, label in pairs} if config.unconditional else ()
            return arrays, parts, [printable(n) for n in file.files if n not in used and n not in meant]
    except _Unclear as error:
        raise ValueError(str(error)) from None
    # An archive can be damaged, locked, or packed in as many ways as there are errors for it.
    except Exception as error:
        raise ValueError(f"{where}: cannot be read as an .npz of plain arrays ({error}); save it anew") from None


def _plain(where: str, file: Any, name: str) -> np.ndarray:
    try:
        return np.asarray(file[name])
    except ValueError as error:
        if "Object arrays" not in str(error):
            raise
        raise _Unclear(
            f"{where}: {name} is an array of Python objects, which are not read; save it as one of numbers or words, such as "
            f"{name}.astype(str)"
        ) from None


def _check_promises(where: str, path: Path, names: list[str]) -> None:
    """Compares what the headers of arrays say with the bytes that are there, before any is read."""
    with zipfile.ZipFile(path) as archive:
        for name in names:
            member = archive.getinfo(name if name in archive.namelist() else f"{name}.npy")
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(file)
                held = member.file_size - file.tell()
            promised = math.prod(shape) * dtype.itemsize
            if dtype.hasobject:
                continue  # which is refused when it is read
            if held != promised:
                raise ValueError(f"{name} should be {shape} {dtype} but has {held} bytes")
            try:
                check_promise(where, promised, path.stat().st_size)
            except ValueError as error:
                raise _Unclear(str(error)) from None


class _Unclear(Exception):
    """What is wrong is said in full."""


def _choose(where: str, names: list[str], config: DataConfig) -> tuple[Names, TestNames]:
    """Names of the arrays (images, labels) to learn from and of those to measure with."""
    for images, labels in (*TRAIN, *TEST):
        if labels in names and images not in names and not config.unconditional:
            raise _Unclear(f"{where}: has {labels} but no {images}")
    train, test = ([pair for pair in pairs if pair[0] in names] for pairs in (TRAIN, TEST))
    if not train:
        raise _Unclear(
            f"{where}: needs an array named images (N, H, W) or (N, H, W, C), or x_train or train_images; it has "
            f"{', '.join(map(printable, names)) or 'none'}"
        )
    if len(train) > 1:
        raise _Unclear(f"{where}: {' and '.join(images for images, _ in train)} both name the images; keep one of them")
    (images, labels), measured = train[0], test[0] if test else None
    if measured is not None and not config.unconditional and (labels in names) != (measured[1] in names):
        raise _Unclear(f"{where}: needs labels for both {images} and {measured[0]}, or for neither")

    def known(name: str) -> str | None:
        return name if name in names and not config.unconditional else None

    return (images, known(labels)), (None, None) if measured is None else (measured[0], known(measured[1]))


def _check_images(where: str, images: np.ndarray, key: str, config: DataConfig) -> tuple[torch.Tensor, dict[int, str]]:
    """(N, C, H, W), uint8 or float32; brought to the configured size and channels if uint8. And what is wrong with rows
    that are to be skipped.
    """
    shape = images.shape
    bad: dict[int, str] = {}
    # (H, W, 3) is one image far more often than H images of W x 3 pixels.
    images = images[..., None] if images.ndim == 3 and shape[2] not in (1, 3) else images
    if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in shape:
        hint = ""
        if 0 in shape:
            hint = ", which has no pixels"
        elif images.ndim == 4 and shape[1] in (1, 3):
            hint = "; for channels first, (N, C, H, W), save images.transpose(0, 2, 3, 1)"
        elif images.ndim == 4 and len(set(shape[1:])) == 1:
            hint = "; these are volumes, as in MedMNIST's 3-D sets, and only flat images are learned"
        elif images.ndim == 3:
            hint = "; of a single image save images[None]"
        raise ValueError(
            f"{where}: {key} must be (N, H, W), (N, H, W, 1) or (N, H, W, 3) and not empty, got {shape}{hint}"
        )
    size, channels = config.image_size, config.channels or images.shape[3]
    fits = (size is None or images.shape[1:3] == (size, size)) and images.shape[3] == channels
    if images.dtype == np.uint8:
        return torch.from_numpy(fitted(images.transpose(0, 3, 1, 2), size, channels)), bad
    elif images.dtype.kind == "f":
        if not fits:
            raise ValueError(
                f"{where}: {key} are {images.shape[1:]}; floating-point images are not resized or converted, so omit "
                "--data.image-size and --data.channels, or store them as uint8"
            )
        images = images.astype(np.float32)
        finite = np.isfinite(images).all(axis=(1, 2, 3))
        for row in np.flatnonzero(~finite).tolist():
            bad[row] = f"{where}: {key}[{row}] has values that are not finite; repair or remove that image"
        if bad and (config.bad_images == "refuse" or not finite.any()):
            raise ValueError(next(iter(bad.values())))
        low, high = images[finite].min(), images[finite].max()
        if low < -1 or high > 1 or low >= 0:  # [0, 1] would train on half the range without a word
            raise ValueError(
                f"{where}: floating-point {key} must span [-1, 1], got [{low:g}, {high:g}]; rescale "
                "them or store them as uint8"
            )
    else:
        raise ValueError(f"{where}: {key} must be uint8, or floating point in [-1, 1], got {images.dtype}")
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))), bad


def _check_labels(where: str, labels: np.ndarray, key: str, count: int) -> list[int] | list[str]:
    """A class per image: whole numbers in any type of number, or words."""
    shape = labels.shape
    if labels.ndim == 2 and shape[1] > 1 and shape[0] == count:
        raise ValueError(
            f"{where}: {key} has {shape[1]} numbers an image, {shape}, and an image has one class here; save one number "
            "each (of one-hot labels the argmax), or add --data.unconditional to learn without classes"
        )
    if shape[:1] != (count,) or any(n != 1 for n in shape[1:]):
        raise ValueError(f"{where}: {key} must be ({count},), one per image, got {shape}")
    labels = labels.reshape(count)
    if labels.dtype.kind == "S":
        labels = np.char.decode(labels, "utf-8", "backslashreplace")
    if labels.dtype.kind == "U":
        if not np.char.strip(labels).all():
            raise ValueError(
                f"{where}: {key} has empty words, which are no class; write another or remove those images"
            )
        return labels.tolist()
    if labels.dtype.kind not in "iubf":
        raise ValueError(f"{where}: {key} must be whole numbers or words, got {labels.dtype}")
    if labels.dtype.kind == "f" and (odd := labels[~(np.abs(labels) < 2**53) | (labels != np.trunc(labels))]).size:
        raise ValueError(f"{where}: {key} must be whole numbers, got {odd[0]:g}; number the classes from 0")
    return [int(value) for value in labels.tolist()]
