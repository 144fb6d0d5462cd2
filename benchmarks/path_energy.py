"""Where on its way a path has its kinetic energy: `python -m benchmarks.path_energy --out energy.png`.

The exact flow onto the training digits, which can only copy them, for telegraph, planar and Gaussian noise: energy by time,
and the share of it that is late, without a limit on the speed and with the bound of the process' own targets. With --run
the paths of trained networks, which do not copy, are drawn beside them.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure

from benchmarks.plots import GREEN, GREY, ORANGE
from distillkac.base.commands import command
from distillkac.base.options import parse
from distillkac.data import read
from distillkac.data.builtin import digits
from distillkac.data.config import DataConfig
from distillkac.flow import ExactFlow, Gaussian, GuidedVelocity, PathEnergy, Planar, Process, Telegraph, integrate
from distillkac.runs.plots import LINE
from distillkac.runs.run import open_run
from distillkac.runs.sampling import class_labels

PROCESSES: dict[str, Process] = {
    "telegraph (25, 2)": Telegraph(25.0, 2.0),
    "planar (25, 2)": Planar(25.0, 2.0),
    "Gaussian, σ = .4": Gaussian(0.4),
    "Gaussian, σ = 1": Gaussian(1.0),
}
LATE = (0.4, 0.1, 0.01)
SPREAD = 0.05
"""Relative width of the atoms of the Kac processes (exact_flow), whose steps must be shorter than about that share of t."""
LAST = 1e-3
"""Where the paths end, and the last step to the data begins."""


def grid_of(steps: int) -> torch.Tensor:
    """Times from 1 to LAST of equal ratio, as short as the light cones near the data ask for: (steps + 1,) float64."""
    return torch.logspace(0, torch.tensor(LAST, dtype=torch.float64).log10().item(), steps + 1, dtype=torch.float64)


def energies(field, x: torch.Tensor, grid: torch.Tensor, labels: torch.Tensor | None = None):
    """(energy by step (N,), mean over rows; ends) of paths from x over the grid."""
    energy = PathEnergy()
    with torch.no_grad():
        x = integrate(field, x, labels, grid, "ab2", energy=energy)
    return torch.stack(energy.steps).mean(1), x


def report(name: str, grid: torch.Tensor, by_step: torch.Tensor, copies: float) -> str:
    shares = [float(by_step[grid[:-1] <= late * (1 + 1e-9)].sum() / by_step.sum()) for late in LATE]
    power = 2 * by_step / -grid.diff()
    return (
        f"| {name} | {float(by_step.sum()):.3f} | "
        + " | ".join(f"{share:.1%}" for share in shares)
        + f" | {float(power.max()):.2f} | {copies:.0%} |"
    )


def exact(name: str, process: Process, images: torch.Tensor, grid: torch.Tensor, num: int) -> dict[str, torch.Tensor]:
    """Curves by title, of the exact flow as it is and with its speed limited; each prints its row."""
    x, curves = process.prior(num, tuple(images.shape[1:]), seed=0), {}
    limits = (
        [None] if isinstance(process, Gaussian) else [None, process.max_target_speed(), process.max_target_speed() / 2]
    )
    for limit in limits:
        flow = ExactFlow(process, images, spread=0.0 if isinstance(process, Gaussian) else SPREAD)
        flow.max_speed = limit
        by_step, end = energies(flow, x, grid)
        title = name if limit is None else f"{name}, max_speed {limit:.3g}"
        print(report(title, grid, by_step, copies(end, images)), flush=True)
        curves[title] = by_step
    return curves


def trained(folder: Path, images: torch.Tensor, grid: torch.Tensor, num: int) -> dict[str, torch.Tensor]:
    """The same of a run's teacher."""
    run = open_run(folder, torch.device("cpu"))
    x = run.process.prior(num, tuple(images.shape[1:]), seed=0)
    by_step, end = energies(GuidedVelocity(run.network), x, grid, class_labels(run.config, num))
    sigma = f", σ = {run.process.sigma:g}" if isinstance(run.process, Gaussian) else ""
    title = f"network, {run.process.name}{sigma}"
    print(report(title, grid, by_step, copies(end, images)), flush=True)
    return {title: by_step}


def copies(x: torch.Tensor, images: torch.Tensor) -> float:
    """Share that is nearer to an image than a third of its distance to the second nearest."""
    near = torch.cdist(x.flatten(1), images.flatten(1)).sort(1).values
    return float((near[:, 0] < near[:, 1] / 3).double().mean())


def save(curves: dict[str, torch.Tensor], grid: torch.Tensor, path: Path) -> None:
    """Mean square velocity over time: the exact flows, those with half the speed dashed, networks dotted."""
    figure = Figure(figsize=(7.5, 4.2), dpi=130, layout="constrained", facecolor="white")
    axes = figure.subplots()
    colours = {"telegraph": LINE, "planar": GREEN, "Gaussian, σ = .4": ORANGE, "aussian": GREY}
    for title, by_step in curves.items():
        if title.endswith(("max_speed 3", "max_speed 3.41")):
            continue  # on the curve without a limit
        network, limited = title.startswith("network"), "max_speed" in title
        colour = next(colour for name, colour in colours.items() if name in title)
        style = ":" if network else "--" if limited else "-"
        axes.plot(grid[:-1], 2 * by_step / -grid.diff(), style, color=colour, label=title, linewidth=1.5)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.invert_xaxis()
    axes.set_xlabel("time t: noise at the left, data at the right")
    axes.set_ylabel("mean square velocity of a pixel")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


@dataclass(frozen=True)
class PathEnergyArgs:
    """Where on its way a path has its kinetic energy: of the exact flow onto the training digits, and of trained networks."""

    num: int = 32
    """Paths of each flow."""
    steps: int = 120
    """AB-2 steps, of equal ratio of times."""
    run: tuple[Path, ...] = ()
    """Runs whose teachers are drawn beside."""
    out: Path | None = None
    """FILE.png of the picture."""


@command
def main(argv: list[str] | None = None) -> int:
    args = parse(PathEnergyArgs, argv, "python -m benchmarks.path_energy")
    train = digits(DataConfig())["train"]
    images, grid = read(train, torch.arange(len(train)))[0], grid_of(args.steps)
    curves: dict[str, torch.Tensor] = {}
    print(
        "| flow | energy | " + " | ".join(f"t < {late:g}" for late in LATE) + " | largest mean square speed | copies |"
    )
    print("|---" * (4 + len(LATE)) + "|")
    for name, process in PROCESSES.items():
        curves |= exact(name, process, images, grid, args.num)
    for folder in args.run:
        curves |= trained(folder, images, grid, args.num)
    if args.out is not None:
        save(curves, grid, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
