"""Images to learn: built-in ones, folders of image files, `.npz` arrays, the own files of CIFAR-10 and CIFAR-100, of MNIST and
its like (IDX) and of SVHN, Hugging Face data sets, WebDataset shards, latents of an autoencoder.

Whatever the source, `load` decodes and checks every image of both splits before it returns, so that no run dies of a
bad file hours later; only what is streamed is checked as it comes. Every mistake is a ValueError that names the file
and says what to do. docs/data.md is the manual.
"""

from typing import TYPE_CHECKING

from distillkac.base.lazy import importer

if TYPE_CHECKING:
    from distillkac.data.config import DataConfig
    from distillkac.data.dataset import ImageDataset, class_means, read, to_bytes, to_unit
    from distillkac.data.given import from_tensors
    from distillkac.data.loading import load, load_training
    from distillkac.data.protocol import Dataset
    from distillkac.data.stream import Stream

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

# Torch and the readers are imported when something is read, not for the options of a command.
__getattr__, __dir__ = importer(
    __name__,
    {
        "config": ("DataConfig",),
        "dataset": ("ImageDataset", "class_means", "read", "to_bytes", "to_unit"),
        "given": ("from_tensors",),
        "loading": ("load", "load_training"),
        "protocol": ("Dataset",),
        "stream": ("Stream",),
    },
)
