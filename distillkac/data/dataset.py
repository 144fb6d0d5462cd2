"""What a data set is to the rest of the package: its configuration, its splits, images in batches."""

import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from distillkac.base.paths import encode
from distillkac.base.random import SampleOrder
from distillkac.base.tensors import column
from distillkac.data import fingerprint
from distillkac.data.config import DataConfig, Fingerprint
from distillkac.data.protocol import Dataset
from distillkac.data.records import Images, Records, read_images, say_left_out, say_narrow

SPLIT_SEED = 1234  # of every split this package makes; fixed, so that no choice of seed moves an image between splits


@dataclass(frozen=True)
class ImageDataset(Dataset):
    """Images with their classes, read a batch at a time.

    images: (N, C, H, W), uint8 or float32 in [-1, 1]; a tensor or `ImageFiles`. labels: (N,) int64. left_out: what was
    wrong with the images of either split that were skipped. fingerprint: of both splits.
    With `mirrored` there are 2 N samples, of which number N + i is image i mirrored: nothing is random here, and when
    a mirror image is met follows from the seed of the order in which the samples are visited.
    """

    images: Images = field(repr=False)
    labels: torch.Tensor = field(repr=False)
    class_names: tuple[str, ...]
    mirrored: bool = False
    left_out: tuple[str, ...] = field(default=(), repr=False)
    fingerprint: Fingerprint | None = field(default=None, repr=False)

    @property
    def shape(self) -> tuple[int, int, int]:  # type: ignore[override]  # it follows from the images: nobody may set it
        """(C, H, W)."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def readers(self) -> int:  # type: ignore[override]  # it follows from where they lie
        """Threads that are worth reading with: none for what lies in memory."""
        return 0 if isinstance(self.images, torch.Tensor) else min(4, os.cpu_count() or 1)

    def __len__(self) -> int:
        return len(self.labels) * (2 if self.mirrored else 1)

    def order(self, seed: int) -> SampleOrder:
        return SampleOrder(len(self), seed)

    def __getitems__(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """(x (n, C, H, W) as stored: uint8 or float32, y (n,) int64), fresh memory. indices: each in [0, len).

        Bytes stay bytes until `to_unit`, so that only a quarter travels to the device.
        """
        index = torch.as_tensor(indices, dtype=torch.int64)
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < len(self):
            raise IndexError(f"indices must lie in [0, {len(self)}), got {int(index.min())} to {int(index.max())}")
        rows = index % len(self.labels)
        x = self.images[rows]
        flipped = index >= len(self.labels)
        x[flipped] = x[flipped].flip(-1)
        return x, self.labels[rows]


def to_unit(x: torch.Tensor) -> torch.Tensor:
    """Pixels as stored -> float32 in [-1, 1]: bytes 0..255 are scaled, on the device they are on; floats are left alone."""
    if x.dtype != torch.uint8:
        return x
    # A divisor on the device: by a number, CUDA multiplies with its rounded inverse, and its bits would differ from a CPU's.
    return x.float().div_(torch.full((), 127.5, device=x.device)).sub_(1)


def to_bytes(x: torch.Tensor) -> torch.Tensor:
    """Floats in [-1, 1], clamped -> bytes 0..255, on the device they are on: what a picture of them holds."""
    return ((x.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def read(dataset: Dataset, indices: Sequence[int] | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(x (n, C, H, W) float32 in [-1, 1], y (n,) int64) of a data set, on the CPU."""
    x, y = dataset.__getitems__(indices.tolist() if isinstance(indices, torch.Tensor) else list(indices))
    return to_unit(x), y


def class_means(dataset: Dataset, chunk: int = 1024) -> torch.Tensor:
    """(num_classes + 1, C, H, W) float32: the mean image of each class, and last of all images, for "no class"."""
    sums = torch.zeros(len(dataset.class_names) + 1, *dataset.shape, dtype=torch.float64)
    counts = torch.zeros(len(sums), dtype=torch.float64)
    size = len(dataset)  # type: ignore[arg-type]  # one with an end: Python has no type that is both Dataset and Sized
    for first in range(0, size, chunk):
        x, y = read(dataset, list(range(first, min(first + chunk, size))))
        sums.index_add_(0, y, x.double())
        counts += torch.bincount(y, minlength=len(counts))
    sums[-1], counts[-1] = sums[:-1].sum(0), counts[:-1].sum()
    return (sums / column(counts.clamp(min=1), sums)).float()


Splits = dict[str, ImageDataset | None]


