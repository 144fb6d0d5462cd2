"""Latents: images that the encoder of an autoencoder has seen once, learned in place of the images (docs/latents.md).

A folder, written by `python -m distillkac.encode`:

    latents.json       where the images came from and which autoencoder made the latents
    train.npy          (N, C, H, W) float16: means of the encoder's posterior, shifted and scaled to about unit variance
    train_labels.npy   (N,) int64; test.npy and test_labels.npy likewise
"""

import dataclasses
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distillkac.base import files
from distillkac.data.config import DataConfig, Fingerprint, LatentSpace
from distillkac.data.dataset import ImageDataset, Splits
from distillkac.data.fingerprint import of_marks
from distillkac.data.given import check_names

INDEX = "latents.json"
MARKED = 64  # latents of each split that a run knows its latents by; of folders of earlier versions the first one alone


@dataclass(frozen=True)
class Latents:
    """An array on disk as if it were a float32 tensor of `shape` (N, C, H, W); only what is asked for is read."""

    array: np.ndarray = field(repr=False)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.array.shape

    def __getitem__(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(self.array[rows.numpy()].astype(np.float32))

    def mark(self, count: int) -> str:
        """A word for the fingerprint: shape, and `count` latents from the first to the last; all of them may be more than
        memory holds."""
        rows = np.arange(count) * (len(self.array) - 1) // max(1, count - 1)
        return f"{self.shape} {self.array.dtype} {hashlib.blake2b(self.array[rows].tobytes()).hexdigest()}"


@dataclass(frozen=True)
class LatentDataset(ImageDataset):
    """Latents with their classes; `space` decodes them."""

    images: Latents = field(repr=False)
    space: LatentSpace | None = None


def is_latents(path: Path) -> bool:
    return (path / INDEX).is_file()


def read_latents(path: Path, config: DataConfig) -> Splits:
    """Both splits of a folder of latents. Raises ValueError naming the file that is missing or damaged."""
    index = _index(path)
    parts = {split: _split(path, split, index, config.unconditional) for split in ("train", "test")}
    shapes = [part.shape for part in parts.values()]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"{path}: latents of train are {shapes[0]} but those of test {shapes[1]}; encode the images anew"
        )
    marks = (
        [index["space"].weights, str(index["fingerprint"]), part.images.mark(index["marked"])]
        for part in parts.values()
    )
    train, test = zip(marks, (part.labels for part in parts.values()), strict=True)
    known = of_marks(*train, *test, len(index["class_names"]))
    return {split: dataclasses.replace(part, fingerprint=known) for split, part in parts.items()}


def source(path: Path) -> tuple[DataConfig, Fingerprint | None, tuple[str, ...]]:
    """The images that the latents were made of: how to load them, their fingerprint if it is known, their classes."""
    index = _index(path)
    return index["data"], index["fingerprint"], index["class_names"]


def write_index(path: Path, space: LatentSpace, data: DataConfig, images: ImageDataset) -> None:
    """Written last: a folder without it is not complete. images: that the latents were made of, of either split."""
    content: dict[str, Any] = {
        "space": dataclasses.asdict(space),
        "data": dataclasses.asdict(data),
        "class_names": images.class_names,
        "spread": True,
    }
    content["fingerprint"] = None if images.fingerprint is None else dataclasses.asdict(images.fingerprint)
    files.write_json(path / INDEX, content)


def _index(path: Path) -> dict:
    content = files.read_json(path / INDEX)
    try:
        space = LatentSpace(**content["space"] | {"shape": tuple(content["space"]["shape"])})
        known = content.get("fingerprint")  # not there in folders of earlier versions
        if known is not None:
            known = Fingerprint(**_with_tuples(known))
        data, names = DataConfig(**content["data"]), tuple(content["class_names"])
        check_names(names)
        marked = MARKED if content.get("spread") else 1
        return {"space": space, "data": data, "class_names": names, "fingerprint": known, "marked": marked}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path / INDEX}: not written by this version of distillkac.encode ({error})") from None


def _with_tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _split(path: Path, split: str, index: dict, unconditional: bool) -> LatentDataset:
    array, numbers = _array(path / f"{split}.npy", "f", 4), _array(path / f"{split}_labels.npy", "i", 1)
    if len(array) != len(numbers) or not len(array):
        raise ValueError(
            f"{path}: {split} holds {len(array)} latents and {len(numbers)} labels; encode the images anew"
        )
    names, labels = index["class_names"], torch.from_numpy(np.array(numbers, dtype=np.int64))
    if unconditional:
        names, labels = ("all",), labels * 0
    elif not 0 <= labels.min() <= labels.max() < len(names):
        raise ValueError(
            f"{path}: the labels of {split} reach from {labels.min()} to {labels.max()} instead of 0 to {len(names) - 1}; "
            "encode the images anew"
        )
    return LatentDataset(Latents(array), labels, names, space=index["space"])


def _array(path: Path, kind: str, dims: int) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path}: cannot be read as an array ({error}); encode the images anew") from None
    if array.dtype.kind != kind or array.ndim != dims:
        raise ValueError(f"{path}: not latents or labels, but {array.dtype} {array.shape}; encode the images anew")
    return array
