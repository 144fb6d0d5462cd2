"""Images to learn: built-in ones, folders of image files, `.npz` arrays, CIFAR-10's own files.

Whatever the source, `load` decodes and checks every image of both splits before it returns, so that no run dies of a
bad file hours later. Every mistake is a ValueError that names the file and says what to do.
"""

from pathlib import Path
from typing import Literal

from distillkac.data.builtin import BUILTIN
from distillkac.data.cifar import cifar, find
from distillkac.data.dataset import SPLITS, DataConfig, ImageDataset
from distillkac.data.folder import folder
from distillkac.data.latents import is_latents, latents, source
from distillkac.data.npz import npz

__all__ = ["DataConfig", "ImageDataset", "load", "load_pixels"]


def load(config: DataConfig, split: Literal["train", "test"]) -> ImageDataset:
    """One split of the data; both are read and checked. Only the train split is mirrored.

    Raises ValueError naming the file: missing, unreadable, of another size, labels that do not match, empty.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    if config.path is None:
        splits = BUILTIN[config.builtin](config)
    else:
        path = Path(config.path).expanduser()
        if is_latents(path):
            splits = latents(path, config)
        elif path.is_dir():
            batches = find(path)
            splits = cifar(batches, config) if batches else folder(path, config)
        elif path.suffix == ".npz" and path.is_file():
            splits = npz(path, config)
        else:
            found = "which is a file of another kind" if path.exists() else "where there is nothing"
            raise ValueError(
                f"data.path must be a folder of images, CIFAR-10's folder or an .npz file, got {path}, {found}"
            )
    if splits[split] is None:
        raise ValueError(
            f"{config.path}: no images are held out for evaluation; set --data.held-out above 0, or add test images"
        )
    return splits[split]


def load_pixels(config: DataConfig, split: Literal["train", "test"]) -> ImageDataset:
    """Like `load`, but where `config` names latents, the images that they were made of."""
    path = Path(config.path).expanduser() if config.path is not None else None
    return load(source(path) if path is not None and is_latents(path) else config, split)
