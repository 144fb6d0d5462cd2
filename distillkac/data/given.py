"""Data given in Python: tensors as a data set, and what is asked of the data sets of others before they are trained on."""

import os
import warnings
from collections.abc import Iterable, Sequence, Sized

import torch

from distillkac.data import fingerprint
from distillkac.data.classes import class_name
from distillkac.data.config import DataConfig, Fingerprint
from distillkac.data.dataset import ImageDataset
from distillkac.data.protocol import Dataset
from distillkac.data.records import say_narrow

PYTHON = "python://"
"""In config.data.path, before the class of a data set that was given in Python, which no command can load."""
LOOKED_AT = 64  # images of a data set of others that are looked at before it is trained on
PICTURE_CHANNELS = (1, 3)
MEMBERS = ("shape", "class_names", "fingerprint", "readers", "most_readers", "order", "__getitems__", "stop")


def from_tensors(
    images: torch.Tensor,
    labels: torch.Tensor | None = None,
    class_names: Sequence[str] | None = None,
    flip: bool = False,
) -> ImageDataset:
    """A data set of images in memory.

    images: (N, C, H, W), uint8 from 0 to 255, or float32 that spans [-1, 1]; with other than 1 or 3 channels any finite
    float32. labels: (N,) whole numbers from 0; None for images without classes. class_names: in the order of these
    numbers, by default "0", "1", ... up to the largest label. flip: every image is met together with its mirror image. Nothing
    is scaled, clipped or copied, so the tensors are not to be changed afterwards; raises ValueError for other values, NaN among
    them.
    """
    if not isinstance(images, torch.Tensor) or images.dim() != 4 or 0 in images.shape:
        raise ValueError(f"images must be a tensor (N, C, H, W), not empty, got {_told(images)}")
    channels, height, width = images.shape[1:]
    if width in PICTURE_CHANNELS and channels not in PICTURE_CHANNELS and height > max(PICTURE_CHANNELS):
        raise ValueError(f"images must have their channels first, got {_told(images)}: images.permute(0, 3, 1, 2)")
    images = images.detach().cpu()
    _check_values("images", images, whole=True)
    if images.dtype == torch.uint8:
        say_narrow("images", float(images.min()), float(images.max()), (0, 255))
    if labels is None:
        labels = torch.zeros(len(images), dtype=torch.int64)
        class_names = ("all",) if class_names is None else class_names
    whole = isinstance(labels, torch.Tensor) and not (labels.is_floating_point() or labels.is_complex())
    if not whole or labels.shape != images.shape[:1] or labels.dtype == torch.bool:
        raise ValueError(f"labels must be {len(images)} whole numbers, one for each image, got {_told(labels)}")
    labels = labels.detach().cpu().long()
    if class_names is None:
        _refuse_gaps(labels)
        class_names = tuple(map(str, range(int(labels.max()) + 1)))
    names = _names_in_order(class_names)
    _check_labels("labels", labels, names)
    none = images[:0], labels[:0]
    return ImageDataset(images, labels, names, flip, (), fingerprint.of_arrays(images, labels, *none, len(names)))


def checked(dataset: Dataset) -> tuple[DataConfig, Fingerprint]:
    """What a run that learns this data set keeps of it: (config.data, its fingerprint), after a look at its first images.

    Without a fingerprint of its own, that look makes one. Raises ValueError naming the class if it does not do what
    `Dataset` says.
    """
    name = dataset.__name__ if isinstance(dataset, type) else type(dataset).__name__
    if isinstance(dataset, type):
        raise ValueError(f"the data set must be an object, got the class {name}: make one, {name}(...)")
    if lacking := [member for member in MEMBERS if not hasattr(dataset, member)]:
        hint = ""
        if isinstance(dataset, torch.Tensor):
            hint = "; wrap it: distillkac.data.from_tensors(images, labels)"
        elif isinstance(dataset, (str, os.PathLike)):
            hint = "; name images on the disk by distillkac.data.DataConfig(path=...)"
        raise ValueError(
            f"{name} is no data set: it lacks {', '.join(lacking)}; inherit from distillkac.data.Dataset{hint}"
        )
    shape, names = tuple(dataset.shape), tuple(dataset.class_names)
    if len(shape) != 3 or not all(type(size) is int and size > 0 for size in shape):
        raise ValueError(f"{name}.shape must be (C, H, W), got {shape}")
    check_names(names, f"{name}.class_names")
    rows = _first_rows(name, dataset)
    x, y = _looked_at(name, dataset, rows, shape, names)
    _say_if_not_spread(name, x)
    known = dataset.fingerprint
    if isinstance(known, str):
        known = fingerprint.of_words((known,))
    if known is None:
        again = _looked_at(name, dataset, rows, shape, names)
        if not (torch.equal(x, again[0]) and torch.equal(y, again[1])):
            raise ValueError(
                f"{name} gave other images when the same rows were asked for again: a row must always be the same image, so "
                "that a run can be resumed; if that is meant, give it a `fingerprint`, which then tells it again"
            )
        size = str(len(dataset)) if isinstance(dataset, Sized) else "endless"
        content = fingerprint.of_arrays(x, y, x[:0], y[:0], len(names))
        known = fingerprint.of_words((name, size, str(shape), content.train_digest))
    return DataConfig(path=f"{PYTHON}{name}"), known


