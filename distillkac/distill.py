"""Distil a trained flow into students of few steps: `python -m distillkac.distill runs/demo`."""

import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from distillkac.base import processes
from distillkac.base.commands import INTERRUPTED, command, prog
from distillkac.base.options import parse, peek
from distillkac.base.ranges import in_ranges
from distillkac.distillation.grids import for_teacher
from distillkac.distillation.inverse_options import InverseConfig, refuse_unused
from distillkac.distillation.pairs_options import PairsConfig
from distillkac.distillation.recipes import RECIPES
from distillkac.distillation.stages import DistillConfig
from distillkac.runs import shipped
from distillkac.runs.config import load_config
from distillkac.runs.data_place import DataPlace


@dataclass(frozen=True)
@in_ranges("", processes=processes.SEVERAL)
class DistillArgs:
    """Distils a run into students of few steps, each the teacher of the next, in RUN/student-20, -4, -2 and -1. (Of another
    method than endpoint they are RUN/student-4-METHOD.)

    Ctrl-C saves; --resume skips the finished students and goes on with the one that was cut short.
    """

    run: tyro.conf.Positional[Path]
    """Run folder of the teacher."""
    out: Path | None = None
    """Folder for the students; by default that of the teacher, where sampling finds them by their steps."""
    start: Path | None = None
    """With inverse distillation alone (--stages 1): folder of the student that it starts from; by default OUT/student-1, where
    that is of this teacher. With --inverse.num-steps 4 (recipe inverse) that of a consistency student, say; for a second phase,
    as of recipe realuid-second, that of an inverse student. With --pairs.by start (recipe two-to-one) that of the student whose
    steps are learnt."""
    resume: bool = False
    """Continue a chain that was stopped, with the same options; where there is none, begin. May change: --steps,
    --consistency.steps, steps, rates, warm-up, ema and beta2 of --inverse, --optim.* but --optim.optimizer, averages and
    decays, and where the data lie (--data.path)."""
    data: DataPlace = field(default_factory=DataPlace)
    recipe: Literal[tuple(RECIPES)] = "paper"  # type: ignore[valid-type]  # as of the presets of train
    """Where the other options start from. paper: endpoint distillation. best: a consistency student for any number of steps, in
    RUN/student-4-consistency, then one of one step that learns where two steps of it lead, in RUN/student-1-pairs, and inverse
    distillation of that, in RUN/student-1-inverse. consistency: the first of these alone. pairs: students of 4, 2 and 1 steps
    that learn the teacher's stored paths, then inverse distillation of the last. short: endpoint distillation in few steps, by
    Muon, for a few cores. inverse: inverse distillation of the consistency student that --start names in all its steps, in
    RUN/student-4-inverse. two-to-one: two steps of that student (--start) as one, in RUN/student-1-pairs. As published for
    CIFAR-10, days on a GPU: one-shot, endpoint distillation from 100 to 4 steps at once, then to 2 and 1; realuid, inverse
    distillation of the teacher itself into one step; realuid-second, its second phase, which begins with the student of the
    first (--start)."""
    processes: int | Literal["auto"] = 1
    """Processes of this machine that share each batch, as --processes of train has them."""
    dry_run: bool = False
    """Print the stages and what they cost, and stop."""
    config: Annotated[DistillConfig, tyro.conf.arg(name="")] = field(default_factory=DistillConfig)


@command
def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if (code := processes.together("distillkac.distill", argv, peek(argv, processes="1").processes)) is not None:
        return code
    args = parse(DistillArgs, argv, prog("distill"), _with_recipe(argv))
    refuse_unused(args.config, _recipe(argv))
    shipped.refuse(args.run, "there is no teacher to distil; train one: python -m distillkac.train")
    # What trains only now, so that help and mistakes in options come at once.
    from distillkac.data import class_means
    from distillkac.distillation import cost
    from distillkac.distillation.chain import Chain, refuse_teacher
    from distillkac.distillation.images import images_for
    from distillkac.distillation.students import check_start_folder
    from distillkac.runs.device import placed
    from distillkac.runs.run import build_network, load_network
    from distillkac.runs.run_data import RunData
    from distillkac.training.fit import accelerator_for

    run = load_config(args.run)
    config = for_teacher(args.config, run)
    check_start_folder(args.start, config, args.recipe)
    refuse_teacher(args.run, run, config)
    out, accelerator = args.out or args.run, accelerator_for(config.optim)
    teacher = placed(load_network(args.run, run), accelerator.device)
    teacher = accelerator.prepare_model(teacher, evaluation_mode=True)
    dataset, place = images_for(args.run, run, config, out, args.data)
    means = class_means(RunData(args.run, run, args.data).load("train")) if config.exact_start else None
    run = dataclasses.replace(run, data=place, fingerprint=dataset.fingerprint)
    if args.dry_run:
        print(cost.described(cost.costs(config, run, teacher, out, means), accelerator.device))
        return 0
    chain = Chain(
        args.run, out, args.start, config, run, teacher, build_network, dataset, means, accelerator, args.resume
    )
    return 0 if all(finished for _, finished in chain()) else INTERRUPTED


def _with_recipe(argv: list[str]) -> DistillArgs | None:
    """What options not given are: those of the recipe. None: the parser's own, which says what is wrong."""
    recipe = peek(argv, recipe=DistillArgs.recipe).recipe
    return DistillArgs(run=tyro.MISSING, recipe=recipe, config=_recipe(argv)) if recipe in RECIPES else None


def _recipe(argv: list[str]) -> DistillConfig:
    """The recipe that is asked for; its inverse distillation is left out as a whole by --inverse.steps 0, and by
    --inverse.pairs 0 the paths of one that is inverse distillation alone."""
    asked = vars(peek(argv, **{"recipe": DistillArgs.recipe, "inverse.steps": "", "inverse.pairs": ""}))
    recipe = RECIPES[asked["recipe"]]
    lone = len(recipe.stages) == 1
    if lone and _is_zero(asked["inverse.pairs"]):
        inverse = dataclasses.replace(recipe.inverse, pairs=0.0)
        return dataclasses.replace(recipe, inverse=inverse, pairs=PairsConfig())
    without = _is_zero(asked["inverse.steps"]) and not lone
    return dataclasses.replace(recipe, inverse=InverseConfig()) if without else recipe


def _is_zero(word: str) -> bool:
    """However it is written; what is no number is left to the parser, which says so."""
    try:
        return float(word) == 0
    except ValueError:
        return False


if __name__ == "__main__":
    sys.exit(main())
