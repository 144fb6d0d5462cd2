"""Makes a shipped model of a run: `python -m distillkac.evaluation.ship runs/demo digits --made-by "make demo" ...`.

Its students of 4 steps and of one are packed and measured as they are then, by the evaluator and with as many images as the run
was; the figures, the commands and the digests go into index.json and a model card. Refused is what does not fit: a run without
students or evaluation, packed weights that are worse than the trained ones, more bytes than may be shipped.
"""

import platform
import shutil
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import tyro

from distillkac import __version__, _sources
from distillkac.base import files
from distillkac.base.commands import command
from distillkac.base.options import parse
from distillkac.base.ranges import in_ranges
from distillkac.data import DataConfig
from distillkac.evaluation.metrics import Evaluator
from distillkac.evaluation.model_card import card, table
from distillkac.flow.network_config import NetworkConfig
from distillkac.runs import checkpoints, packed, shipped
from distillkac.runs.class_shares import reference_labels
from distillkac.runs.config import load_config, refuse_few_steps, save_config
from distillkac.runs.data_place import DataPlace
from distillkac.runs.process_config import law
from distillkac.runs.run import network_config, open_run, student_folder, students
from distillkac.runs.run_data import RunData
from distillkac.runs.sampler import SamplerConfig, Trained
from distillkac.runs.sampling import generate

WORSE = 1.1
"""Packed weights may have this many times the Fréchet distance of the trained ones."""
LESS = 0.02
"""And this much less accuracy and diversity."""


@dataclass(frozen=True)
@in_ranges("", steps="[1, 1e6]", grain="(0, 1]")
class ShipArgs:
    """Packs the students of a run into the package, with a model card, for distillkac to carry."""

    run: tyro.conf.Positional[Path]
    """Run folder of the teacher with its students, evaluated."""
    name: tyro.conf.Positional[str]
    """What it will be called: one word, as in `distillkac sample NAME`."""
    made_by: str
    """The commands that made the run, such as "make demo"."""
    title: str
    """What it draws, such as "handwritten digits"."""
    source: str
    """Where the images are from and under which license they are, in a sentence."""
    commit: str = field(default_factory=_sources.commit)
    """The commit whose code trained the run; by default the one that is checked out."""
    steps: tuple[int, ...] = (4, 1)
    """Students that are shipped, by their steps; of as many the one that sampling prefers."""
    grain: float = packed.GRAIN
    """Spacing of the packed weights, as a share of each row's root mean square: larger is smaller, and coarser."""
    data: DataPlace = field(default_factory=DataPlace)
    out: Path = shipped.FOLDER
    """Where it goes; by default into the package that runs."""


@command
def main(argv: list[str] | None = None) -> int:
    args = parse(ShipArgs, argv, "python -m distillkac.evaluation.ship")
    before = evaluation_of(args)
    chosen = chosen_students(args, before)
    images = RunData(args.run, load_config(args.run), args.data)
    evaluator = Evaluator(images.load_pixels("train"), images.load_pixels("test"), args.run)
    if before["evaluator"] != evaluator.identity:
        raise ValueError(f"{args.run}/evaluation.json is of another evaluator than {evaluator.name}: evaluate it again")
    place = args.out / args.name
    made = place.with_name(f".{args.name}.new")  # not a model until it is whole
    shutil.rmtree(made, ignore_errors=True)
    try:
        for student in chosen:
            pack(student, made / student.name, args.grain, images.data)
        rows = measured(made, evaluator, before["num"], before["seed"])
        check_worth(before["rows"], rows)
        entry = describe(args, before, rows) | {"bytes": size_of(args, made)}
        files.write_atomic(made / shipped.CARD, card(args.name, entry).encode())
        entry["files"] = {
            path.relative_to(made).as_posix(): shipped.digest_of(path) for path in sorted(made.rglob("*.*"))
        }
        shutil.rmtree(place, ignore_errors=True)
        made.rename(place)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    path = args.out / shipped.INDEX
    known = files.read_json(path) if path.exists() else {}
    files.write_json(path, dict(sorted((known | {args.name: entry}).items())))
    print("\n".join(table(rows)))
    print(f"{args.run} -> {place} ({entry['bytes']} bytes)")
    return 0


def evaluation_of(args: ShipArgs) -> dict[str, Any]:
    """What `evaluate` found of the run. Raises ValueError if the run does not fit."""
    if not args.name.isidentifier() or not args.name.isascii():
        raise ValueError(f"name must be one word of letters and digits, got {args.name!r}")
    config = load_config(args.run)
    if config.student is not None:
        raise ValueError(f"{args.run} is itself a student: name the run of its teacher")
    refuse_few_steps(args.run, config, "has students that are shipped")
    path = args.run / "evaluation.json"
    if not path.exists():
        raise ValueError(
            f"{args.run} has no evaluation.json: measure it first, python -m distillkac.evaluate {args.run}"
        )
    return files.read_json(path)


