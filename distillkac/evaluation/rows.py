"""The rows of a table of `evaluate`: which networks, in how many steps, sampled how."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from distillkac.flow.guidance import GuidedVelocity
from distillkac.flow.onward import known
from distillkac.runs import checkpoints
from distillkac.runs.config import load_config
from distillkac.runs.run import Run, students
from distillkac.runs.sampler import SamplerConfig, SamplerOptions, Trained

__all__ = ["Measured", "Row", "check", "described", "rows_of", "say_weights", "title_of", "words_of"]

Measured = Literal["all", "teacher", "student"]
Row = tuple[Path, SamplerConfig]


def rows_of(run: Path, steps: tuple[int, ...] | None, options: SamplerOptions, networks: Measured = "all") -> list[Row]:
    """The run at its step counts, then its students. steps: of the run; None for 20 and 1 of a teacher, 4, 2 and 1 of what is
    made for few steps, a student's own. options: of all rows; but a weight w only of networks that take it as an input, and
    where students have one folded in it is by default the teacher's as well. Raises ValueError if there is no such network."""
    assert networks in get_args(Measured)
    trained = Trained.of(load_config(run))
    if networks == "teacher" and trained.num_steps is not None and not trained.few_steps:
        raise ValueError(f"{run} is itself a student: omit --model teacher, or name the run of its teacher")
    few = trained.num_steps is not None
    if steps is not None and networks == "student" and not few:
        raise ValueError(f"--teacher-steps is of {run} itself, which --model student leaves out: omit one of them")
    counts = steps or (trained.measured_steps() if few else (20, 1))
    made = [(run, count, trained) for count in counts] if networks != "student" or few else []
    for path in students(run) if networks != "teacher" else ():
        trained = Trained.of(load_config(path))
        made += [(path, count, trained) for count in trained.measured_steps()]
    if not made:
        raise ValueError(f"{run} has no students to measure: omit --model student, or distil it first")
    asked = options.asked()
    weight = asked.pop("w", None)
    folded = [trained.w for _, _, trained in made if trained.num_steps is not None]
    w = weight if weight is not None or not folded else folded[0]
    return [(path, SamplerConfig(n, w=w if trained.takes_w else None, **asked)) for path, n, trained in made]


def check(run: Path, rows: list[Row]) -> None:
    """Raises ValueError, before anything is drawn, if a network cannot be sampled as its row says."""
    for folder, sampler in rows:
        config = load_config(folder)
        GuidedVelocity(_nothing, 0.0, sampler.interval, sampler.max_speed)  # their ranges
        try:
            Trained.of(config).settle(sampler, str(folder))
        except ValueError as error:
            if folder == run or config.student is None or not set(sampler.asked()) - {"w"}:
                raise
            raise ValueError(f"{error}; --model teacher measures {run} without its students") from None
        if sampler.gamma is not None:
            known(config.noise.build())


def say_weights(rows: list[Row], options: SamplerOptions) -> None:
    """Warns of guidance weights of rows that are not what was asked for, or not the default."""
    asked, said = options.asked().get("w"), {}
    for folder, sampler in rows:
        trained = Trained.of(load_config(folder))
        if asked is None and trained.takes_w and sampler.w:
            said[folder] = (
                f"{folder.name} is sampled with w = {sampler.w:g}, which its students have folded in (--w 0: without)"
            )
        elif asked is not None and not trained.takes_w and abs(trained.w - asked) > 1e-6:
            said[folder] = (
                f"{folder.name} was distilled with w = {trained.w:g} folded in, which --w {asked:g} does not change"
            )
    for sentence in said.values():
        warnings.warn(sentence, stacklevel=3)


def _nothing(*_: torch.Tensor) -> torch.Tensor:
    raise AssertionError("asked for nothing but its ranges")


def described(run: Run, sampler: SamplerConfig, nfe: int, rate: float) -> dict[str, Any]:
    """What was sampled and how, with nothing left open; nfe: network evaluations per image, two a step where guided."""
    settled = Trained.of(run.config).settle(sampler, str(run.folder))
    by_gamma = settled.gamma is not None
    return {
        "name": run.name,
        "weights": weights[1] if (weights := checkpoints.described(run.folder)) else None,
        "steps": sampler.steps,
        "w": settled.guidance,
        "nfe": nfe,
        "images_per_second": rate,
        "integrator": "gamma" if by_gamma else settled.integrator,
        "rho": settled.rho,
        "shift": settled.shift,
        "restart": settled.restart,
        "gamma": settled.gamma,
        "launch": sampler.launch,
        "landing": sampler.landing,
        "max_speed": sampler.max_speed,
        "interval": list(sampler.interval),
    }


def words_of(asked: Mapping[str, Any]) -> str:
    """Options as they stand in the names of files: rho-1, or gamma-0.25-max_speed-3; "" where nothing is asked for."""
    parts = []
    for name, value in asked.items():
        values = value if isinstance(value, tuple) else (value,)
        parts.append("-".join([name, *(v if isinstance(v, str) else f"{v:g}" for v in values)]))
    return "-".join(parts).replace("_", "-")


def title_of(run: Run, sampler: SamplerConfig) -> str:
    """student-1-inverse becomes "student (inverse), 1 step"."""
    kind, *rest = run.name.split("-") if run.config.student else [run.name]
    return kind + (f" ({rest[1]})" if len(rest) == 2 else "") + f", {sampler.steps} step{'s' * (sampler.steps > 1)}"
