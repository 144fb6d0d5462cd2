"""Folders of images by a list of names, and what loading them gives: classes, warnings, refusals."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distillkac.data import DataConfig, load, read

PIXELS = np.random.default_rng(3).integers(0, 256, (400, 4, 4, 3), np.uint8)
PIXELS[:, 0, 0, 0], PIXELS[:, 0, 0, 1] = np.arange(400) % 256, np.arange(400) // 256  # which one it is


def picture(path, number=0):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(PIXELS[number]).save(path, "png")
    return path


def pictures(root, *folders, count=4, first=0):
    for folder in folders:
        for _ in range(count):
            picture(root / folder / f"{first:03d}.png", first)
            first += 1
    return root


def config(path, **options):
    return DataConfig(path=str(path), **{"held_out": 0.0} | options)


def told(path, split="train", **options):
    """(data, {number of the image: name of its class}, what was warned of)."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = load(config(path, **options), split)
    x, y = read(data, range(len(data)))
    numbers = ((x[:, :2, 0, 0] + 1) * 127.5).round().long()
    classes = {int(a + 256 * b): data.class_names[k] for (a, b), k in zip(numbers, y.tolist(), strict=True)}
    return data, classes, "\n".join(str(w.message) for w in caught)


def refused(path, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=r".") as error:
            load(config(path, **options), "train")
    return str(error.value)


def sizes(root, **options):
    """({number of the image: name of its class} learned, the same measured with, what was warned of)."""
    _, learned, words = told(root, **options)
    _, measured, _ = told(root, "test", **options)
    return learned, measured, words
