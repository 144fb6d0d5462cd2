"""Process x method: one-step students of every noise process in the plane, beside what is best possible.

    python examples/processes_table.py [--out processes_table] [--processes vp edm] [--methods pairs] [--effort 1]

For each process a small network learns two moons, and each method of distillation makes a student of one step of it. A cell
is the sliced Wasserstein distance of its samples to the data. The best possible is that of as many fresh draws from the data; a
student that does all that its teacher does has its teacher's. Each cell is trained for less than a minute on one thread. What
is done is kept in OUT/table.json, and the same command goes on from there.
"""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from plane import Velocity, moons

from distillkac.base.commands import command
from distillkac.base.files import read_json, write_json
from distillkac.base.options import parse
from distillkac.data import from_tensors
from distillkac.distillation import (
    ConsistencyConfig,
    DistillConfig,
    InverseConfig,
    PairsConfig,
    ReconstructionConfig,
    distill,
)
from distillkac.flow import add_path, sampling_floor, sliced_wasserstein
from distillkac.runs import OptimConfig, ProcessConfig, Run, RunConfig, SamplerConfig, generate, open_run
from distillkac.training import train

SAMPLES = 4000
ROWS = {
    "linear": ProcessConfig("gaussian"),
    "cosine": ProcessConfig("gaussian", path="cosine"),
    "vp": ProcessConfig("gaussian", path="vp"),
    "sub-vp": ProcessConfig("gaussian", path="sub-vp"),
    "edm": ProcessConfig("gaussian", path="edm"),
    "a function": ProcessConfig("gaussian", path="eased"),
    "planar": ProcessConfig("planar"),
}
METHODS = ("endpoint", "reconstruction", "pairs", "consistency", "inverse")


@dataclass(frozen=True)
class TableArgs:
    """Trains a teacher for each process and a one-step student of each method, and prints how far they are from the data."""

    out: Path = Path("processes_table")
    """Where runs and results are kept."""
    processes: tuple[str, ...] = tuple(ROWS)
    """Rows of the table."""
    methods: tuple[str, ...] = METHODS
    """Columns of the table, beside the teacher's."""
    effort: float = 1.0
    """Optimizer steps, as a multiple of the usual ones."""


class Plane(torch.nn.Module):
    """The network of the examples in the plane, as distillkac asks for one."""

    def __init__(self):
        super().__init__()
        self.velocity = Velocity(64)

    def forward(self, x, t, y):
        return self.velocity(x.flatten(1), t).view_as(x)


def eased(t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A path of our own: a circle that begins and ends slowly."""
    angle = torch.pi / 2 * t * t * (3 - 2 * t)
    return torch.cos(angle), torch.sin(angle)


def plan(method: str, effort: float) -> DistillConfig:
    """What the student of a method learns; its steps are Euler's from t = 1 to 0."""

    def steps(usual: int) -> int:
        return max(1, round(usual * effort))

    common = {"optim": OptimConfig(batch_size=128, lr=1e-3, warmup=20, weight_decay=0.0, ema=0.99), "rho": 1.5}
    if method == "endpoint":
        return DistillConfig(stages=(16, 4, 1), steps=(steps(300), steps(600)), **common)
    if method == "reconstruction":
        return DistillConfig(
            stages=(16, 1), steps=(steps(400),), method=method, reconstruction=ReconstructionConfig(steps=6), **common
        )
    if method == "pairs":
        return DistillConfig(stages=(16, 1), steps=(steps(600),), method=method, pairs=PairsConfig(8192), **common)
    if method == "consistency":
        own = ConsistencyConfig(steps=steps(600), num_steps=1, teacher_steps=3)
        return DistillConfig(method=method, consistency=own, **common)
    inverse = InverseConfig(steps(150), alpha=1.0, beta=1.0, lr=1e-4, fake_lr=1e-3)
    return DistillConfig(stages=(1,), inverse=inverse, **common)


def distance(run: Run, data: torch.Tensor, sampler: SamplerConfig) -> float:
    images = generate(run, torch.zeros(SAMPLES, dtype=torch.int64), sampler, seed=1).images
    return sliced_wasserstein(images.flatten(1), data)


class Table:
    """The cells that are done, in OUT/table.json. Raises ValueError if OUT holds something else."""

    def __init__(self, args: TableArgs):
        self.args, self.path = args, args.out / "table.json"
        self.data = moons(2 * SAMPLES).float().clamp(-1, 1)
        self.images = from_tensors(self.data.view(-1, 1, 1, 2))
        self.cells: dict[str, float] = {}
        if self.path.exists():
            found = read_json(self.path)
            if found["effort"] != args.effort:
                raise ValueError(f"{self.path} was made with effort {found['effort']:g}: choose that, or another --out")
            self.cells = found["cells"]
        elif args.out.exists() and any(args.out.iterdir()):
            raise ValueError(f"{args.out} holds files that are not this table's: choose another --out")
        args.out.mkdir(parents=True, exist_ok=True)

    def cell(self, process: str, method: str) -> float:
        name, folder = f"{process}/{method}", self.args.out / process / method
        if name not in self.cells:
            if method == "inverse":
                self.cell(process, "pairs")
            shutil.rmtree(folder, ignore_errors=True)  # what an interrupted cell left
            self.cells[name] = self.teacher(process, folder) if method == "teacher" else self.student(process, method)
            write_json(self.path, {"effort": self.args.effort, "cells": self.cells})
        return self.cells[name]

    def teacher(self, process: str, folder: Path) -> float:
        torch.manual_seed(0)
        optim = OptimConfig(batch_size=128)
        config = RunConfig(noise=ROWS[process], steps=max(1, round(3000 * self.args.effort)), optim=optim, preview=0)
        run = train(folder, self.images, Plane(), config)
        return distance(run, self.data, SamplerConfig(20, "heun"))

    def student(self, process: str, method: str) -> float:
        home = self.args.out / process
        run = open_run(home / "teacher", network=Plane())
        start = home / "pairs" / "student-1-pairs" if method == "inverse" else None
        made = distill(run, self.images, config=plan(method, self.args.effort), out=home / method, start=start)
        return distance(made[-1], self.data, SamplerConfig(1))


@command
def main(argv: list[str] | None = None) -> int:
    args = parse(TableArgs, argv, "python examples/processes_table.py")
    for names, known, what in ((args.processes, ROWS, "processes"), (args.methods, METHODS, "methods")):
        if not names or (wrong := [name for name in names if name not in known]):
            raise ValueError(f"{what} must be some of {', '.join(known)}, got {', '.join(wrong) if names else 'none'}")
    add_path("eased", eased)
    table, columns = Table(args), ("teacher", *args.methods)
    rows = {process: [table.cell(process, method) for method in columns] for process in args.processes}
    print(f"\n| process | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for process, distances in rows.items():
        print(f"| {process} | {' | '.join(f'{d:.4f}' for d in distances)} |")
    noise = distance_of_nothing(table.data)
    print(f"\n{SAMPLES} fresh draws {sampling_floor(table.data, SAMPLES):.4f}; normal noise {noise:.4f}")
    return 0


def distance_of_nothing(data: torch.Tensor) -> float:
    """Of standard normal noise, where students begin."""
    return sliced_wasserstein(torch.randn(SAMPLES, 2, generator=torch.Generator().manual_seed(0)), data)


if __name__ == "__main__":
    sys.exit(main())