def chosen_students(args: ShipArgs, before: dict[str, Any]) -> list[Path]:
    """The folders of the students to ship. Raises ValueError if one is missing, or was not measured."""
    there, found = students(args.run), []
    for steps in args.steps:
        exact = (path for path in there if path.name.split("-")[1] == str(steps))
        student = next((path for path in (*exact, *there) if Trained.of(load_config(path)).serves(steps)), None)
        if student is None:
            name = student_folder(Path(), steps).name
            raise ValueError(f"{args.run} has no {name}: distil it first, python -m distillkac.distill {args.run}")
        if not any(row["name"] == student.name for row in before["rows"]):
            raise ValueError(f"{args.run}/evaluation.json has no figures of {student.name}: evaluate the run again")
        found.append(student)
    return list(dict.fromkeys(found))  # one may serve several numbers of steps


def pack(student: Path, out: Path, grain: float, data: DataConfig) -> None:
    """Writes the run folder of a student again, its averaged weights packed and nothing else beside its config. data: where
    the images are, as it will say."""
    weights, step = checkpoints.load_weights(student)
    tensors, about = packed.pack(weights, grain)
    digest = checkpoints.digest_of(step, packed.unpack(tensors, about))
    save_config(out, replace(load_config(student), data=data))
    content = checkpoints.to_safetensors(tensors, about | {"format": "pt", "step": str(step), "digest": digest})
    files.write_atomic(out / checkpoints.EMA, content)


def measured(folder: Path, evaluator: Evaluator, num: int, seed: int) -> list[dict[str, Any]]:
    """The rows of `evaluate` for the students in a folder of a shipped model, as they are loaded from there, on a CPU."""
    rows = []
    for student in students(folder):
        run = open_run(student, "cpu")
        for steps in Trained.of(run.config).measured_steps():
            samples = generate(run, reference_labels(run.config, num), SamplerConfig(steps), seed)
            row = {"name": run.name, "steps": steps, "nfe": samples.nfe}
            rows.append(row | evaluator(samples.images, samples.labels))
    return rows


def describe(args: ShipArgs, before: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What index.json says of the model, but for its files."""
    config = load_config(args.run)
    network = network_config(args.run, config)
    if not isinstance(network, NetworkConfig):
        raise ValueError(f"{args.run} has a {network.model} of diffusers, and only networks of distillkac are shipped")
    patches = f", patches of {network.side}x{network.side}" if network.side > 1 else ""
    return {
        "title": args.title,
        "source": args.source,
        "shape": list(config.shape),
        "classes": list(config.class_names),
        "law": law(config.noise),
        "network": f"{network.backbone}, channels {' '.join(map(str, network.channels))}{patches}",
        "made_by": args.made_by,
        "commit": args.commit,
        "made_with": f"distillkac {__version__}, torch {torch.__version__}, {platform.machine()}",
        "grain": args.grain,
        "num": before["num"],
        "seed": before["seed"],
        "evaluator": before["evaluator"],
        "rows": [_row(before["rows"], "real train images"), _row(before["rows"], "teacher"), *rows],
        "trained": [_row(before["rows"], row["name"], row["steps"]) for row in rows],
    }


def check_worth(trained: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
    """Raises ValueError if packed weights draw worse images than the trained ones."""
    for row in rows:
        was = _row(trained, row["name"], row["steps"])
        keys = [key for key in ("accuracy", "diversity") if key in row]
        if row["frechet"] > WORSE * was["frechet"] or any(row[key] < was[key] - LESS for key in keys):
            told = ", ".join(f"{key} {row[key]:.3f} after {was[key]:.3f}" for key in ("frechet", *keys))
            raise ValueError(f"{row['name']} is worse when it is packed ({told}): lower --grain")


def size_of(args: ShipArgs, made: Path) -> int:
    """Bytes of the weights in `made`. Raises ValueError if this model and the others are too large together."""
    others = [args.out / name for name in shipped.names(args.out) if name != args.name]
    sizes = [sum(path.stat().st_size for path in folder.rglob(f"*/{checkpoints.EMA}")) for folder in (made, *others)]
    if sum(sizes) > shipped.LIMIT:
        raise ValueError(
            f"all models would have {sum(sizes)} bytes, at most {shipped.LIMIT} are shipped: raise --grain"
        )
    return sizes[0]


def _row(rows: list[dict[str, Any]], name: str, steps: int | None = None) -> dict[str, Any]:
    """The row of this name and number of steps, but for its speed, which is that of one machine."""
    row = next((row for row in rows if row["name"] == name and steps in (None, row.get("steps"))), None)
    if row is None:
        raise ValueError(f"there are no figures of {name} among those of the run: evaluate all of it anew")
    return {key: value for key, value in row.items() if key != "images_per_second"}


if __name__ == "__main__":
    sys.exit(main())
