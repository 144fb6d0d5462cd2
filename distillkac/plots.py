"""Pictures of a run: sample grids, training curves, the path from noise to image. Written whole or not at all."""

import io
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from distillkac.checkpoints import write_atomic

PAPER = 255  # background grey of a grid
GAP = 1  # pixels between two images, before enlarging
SMALLEST_SIDE = 48  # images are enlarged by a whole factor until their side is at least this


def to_uint8(images: torch.Tensor) -> np.ndarray:
    """(n, C, H, W) in [-1, 1], clamped, C = 1 or 3 -> (n, H, W, C) uint8."""
    levels = (images.detach().cpu().float().clamp(-1, 1) + 1) * 127.5
    return levels.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def to_pil(image: np.ndarray) -> Image.Image:
    """(H, W, C) uint8 -> a Pillow image, grey or RGB."""
    return Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)


def save_grid(images: torch.Tensor, path: Path, columns: int = 10) -> None:
    """images: (n, C, H, W) in [-1, 1], n >= 1; rows of `columns`, as a PNG."""
    pixels = to_uint8(images)
    count, height, width, channels = pixels.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    sheet = np.full((rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, channels), PAPER, np.uint8)
    for i, image in enumerate(pixels):
        top, left = i // columns * (height + GAP) + GAP, i % columns * (width + GAP) + GAP
        sheet[top : top + height, left : left + width] = image
    enlarge = max(1, -(-SMALLEST_SIDE // min(height, width)))
    save_png(to_pil(sheet.repeat(enlarge, 0).repeat(enlarge, 1)), path)


def save_png(image: Image.Image, path: Path) -> None:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    write_atomic(path, buffer.getvalue())


def save_curves(metrics: Path, path: Path) -> None:
    """Loss (with a running median), learning rate and gradient norm of a metrics.jsonl against the step."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    if not lines:
        return
    figure, (loss_axis, rate_axis, norm_axis) = _pyplot().subplots(1, 3, figsize=(13, 3.6), layout="constrained")
    steps, loss = ([line[name] for line in lines] for name in ("step", "loss"))
    loss_axis.plot(steps, loss, color="0.75", linewidth=1, label="loss")
    window = max(1, len(loss) // 20)
    smooth = [float(np.median(loss[max(0, i - window) : i + window + 1])) for i in range(len(loss))]
    loss_axis.plot(steps, smooth, color="tab:blue", label="running median")
    loss_axis.set_yscale("log")
    loss_axis.legend(frameon=False)
    rate_axis.plot(steps, [line["lr"] for line in lines], color="tab:green")
    norm_axis.plot(steps, [line["grad_norm"] for line in lines], color="tab:orange", linewidth=1)
    norm_axis.set_yscale("log")
    for axis, title in (
        (loss_axis, "loss"),
        (rate_axis, "learning rate"),
        (norm_axis, "gradient norm before clipping"),
    ):
        axis.set_title(title)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    _save_figure(figure, path)


def save_trajectory(states: torch.Tensor, times: torch.Tensor, path: Path, columns: int = 8) -> None:
    """From noise to image: rows are samples, columns some of the times on the way.

    states: (N + 1, n, C, H, W), one for each of the times (N + 1,), from t = 1 down to 0.
    """
    chosen = torch.linspace(0, len(times) - 1, min(columns, len(times))).round().long()
    rows = states.shape[1]
    figure, axes = _pyplot().subplots(
        rows, len(chosen), figsize=(1.1 * len(chosen), 1.1 * rows + 0.3), squeeze=False, layout="constrained"
    )
    for column, index in enumerate(chosen.tolist()):
        pixels = to_uint8(states[index])
        axes[0, column].set_title(f"t = {float(times[index]):.2f}", fontsize=9)
        for row in range(rows):
            axes[row, column].imshow(to_pil(pixels[row]), cmap="gray", vmin=0, vmax=255)
            axes[row, column].set_axis_off()
    _save_figure(figure, path)


def _pyplot():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot

    return matplotlib.pyplot


def _save_figure(figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    _pyplot().close(figure)
    write_atomic(path, buffer.getvalue())
