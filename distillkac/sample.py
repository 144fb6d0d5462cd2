"""Draw images from a run: `python -m distillkac.sample runs/demo --steps 1`."""

import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import tyro

from distillkac.base.commands import command, prog
from distillkac.base.options import parse, peek
from distillkac.base.outputs import check_file, check_folder, kind_of
from distillkac.base.progress import Bar
from distillkac.base.ranges import SEEDS, in_ranges
from distillkac.runs import shipped
from distillkac.runs.sampler import SamplerConfig

if TYPE_CHECKING:
    from distillkac.runs.energy_file import EnergyFile
    from distillkac.runs.sample_files import OneFile, SinglePngs
    from distillkac.runs.sampling import Drawing


@dataclass(frozen=True)
@in_ranges("", num="[1, 1e9]", seed=SEEDS, batch_size="[1, 1e9]", columns="[1, 1e6]")
class SampleArgs:
    """Draws images from a trained run. The same seed makes the same images whatever the batch size."""

    run: tyro.conf.Positional[Path]
    """Run folder, of a teacher with its students or of one network; or the name of a model that comes with distillkac, such as
    digits (`distillkac models` lists them). Of a student, and of these, --steps is by default what it was made for."""
    sampler: Annotated[SamplerConfig, tyro.conf.arg(name="")] = field(default_factory=SamplerConfig)
    num: int = 100
    """Number of images."""
    classes: tuple[str, ...] = ()
    """Classes to draw in turn; all by default. A number is the name of a class if one has it, or all have numbers; else its
    place in the list, from 0."""
    seed: int = 0
    """Seed of the prior noise."""
    batch_size: int = 500
    """Images at a time on a GPU; a matter of memory only. A CPU takes blocks of fixed size."""
    graph: bool = False
    """On a GPU: the network's evaluations as CUDA graphs, recorded once and replayed. The images are the same up to
    rounding."""
    out: Path | None = None
    """FILE.png: one grid. FILE.gif: the grid on its way from noise to data. FILE.npz: arrays `images` (uint8, n x H x W x
    C), `labels` and `class_names`. Else a folder of single PNGs. By default RUN/samples/steps-N.png, and of a shipped
    model NAME-steps-N.png in this folder. Many images are written batch by batch: after Ctrl-C or a crash the same command
    goes on."""
    columns: int = 10
    """Columns of the grid, of FILE.png and FILE.gif."""
    energy: Path | None = None
    """FILE.csv: the kinetic energy of each image's path, half the mean square velocity of a pixel on its way; it takes no
    evaluation of the network more."""


@command
def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    args = parse(SampleArgs, argv, prog("sample"))
    # Torch and networks only now, so that help and mistakes in options come at once.
    from distillkac.runs.device import device
    from distillkac.runs.run import open_run
    from distillkac.runs.sampling import Drawing, choose, usual_steps

    folder, sampler = shipped.folder_of(args.run), args.sampler
    if not peek(argv, steps="").steps:
        sampler = replace(sampler, steps=usual_steps(folder))
    out = args.out or default_out(folder, sampler.steps)
    kind = kind_of(out, (".png", ".gif", ".npz"), "single PNGs")
    if args.columns != SampleArgs.columns and kind not in (".png", ".gif"):
        raise ValueError(f"--columns is of a grid, FILE.png or FILE.gif, got {out}: omit it, or name such a file")
    run = open_run(choose(folder, sampler), device())
    drawing = Drawing(run, sampler, args.seed, args.batch_size, args.graph)
    cycle = Cycle(run.config.class_names, args.classes)
    energies = open_energies(args.energy, drawing, cycle)
    files = open_files(out, kind, drawing, cycle, args.num, args.columns)
    with files.held:
        try:
            seconds, drawn = draw(drawing, cycle, files, args.num, kind == ".gif", energies)
        except KeyboardInterrupt:
            if files.goes_on:
                print("what was drawn is kept: the same command goes on", file=sys.stderr)
            raise
        finally:
            if energies is not None:
                energies.write()
        files.finish()
    rate = f"nfe {drawing.nfe}, {drawn / seconds:.0f} images/s" if drawn else "all were there already"
    print(f"{run.name} ({shipped.told(run.folder)}): {args.num} images, {sampler.steps} steps, {rate} -> {out}")
    return 0