def make_splits(
    images,
    labels: torch.Tensor,
    names: tuple[str, ...],
    test,
    flip: bool,
    left_out=(),
    known: Fingerprint | None = None,
) -> Splits:
    """images, labels: of training. test: (images, labels) or None. left_out: sentences about images that were skipped.

    known: the fingerprint; of tensors it is found here. Warns of classes that the test images lack.
    """
    if test is not None and (absent := sorted(set(range(len(names))) - set(test[1].tolist()))):
        shown = ", ".join(names[k] for k in absent[:5]) + ", ..." * (len(absent) > 5)
        warnings.warn(f"test has no images of class {shown}: learned, but not measured", stacklevel=2)
    left_out, (test_images, test_labels) = tuple(left_out), test or (images[:0], labels[:0])
    known = known or fingerprint.of_arrays(images, labels, test_images, test_labels, len(names))
    return {
        "train": ImageDataset(images, labels, names, flip, left_out, known),
        "test": None
        if test is None
        else ImageDataset(test_images, test_labels, names, left_out=left_out, fingerprint=known),
    }


def hold_out(
    key: Callable[[int], str], labels: torch.Tensor, names: tuple[str, ...], fraction: float, path: Path | str
) -> tuple[list, list]:
    """(train, test) indices: every image is held out with this chance, which is drawn from its own key alone.

    key: row -> what the image is called, or a digest of its content. So images that are added later move no other. Of each
    class at least one and never all: where chance would have it otherwise, the first or all but the last in the order of
    the draws, which are the only images that others can move.
    """
    train: list[int] = []
    test: list[int] = []
    draws = torch.tensor([_draw(key(row)) for row in range(len(labels)) if fraction], dtype=torch.float64)
    by_class = labels.argsort(stable=True).split(labels.bincount(minlength=len(names)).tolist())
    for rows, name in zip(by_class, names, strict=True):
        if len(rows) == 0:
            raise ValueError(f"{path}: no image has class {name!r}; add some, or remove the class")
        if fraction and len(rows) < 2:
            raise ValueError(
                f"{path}: class {name!r} has a single image, so none can be held out; add images or set "
                "--data.held-out 0"
            )
        if not fraction:
            train += rows.tolist()
            continue
        count = min(max(int((draws[rows] < fraction).sum()), 1), len(rows) - 1)
        ordered = rows[draws[rows].argsort(stable=True)].tolist()
        test += ordered[:count]
        train += ordered[count:]
    return sorted(train), sorted(test)


def without_classes(
    config: DataConfig, labels: torch.Tensor, test: torch.Tensor, names: tuple[str, ...]
) -> tuple[torch.Tensor, torch.Tensor, tuple[str, ...]]:
    """(labels, test labels, names) as they are or, with config.unconditional, one class called "all"."""
    return (labels * 0, test * 0, ("all",)) if config.unconditional else (labels, test, names)


def check_own_test(where: str, config: DataConfig) -> None:
    """Raises ValueError if --data.held-out was given for data that have a test part, of which nothing is held out.

    0 is accepted, since it says the same; the default is, since it cannot be told from an option that was not given.
    """
    if config.held_out not in (0, DataConfig.held_out):
        raise ValueError(
            f"{where}: has a test part of its own, so --data.held-out {config.held_out:g} holds nothing out; omit it"
        )


def content_key(content: bytes) -> str:
    """A key for `hold_out` of what has no name: of all of it, since images on a plain ground are alike but in the middle."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _draw(key: str) -> float:
    """A number in [0, 1) that is a function of the key."""
    digest = hashlib.blake2b(encode(f"{SPLIT_SEED} {key}"), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) / 2**53  # exact, and below 1


def read_splits(
    where: Path | str,
    records: Records,
    labels: torch.Tensor,
    names: tuple[str, ...],
    first_test: int | None,
    config: DataConfig,
    lost: Sequence[str] = (),
) -> Splits:
    """Reads and checks labelled records of any source.

    labels: (N,) int64. first_test: records from this one on are the data's own test part; None holds some out. lost:
    sentences about images that the source itself had to skip. Which images are held out does not depend on which can be
    read. Raises ValueError naming the image, or the class of which none is left.
    """
    if first_test is None:
        train, test = hold_out(records.key, labels, names, config.held_out, where)
    else:
        check_own_test(str(where), config)
        train, test = list(range(first_test)), list(range(first_test, len(labels)))
    # One call for both, so that size and channels are the same for both.
    images, rows, left_out, limits = read_images(records, train + test, config)
    say_narrow(str(where), *limits, (0, 255))
    say_left_out(str(where), left_out, len(labels))
    n = len(set(rows) & set(train))
    labels, marks = labels[rows], [records.mark(row) for row in rows]
    if absent := sorted(set(range(len(names))) - set(labels[:n].tolist())):
        raise ValueError(f"{where}: no image of class {names[absent[0]]!r} is there to learn from; add or repair some")
    test_part = (images[n:], labels[n:]) if n < len(rows) else None
    known = fingerprint.of_marks(marks[:n], labels[:n], marks[n:], labels[n:], len(names))
    return make_splits(images[:n], labels[:n], names, test_part, config.flip, (*lost, *left_out), known)
