"""What the config of a run says of its data: where they are, by what they are known again, and how latents become images.

No torch here: these are options of commands, whose help and mistakes come at once.
"""

from dataclasses import dataclass, field
from typing import Literal

from distillkac.base.paths import PATH, expanded, from_text
from distillkac.base.ranges import in_ranges

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")


@dataclass(frozen=True)
@in_ranges(
    "data",
    image_size="[1, 65536]",
    held_out="[0, 1)",
    shuffle_buffer="[1, 1e9]",
    eval_images="[1, 1e9]",
    num_classes="[1, 1e9]",
)
class DataConfig:
    """Which images to learn."""

    path: str | None = field(default=None, metadata=PATH)
    """A folder of images (a sub-folder per class, or none; train/ and test/ above them if they are there); an .npz with
    images, labels, test_images, test_labels (all but the first optional), MedMNIST's too; a folder of IDX files (MNIST,
    Fashion-MNIST, KMNIST, QMNIST, EMNIST), or its file of images; CIFAR-10's or CIFAR-100's folder, binary or Python version;
    SVHN's train_32x32.mat; a Hugging Face data set: a save_to_disk folder, .parquet or a folder of them, hf://NAME or hf://NAME@REVISION;
    WebDataset shards: .tar, a folder of them, or 'DIR/shard-{000..009}.tar'. Built-in images if not given.
    """
    builtin: Literal["digits", "patches"] = "digits"
    """Without a path: scikit-learn's digits (8 x 8, grey), or patches of its two photographs (32 x 32, colour)."""
    image_size: int | None = None
    """Resize the shorter side to this and crop the centre. If not given, all images must have one size already."""
    channels: Literal[1, 3] | None = None
    """1 = grey, 3 = RGB. If not given, grey where every image is grey."""
    flip: bool = False
    """Learn every image together with its mirror image."""
    held_out: float = 0.1
    """Fraction of the images kept for evaluation: each has this chance, drawn from its own name or content. Only where the
    data has no test part of its own."""
    bad_images: Literal["refuse", "skip"] = "refuse"
    """What to do with images that cannot be read: stop at the first, or skip them and say how many and which."""
    image_column: str | None = None
    """Hugging Face data: the column of images, if there are several."""
    label_column: str | None = None
    """Hugging Face data: the column of classes, if there are several or it is not called label. Shards: the entry of the
    .json that is the class, if it is not called label; no .cls is read then."""
    unconditional: bool = False
    """Learn without classes, whatever the data say of them."""
    coarse: bool = False
    """CIFAR-100: learn its 20 coarse classes instead of its 100 fine ones."""
    subset: str | None = None
    """hf://NAME: which of its configurations."""
    split: str = "train"
    """Hugging Face data: the split to learn from. If not given, the one called train or training, in any case."""
    test_split: str | None = None
    """Hugging Face data: the split to evaluate with. If not given, test or else validation, in any case; without either,
    images of the training split are held out."""
    streaming: bool = False
    """Hugging Face data (hf://NAME, parquet): learn while the images arrive, instead of downloading all of them first."""
    shuffle_buffer: int = 1000
    """Streaming: how many images are shuffled with each other, after the shards."""
    eval_images: int = 5000
    """Streaming: images of each split to measure against, kept in memory then. Without a test split as many are held
    out of the training split."""
    num_classes: int | None = None
    """Streaming: number of classes, where the column of classes does not say it."""
    cache: str | None = field(default=None, metadata=PATH)
    """Folder for what is kept between runs: downloads and tables of Hugging Face data, indexes of large sets. If not given,
    Hugging Face's own cache and ~/.cache/distillkac."""

    def __post_init__(self):
        for name in ("path", "cache"):
            if (text := getattr(self, name)) is not None:
                expanded(f"--data.{name}", from_text(text))
        if self.channels not in (None, 1, 3):
            raise ValueError(f"data.channels must be 1 (grey) or 3 (RGB), got {self.channels}")


@dataclass(frozen=True)
@in_ranges(
    "fingerprint",
    train="[0, 1e12]",
    test="[0, 1e12]",
)
class Fingerprint:
    """What is known of both splits of a data set. The counts are images of each class; empty for a stream."""

    train: tuple[int, ...]
    test: tuple[int, ...]
    train_digest: str
    test_digest: str


@dataclass(frozen=True)
@in_ranges(
    "latent",
    scaling_factor="(0, 1e6]",
    shift_factor="[-1e6, 1e6]",
    shape="[1, 65536]",
)
class LatentSpace:
    """What turns latents into images again: x = decoder(z / scaling_factor + shift_factor)."""

    vae: str
    """Folder or Hub name of diffusers' AutoencoderKL or VQModel."""
    scaling_factor: float
    shift_factor: float
    weights: str
    """SHA-256 of its weights."""
    shape: tuple[int, int, int]
    """(C, H, W) of the images."""
