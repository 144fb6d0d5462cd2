"""CIFAR-10's own files, the binary version and the Python version (https://www.cs.toronto.edu/~kriz/cifar.html).

The Python version is pickled. Pickles can run code, so they are read by an unpickler that knows numpy arrays and plain
values and refuses everything else.
"""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distillkac.data.classes import printable
from distillkac.data.config import DataConfig
from distillkac.data.dataset import Splits, check_own_test, make_splits, without_classes

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FOLDERS = ("", "cifar-10-batches-bin", "cifar-10-batches-py")
TRAIN, TEST = tuple(f"data_batch_{i}" for i in range(1, 6)), ("test_batch",)
SHAPE, PIXELS = (3, 32, 32), 3072


def find_batches(root: Path) -> list[Path]:
    """The first of CIFAR-10's files in root, or in the folders that its archives unpack to in root; none if it is not there."""
    places = [root / name / f"{TRAIN[0]}{suffix}" for name in FOLDERS for suffix in (".bin", "")]
    return [path for path in places if path.is_file()]


def read_cifar(folder: Path, config: DataConfig) -> Splits:
    """Raises ValueError naming the file that is missing, cut short or of another kind."""
    if config.image_size not in (None, 32) or config.channels not in (None, 3):
        raise ValueError(f"{folder}: CIFAR-10 is 32 x 32 in colour: omit --data.image-size and --data.channels")
    check_own_test(str(folder), config)
    (images, labels), (test_images, test_labels) = (_read_all(folder, names) for names in (TRAIN, TEST))
    labels, test_labels, names = without_classes(config, labels, test_labels, CLASSES)
    return make_splits(images, labels, names, (test_images, test_labels), config.flip)


def _read_all(folder: Path, names: tuple[str, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    parts = []
    for name in names:
        binary, pickled = folder / f"{name}.bin", folder / name
        if binary.is_file():
            parts.append(_read_binary(binary))
        elif pickled.is_file():
            parts.append(_read_pickled(pickled))
        else:
            raise ValueError(f"{folder}: {name}.bin (or {name}) is missing; unpack CIFAR-10's archive anew")
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return torch.from_numpy(images.reshape(-1, *SHAPE)), torch.from_numpy(labels.astype(np.int64))


def _read_binary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    content = np.fromfile(path, dtype=np.uint8)
    if content.size == 0 or content.size % (PIXELS + 1):
        raise ValueError(f"{path}: {content.size} bytes are not whole records of {PIXELS + 1}; unpack the archive anew")
    records = content.reshape(-1, PIXELS + 1)
    return records[:, 1:], _checked(path, records[:, 0])


def _read_pickled(path: Path) -> tuple[np.ndarray, np.ndarray]:
    images, labels = unpickled(path, "batch of CIFAR-10", b"data", b"labels")
    if images.dtype != np.uint8 or labels.ndim != 1 or images.shape != (labels.size, PIXELS):
        raise ValueError(
            f"{path}: data must be ({labels.size}, {PIXELS}) uint8, one row per label, got {images.shape} {images.dtype}"
        )
    return images, _checked(path, labels)


def unpickled(path: Path, what: str, *entries: bytes) -> list[np.ndarray]:
    """These entries of the dictionary in a file, as arrays. Raises ValueError if it has none of that name, or is no dictionary
    of arrays and plain values."""
    content = path.read_bytes()
    try:
        found = _ArrayUnpickler(content, encoding="bytes").load()
        return [_array(found[entry], len(content)) for entry in entries]
    # A damaged pickle may lead to any of them; it runs no code.
    except Exception as error:
        raise ValueError(f"{path}: is no {what} ({printable(str(error))}); unpack the archive anew") from None


def _array(value: object, size: int) -> np.ndarray:
    """An entry of a file of so many bytes. Raises ValueError if it is larger, or holds others: lists that hold one list many
    times would fill the memory."""
    if isinstance(value, np.ndarray):
        large = value.nbytes > size
    elif isinstance(value, list) and all(isinstance(each, int | float | bytes | str) for each in value):
        # As an array all words are as wide as the longest.
        widths = [len(each) if isinstance(each, bytes | str) else 1 for each in value]
        large = len(value) * max(widths, default=1) > 4 * size
    else:
        raise ValueError("an entry is no array and no list of numbers or words")
    if large:
        raise ValueError("it has larger arrays than its size allows")
    return np.asarray(value)


def _checked(path: Path, labels: np.ndarray) -> np.ndarray:
    if labels.dtype.kind not in "iu" or (labels.size and not 0 <= labels.min() <= labels.max() < len(CLASSES)):
        raise ValueError(f"{path}: labels must be whole numbers from 0 to {len(CLASSES) - 1}; unpack the archive anew")
    return labels


class _ArrayUnpickler(pickle.Unpickler):
    """Knows what pickled arrays are made of, and makes no more of it than the file is large."""

    def __init__(self, content: bytes, **options: Any) -> None:
        super().__init__(io.BytesIO(content), **options)
        self._left = len(content)

    def find_class(self, module: str, name: str) -> Any:
        # An array is made empty and then given its numbers, which numpy compares with its shape.
        if (module, name) in {("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")}:
            return lambda *_: np.empty(0, np.uint8)
        if (module, name) == ("numpy", "ndarray"):
            return name  # what it is of, and nothing that can be called
        if (module, name) == ("numpy", "dtype"):
            return super().find_class(module, name)
        if (module, name) == ("_codecs", "encode"):
            return self._encoded
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which arrays do not need")

    def _encoded(self, text: object, encoding: object) -> bytes:
        """The numbers of an array, as Python 3 pickles them for Python 2. Codecs that unpack might be called over and over."""
        if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
            raise pickle.UnpicklingError(f"it asks for the codec {encoding!r:.40}, which arrays do not need")
        self._left -= len(text)
        if self._left < 0:
            raise pickle.UnpicklingError("it has larger arrays than its size allows")
        return text.encode("latin1")
