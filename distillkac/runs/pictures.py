"""Pictures of images: grids, strips, animations; each written whole or not at all. What matplotlib draws is in plots.py."""

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from distillkac.base import files
from distillkac.data import to_bytes

CELL = 48  # pixels that an image is enlarged to at least, so that 8 x 8 digits can be read
GREY, WHITE = 90, 255  # between images: grey sets off black and white backgrounds, white sets off noise
MAX_GRID = 89_478_485  # pixels: larger pictures are refused by Pillow and many viewers
MAX_ANIMATION = 2**30  # values of all frames together, which are held in memory
MAX_GIF_SIDE = 2**16 - 1
TITLE = 15  # height of a strip's title, pixels
PathLike = str | os.PathLike[str]
INK = "#22303c"


def to_uint8(images: torch.Tensor) -> np.ndarray:
    """(n, C, H, W) in [-1, 1], clamped -> (n, H, W, C) uint8."""
    return to_bytes(images.cpu()).permute(0, 2, 3, 1).numpy()


def to_pil(image: np.ndarray) -> Image.Image:
    """(H, W, C) uint8 -> a Pillow image, grey or RGB."""
    return Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)


def save_png(image: Image.Image, path: PathLike) -> None:
    """Writes a Pillow image; the file appears whole or not at all."""
    content = io.BytesIO()
    image.save(content, "PNG")
    files.write_atomic(Path(path), content.getvalue())


def save_grid(images: torch.Tensor, path: PathLike, columns: int = 10, scale: int | None = None) -> None:
    """Writes a PNG of images in rows of `columns`, left to right, then down.

    images: (n, C, H, W), n >= 1, C 1 or 3; [-1, 1], clamped. scale: whole-number enlargement, each pixel a square;
    by default what makes an image at least 48 pixels high. Raises ValueError on another shape.
    """
    save_png(grid_image(images, columns, scale), path)


def grid_image(images: torch.Tensor, columns: int = 10, scale: int | None = None) -> Image.Image:
    """The picture that `save_grid` writes."""
    check_images(images)
    return picture_of(to_uint8(images), columns, scale)


def picture_of(pixels: np.ndarray, columns: int = 10, scale: int | None = None) -> Image.Image:
    """The grid of images (n, H, W, C) uint8."""
    if columns < 1 or (scale is not None and scale < 1):
        raise ValueError(f"columns and scale must be at least 1, got {columns} and {scale}")
    return to_pil(montage(pixels, min(columns, max(len(pixels), 1)), scale, GREY))


def save_strips(strips: Sequence[torch.Tensor], titles: Sequence[str], path: Path) -> None:
    """Writes a PNG of rows of as many images each, the title of each row on its left.

    strips: each (n, C, H, W), in [-1, 1], clamped. Raises ValueError on another shape.
    """
    sheet = grid_image(torch.cat(list(strips)), len(strips[0]))
    font, height = ImageFont.load_default(TITLE), sheet.height / len(strips)
    titles = [title.replace("σ", "sigma") for title in titles]  # Pillow's own font has no Greek letters
    margin = math.ceil(max(font.getlength(title) for title in titles)) + 2 * TITLE
    page = Image.new("RGB", (sheet.width + margin, sheet.height), "white")
    page.paste(sheet, (margin, 0))
    draw = ImageDraw.Draw(page)
    for i, title in enumerate(titles):
        draw.text((margin - TITLE, (i + 0.5) * height), title, fill=INK, font=font, anchor="rm")
    save_png(page, path)


def check_grid(count: int, shape: tuple[int, int, int], columns: int, frames: int = 1) -> None:
    """Raises ValueError if a grid of `count` images (C, H, W), or an animation of it, would be too large to be of use."""
    if shape[0] not in (1, 3):
        raise ValueError(f"pictures have 1 or 3 channels, these images {shape[0]}: write an .npz")
    height, width, *_ = _layout(count, shape, min(columns, count), None)
    largest = f"a grid of {count} images in {min(columns, count)} columns would be {width} x {height} pixels"
    if height * width > MAX_GRID or height * width * shape[0] * frames > MAX_ANIMATION:
        raise ValueError(
            f"{largest}, too large for a picture: lower --num, or write an .npz or a folder of single PNGs"
        )
    if frames > 1 and max(height, width) > MAX_GIF_SIDE:
        raise ValueError(f"{largest}, and a GIF has at most {MAX_GIF_SIDE} a side: lower --num or change --columns")


def frames_of(count: int, frames: int = 40) -> list[int]:
    """Which of `count` states an animation shows: at most `frames`, first and last included, spread evenly."""
    return spread_evenly(np.arange(count, dtype=float), min(frames, count))


def save_animation(
    states: torch.Tensor, path: PathLike, columns: int = 10, frames: int = 40, milliseconds: int = 80
) -> None:
    """Writes a GIF of a grid of samples on their way from noise to data; the last frame stays for a second and a half.

    states: (N + 1, n, C, H, W), drawn clamped to [-1, 1]; at most `frames` of them, spread evenly. Raises ValueError on
    another shape.
    """
    if states.dim() != 5 or len(states) < 2:
        raise ValueError(f"states must be (N + 1, n, C, H, W), N >= 1, got {tuple(states.shape)}")
    write_animation(
        np.stack([to_uint8(states[i]) for i in frames_of(len(states), frames)], 1), path, columns, milliseconds
    )


def write_animation(pixels: np.ndarray, path: PathLike, columns: int = 10, milliseconds: int = 80) -> None:
    """The same from the frames themselves: pixels (n, frames, H, W, C) uint8."""
    pictures = [picture_of(pixels[:, i], columns) for i in range(pixels.shape[1])]
    with files.replacing(Path(path)) as file:
        pictures[0].save(
            file,
            "GIF",
            save_all=True,
            append_images=pictures[1:],
            duration=[milliseconds] * (len(pictures) - 1) + [1500],
            loop=0,
        )


def check_images(images: torch.Tensor) -> None:
    if images.dim() != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
        raise ValueError(f"images must be (n, 1 or 3, H, W), n >= 1, got {tuple(images.shape)}")


def _layout(count: int, shape: tuple[int, int, int], columns: int, scale: int | None) -> tuple[int, int, int, int]:
    """(height, width) of a grid of images (C, H, W), the gap between them and the scale, in pixels."""
    scale = scale or -(-CELL // shape[1])
    gap, rows = max(2, shape[1] * scale // 24), -(-count // columns)
    return rows * (shape[1] * scale + gap) + gap, columns * (shape[2] * scale + gap) + gap, gap, scale


def montage(pixels: np.ndarray, columns: int, scale: int | None, between: int) -> np.ndarray:
    """(n, H, W, C) uint8 -> one picture (height, width, C) uint8, with gaps of level `between`."""
    count, height, width, channels = pixels.shape
    *size, gap, scale = _layout(count, (channels, height, width), columns, scale)
    canvas = np.full((*size, channels), between, dtype=np.uint8)
    for i, image in enumerate(pixels):
        top = gap + i // columns * (height * scale + gap)
        left = gap + i % columns * (width * scale + gap)
        enlarged = image.repeat(scale, axis=0).repeat(scale, axis=1)
        canvas[top : top + height * scale, left : left + width * scale] = enlarged
    return canvas


def spread_evenly(positions: np.ndarray, count: int) -> list[int]:
    """Indices of at most `count` of the increasing positions, first and last included, as evenly placed as can be."""
    targets = np.linspace(positions[0], positions[-1], count)
    return sorted({int(np.abs(positions - target).argmin()) for target in targets})
