"""An image of any kind Pillow opens -> a uint8 array."""

import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N")


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


def read_image(
    source: Path | BinaryIO, image_size: int | None, channels: int | None, name: str | None = None
) -> np.ndarray:
    """Decodes one image (of an animation the first frame), upright as its EXIF orientation says.

    name: what errors call it; by default the path. Returns (C, H, W) uint8. Raises ValueError naming the image if Pillow
    cannot decode all of it, or if it has more pixels than Pillow takes for sane (PIL.Image.MAX_IMAGE_PIXELS).
    """
    name = name or str(source)
    try:
        with Image.open(source) as image:  # reads the header only
            width, height = image.size
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and width * height > limit:
                raise Image.DecompressionBombError(f"{width} x {height} pixels")
            return to_array(image, image_size, channels)
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{name}: is far larger than an image to learn from should be ({error}); shrink or remove it"
        ) from None
    # Pillow's decoders fail on damaged files in many ways: OSError, SyntaxError, EOFError, struct.error, ...
    except Exception as error:
        raise ValueError(unreadable(name, error)) from None


def unreadable(name: str, error: Exception) -> str:
    return f"{name}: cannot be read as an image ({error}); repair or remove it, or add --data.bad-images skip"


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
