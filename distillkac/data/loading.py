"""From a DataConfig to images: which reader has which source."""

from distillkac.data.arrow import read_arrow
from distillkac.data.builtin import BUILTIN
from distillkac.data.cifar import read_cifar
from distillkac.data.cifar100 import read_cifar100
from distillkac.data.config import SPLITS, DataConfig, Split
from distillkac.data.dataset import ImageDataset, Splits
from distillkac.data.folder import read_folder
from distillkac.data.idx import read_idx
from distillkac.data.latents import read_latents
from distillkac.data.npz import read_npz
from distillkac.data.shards import read_shards
from distillkac.data.sources import find
from distillkac.data.stream import Stream, open_stream
from distillkac.data.stream_shards import sample_stream
from distillkac.data.svhn import read_svhn

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
            f"{config.path}: no images are held out to measure with, so these figures cannot be had; a new training with "
            "--data.held-out above 0, or of data with test images, can be measured"
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