def is_given(config: DataConfig) -> bool:
    """Whether a run of this config.data learned data given in Python."""
    return config.path is not None and config.path.startswith(PYTHON)


def _first_rows(name: str, dataset: Dataset) -> list[int]:
    try:
        order = dataset.order(0)(0, LOOKED_AT)
    except TypeError as error:  # the usual order asks for its length
        raise ValueError(
            f"{name}.order(seed)(start, stop) failed ({error}); write `__len__`, or an order of its own"
        ) from error
    if not isinstance(order, torch.Tensor) or order.shape != (LOOKED_AT,) or order.is_floating_point():
        raise ValueError(
            f"{name}.order(seed)(0, {LOOKED_AT}) must be a tensor of {LOOKED_AT} rows, whole numbers, got {_told(order)}; rows "
            "come again, so that there is no last one"
        )
    return order.tolist()


def _say_if_not_spread(name: str, x: torch.Tensor) -> None:
    """Warns of images that are probably not scaled as they should be; a few of them may well be of the bright half alone."""
    if x.shape[1] not in PICTURE_CHANNELS:
        return
    if x.dtype == torch.uint8:
        say_narrow(name, float(x.min()), float(x.max()), (0, 255))
    elif float(x.min()) >= 0:
        warnings.warn(
            f"{name}: none of the first {len(x)} images has a value below 0, as if they spanned [0, 1] and not [-1, 1]: scale "
            "them by 2 * x - 1, unless they are meant to be bright",
            stacklevel=4,
        )


def _refuse_gaps(labels: torch.Tensor) -> None:
    """Raises ValueError if a class that nobody named has no image: it would be learned, shown and drawn."""
    present = labels.unique().tolist()
    if present[0] >= 0 and len(present) != present[-1] + 1:
        absent = next(number for number, label in enumerate(present) if number != label)
        raise ValueError(
            f"labels must be 0, 1, ... without a gap, or class_names must name all classes: there is no image of class "
            f"{absent} (torch.unique(labels, return_inverse=True)[1] numbers them anew)"
        )


def _looked_at(name: str, dataset: Dataset, rows: list[int], shape: tuple, names: tuple) -> tuple:
    batch = dataset.__getitems__(rows)
    if not isinstance(batch, (tuple, list)) or len(batch) != 2 or not all(isinstance(v, torch.Tensor) for v in batch):
        raise ValueError(f"{name}.__getitems__ must return a pair of tensors (x, y), got {_told(batch)}")
    x, y = (part.clone() for part in batch)  # a buffer may be used again
    if x.shape != (len(rows), *shape):
        raise ValueError(f"{name}: x of {len(rows)} rows must have shape {(len(rows), *shape)}, got {_told(x)}")
    if y.shape != (len(rows),) or y.dtype != torch.int64:
        raise ValueError(f"{name}: y of {len(rows)} rows must be ({len(rows)},) int64, got {_told(y)}")
    _check_values(f"{name}: x", x, whole=False)
    _check_labels(f"{name}: y", y, names)
    return x, y


def _check_values(what: str, images: torch.Tensor, whole: bool) -> None:
    """whole: these are all images; a few of them may well be of the bright half alone."""
    if images.dtype == torch.uint8:
        return
    if images.dtype != torch.float32:
        raise ValueError(f"{what} must be uint8 from 0 to 255, or float32 in [-1, 1], got {images.dtype}")
    finite = torch.isfinite(images).flatten(1).all(1)
    if not finite.all():
        row = int((~finite).nonzero()[0])
        raise ValueError(f"{what}[{row}] has values that are not finite (NaN or infinity): repair or remove that image")
    low, high = float(images.min()), float(images.max())
    if images.shape[1] in PICTURE_CHANNELS and (low < -1 or high > 1 or (whole and low >= 0)):
        raise ValueError(
            f"{what} must span [-1, 1] where they are float32, got [{low:g}, {high:g}]: scale them (from [0, 1] by 2 * x - 1), "
            "or give uint8 from 0 to 255"
        )


def _check_labels(what: str, labels: torch.Tensor, names: tuple[str, ...]) -> None:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= len(names):
        raise ValueError(f"{what} must lie in [0, {len(names) - 1}], for {len(names)} classes, got {low} to {high}")


def _names_in_order(given: object) -> tuple[str, ...]:
    """The names as every source has them. Raises ValueError for what is none, or has no order to number classes by."""
    given = (given,) if isinstance(given, str) else given
    if isinstance(given, set | frozenset | dict) or not isinstance(given, Iterable) or getattr(given, "ndim", 1) != 1:
        raise ValueError(f"class_names must be a list of the names of the classes, in order, got {given!r:.80}")
    names = tuple(class_name(name) if isinstance(name, str) else name for name in given)
    check_names(names)
    return names


def check_names(names: tuple, what: str = "class_names") -> None:
    if not names or len(set(names)) < len(names) or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"{what} must be the names of the classes, each once, got {names!r:.80}")


def _told(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return type(value).__name__
