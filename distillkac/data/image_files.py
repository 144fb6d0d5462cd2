"""An image of any kind Pillow opens -> a uint8 array."""

import contextlib
import functools
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps

from distillkac.data.classes import printable
from distillkac.data.pixels import pixels_only

TURNS: dict[Any, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N")


def read_image(
    source: Path | BinaryIO, image_size: int | None, channels: int | None, name: str | None = None
) -> np.ndarray:
    """Decodes one image (of an animation the first frame), upright as its EXIF orientation says.

    name: what errors call it; by default the path. Returns (C, H, W) uint8. Raises ValueError naming the image if Pillow
    cannot decode all of it, or if it has more pixels than Pillow takes for sane (PIL.Image.MAX_IMAGE_PIXELS).
    """
    name = name or printable(str(source))
    try:
        return _decode(source, image_size, channels)
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{name}: is far larger than an image to learn from should be ({error}); shrink or remove it"
        ) from None
    # Pillow's decoders fail on damaged files in many ways: OSError, SyntaxError, EOFError, struct.error, ...
    except Exception as error:
        # Perhaps only of what is no pixel: too much text, a damaged profile or comment.
        if (pixels := pixels_only(source)) is not None:
            with contextlib.suppress(Exception):
                return _decode(pixels, image_size, channels)
        raise ValueError(unreadable(name, error)) from None


@functools.cache
def readable() -> tuple[str, ...]:
    """Pillow's names of the kinds of files whose pixels it decodes by itself. Not those that it only knows by name (HDF5, GRIB,
    MPEG), nor those that it has another program run (EPS: Ghostscript, on whatever the file says)."""
    Image.init()
    return tuple(kind for kind in Image.OPEN if kind not in ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"))


def _decode(source: Path | BinaryIO, image_size: int | None, channels: int | None) -> np.ndarray:
    with Image.open(source, formats=readable()) as image:  # reads the header only
        width, height = image.size
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and width * height > limit:
            raise Image.DecompressionBombError(f"{width} x {height} pixels")
        return to_array(image, image_size, channels)


def unreadable(name: str, error: Exception) -> str:
    return f"{name}: cannot be read as an image ({error}); repair or remove it, or add --data.bad-images skip"


def to_array(image: Image.Image, image_size: int | None, channels: int | None) -> np.ndarray:
    """A Pillow image -> (C, H, W) uint8: upright, opaque on white, scaled and cropped to a square of `image_size`.

    channels: 1, 3, or None for 1 if the image is grey and 3 otherwise. Raises ValueError for floating-point pixels, and for a
    transparent colour of 16 bits.
    """
    # Pillow would look for it among the pixels that it has cut to 8 bits.
    if "transparency" in image.info and any(tile[3] == "RGB;16B" for tile in getattr(image, "tile", ())):
        raise ValueError("its transparent colour has 16 bits; save it with 8 bits or with an alpha channel")
    image.load()
    # Of fewer bits Pillow turns it round itself.
    white_is_zero = getattr(image, "tag_v2", {}).get(ExifTags.Base.PhotometricInterpretation) == 0
    image = _upright(image)
    channels = channels or (1 if image.mode in GREY_MODES else 3)
    if image.mode.startswith("I"):
        image = _eight_bits(image, white_is_zero)
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


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF or XMP says; as it is if that makes no sense, for notes on an image do not make it a bad one."""
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    # As many ways to fail as there are ways to write nonsense.
    except Exception:
        return image
    return image if turn is None else image.transpose(turn)


def _eight_bits(image: Image.Image, white_is_zero: bool) -> Image.Image:
    """16-bit grey (which some formats open as 32-bit) -> 8-bit grey, rounded; Pillow itself would clip at 255. The value that a
    PNG calls transparent is white."""
    pixels = np.asarray(image).astype(np.int64)
    if isinstance(clear := image.info.get("transparency"), int):
        pixels[pixels == clear] = 65535
    if pixels.size and not 0 <= pixels.min() <= pixels.max() <= 65535:
        raise ValueError(f"its pixels reach from {pixels.min()} to {pixels.max()}; save it with 8 or 16 bits")
    if white_is_zero:
        pixels = 65535 - pixels
    return Image.fromarray(((pixels + 128) // 257).astype(np.uint8))


def fitted(images: np.ndarray, image_size: int | None, channels: int | None) -> np.ndarray:
    """(N, C, H, W) uint8 images brought to a square of `image_size` and to `channels`; as they are where they fit.

    Returns (N, channels, image_size, image_size), contiguous. None: of the images themselves.
    """
    count, depth, height, width = images.shape
    size = (height, width) if image_size is None else (image_size, image_size)
    channels = channels or depth
    if (channels, *size) == (depth, height, width):
        return np.ascontiguousarray(images)
    made = np.empty((count, channels, *size), np.uint8)
    for place, image in zip(made, images, strict=True):
        place[:] = to_array(Image.fromarray(image[0] if depth == 1 else image.transpose(1, 2, 0)), image_size, channels)
    return made
