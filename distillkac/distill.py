"""Distil a trained flow into students of few steps: `python -m distillkac.distill runs/demo`."""

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from torch import nn

from distillkac import data, distill_plan
from distillkac.commands import INTERRUPTED, accelerator_for, command, fit_run
from distillkac.config import RunConfig, load_config
from distillkac.distillation import (
    RECIPES,
    DistillConfig,
    inverse_config,
    inverse_objective,
    objective,
    stages,
    student_config,
    student_folder,
)
from distillkac.exact_start import class_means
from distillkac.inverse import GeneratorAndFake
from distillkac.options import parse
from distillkac.training import build_network, load_network

PROG = "python -m distillkac.distill"


@dataclass(frozen=True)
class DistillArgs:
    """Distils a run into students of few steps, each the teacher of the next, in RUN/student-20, -4, -2 and -1.

    Ctrl-C saves; --resume skips the finished students and goes on with the one that was cut short.
    """

    run: tyro.conf.Positional[Path]
    """Run folder of the teacher."""
    out: Path | None = None
    """Folder for the students; by default that of the teacher, where sampling finds them by their steps."""
    start: Path | None = None
    """With --stages 1: folder of the 1-step student that inverse distillation starts from; by default OUT/student-1."""
    resume: bool = False
    """Continue a chain that was stopped; give it the same options."""
    recipe: Literal[tuple(RECIPES)] = "paper"
    """Where the other options start from. paper: endpoint distillation. best: that, then inverse distillation of the
    1-step student, in RUN/student-1-inverse."""
    dry_run: bool = False
    """Print the stages and what they cost, and stop."""
    config: Annotated[DistillConfig, tyro.conf.arg(name="")] = field(default_factory=DistillConfig)


@command
def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    args = parse(DistillArgs, argv, PROG, _with_recipe(argv))
    config, current = args.config, load_config(args.run)
    if current.student is not None:
        raise ValueError(f"{args.run} is itself a student; distil the run of its teacher")
    if (config.w > 0 or config.w_max) and current.label_drop == 0:
        raise ValueError(f"{args.run} was trained with label_drop 0 and cannot be guided; use --w 0")
    out = args.out or args.run
    teacher_config, process, accelerator = current, current.noise.build(), accelerator_for(config.optim)
    teacher = before = accelerator.prepare_model(load_network(args.run, current), evaluation_mode=True)
    dataset = data.load_training(current.data)
    means = class_means(data.load(current.data, "train")) if config.exact_start else None
    if args.dry_run:
        print(distill_plan.described(distill_plan.costs(config, current, teacher, out, means), accelerator.device))
        return 0
    parts = len(stages(config)) + bool(config.inverse.steps)
    for number, stage in enumerate(stages(config), 1):
        current = student_config(current, stage, config)
        student = build_network(current)
        # Not strict: a student conditioned on w has an embedding that a plain teacher lacks, and that starts at zero.
        student.load_state_dict(_weights(before), strict=False)
        fit = fit_run(
            student_folder(out, stage.num_steps, config.method),
            current,
            student,
            objective(before, teacher, process, stage, config, means),
            dataset,
            accelerator,
            f"{number} of {parts}: {stage.teacher_steps} -> {stage.num_steps}",
            args.resume,
        )
        if not fit.finished:
            return INTERRUPTED
        before = accelerator.prepare_model(fit.network, evaluation_mode=True)
    if config.inverse.steps:
        made = inverse_config(teacher_config, config)
        pair = GeneratorAndFake(
            _generator(args, made, before, teacher),
            accelerator.unwrap_model(teacher),
            config.inverse.fake_lr / config.inverse.lr,
        )
        fit = fit_run(
            student_folder(out, 1, "inverse"),
            made,
            pair,
            inverse_objective(teacher, process, config),
            dataset,
            accelerator_for(config.optim, alternating=True),
            f"{parts} of {parts}: inverse",
            args.resume,
        )
        if not fit.finished:
            return INTERRUPTED
    return 0


def _with_recipe(argv: list[str]) -> DistillArgs | None:
    """The recipe is read first: it makes the defaults of the real parser."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--recipe", default="paper")
    early, _ = parser.parse_known_args(
        [word for word in argv if word != "--recipe"] if argv[-1:] == ["--recipe"] else argv
    )
    if early.recipe not in RECIPES:
        return None  # the real parser says what is wrong
    return DistillArgs(run=tyro.MISSING, recipe=early.recipe, config=RECIPES[early.recipe])


def _generator(args: DistillArgs, made: RunConfig, before: nn.Module, teacher: nn.Module) -> nn.Module:
    """The network that inverse distillation starts from."""
    network, start = build_network(made), args.config.inverse.start
    if start == "student" and len(args.config.stages) == 1:  # no stage made one just now
        folder = args.start or student_folder(args.out or args.run, 1)
        network.load_state_dict(load_network(folder, load_config(folder)).state_dict())
    elif start != "random":
        network.load_state_dict(_weights(before if start == "student" else teacher))
    return network


def _weights(network: nn.Module) -> dict:
    return getattr(network, "module", network).state_dict()


if __name__ == "__main__":
    sys.exit(main())
