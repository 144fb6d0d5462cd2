"""Images to learn: built-in ones, folders of image files, `.npz` arrays, the own files of CIFAR-10 and CIFAR-100, of MNIST and
its like (IDX) and of SVHN, Hugging Face data sets, WebDataset shards, latents of an autoencoder.

Whatever the source, `load` decodes and checks every image of both splits before it returns, so that no run dies of a
bad file hours later; only what is streamed is checked as it comes. Every mistake is a ValueError that names the file
and says what to do. docs/data.md is the manual.
"""

from distillkac.data.arrow import read_arrow
from distillkac.data.builtin import BUILTIN
from distillkac.data.cifar import read_cifar
from distillkac.data.cifar100 import read_cifar100
from distillkac.data.dataset import (
    SPLITS,
    DataConfig,
    ImageDataset,
    Split,
    Splits,
    class_means,
    read,
    to_bytes,
    to_unit,
)
from distillkac.data.folder import read_folder
from distillkac.data.given import from_tensors
from distillkac.data.idx import read_idx
from distillkac.data.latents import read_latents
from distillkac.data.npz import read_npz
from distillkac.data.protocol import Dataset
from distillkac.data.shards import read_shards
from distillkac.data.sources import find
from distillkac.data.stream import Stream, open_stream
from distillkac.data.stream_shards import sample_stream
from distillkac.data.svhn import read_svhn

__all__ = [
    "DataConfig",
    "Dataset",
    "ImageDataset",
    "Stream",
    "class_means",
    "from_tensors",
    "load",
    "load_training",
    "read",
    "to_bytes",
    "to_unit",
]

READERS = {
    "builtin": lambda found, config: BUILTIN[config.builtin](config),
    "folder": lambda found, config: read_folder(found.tree, config),
    "npz": lambda found, config: read_npz(found.path, config),
    "cifar": lambda found, config: read_cifar(found.path, config),
    "cifar100": lambda found, config: read_cifar100(found.files[0], config),
    "idx": lambda found, config: read_idx(found.path, found.files, config),
    "svhn": lambda found, config: read_svhn(found.path, found.files, config),
    "latents": lambda found, config: read_latents(found.path, config),
    "shards": lambda found, config: read_shards(list(found.files), found.path, config),
    "saved": lambda found, config: read_arrow(found.path, config),
    "parquet": lambda found, config: read_arrow(found.path, config),
    "hub": lambda found, config: read_arrow(found.path, config),
}


def load(config: DataConfig, split: Split) -> ImageDataset:
    """One split of the data; both are read and checked. Only the train split is mirrored. With config.streaming, the first
    config.eval_images of it.

    Raises ValueError naming the file: missing, unreadable, of another size, labels that do not match, empty.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    found = _load(config)[split]
    if found is None:
        raise ValueError(
            f"{config.path}: no images are held out for evaluation; set --data.held-out above 0, or add test images"
        )
    return found


def load_training(config: DataConfig) -> ImageDataset | Stream:
    """What a run learns from: all of the train split. Raises ValueError as `load` does."""
    if not config.streaming:
        return load(config, "train")
    find(config)
    return open_stream(str(config.path), config)


def _load(config: DataConfig) -> Splits:
    found = find(config)
    return sample_stream(str(config.path), config) if config.streaming else READERS[found.kind](found, config)
