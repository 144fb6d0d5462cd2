"""Distil a trained flow into students of few steps: `python -m distillkac.distill runs/demo`."""

import argparse
import dataclasses
import itertools
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from torch import nn

from distillkac.base.commands import INTERRUPTED, command
from distillkac.base.options import parse
from distillkac.data import class_means
from distillkac.distillation import cost
from distillkac.distillation.inverse import GeneratorAndFake
from distillkac.distillation.stages import (
    RECIPES,
    DistillConfig,
    inverse_config,
    inverse_objective,
    objective,
    stages_of,
    student_config,
)
from distillkac.runs import checkpoints
from distillkac.runs.config import RunConfig, load_config
from distillkac.runs.run import build_network, load_network, student_folder
from distillkac.runs.run_data import DataPlace, RunData
from distillkac.training.fit import accelerator_for, fit_run

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
    """Continue a chain that was stopped, with the same options; where there is none, begin."""
    data: DataPlace = field(default_factory=DataPlace)
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
    process, accelerator = current.noise.build(), accelerator_for(config.optim)
    teacher = before = accelerator.prepare_model(load_network(args.run, current), evaluation_mode=True)
    images = RunData(args.run, current, args.data)
    dataset = images.load_training()
    means = class_means(images.load("train")) if config.exact_start else None
    teacher_config = current = dataclasses.replace(current, data=images.data, fingerprint=dataset.fingerprint)
    if args.dry_run:
        print(cost.described(cost.costs(config, current, teacher, out, means), accelerator.device))
        return 0
    made = students(config, out)
    if args.resume:
        check_chain(made[:-1] if config.inverse.steps and config.inverse.start != "student" else made)
        if accelerator.is_main_process and not any((folder / checkpoints.STATE).exists() for folder, _ in made):
            print(f"nothing to resume in {out}: its students begin at step 0", flush=True)
    _, digest = checkpoints.described(args.run)
    latest = args.run  # what the next student is distilled from
    for number, stage in enumerate(stages_of(config), 1):
        current = known_teacher(student_config(current, stage, config), digest, latest)
        student = build_network(current)
        # Not strict: a student conditioned on w has an embedding that a plain teacher lacks, and that starts at zero.
        student.load_state_dict(_weights(before), strict=False)
        latest = student_folder(out, stage.num_steps, config.method)
        fit = fit_run(
            latest,
            current,
            student,
            objective(before, teacher, process, stage, config, means),
            dataset,
            accelerator,
            f"{number} of {len(made)}: {stage.teacher_steps} -> {stage.num_steps}",
            args.resume,
        )
        if not fit.finished:
            return INTERRUPTED
        before = accelerator.prepare_model(fit.network, evaluation_mode=True)
        accelerator.wait_for_everyone()  # until the main process has written it
    if config.inverse.steps:
        generator, started_from = _generator(args, teacher_config, before, teacher)
        pair = GeneratorAndFake(
            generator, accelerator.unwrap_model(teacher), config.inverse.fake_lr / config.inverse.lr
        )
        fit = fit_run(
            student_folder(out, 1, "inverse"),
            known_teacher(inverse_config(teacher_config, config), digest, started_from),
            pair,
            inverse_objective(teacher, process, config),
            dataset,
            accelerator_for(config.optim, alternating=True),
            f"{len(made)} of {len(made)}: inverse",
            args.resume,
        )
        if not fit.finished:
            return INTERRUPTED
    return 0


def students(config: DistillConfig, out: Path) -> list[tuple[Path, int]]:
    """(folder, optimizer steps) of every student that is made, in order."""
    made = [(student_folder(out, stage.num_steps, config.method), stage.steps) for stage in stages_of(config)]
    return made + ([(student_folder(out, 1, "inverse"), config.inverse.steps)] if config.inverse.steps else [])


def check_chain(made: list[tuple[Path, int]]) -> None:
    """Raises ValueError if a student is there whose own teacher, the student before, is yet to be made or trained on."""
    for (folder, steps), (after, _) in itertools.pairwise(made):
        found = checkpoints.described(folder)
        if (after / checkpoints.STATE).exists() and (found is None or found[0] < steps):
            raise ValueError(
                f"{after} was distilled from {folder}, which "
                + ("is gone" if found is None else f"has made {found[0]} steps and is to make {steps}")
                + ": give the same options as before, choose another --out, or remove that student and those after it to "
                "distil them again"
            )


def known_teacher(config: RunConfig, teacher: str, latest: Path | None) -> RunConfig:
    """The config of a student with the digests of its teacher's weights, and of those in the folder that it starts from."""
    before = None if latest is None else checkpoints.described(latest)[1]
    return dataclasses.replace(config, student=dataclasses.replace(config.student, teacher=teacher, before=before))


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


def _generator(
    args: DistillArgs, teacher_config: RunConfig, before: nn.Module, teacher: nn.Module
) -> tuple[nn.Module, Path | None]:
    """The network that inverse distillation starts from, and the folder of its weights."""
    config, out = args.config, args.out or args.run
    network, start = build_network(inverse_config(teacher_config, config)), config.inverse.start
    folder = {"random": None, "teacher": args.run, "student": student_folder(out, 1, config.method)}[start]
    if start == "student" and len(config.stages) == 1:  # no stage made one just now
        folder = args.start or student_folder(out, 1)
        network.load_state_dict(load_network(folder, load_config(folder)).state_dict())
    elif start != "random":
        network.load_state_dict(_weights(before if start == "student" else teacher))
    return network, folder


def _weights(network: nn.Module) -> dict:
    return getattr(network, "module", network).state_dict()


if __name__ == "__main__":
    sys.exit(main())
