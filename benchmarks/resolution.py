"""Where an image is decided at 8, 28, 32 and 64 pixels a side, and what wider noise or later times change about it.

python -m benchmarks.resolution [--out runs/resolution] [--seconds 120] [--sides 8 28 32 64] [--processes telegraph planar]

--seconds 0 trains nothing.

The same images of Fashion-MNIST at every size. First without a network: when the noise tells which of the images it hides,
by the law of the process. Then trained: networks of about the same grid, an equal number of floating-point operations each,
that of so many seconds; samples in twenty steps, scaled back to 28 pixels a side, beside the held-out images that went the
same way, in the features of the shipped classifier. A file for each figure is written at once: the same command goes on.
"""

import contextlib
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from distillkac import train
from distillkac.base import files
from distillkac.base.commands import command
from distillkac.base.options import parse
from distillkac.base.random import generator
from distillkac.data import fashion_mnist
from distillkac.data.config import DataConfig, Split
from distillkac.data.dataset import read
from distillkac.data.loading import load
from distillkac.evaluation.metrics import Evaluator
from distillkac.evaluation.moments import Moments, frechet_distance
from distillkac.flow.exact_flow import conditional_law
from distillkac.flow.network_config import NetworkConfig
from distillkac.flow.processes import Planar, Process, Telegraph
from distillkac.flow.time_shift import shifted
from distillkac.runs import checkpoints
from distillkac.runs.config import load_config
from distillkac.runs.presets import PRESETS
from distillkac.runs.run import build_network, open_run
from distillkac.runs.sampler import SamplerConfig
from distillkac.runs.sampling import class_labels, generate
from distillkac.training.cost import flops_per_image

SIDES = {8: 1, 28: 2, 32: 2, 64: 4}
"""Pixels a side, and the side of the patches that the network works on."""
A, C, REFERENCE = 25.0, 2.0, 8  # the process of the digits, and their side, at which it is good
CHANNELS, BATCH = (32, 64), 64
OPERATIONS = 2.5e10  # a second that one thread of a CPU trains by here; the same for all is what counts
NUM, STEPS, NATIVE = 1000, 20, 28
IMAGES, STATES = 200, 16


@dataclass(frozen=True)
class Variant:
    """How the side s, in units of REFERENCE, changes the process and its times: c is multiplied by s**speed, times are shifted
    by s**shift."""

    name: str
    speed: float = 0.0
    shift: float = 0.0

    def speed_of(self, side: int) -> float:
        return C * (side / REFERENCE) ** self.speed

    def shift_of(self, side: int) -> float:
        return (side / REFERENCE) ** self.shift


VARIANTS = (
    Variant("as it is"),
    Variant("c √s", speed=0.5),
    Variant("c s", speed=1.0),
    Variant("shift √s", shift=0.5),
    Variant("shift s", shift=1.0),
)


def settings(sides: list[int], processes: list[str]) -> list[tuple[str, int, Variant]]:
    """Each size under each variant; at the reference size they are one."""
    return [
        (process, side, variant)
        for process in processes
        for side in sides
        for variant in (VARIANTS[:1] if side == REFERENCE else VARIANTS)
    ]


