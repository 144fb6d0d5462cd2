"""Plots of a run: training curves, the way from noise to data; each written whole or not at all.

Apart from pictures.py because matplotlib takes longer to import than images take to draw.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from PIL import Image

from distillkac.runs import checkpoints, pictures

LIGHT, GREY, LINE = "#d5dbe0", "#8a97a3", "#1b6ca8"


def save_curves(metrics: Path, path: pictures.PathLike) -> None:
    """Draws loss, gradient norm and learning rate over the optimizer steps, from a run's metrics.jsonl, and the Fréchet
    distances where the run was measured while it was trained.

    Raises ValueError if it holds no lines.
    """
    metrics = Path(metrics)
    found = checkpoints.MetricsLog.read(metrics.parent)  # leaves out a last line cut short by a crash
    lines, measured = [[line for line in found if ("measured" in line) is kind] for kind in (False, True)]
    if not lines:
        raise ValueError(f"{metrics}: holds no metrics to draw; train the run first")
    steps = np.array([line["step"] for line in lines])
    count = 4 if measured else 3
    figure = Figure(figsize=(11 / 3 * count, 3.4), dpi=110, layout="constrained", facecolor="white")
    places = figure.subplots(1, count)
    panels = (("loss", "loss", True), ("grad_norm", "gradient norm", True), ("lr", "learning rate", False))
    for axes, (key, title, noisy) in zip(places, panels, strict=False):
        values = np.array([line[key] for line in lines], dtype=float)
        if noisy:
            axes.plot(steps, values, color=LIGHT, linewidth=1)
            values = _smooth(values)
        axes.plot(steps, values, color=LINE, linewidth=1.8)
        if noisy:
            _log_scale(axes, values)
        _finish(axes, title)
    if measured:
        _draw_measured(places[3], measured)
    save_figure(figure, path)


def _draw_measured(axes, lines: list[dict]) -> None:
    for key, title, color in (("frechet", "held-out", LINE), ("frechet_train", "train", GREY)):
        points = [(line["step"], line["measured"][key]) for line in lines if key in line["measured"]]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, linewidth=1.4, color=color, label=title)
    best = min(checkpoints.MetricsLog.compared(lines), key=lambda line: line["measured"]["frechet"])
    axes.plot(best["step"], best["measured"]["frechet"], marker="o", markersize=9, fillstyle="none", color=LINE)
    _log_scale(axes, np.concatenate([line.get_ydata() for line in axes.lines]))
    axes.legend(fontsize=8, frameon=False)
    _finish(axes, "Fréchet distance")


def _log_scale(axes, values: np.ndarray) -> None:
    """Where all of them are positive."""
    if values.min() <= 0:
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    # Between powers of ten only where there are few of them, else the labels would overlap.
    axes.yaxis.set_minor_formatter("{x:g}" if values.max() < 10 * values.min() else NullFormatter())


def _finish(axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, color=pictures.INK)
    axes.set_xlabel("step", color=pictures.INK)
    axes.tick_params(colors=pictures.INK, which="both", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, axis="y", color=LIGHT, linewidth=0.5)


def save_trajectory(
    states: torch.Tensor, times: Sequence[float] | torch.Tensor, path: pictures.PathLike, columns: int = 9
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
    chosen = pictures.spread_evenly(-at, columns)
    images = states[chosen].transpose(0, 1).flatten(0, 1)
    pictures.check_images(images)
    pixels = pictures.montage(pictures.to_uint8(images), len(chosen), None, pictures.WHITE)
    height, width, margin = pixels.shape[0] / 100, pixels.shape[1] / 100, 0.25  # inches
    figure = Figure(figsize=(width, height + margin), dpi=200, facecolor="white")
    axes = figure.add_axes((0, 0, 1, height / (height + margin)))
    axes.imshow(pictures.to_pil(pixels), cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    for i, t in enumerate(at[chosen]):
        place = (i + 0.5) / len(chosen), 1 - margin / 2 / (height + margin)
        figure.text(*place, f"$t$ = {t:.2f}", ha="center", va="center", fontsize=7, color=pictures.INK)
    save_figure(figure, path)


def save_figure(figure: Figure, path: pictures.PathLike) -> None:
    """Writes a matplotlib figure as PNG; the file appears whole or not at all."""
    # A canvas of our own instead of pyplot: no global backend to set, no display needed.
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pictures.save_png(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"), path)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Mean over a window of a twentieth of the curve, narrower at the ends; as long as the curve."""
    half = len(values) // 40
    total = np.concatenate([[0.0], values.cumsum()])
    i = np.arange(len(values))
    reach = np.minimum(half, np.minimum(i, len(values) - 1 - i))
    return (total[i + reach + 1] - total[i - reach]) / (2 * reach + 1)
