"""Pictures of a run: sample grids, training curves, the way from noise to data; each written whole or not at all."""

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from PIL import Image, ImageDraw, ImageFont

from distillkac.base import files
from distillkac.data import to_bytes
from distillkac.runs import checkpoints

CELL = 48  # pixels that an image is enlarged to at least, so that 8 x 8 digits can be read
GREY, WHITE = 90, 255  # between images: grey sets off black and white backgrounds, white sets off noise
MAX_GRID = 89_478_485  # pixels: larger pictures are refused by Pillow and many viewers
MAX_ANIMATION = 2**30  # values of all frames together, which are held in memory
MAX_GIF_SIDE = 2**16 - 1
TITLE = 15  # height of a strip's title, pixels
PathLike = str | os.PathLike[str]
INK, LIGHT, LINE = "#22303c", "#d5dbe0", "#1b6ca8"


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
    _check_images(images)
    return picture_of(to_uint8(images), columns, scale)


def picture_of(pixels: np.ndarray, columns: int = 10, scale: int | None = None) -> Image.Image:
    """The grid of images (n, H, W, C) uint8."""
    if columns < 1 or (scale is not None and scale < 1):
        raise ValueError(f"columns and scale must be at least 1, got {columns} and {scale}")
    return to_pil(_montage(pixels, min(columns, max(len(pixels), 1)), scale, GREY))


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


def save_curves(metrics: Path, path: PathLike) -> None:
    """Draws loss, gradient norm and learning rate over the optimizer steps, from a run's metrics.jsonl.

    Raises ValueError if it holds no lines.
    """
    metrics = Path(metrics)
    lines = checkpoints.MetricsLog.read(metrics.parent)  # leaves out a last line cut short by a crash
    if not lines:
        raise ValueError(f"{metrics}: holds no metrics to draw; train the run first")
    steps = np.array([line["step"] for line in lines])
    figure = Figure(figsize=(11, 3.4), dpi=110, layout="constrained", facecolor="white")
    panels = (("loss", "loss", True), ("grad_norm", "gradient norm", True), ("lr", "learning rate", False))
    for axes, (key, title, noisy) in zip(figure.subplots(1, 3), panels, strict=True):
        values = np.array([line[key] for line in lines], dtype=float)
        if noisy:
            axes.plot(steps, values, color=LIGHT, linewidth=1)
            values = _smooth(values)
        axes.plot(steps, values, color=LINE, linewidth=1.8)
        if noisy and values.min() > 0:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            # Between powers of ten only where there are few of them, else the labels would overlap.
            axes.yaxis.set_minor_formatter("{x:g}" if values.max() < 10 * values.min() else NullFormatter())
        axes.set_title(title, loc="left", fontsize=11, color=INK)
        axes.set_xlabel("step", color=INK)
        axes.tick_params(colors=INK, which="both", labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(True, axis="y", color=LIGHT, linewidth=0.5)
    save_figure(figure, path)


def save_trajectory(
    states: torch.Tensor, times: Sequence[float] | torch.Tensor, path: PathLike, columns: int = 9
) -> None:
    """Draws how noise becomes data: a row per sample, `columns` states from noise (left) to data (right).

    states: (N + 1, n, C, H, W); drawn clamped to [-1, 1]. times: (N + 1,), decreasing from 1 (noise) to 0 (data). The
    states drawn are spread evenly in time. Raises ValueError on another shape.
    """
    at = np.asarray(times, dtype=float)
    if states.dim() != 5 or len(states) < 2 or at.shape != (len(states),):
        raise ValueError(
            f"states must be (N + 1, n, C, H, W), N >= 1, with N + 1 times, got {tuple(states.shape)} and {at.shape}"
        )
    chosen = _spread_evenly(-at, columns)
    images = states[chosen].transpose(0, 1).flatten(0, 1)
    _check_images(images)
    pixels = _montage(to_uint8(images), len(chosen), None, WHITE)
    height, width, margin = pixels.shape[0] / 100, pixels.shape[1] / 100, 0.25  # inches
    figure = Figure(figsize=(width, height + margin), dpi=200, facecolor="white")
    axes = figure.add_axes((0, 0, 1, height / (height + margin)))
    axes.imshow(to_pil(pixels), cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    for i, t in enumerate(at[chosen]):
        place = (i + 0.5) / len(chosen), 1 - margin / 2 / (height + margin)
        figure.text(*place, f"$t$ = {t:.2f}", ha="center", va="center", fontsize=7, color=INK)
    save_figure(figure, path)


def frames_of(count: int, frames: int = 40) -> list[int]:
    """Which of `count` states an animation shows: at most `frames`, first and last included, spread evenly."""
    return _spread_evenly(np.arange(count, dtype=float), min(frames, count))


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


def _check_images(images: torch.Tensor) -> None:
    if images.dim() != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
        raise ValueError(f"images must be (n, 1 or 3, H, W), n >= 1, got {tuple(images.shape)}")


def _layout(count: int, shape: tuple[int, int, int], columns: int, scale: int | None) -> tuple[int, int, int, int]:
    """(height, width) of a grid of images (C, H, W), the gap between them and the scale, in pixels."""
    scale = scale or -(-CELL // shape[1])
    gap, rows = max(2, shape[1] * scale // 24), -(-count // columns)
    return rows * (shape[1] * scale + gap) + gap, columns * (shape[2] * scale + gap) + gap, gap, scale


def _montage(pixels: np.ndarray, columns: int, scale: int | None, between: int) -> np.ndarray:
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


def _spread_evenly(positions: np.ndarray, count: int) -> list[int]:
    """Indices of at most `count` of the increasing positions, first and last included, as evenly placed as can be."""
    targets = np.linspace(positions[0], positions[-1], count)
    return sorted({int(np.abs(positions - target).argmin()) for target in targets})


def _smooth(values: np.ndarray) -> np.ndarray:
    """Mean over a window of a twentieth of the curve, narrower at the ends; as long as the curve."""
    half = len(values) // 40
    total = np.concatenate([[0.0], values.cumsum()])
    i = np.arange(len(values))
    reach = np.minimum(half, np.minimum(i, len(values) - 1 - i))
    return (total[i + reach + 1] - total[i - reach]) / (2 * reach + 1)


def save_figure(figure: Figure, path: PathLike) -> None:
    """Writes a matplotlib figure as PNG; the file appears whole or not at all."""
    # A canvas of our own instead of pyplot: no global backend to set, no display needed.
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    save_png(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"), path)
