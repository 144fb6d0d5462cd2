"""The averages of a run measured beside each other, and one of them made the run's model: `evaluate RUN --ema all`.

RUN/averages.json has the table (`report_name`).
RUN/ema-original.safetensors is the average that the run had before another took its place.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from distillkac.base import files
from distillkac.evaluation.metrics import COLUMNS, Evaluator, describe
from distillkac.evaluation.tables import header, line
from distillkac.runs import checkpoints
from distillkac.runs.class_shares import reference_labels
from distillkac.runs.run import open_run
from distillkac.runs.run_data import RunData
from distillkac.runs.sampler import SamplerConfig
from distillkac.runs.sampling import generate
from distillkac.training.averages import LARGEST_ERROR, Reconstruction

LENGTHS = (0.03, 0.05, 0.07, 0.10, 0.13, 0.16, 0.20)
"""Relative lengths that "all" tries, as far as the snapshots can make them."""
Candidate = tuple[str, Callable[[], dict[str, torch.Tensor]]]


def measure_averages(
    folder: Path,
    which: str,
    step: int | None,
    images: RunData,
    num: int,
    sampler: SamplerConfig,
    seed: int = 0,
    batch_size: int = 500,
    *,
    keep: bool = False,
) -> None:
    """Prints the table, and writes it if it is of all. which: "all", or a relative length. step: after which the averages are,
    by default the last. keep: the best becomes the run's model. Raises ValueError if the run does not have what is asked."""
    found = candidates(folder, which, step)
    run = open_run(folder)
    if keep and step is not None and step != checkpoints.load_weights(folder)[1]:
        raise ValueError(f"--keep-best is of the step that {folder} is at: omit --ema-step {step}")
    evaluator = Evaluator(images.load_pixels("train"), images.load_pixels("test"), folder)
    rows: list[dict[str, Any]] = []
    labels = reference_labels(run.config, num)
    print(f"evaluator: {describe(evaluator.identity)}; {evaluator.accuracy:.1%} of the held-out images right")
    print(header(COLUMNS), flush=True)
    for name, weights in found:
        run.network.load_state_dict({key: value.to(run.device) for key, value in weights().items()})
        samples = generate(run, labels, sampler, seed, batch_size)
        row = {"name": name, "steps": sampler.steps, "nfe": samples.nfe, "images_per_second": num / samples.seconds}
        rows.append(row | evaluator(samples.images, samples.labels))
        print(line(rows[-1], COLUMNS), flush=True)
    best = min(rows, key=lambda row: row["frechet"])["name"]
    report = {"num": num, "seed": seed, "evaluator": evaluator.identity, "chosen_by": "frechet, held-out images"}
    if which == "all":  # one of them alone takes no table's place
        report |= {"step": checkpoints.load_weights(folder)[1] if step is None else step, "w": sampler.w}
        files.write_json(folder / report_name(step, sampler.w), report | {"best": best, "rows": rows})
    if len(rows) > 1:
        print(f"best: {best}, by the Fréchet distance to the held-out images, which this choice flatters a little")
    if keep:
        print(take(folder, best, dict(found)[best]()))


def report_name(step: int | None, w: float | None) -> str:
    """averages.json, or averages-step-500-w-2.json where a step or a guidance weight above 0 was asked for."""
    return f"averages{'' if step is None else f'-step-{step}'}{f'-w-{w:g}' if w else ''}.json"


def candidates(folder: Path, which: str, step: int | None = None) -> list[Candidate]:
    """Name and weights of each average that is measured. Raises ValueError if there is none of that name."""
    if which != "all" and not re.fullmatch(r"0?\.\d+", which):
        raise ValueError(f"--ema is all or a relative length such as 0.08, got {which!r}")
    averages = Reconstruction(folder, step)
    if which != "all":
        length = float(which)
        averages.check(length)
        return [(f"power {length:g}", partial(averages.reconstructed, length))]
    now = step is None or step == checkpoints.load_weights(folder)[1]
    found: list[Candidate] = [("moving average", partial(original, folder))] if now else []
    found += [(name.replace("-", " "), partial(averages.decayed, name)) for name in averages.decays()]
    for length in LENGTHS:
        if averages.error(length) <= LARGEST_ERROR:
            found.append((f"power {length:g}", partial(averages.reconstructed, length)))
    return found


def original(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of the run's own moving average, whether another took its place or not."""
    name = checkpoints.ORIGINAL if checkpoints.chosen_average(folder) else checkpoints.EMA
    return checkpoints.load_weights(folder, name)[0]


def take(folder: Path, name: str, weights: dict[str, torch.Tensor]) -> str:
    """Makes an average the run's model, and keeps the original. Returns a sentence that says so."""
    before, kept = checkpoints.chosen_average(folder), folder / checkpoints.ORIGINAL
    if name == "moving average":
        if before is None:
            return f"{folder / checkpoints.EMA} is the best, the run's own moving average: it stays"
        files.write_atomic(folder / checkpoints.EMA, kept.read_bytes())
        return f"{folder / checkpoints.EMA} is the run's own moving average again, in place of {before}"
    if before is None:
        files.write_atomic(kept, (folder / checkpoints.EMA).read_bytes())
    _, step = checkpoints.load_weights(folder)
    about = {"format": "pt", "step": str(step), "digest": checkpoints.digest_of(step, weights), "average": name}
    files.write_atomic(folder / checkpoints.EMA, checkpoints.to_safetensors(weights, about))
    return (
        f"{folder / checkpoints.EMA} is now the average {name}, in place of {before or 'the moving average'}; the moving "
        f"average is kept as {kept.name}"
    )
