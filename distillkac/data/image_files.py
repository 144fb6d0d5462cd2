"""Image files of any kind Pillow opens -> uint8 arrays of one shape; every file is decoded and checked once."""

import math
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from tqdm import tqdm

MEMORY_LIMIT = 4 << 30  # bytes; images that need more are decoded anew whenever they are read
GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N")


@dataclass(frozen=True)
class ImageFiles:
    """Files too large for memory together, read on demand as if they were one uint8 tensor of `shape` (N, C, H, W)."""

    paths: tuple[Path, ...] = field(repr=False)
    shape: tuple[int, int, int, int]
    image_size: int | None

    def __getitem__(self, rows: torch.Tensor | slice) -> "torch.Tensor | ImageFiles":
        """rows: (n,) int64 -> (n, C, H, W) uint8, decoded now; or a slice -> those files.

        Raises ValueError if a file was damaged or changed its size since it was checked.
        """
        if isinstance(rows, slice):
            paths = self.paths[rows]
            return ImageFiles(paths, (len(paths), *self.shape[1:]), self.image_size)
        images = torch.empty(len(rows), *self.shape[1:], dtype=torch.uint8)
        for image, row in zip(images, rows.tolist(), strict=True):
            array = read_image(self.paths[row], self.image_size, self.shape[1])
            if array.shape != self.shape[1:]:
                raise ValueError(f"{self.paths[row]}: changed its size while it was in use; start again")
            image.copy_(torch.from_numpy(array))
        return images


def list_images(folder: Path, recursive: bool) -> list[Path]:
    """The files of a folder that by their suffix are images, sorted. Hidden ones are skipped, others with a warning."""
    known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    images, others = [], []
    for path in sorted(folder.rglob("*") if recursive else folder.iterdir()):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            (images if path.suffix.lower() in known else others).append(path)
    if others:
        warnings.warn(
            f"{folder}: left out {len(others)} files that are no images, such as {others[0].name}", stacklevel=2
        )
    return images


def read_images(paths: Sequence[Path], image_size: int | None, channels: int | None) -> torch.Tensor | ImageFiles:
    """Decodes every file once: (N, C, H, W) uint8, or `ImageFiles` if that would take more than MEMORY_LIMIT.

    C is `channels`, by default 1 if every image is grey and 3 otherwise. Raises ValueError naming the first file that
    cannot be read or has another size than the first one.
    """
    size, depth, kept = None, channels or 1, []
    threads = min(32, os.cpu_count() or 1)  # Pillow decodes without holding the interpreter lock
    with ThreadPoolExecutor(threads) as pool, tqdm(paths, desc="reading images", leave=False, disable=None) as bar:
        todo = iter(bar)
        # A few at a time: one map over all would decode far ahead of what is looked at here.
        while some := list(islice(todo, 8 * threads)):
            decoded = pool.map(lambda path: read_image(path, image_size, channels), some)
            for path, image in zip(some, decoded, strict=True):
                size = size or image.shape[1:]
                if image.shape[1:] != size:
                    raise ValueError(
                        f"{path}: is {_size(image.shape[1:])} but {paths[0]} is {_size(size)}; give --data.image-size "
                        "to bring all images to one size"
                    )
                depth = max(depth, len(image))
                kept.append(image)
            shape = (len(paths), depth, *size)
            if math.prod(shape) > MEMORY_LIMIT:
                kept.clear()
    if math.prod(shape) > MEMORY_LIMIT:
        return ImageFiles(tuple(paths), shape, image_size)
    images = torch.empty(shape, dtype=torch.uint8)
    for image, array in zip(images, kept, strict=True):
        image.copy_(torch.from_numpy(array))  # a grey image among coloured ones is broadcast over the channels
    return images


def read_image(path: Path, image_size: int | None, channels: int | None) -> np.ndarray:
    """Decodes one file (of an animation the first frame), upright as its EXIF orientation says.

    Returns (C, H, W) uint8. Raises ValueError naming the file if Pillow cannot decode all of it.
    """
    try:
        with Image.open(path) as image:
            return to_array(image, image_size, channels)
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{path}: is far larger than an image to learn from should be ({error}); shrink or remove it"
        ) from None
    # Pillow's decoders fail on damaged files in many ways: OSError, SyntaxError, EOFError, struct.error, ...
    except Exception as error:
        raise ValueError(f"{path}: cannot be read as an image ({error}); repair or remove it") from None


def to_array(image: Image.Image, image_size: int | None, channels: int | None) -> np.ndarray:
    """A Pillow image -> (C, H, W) uint8: upright, opaque on white, scaled and cropped to a square of `image_size`.

    channels: 1, 3, or None for 1 if the image is grey and 3 otherwise. Raises ValueError for floating-point pixels.
    """
    image = ImageOps.exif_transpose(image)
    channels = channels or (1 if image.mode in GREY_MODES else 3)
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    elif image.mode == "F":
        raise ValueError("floating-point pixels have no fixed range; save it with 8 or 16 bits, or use an .npz")
    if image.has_transparency_data or image.mode in ("La", "RGBa"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if channels == 1 else "RGB")
    if image_size is not None and image.size != (image_size, image_size):
        image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.LANCZOS)
    array = np.array(image)
    return array[None] if channels == 1 else array.transpose(2, 0, 1)


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey (which some formats open as 32-bit) -> 8-bit grey, rounded; Pillow itself would clip at 255."""
    pixels = np.asarray(image).astype(np.int64)
    if pixels.size and not 0 <= pixels.min() <= pixels.max() <= 65535:
        raise ValueError(f"its pixels reach from {pixels.min()} to {pixels.max()}; save it with 8 or 16 bits")
    return Image.fromarray(((pixels + 128) // 257).astype(np.uint8))


def _size(size: tuple[int, int]) -> str:
    return f"{size[1]} x {size[0]}"
