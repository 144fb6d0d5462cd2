"""Distil a trained flow into students of few steps: `python -m distillkac.distill runs/demo`."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from distillkac import data
from distillkac.commands import INTERRUPTED, accelerator_for, command, fit_run
from distillkac.config import load_config
from distillkac.distillation import DistillConfig, objective, stages, student_config, student_folder
from distillkac.training import build_network, load_network


@dataclass(frozen=True)
class DistillArgs:
    """Distils a run into students of few steps, each the teacher of the next, in RUN/student-20, -4, -2 and -1.

    Ctrl-C saves; --resume skips the finished students and goes on with the one that was cut short.
    """

    run: tyro.conf.Positional[Path]
    """Run folder of the teacher."""
    resume: bool = False
    """Continue a chain that was stopped; give it the same options."""
    config: Annotated[DistillConfig, tyro.conf.arg(name="")] = field(default_factory=DistillConfig)


@command
def main(argv: list[str] | None = None) -> int:
    args = tyro.cli(DistillArgs, args=argv, prog="python -m distillkac.distill")
    config, current = args.config, load_config(args.run)
    if current.student is not None:
        raise ValueError(f"{args.run} is itself a student; distil the run of its teacher")
    if config.w > 0 and current.label_drop == 0:
        raise ValueError(f"{args.run} was trained with label_drop 0 and cannot be guided; use --w 0")
    process, accelerator = current.noise.build(), accelerator_for(config.optim)
    teacher = load_network(args.run, current)
    dataset = data.load(current.data, "train")
    for stage in stages(config):
        folder = student_folder(args.run, stage.num_steps)
        current = student_config(current, stage, config)
        student = build_network(current)
        # Not strict: a student conditioned on w has an embedding that a plain teacher lacks, and that starts at zero.
        student.load_state_dict(teacher.state_dict(), strict=False)
        teacher = accelerator.prepare_model(teacher, evaluation_mode=True)
        fit = fit_run(
            folder,
            current,
            student,
            objective(teacher, process, stage, config),
            dataset,
            accelerator,
            f"{stage.teacher_steps} -> {stage.num_steps}",
            args.resume,
        )
        if not fit.finished:
            return INTERRUPTED
        teacher = fit.network
    return 0


if __name__ == "__main__":
    sys.exit(main())
