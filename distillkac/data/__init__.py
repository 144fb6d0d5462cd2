"""Images to learn: built-in ones, folders of image files, `.npz` arrays, CIFAR-10's own files, Hugging Face data sets,
WebDataset shards, latents of an autoencoder.

Whatever the source, `load` decodes and checks every image of both splits before it returns, so that no run dies of a
bad file hours later; only what is streamed is checked as it comes. Every mistake is a ValueError that names the file
and says what to do. docs/data.md is the manual.
"""

import os
from pathlib import Path
from typing import Literal

from distillkac.data.arrow import arrow, is_saved
from distillkac.data.builtin import BUILTIN
from distillkac.data.cifar import cifar, find
from distillkac.data.dataset import SPLITS, DataConfig, ImageDataset, Splits, read, to_unit
from distillkac.data.folder import folder
from distillkac.data.latents import is_latents, latents
from distillkac.data.npz import npz
from distillkac.data.shards import expand, shards
from distillkac.data.stream import Stream, open_stream
from distillkac.data.stream_shards import sample_stream
from distillkac.paths import HUB

__all__ = ["DataConfig", "ImageDataset", "Stream", "load", "load_training", "read", "to_unit"]

INSIDE = ("", "data", *SPLITS, "validation", "valid", "val")  # folders where parquet files and shards may lie


def load(config: DataConfig, split: Literal["train", "test"]) -> ImageDataset:
    """One split of the data; both are read and checked. Only the train split is mirrored. With config.streaming, the first
    config.eval_images of it.

    Raises ValueError naming the file: missing, unreadable, of another size, labels that do not match, empty.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    if _is_stream(config):
        splits = sample_stream(config.path, config)
    else:
        splits = BUILTIN[config.builtin](config) if config.path is None else _open(config.path, config)
    if splits[split] is None:
        raise ValueError(
            f"{config.path}: no images are held out for evaluation; set --data.held-out above 0, or add test images"
        )
    return splits[split]


def load_training(config: DataConfig) -> ImageDataset | Stream:
    """What a run learns from: all of the train split. Raises ValueError as `load` does."""
    return open_stream(config.path, config) if _is_stream(config) else load(config, "train")


def _is_stream(config: DataConfig) -> bool:
    """Raises ValueError if the data are to be streamed and cannot be."""
    if not config.streaming:
        return False
    path = Path(config.path or "").expanduser()
    if config.path is None or not (
        config.path.startswith(HUB)
        or (path.suffix == ".parquet" and path.is_file())
        or (path.is_dir() and not is_saved(path) and _inside(path, ".parquet"))
    ):
        raise ValueError(
            "--data.streaming is for Hugging Face data sets that are read while they arrive: --data.path hf://NAME, a "
            f".parquet file or a folder of them, got {config.path or 'the built-in images'}; leave it out for other data"
        )
    return True


def _open(name: str, config: DataConfig) -> Splits:
    if name.startswith(HUB):
        return arrow(name, config)
    path = Path(name).expanduser()
    if path.is_dir():
        if is_latents(path):
            return latents(path, config)
        if batches := find(path):
            return cifar(batches, config)
        if is_saved(path) or _inside(path, ".parquet"):
            return arrow(path, config)
        archives = _inside(path, ".tar")
        return shards(archives, path, config) if archives else folder(path, config)
    if path.suffix == ".npz" and path.is_file():
        return npz(path, config)
    if path.suffix == ".parquet" and path.is_file():
        return arrow(path, config)
    if path.suffix == ".tar" and path.is_file():
        return shards([path], path.parent, config)
    if path.suffix == ".tar" and "{" in name and not path.exists():
        paths = expand(str(path))
        return shards(paths, Path(os.path.commonpath([path.parent for path in paths])), config)
    found = "which is a file of another kind" if path.exists() else "where there is nothing"
    raise ValueError(
        "data.path must be a folder of images, CIFAR-10's folder, an .npz file, a Hugging Face data set (hf://NAME, .parquet, "
        f"a folder of save_to_disk) or WebDataset shards (.tar), got {path}, {found}"
    )


def _inside(root: Path, suffix: str) -> list[Path]:
    """Files of a kind at the top of a folder or in one of its sub-folders for the splits."""
    return sorted(path for sub in INSIDE for path in (root / sub).glob(f"*{suffix}") if path.is_file())