def default_out(folder: Path, steps: int) -> Path:
    """In the run folder; nothing is written beside a shipped model."""
    if shipped.told(folder) != str(folder):
        return Path(f"{shipped.told(folder).replace('/', '-')}-steps-{steps}.png")
    return folder / "samples" / f"steps-{steps}.png"


class Cycle:
    """The classes of images 0, 1, ...: those that were chosen, in turn; all when none was."""

    def __init__(self, names: tuple[str, ...], classes: tuple[str, ...]):
        from distillkac.runs.class_names import find_all

        self.names = names
        self.chosen = np.array(find_all(classes, names) if classes else range(len(names)), dtype=np.int64)

    def labels(self, first: int, last: int) -> np.ndarray:
        """Of images first .. last - 1."""
        return self.chosen[np.arange(first, last) % len(self.chosen)]

    def label(self, i: int) -> int:
        return int(self.chosen[i % len(self.chosen)])


def open_files(
    out: Path, kind: str, drawing: "Drawing", cycle: Cycle, num: int, columns: int
) -> "SinglePngs | OneFile":
    """Where the images go. Raises ValueError if they cannot, before any is drawn."""
    from distillkac.runs import pictures
    from distillkac.runs.sample_files import OneFile, SinglePngs, described, write_npz

    config = drawing.run.config
    shape = config.latent.shape if config.latent is not None else config.shape
    frames = pictures.frames_of(drawing.sampler.steps + 1) if kind == ".gif" else []
    facts = described(drawing, tuple(cycle.names[i] for i in cycle.chosen))
    if kind == "":
        pictures.check_grid(1, shape, 1)
        check_folder(out)
        return SinglePngs(out, facts, cycle.names, cycle.label, num)
    check_file(out)
    height, width = shape[1:]
    size = (*([len(frames)] if frames else []), height, width, shape[0])
    if kind == ".npz":

        def assemble(pixels):
            write_npz(out, pixels, cycle.labels, cycle.names)
    else:
        pictures.check_grid(num, shape, columns, max(1, len(frames)))

        def assemble(pixels):
            if frames:
                pictures.write_animation(pixels, out, columns)
            else:
                pictures.save_png(pictures.picture_of(pixels, columns), out)

    return OneFile(out, facts | {"frames": frames}, size, num, drawing.rows, assemble)


def open_energies(out: Path | None, drawing: "Drawing", cycle: Cycle) -> "EnergyFile | None":
    """Where the energies go, if they are asked for. Raises ValueError if they cannot."""
    if out is None:
        return None
    from distillkac.runs.energy_file import EnergyFile
    from distillkac.runs.sample_files import described

    facts = described(drawing, tuple(cycle.names[i] for i in cycle.chosen))
    return EnergyFile(out, facts, lambda i: cycle.names[cycle.label(i)])


def draw(
    drawing: "Drawing",
    cycle: Cycle,
    files: "SinglePngs | OneFile",
    num: int,
    path: bool,
    energies: "EnergyFile | None" = None,
) -> tuple[float, int]:
    """Draws what is not there yet: (seconds of the sampler alone, images drawn)."""
    import torch

    from distillkac.runs import pictures
    from distillkac.runs.sampling import finite

    frames = pictures.frames_of(drawing.sampler.steps + 1) if path else False
    seconds, drawn = 0.0, 0
    blocks = range(0, num, drawing.rows)

    def span(first: int) -> tuple[int, int]:
        return first, min(first + drawing.rows, num)

    def has(first: int, last: int) -> bool:
        return files.has(first, last) and (energies is None or energies.has(first, last))

    there = sum(last - first for first, last in map(span, blocks) if has(first, last))
    if there:
        print(f"{there} of {num} images are there already", file=sys.stderr)
    with Bar(title=drawing.title, unit="image", total=num, initial=there) as bar:
        for first, last in map(span, blocks):
            if has(first, last):
                continue
            start = time.perf_counter()
            images = drawing.block(torch.from_numpy(cycle.labels(first, last)), first, frames)
            seconds, drawn = seconds + time.perf_counter() - start, drawn + last - first
            finite(images[-1] if path else images)
            if energies is not None:
                energies.put(first, drawing.energy)
            if not files.has(first, last):
                moving = [pictures.to_uint8(state) for state in images] if path else []
                files.put(first, np.stack(moving, 1) if path else pictures.to_uint8(images))
            bar.update(last - first)
    return seconds, drawn


if __name__ == "__main__":
    sys.exit(main())
