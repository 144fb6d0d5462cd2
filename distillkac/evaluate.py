"""Measure a run and its students: `python -m distillkac.evaluate runs/demo`."""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from distillkac import checkpoints, data, plots
from distillkac.commands import command, device
from distillkac.config import load_config
from distillkac.metrics import Evaluator
from distillkac.sampling import SamplerConfig, class_labels, field_of, generate, open_run, students

GRID_IMAGES = 100
PATH_IMAGES = 10
OVERVIEW_COLUMNS = 20


@dataclass(frozen=True)
class EvaluateArgs:
    """Measures the teacher and every student of a run against the held-out images, and draws their samples.

    Prints a table, and writes RUN/evaluation.json and in RUN/samples a grid for each row of the table, overview.png (a
    strip for each row, the same prior noise in every column) and trajectory.png.
    """

    run: tyro.conf.Positional[Path]
    """Run folder."""
    num: int = 5000
    """Generated images per row of the table."""
    teacher_steps: tuple[int, ...] = (20, 1)
    """Step counts at which the teacher itself is measured (AB-2)."""
    w: float | None = None
    """Guidance weight of the teacher, and of students that take it as input; by default what they were made for."""
    seed: int = 0
    """Seed of the prior noise."""
    batch_size: int = 500
    """Images at a time on a GPU."""


@command
def main(argv: list[str] | None = None) -> int:
    args = tyro.cli(EvaluateArgs, args=argv, prog="python -m distillkac.evaluate")
    if args.num < 2:
        raise ValueError(f"num must be at least 2, got {args.num}")
    config = load_config(args.run)
    evaluator = Evaluator(data.load(config.data, "train"), data.load(config.data, "test"), args.run)
    labels = class_labels(config, args.num)
    rows = [{"name": "real train images", **evaluator.floor()}]
    print(f"classifier: {evaluator.accuracy:.1%} of the held-out images right")
    print(_header())
    print(_line(rows[-1]), flush=True)
    teacher = open_run(args.run, device())
    todo = [(teacher, steps) for steps in args.teacher_steps]
    made = [open_run(path, device()) for path in students(args.run)]
    todo += [(run, run.config.student.num_steps) for run in made]
    folded_weights = [run.config.student.w for run, _ in todo if run.config.student is not None]
    w = args.w if args.w is not None or not folded_weights else folded_weights[0]
    strips = []
    for run, steps in todo:
        folded = run.config.student is not None and run.config.student.w_max is None
        sampler = SamplerConfig(steps=steps, w=None if folded else w)
        samples = generate(run, labels, sampler, args.seed, args.batch_size)
        row = {"name": run.name, "steps": steps, "nfe": samples.nfe, "images_per_second": args.num / samples.seconds}
        rows.append(row | evaluator(samples.images, samples.labels))
        print(_line(rows[-1]), flush=True)
        plots.save_grid(samples.images[:GRID_IMAGES], args.run / "samples" / f"{run.name}-steps-{steps}.png")
        strips.append(samples.images[:OVERVIEW_COLUMNS])
    plots.save_grid(torch.cat(strips), args.run / "samples" / "overview.png", columns=len(strips[0]))
    finest = SamplerConfig(steps=max(args.teacher_steps), w=w, model="teacher")
    path = generate(teacher, labels[:PATH_IMAGES], finest, args.seed, args.batch_size, path=True).path
    plots.save_trajectory(path, field_of(teacher, finest)[1], args.run / "samples" / "trajectory.png")
    checkpoints.write_json(
        args.run / "evaluation.json",
        {"num": args.num, "seed": args.seed, "classifier_accuracy": evaluator.accuracy, "rows": rows},
    )
    return 0


COLUMNS = (
    ("steps", "steps", "d"),
    ("NFE", "nfe", "d"),
    ("Fréchet", "frechet", ".3f"),
    ("(train)", "frechet_train", ".3f"),
    ("accuracy", "accuracy", ".3f"),
    ("worst", "worst_class_accuracy", ".3f"),
    ("diversity", "diversity", ".3f"),
    ("nn ratio", "nn_ratio", ".3f"),
    ("images/s", "images_per_second", ".0f"),
)


def _header() -> str:
    return f"{'':24}" + "".join(f"{title:>10}" for title, _, _ in COLUMNS)


def _line(row: dict) -> str:
    cells = (format(row[key], spec) if key in row else "" for _, key, spec in COLUMNS)
    return f"{row['name']:24}" + "".join(f"{cell:>10}" for cell in cells)


if __name__ == "__main__":
    sys.exit(main())
