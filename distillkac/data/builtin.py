"""Images that scikit-learn brings along: no download needed."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from PIL import Image

from distillkac.base import bundled
from distillkac.data.config import DataConfig
from distillkac.data.dataset import SPLIT_SEED, Splits, check_own_test, make_splits, without_classes

DIGITS_TRAIN = 1297
PATCH, PATCH_STRIDE = 32, 8
PATCH_TRAIN_WIDTH = 512  # columns of a photograph that training patches lie in; test patches lie right of them


def digits(config: DataConfig) -> Splits:
    """8 x 8 grey, classes 0-9, 1297 train and 500 held out, always the same; pixels 0..16 become [-1, 1]."""
    if config.image_size not in (None, 8) or config.channels not in (None, 1):
        raise ValueError(
            "the digits of scikit-learn are 8 x 8 and grey: omit --data.image-size and --data.channels, or give "
            "--data.path"
        )
    check_own_test("the built-in digits", config)
    table = np.loadtxt(bundled.of_sklearn(bundled.DIGITS), delimiter=",")  # 64 pixels and the digit
    images = torch.from_numpy(table[:, :-1]).float().reshape(-1, 1, 8, 8) / 8 - 1
    labels = torch.from_numpy(table[:, -1]).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SPLIT_SEED))
    train, test = order[:DIGITS_TRAIN], order[DIGITS_TRAIN:]
    names = tuple("0123456789")
    train_labels, test_labels, names = without_classes(config, labels[train], labels[test], names)
    return make_splits(images[train], train_labels, names, (images[test], test_labels), config.flip)


def patches(config: DataConfig) -> Splits:
    """32 x 32 RGB cut from scikit-learn's two photographs: classes china and flower, 3050 train and 650 test each.

    Train and test patches come from different parts of a photograph and share no pixel.
    """
    if config.image_size not in (None, PATCH) or config.channels not in (None, 3):
        raise ValueError(
            "the patches of scikit-learn's photographs are 32 x 32 in colour: leave --data.image-size and "
            "--data.channels away"
        )
    check_own_test("the built-in patches", config)
    names = tuple(path.stem for path in bundled.PHOTOGRAPHS)
    train: list[torch.Tensor] = []
    test: list[torch.Tensor] = []
    for path in bundled.PHOTOGRAPHS:
        with Image.open(bundled.of_sklearn(path)) as photograph:
            pixels = np.asarray(photograph)
        for columns, part in ((slice(None, PATCH_TRAIN_WIDTH), train), (slice(PATCH_TRAIN_WIDTH, None), test)):
            area = torch.from_numpy(np.ascontiguousarray(pixels[:, columns])).permute(2, 0, 1)
            cut = area.unfold(1, PATCH, PATCH_STRIDE).unfold(2, PATCH, PATCH_STRIDE)
            part.append(cut.permute(1, 2, 0, 3, 4).reshape(-1, 3, PATCH, PATCH))
    labels, test_labels = (torch.arange(len(part)).repeat_interleave(len(part[0])) for part in (train, test))
    labels, test_labels, names = without_classes(config, labels, test_labels, names)
    return make_splits(torch.cat(train), labels, names, (torch.cat(test), test_labels), config.flip)


BUILTIN: dict[Literal["digits", "patches"], Callable[[DataConfig], Splits]] = {"digits": digits, "patches": patches}