def images_of(side: int, split: Split, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first so many images of a split of Fashion-MNIST at this size, and their classes."""
    dataset = load(_data(side), split)
    return read(dataset, torch.arange(min(count, len(dataset))))


def _data(side: int) -> DataConfig:
    return DataConfig(path=str(fashion_mnist.DEBIAN), image_size=side)


def known(process: Process, data: torch.Tensor, t: float, seed: int = 0) -> float:
    """How much of which image a state hides is known at time t: 1 - (mean entropy of the posterior) / log n. data: (n, C, H,
    W)."""
    rows = torch.randint(len(data), (STATES,), generator=generator(seed, "states"))
    times = torch.full((STATES,), t, dtype=torch.float64)
    (f, _), (g, _) = process.schedules(times)
    noise = process.noise(g.float(), tuple(data.shape[1:]), seed).double().flatten(1)
    points = data.double().flatten(1)
    entropy = 0.0
    for row in range(STATES):
        x = f[row] * points[rows[row]] + noise[row]
        k = x - f[row] * points
        rounding = 4 * torch.finfo(torch.float32).eps * (x.abs() + k.abs())
        log, _ = conditional_law(process, k, g[row].expand(len(points)), rounding)
        p = torch.softmax(log, 0)
        entropy -= float(torch.xlogy(p, p).sum())
    return 1 - entropy / STATES / math.log(len(points))


def deciding_time(process: Process, data: torch.Tensor) -> float:
    """The time at which half is known, by bisection: it falls with time."""
    low, high = 0.0, 1.0
    for _ in range(10):
        middle = (low + high) / 2
        low, high = (middle, high) if known(process, data, middle) > 0.5 else (low, middle)
    return (low + high) / 2


def decide(out: Path, process: str, side: int, variant: Variant) -> tuple[float, float]:
    """The deciding time, and the share of the times drawn in training, as the variant shifts them, that lie above it."""
    law = law_of(process, variant.speed_of(side))
    path = out / "deciding" / f"{process}-{side}-{variant.speed:g}.json"
    if not path.exists():
        files.write_json(path, deciding_time(law, images_of(side, "train", IMAGES)[0]))
    time = files.read_json(path)
    return time, drawn_later(law, time, variant.shift_of(side))


def drawn_later(process: Process, time: float, shift: float) -> float:
    """The share of uniform draws of time that, shifted, lie above this one."""
    draws = torch.linspace(0, 1, 4001, dtype=torch.float64)[1:-1]
    return float((shifted(draws, process, shift) > time).double().mean())


def law_of(process: str, speed: float) -> Process:
    return Telegraph(A, speed) if process == "telegraph" else Planar(A, speed)


def words_of(process: str, side: int, variant: Variant, seed: int) -> list[str]:
    """Options of `train`."""
    return [
        *("--data.path", str(fashion_mnist.DEBIAN), "--data.image-size", str(side), "--process", process),
        *("--a", str(A), "--c", repr(variant.speed_of(side)), "--times.shift", repr(variant.shift_of(side))),
        *("--network.channels", *map(str, CHANNELS), "--network.patch", str(SIDES[side]), "--seed", str(seed)),
        *("--optim.optimizer", "muon", "--optim.lr-end", "0", "--optim.warmup", "20", "--optim.ema", "0.98"),
        *("--optim.batch-size", str(BATCH), "--preview", "0"),
    ]


def steps_of(side: int, seconds: float) -> int:
    """So many steps as the operations of so many seconds give: an image takes one evaluation and a backward pass of two."""
    network = NetworkConfig(channels=CHANNELS, patch=SIDES[side])
    config = replace(PRESETS["fashion"], shape=(1, side, side), network=network)
    each = flops_per_image(build_network(config), config.shape)
    return round(seconds * OPERATIONS / (3 * each * BATCH))


def measure(out: Path, process: str, side: int, variant: Variant, seed: int, seconds: float) -> dict[str, float]:
    """One row of the table of trained networks."""
    name = f"{process}-{side}-{variant.speed:g}-{variant.shift:g}-{seed}"
    path, folder = out / "trained" / f"{name}.json", out / name
    if path.exists():
        found = files.read_json(path)
        if found["steps"] != steps_of(side, seconds):
            raise ValueError(
                f"{path} is of {found['steps']} steps, and --seconds {seconds:g} are {steps_of(side, seconds)}: choose another "
                "--out, or remove it"
            )
        return found
    words = ["--run", str(folder), "--steps", str(steps_of(side, seconds)), *words_of(process, side, variant, seed)]
    words += ["--resume"] if (folder / checkpoints.STATE).exists() else []
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (
        open(out / f"{name}.log", "a", encoding="utf-8") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        if train.main(words):
            raise RuntimeError(f"training {name} failed: see {out / name}.log")
        run = open_run(folder, torch.device("cpu"))
        images = generate(run, class_labels(load_config(folder), NUM), SamplerConfig(steps=STEPS), seed).images
    files.write_json(path, {"frechet": distance(images, side), "steps": steps_of(side, seconds)})
    return files.read_json(path)


def distance(images: torch.Tensor, side: int) -> float:
    """Fréchet distance of images of this size to the held-out ones of the same size, both scaled to 28 pixels a side."""
    evaluator = _evaluator()
    real = images_of(side, "test", 10_000)[0]
    return frechet_distance(*(Moments.of(evaluator.features(_native(x))) for x in (images, real)))


_kept: list[Evaluator] = []


def _evaluator() -> Evaluator:
    if not _kept:
        whole = DataConfig(path=str(fashion_mnist.DEBIAN))
        _kept.append(Evaluator(load(whole, "train"), load(whole, "test")))
    return _kept[0]


def _native(images: torch.Tensor) -> torch.Tensor:
    if images.shape[-1] == NATIVE:
        return images
    return torch.nn.functional.interpolate(images.float(), (NATIVE, NATIVE), mode="bilinear", antialias=True)


@dataclass(frozen=True)
class ResolutionArgs:
    """Where an image is decided at several sizes, and what wider noise or later times change about it (see the file)."""

    out: Path = Path("runs/resolution")
    """Runs and figures."""
    seconds: float = 120
    """Of a training, by one thread; 0 trains nothing."""
    sides: tuple[int, ...] = tuple(SIDES)
    """Pixels a side: 8, 28, 32 or 64."""
    processes: tuple[Literal["telegraph", "planar"], ...] = ("telegraph", "planar")
    """Kinds of noise."""
    seed: int = 0
    """Of training and of noise."""

    def __post_init__(self) -> None:
        if wrong := set(self.sides) - set(SIDES):
            raise ValueError(
                f"sides must be among {', '.join(map(str, SIDES))}, got {', '.join(map(str, sorted(wrong)))}"
            )
        if not 0 <= self.seconds < math.inf:
            raise ValueError(f"seconds must be at least 0 and finite, got {self.seconds}")


@command
def main(argv: list[str] | None = None) -> int:
    args = parse(ResolutionArgs, argv, "python -m benchmarks.resolution")
    print("| noise | side | variant | c | shift | deciding time | draws later | Fréchet |")
    print("|---|---|---|---|---|---|---|---|")
    for process, side, variant in settings(list(args.sides), list(args.processes)):
        time, late = decide(args.out, process, side, variant)
        cells = [process, str(side), variant.name, f"{variant.speed_of(side):.3g}", f"{variant.shift_of(side):.3g}"]
        cells += [f"{time:.3f}", f"{late:.1%}"]
        found = measure(args.out, process, side, variant, args.seed, args.seconds) if args.seconds else None
        print("|", " | ".join([*cells, "" if found is None else f"{found['frechet']:.2f}"]), "|", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
