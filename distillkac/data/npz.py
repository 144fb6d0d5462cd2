"""Arrays in an .npz file."""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from distillkac.data.dataset import DataConfig, Splits, content_key, held_out, make_splits
from distillkac.data.image_files import to_array
from distillkac.data.records import say_left_out

ARRAYS = {  # names in an .npz, ours first; the others are those of the common mnist.npz
    "images": ("images", "x_train"),
    "labels": ("labels", "y_train"),
    "test_images": ("test_images", "x_test"),
    "test_labels": ("test_labels", "y_test"),
}


def npz(path: Path, config: DataConfig) -> Splits:
    arrays = _read_npz(path)
    if "images" not in arrays:
        raise ValueError(f"{path}: needs an array named images (N, H, W) or (N, H, W, C)")
    for part in ("", "test_"):
        if f"{part}labels" in arrays and f"{part}images" not in arrays:
            raise ValueError(f"{path}: has {part}labels but no {part}images")
    if "test_images" in arrays and ("labels" in arrays) != ("test_labels" in arrays):
        raise ValueError(f"{path}: needs labels for both images and test_images, or for neither")
    (images, bad), labels = _check_images(path, arrays, "images", config), _check_labels(path, arrays, "labels")
    names = tuple(str(i) for i in range(int(labels.max()) + 1)) if "labels" in arrays else ("all",)
    if missing := sorted(set(range(len(names))) - set(labels.tolist())):
        raise ValueError(f"{path}: labels must number the classes 0 to {len(names) - 1}, but no image has {missing[0]}")
    if "test_images" in arrays:
        (test_images, test_bad), test_labels = (
            _check_images(path, arrays, "test_images", config),
            _check_labels(path, arrays, "test_labels"),
        )
        if test_images.shape[1:] != images.shape[1:]:
            raise ValueError(
                f"{path}: images are {tuple(images.shape[1:])} but test_images {tuple(test_images.shape[1:])}"
            )
        if test_labels.max() >= len(names):
            raise ValueError(f"{path}: test_labels reach {int(test_labels.max())}, labels only {len(names) - 1}")
        test = _without(test_images, test_labels, range(len(test_labels)), test_bad)
        images, labels = _without(images, labels, range(len(labels)), bad)
    else:
        raw = arrays["images"]
        rows, test_rows = held_out(lambda row: content_key(raw[row].tobytes()), labels, names, config.held_out, path)
        test = _without(images, labels, test_rows, bad)
        images, labels, test_bad = *_without(images, labels, rows, bad), {}
    left_out = (*bad.values(), *test_bad.values())
    say_left_out(str(path), left_out, len(arrays["images"]) + len(arrays.get("test_images", ())))
    if absent := sorted(set(range(len(names))) - set(labels.tolist())):
        raise ValueError(f"{path}: no image of class {names[absent[0]]} is there to learn from; add or repair some")
    return make_splits(images, labels, names, test if len(test[1]) else None, config.flip, left_out)


def _without(images, labels, rows: Sequence[int], bad: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """(images, labels) of the rows that are not bad."""
    good = [row for row in rows if row not in bad]
    return (images, labels) if len(good) == len(labels) else (images[good], labels[good])


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays that ARRAYS names, under our names. Pickled ones are refused: they could run code."""
    arrays = {}
    try:
        with np.load(path, allow_pickle=False) as file:
            for ours, names in ARRAYS.items():
                if found := [name for name in names if name in file.files]:
                    arrays[ours] = file[found[0]]
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read as an .npz of plain arrays ({error}); save it anew") from None
    return arrays


def _check_images(
    path: Path, arrays: dict[str, np.ndarray], key: str, config: DataConfig
) -> tuple[torch.Tensor, dict[int, str]]:
    """(N, C, H, W), uint8 or float32; brought to the configured size and channels if uint8. And what is wrong with rows
    that are to be skipped.
    """
    images, bad = arrays[key], {}
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
            return torch.from_numpy(np.stack([to_array(picture, size, channels) for picture in pictures])), bad
    elif images.dtype.kind == "f":
        if not fits:
            raise ValueError(
                f"{path}: {key} are {images.shape[1:]}; floating-point images are not resized or converted, so leave "
                "--data.image-size and --data.channels away, or store them as uint8"
            )
        images = images.astype(np.float32)
        finite = np.isfinite(images).all(axis=(1, 2, 3))
        for row in np.flatnonzero(~finite).tolist():
            bad[row] = f"{path}: {key}[{row}] has values that are not finite; repair or remove that image"
        if bad and (config.bad_images == "refuse" or not finite.any()):
            raise ValueError(next(iter(bad.values())))
        low, high = images[finite].min(), images[finite].max()
        if low < -1 or high > 1 or low >= 0:  # [0, 1] would train on half the range without a word
            raise ValueError(
                f"{path}: floating-point {key} must span [-1, 1], got [{low:g}, {high:g}]; rescale "
                "them or store them as uint8"
            )
    else:
        raise ValueError(f"{path}: {key} must be uint8, or floating point in [-1, 1], got {images.dtype}")
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))), bad


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
