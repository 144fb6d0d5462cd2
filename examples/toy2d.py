"""The exact flow in the plane: particles of prior noise become a checkerboard, or nine Gaussians.

    python examples/toy2d.py [--process planar] [--data checkerboard] [--out toy2d.gif or .webp]

Nothing is learnt: the velocity is the exact one for a finite data set (distillkac/flow/exact_flow.py). Prints how far the
particles end from the data, beside what a fresh sample of the data would score, and writes an animation. The thin line
is the light cone of a data point at 0: whatever becomes that point is inside.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from PIL import Image

from distillkac.base.commands import command
from distillkac.base.options import parse
from distillkac.base.random import generator
from distillkac.flow.exact_flow import ExactFlow, push, sampling_floor, sliced_wasserstein
from distillkac.flow.integrators import time_grid
from distillkac.flow.processes import Gaussian, Planar, Process, Telegraph

PROCESSES = {
    "telegraph": Telegraph(),
    "planar": Planar(),
    "gaussian": Gaussian(sigma=0.4),
}  # one variance at t = 1, .16
FORMATS = {".gif": {}, ".webp": {"quality": 50, "method": 4}}  # how Pillow writes them
NIGHT, PAPER, VIEW, TAIL = "#0d1220", "#e8ebf2", 1.25, 6


@dataclass(frozen=True)
class Toy2dArgs:
    """Carries noise to a data set in the plane by the exact flow, and films it."""

    process: Literal["telegraph", "planar", "gaussian"] = "planar"
    """Whose flow."""
    data: Literal["checkerboard", "nine-gaussians"] = "checkerboard"
    """What the noise becomes."""
    out: Path = Path("toy2d.gif")
    """Where the animation goes: .gif, or .webp, which is smaller."""
    num: int = 1500
    """Particles."""
    points: int = 500
    """Points of the data set."""
    steps: int = 80
    """Heun steps; every one of them a frame."""
    seed: int = 0
    """Seed of data and noise."""


def checkerboard(n: int, seed: int = 0) -> torch.Tensor:
    """(n, 2): uniform on the eight black squares of a 4 x 4 board on [-1, 1]^2."""
    source = generator(seed, "checkerboard")
    square = torch.randint(8, (n,), generator=source)
    row = square // 2
    corners = torch.stack([2 * (square % 2) + row % 2, row], 1)
    return (corners + torch.rand(n, 2, dtype=torch.float64, generator=source)) / 2 - 1


def nine_gaussians(n: int, seed: int = 0) -> torch.Tensor:
    """(n, 2): nine Gaussians of standard deviation 0.07 on the grid {-0.75, 0, 0.75}^2."""
    source = generator(seed, "nine gaussians")
    which = torch.randint(9, (n,), generator=source)
    centers = 0.75 * torch.stack([which // 3 - 1, which % 3 - 1], 1)
    return centers + 0.07 * torch.randn(n, 2, dtype=torch.float64, generator=source)


@command
def main(argv: list[str] | None = None) -> int:
    args = parse(Toy2dArgs, argv, "python examples/toy2d.py")
    if args.out.suffix.lower() not in FORMATS:
        raise ValueError(f"out must end in one of {', '.join(FORMATS)}, got {args.out}")
    if min(args.num, args.points) < 1 or args.steps < 2:
        raise ValueError(f"num and points must be at least 1, steps 2, got {args.num}, {args.points}, {args.steps}")
    start, process = time.perf_counter(), PROCESSES[args.process]
    data = {"checkerboard": checkerboard, "nine-gaussians": nine_gaussians}[args.data](args.points, args.seed)
    grid = time_grid(args.steps, 2.0)
    flow = ExactFlow(process, data, spread=0.05)
    path = push(flow, process.prior(args.num, (2,), args.seed), grid, "heun", path=True)
    distance, floor = sliced_wasserstein(path[-1], data), sampling_floor(data, args.num, seed=args.seed)
    print(f"{args.process}: {args.num} particles to {args.points} points of {args.data}, {args.steps} Heun steps")
    print(f"sliced Wasserstein distance {distance:.4f}; of as many fresh draws from the data {floor:.4f}")
    save_film(path, grid.tolist(), process, args.out)
    print(f"wrote {args.out} ({args.out.stat().st_size / 2**20:.1f} MiB, {time.perf_counter() - start:.0f} s in all)")
    return 0


def save_film(path: torch.Tensor, times: list[float], process: Process, out: Path) -> None:
    """Writes an animation of the states (N + 1, n, 2), noise first: each particle in the hue of the place it goes to."""
    angle = torch.atan2(path[-1, :, 1], path[-1, :, 0]) / (2 * torch.pi) + 0.5
    colors = mpl.colormaps["hsv"](angle.numpy()) * [0.8, 0.8, 0.8, 1] + [0.2, 0.2, 0.2, 0]
    frames = [_frame(path[max(0, i - TAIL) : i + 1].numpy(), t, colors, process) for i, t in enumerate(times)]
    if out.suffix.lower() == ".gif":
        frames = [frame.quantize(255, Image.Quantize.FASTOCTREE) for frame in frames]
    duration = [700] + [45] * (len(frames) - 2) + [2500]
    out.parent.mkdir(parents=True, exist_ok=True)
    how = FORMATS[out.suffix.lower()]
    frames[0].save(out, save_all=True, append_images=frames[1:], duration=duration, loop=0, **how)


def _frame(states: np.ndarray, t: float, colors: np.ndarray, process: Process) -> Image.Image:
    """One picture: the last of the states (k, n, 2), the others as a fading tail, the light cone of a point at 0."""
    figure = Figure(figsize=(4.4, 4.4), dpi=100, facecolor=NIGHT)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-VIEW, VIEW), ylim=(-VIEW, VIEW))
    axes.set_axis_off()
    for age, state in enumerate(states[::-1]):
        axes.scatter(*state.T, s=7 if age == 0 else 3, c=colors, alpha=1.0 if age == 0 else 0.25 / age, linewidths=0)
    look = {"fill": False, "edgecolor": PAPER, "linewidth": 0.8, "alpha": 0.5}
    if isinstance(process, Planar):
        axes.add_patch(Circle((0, 0), process.c * t, **look))
    elif isinstance(process, Telegraph):
        axes.add_patch(Rectangle((-process.c * t, -process.c * t), 2 * process.c * t, 2 * process.c * t, **look))
    axes.text(0.04, 0.95, process.name, color=PAPER, fontsize=11, transform=axes.transAxes, va="center")
    axes.text(0.96, 0.95, f"t = {t:.3f}", color=PAPER, fontsize=11, transform=axes.transAxes, va="center", ha="right")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


if __name__ == "__main__":
    sys.exit(main())
