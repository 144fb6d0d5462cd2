"""Export a sampler as one graph, noise to images: `python -m distillkac.export runs/demo --steps 1 --out student.onnx`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from distillkac.base.commands import command, prog
from distillkac.base.options import parse
from distillkac.base.outputs import check_file, check_folder, kind_of
from distillkac.base.ranges import in_ranges
from distillkac.runs.sampler import SamplerConfig

if TYPE_CHECKING:
    from distillkac.runs.run import Run


@dataclass(frozen=True)
@in_ranges("", steps="[1, 1e6]")
class ExportArgs:
    """Exports the Euler chain of a student (or teacher) as one graph.

    FILE.onnx: for ONNX Runtime and others; needs the packages onnx and onnxscript. FILE.pt2: torch.export. Inputs are
    noise (batch, C, H, W) and labels (batch,) int64, or labels alone; the output is images (batch, C, H, W) in [-1, 1],
    not clamped. The noise is that of the run's process at t = 1 (`Process.prior`), not Gaussian for the others. The batch may
    have any size. FOLDER, of an adopted run in one step: the model and a scheduler as diffusers
    alone loads them.
    """

    run: tyro.conf.Positional[Path]
    """Run folder, of a teacher with its students or of one network."""
    out: Path
    """FILE.onnx or FILE.pt2, or a new FOLDER for diffusers."""
    steps: int = 1
    """Steps; the student of that many is exported if there is one."""
    noise: Literal["input", "inside"] = "input"
    """Noise as an input of the graph, or drawn inside by its own random numbers."""
    check: Annotated[bool, tyro.conf.FlagConversionOff] = True
    """Run the exported graph and compare it with the network (noise as an input only)."""


@command
def main(argv: list[str] | None = None) -> int:
    args = parse(ExportArgs, argv, prog("export"))
    import torch  # only now, so that help and mistakes in options come at once

    from distillkac.runs import graphs
    from distillkac.runs.process_config import law
    from distillkac.runs.run import open_run
    from distillkac.runs.sampling import choose

    kind = kind_of(args.out, (".onnx", ".pt2"), "diffusers")
    sampler = SamplerConfig(steps=args.steps, integrator="euler")
    run = open_run(choose(args.run, sampler), torch.device("cpu"))
    chain = graphs.Chain(run, args.steps)
    if not kind:
        return _for_diffusers(run, args)
    check_file(args.out)
    model = graphs.Sampler(chain, graphs.prior_of(run)) if args.noise == "inside" else chain
    save = graphs.save_onnx if kind == ".onnx" else graphs.save_torch
    save(model, graphs.example(run, args.noise), args.out)
    gap = graphs.largest_gap(args.out, chain, run) if args.check and args.noise == "input" else None
    size = args.out.stat().st_size / 1e6
    told = "" if gap is None else f", differs from the network by at most {gap:.1e}"
    print(f"{run.name} in {args.steps} steps -> {args.out} ({size:.1f} MB{told})")
    if args.noise == "input":
        print(f"its input noise is {law(run.config.noise)} at t = 1, as run.process.prior draws it; none other fits")
    return 0


def _for_diffusers(run: "Run", args: ExportArgs) -> int:
    if args.steps != 1 or args.noise != "input":
        raise ValueError(
            "a folder for diffusers holds a model of one step, whose times are those of diffusers' own schedulers: use --steps "
            "1 without --noise, or name FILE.onnx or FILE.pt2"
        )
    check_folder(args.out)
    from distillkac.runs.back import save_for_diffusers

    save_for_diffusers(run, args.out)
    print(f"{run.name} in 1 step -> {args.out}, whose README.md has the lines that sample it with diffusers alone")
    return 0


if __name__ == "__main__":
    sys.exit(main())
