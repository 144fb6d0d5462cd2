"""Small data sets for tests of measures."""

import torch

from distillkac.data import ImageDataset


def noise(x, amount):
    return x + amount * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))


def small(shape=(3, 6, 4), classes=2, count=12, seed=0):
    x = torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return ImageDataset(x, torch.arange(count) % classes, tuple(map(str, range(classes))))
