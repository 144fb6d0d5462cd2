"""The networks of students: copies of the teacher's, or made by a function of the user's."""

import copy
import itertools
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from distillkac.base.memory import in_own_memory
from distillkac.base.random import derive_seed
from distillkac.distillation.inverse import GeneratorAndFake
from distillkac.distillation.inverse_options import InverseConfig
from distillkac.distillation.recipes import SECOND_PHASES
from distillkac.distillation.stages import DistillConfig
from distillkac.flow.fields import guidance_embedding
from distillkac.runs import checkpoints
from distillkac.runs.config import RunConfig, load_config
from distillkac.runs.own_network import OwnNetwork, check_network
from distillkac.runs.run import Run, build_network, load_network, student_folder

Maker = Callable[[RunConfig], nn.Module]
"""Makes the network of a student from the config of its run; its weights are set afterwards."""


def maker(run: Run, network: Callable[[], nn.Module] | None, config: DistillConfig) -> Maker:
    """How the students of a run get their networks. Raises ValueError if they cannot."""
    if not isinstance(run.config.network, OwnNetwork):
        if network is not None:
            raise ValueError(f"{run.folder} has a network of distillkac's own, and so have its students: omit network")
        return build_network
    name, weightless = run.config.network.module, next(run.network.parameters(), None) is None
    if weightless and config.inverse.steps:
        raise ValueError(
            f"inverse distillation trains a copy of its teacher, and {name} has no weights: omit inverse.steps"
        )
    if weightless and network is None:
        raise ValueError(
            f"{name} has no weights that a student could begin with: give network=, a function that makes the network of a "
            "student, as in distill(run, dataset, lambda: Net())"
        )
    if network is None:
        if config.w_max is not None:
            raise ValueError(
                f"w_max makes w an input of the students, and {name} takes none: give network=, a function that makes a "
                "network with guidance_embedding = True and forward(x, t, y, w)"
            )
        if config.inverse.steps and config.inverse.start == "random":
            raise ValueError(f'inverse.start "random" needs network=, a function that makes a new {name}')
        return lambda _: in_own_memory(copy.deepcopy(run.network).train().requires_grad_(True))
    tried = made(network, config.seed)
    x, y = torch.zeros(2, *run.config.shape), torch.zeros(2, dtype=torch.int64)
    check_network(tried, x, y, len(run.config.class_names))
    check_start(tried, run.network.state_dict(), config.w_max is not None)
    return lambda student: made(network, student.seed)


def made(network: Callable[[], nn.Module], seed: int) -> nn.Module:
    if isinstance(network, nn.Module) or not callable(network):
        raise ValueError("network must be a function that makes a new module, such as lambda: Net(), not a module")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "weights"))
        made = network()
    if not isinstance(made, nn.Module):
        raise ValueError(f"network must be a function that makes a torch.nn.Module, it made a {type(made).__name__}")
    return made


def check_start(student: nn.Module, weights: dict[str, torch.Tensor], takes_w: bool) -> None:
    """Raises ValueError if the student cannot start from these weights, if there are any, or does not take w where it must."""
    name, mine = type(student).__name__, student.state_dict()
    if guidance_embedding(student) != takes_w:
        raise ValueError(
            f"{name} must have guidance_embedding = {takes_w}: w_max is what makes the weight w an input of the students"
        )
    if not weights:  # of a teacher that is a plain function
        return
    for entry, value in weights.items():
        if entry not in mine or mine[entry].shape != value.shape:
            found = tuple(mine[entry].shape) if entry in mine else "nothing"
            raise ValueError(
                f"{name} cannot start from its teacher: {entry} is {tuple(value.shape)} there, {found} here"
            )
    if not takes_w and (new := [entry for entry in mine if entry not in weights]):
        raise ValueError(f"{name} cannot start from its teacher, which has no {new[0]}")


def check_start_folder(start: Path | None, config: DistillConfig, recipe: str = "") -> None:
    """Raises ValueError if a plan is given a folder to start from that it does not use, or none where it needs one. recipe: its
    name, if it has one."""
    inverse, lone = config.inverse, len(config.stages) == 1
    by_start = config.pairs.by == "start"
    if by_start and start is None:
        raise ValueError(
            "give start, the folder of the student whose steps the paths of pairs.by start are, such as RUN/student-4-inverse"
        )
    if start is not None and not by_start and not (lone and inverse.start == "student"):
        raise ValueError(
            f"start {start} is of inverse distillation alone, and of pairs.by start: give stages {inverse.num_steps} or "
            "pairs.by start, or omit start"
            if not lone
            else f"start {start} is not used where inverse.start is {inverse.start}: omit one of them"
        )
    if start is None and lone and inverse.start == "student" and (inverse.num_steps > 1 or inverse.fake == "start"):
        kind = (
            ("an inverse student", "inverse")
            if inverse.fake == "start"
            else ("a student of any number of steps", "consistency")
        )
        raise ValueError(f"give start, the folder of {kind[0]}, such as RUN/student-{inverse.num_steps}-{kind[1]}")
    if start is None and lone and inverse.start == "student" and recipe in SECOND_PHASES:
        raise ValueError(
            f"recipe {recipe} goes on with the student that recipe {SECOND_PHASES[recipe]} made: give --start, its folder, "
            "such as RUN/student-1-inverse"
        )


def usual_beginning(out: Path, teacher: str) -> Path:
    """The student that a lone inverse distillation begins with where no start is given: that of one step in `out`. teacher:
    digest of the teacher's weights. Raises ValueError if it is not there, no student, or one of other weights."""
    folder = student_folder(out, 1)
    if not (folder / checkpoints.CONFIG).exists():
        raise ValueError(
            f"there is no student in {folder} to begin with: give --start, the folder of a student of one step"
        )
    student = load_config(folder).student
    if student is None or student.num_steps != 1 or student.restart is not None:
        raise ValueError(f"{folder} is no student of one step to begin with: give --start, the folder of one")
    if student.teacher not in (None, teacher):  # students of earlier versions do not know
        raise ValueError(
            f"{folder} was distilled from other weights than those of this teacher now: give --start, the folder of a student "
            "of it, or that one if it is meant"
        )
    return folder


def say_if_of_another_teacher(folder: Path, run: Path, teacher: str) -> None:
    """Warns if the student that was named to begin with learned from other weights than those of the run that is distilled.
    teacher: digest of the latter."""
    student = load_config(folder).student
    if student is not None and student.teacher not in (None, teacher):  # students of earlier versions do not know
        warnings.warn(
            f"--start {folder} was distilled from other weights than those that {run} has now: what is made begins with what "
            "another teacher taught; name a student of this one if that is not meant",
            stacklevel=2,
        )


def check_beginning(folder: Path, config: RunConfig, inverse: InverseConfig) -> None:
    """Raises ValueError if inverse distillation cannot begin with the student in a folder. config: of its run."""
    student = config.student
    euler = student.num_steps if student is not None and student.restart is None else None
    if euler is not None and inverse.num_steps == 1 < euler:
        raise ValueError(
            f"{folder} is of {euler} Euler steps, the first of which leads to no picture: inverse.num_steps 1 starts from a "
            "student of one step, or of any number of steps"
        )
    if euler is not None and inverse.num_steps > 1:
        raise ValueError(
            f"{folder} is of {euler} Euler step{'s' * (euler > 1)}, which predict the data in the last alone; "
            f"inverse.num_steps {inverse.num_steps} starts from a student of any number of steps, such as one of consistency"
        )
    if inverse.fake == "start" and (student is None or student.method != "inverse"):
        raise ValueError(f"{folder} has no fake model to go on with (inverse.fake start): it is no inverse student")


def go_on_with_fake(pair: GeneratorAndFake, folder: Path) -> None:
    """The fake model of an inverse student, and its heads if there are any here and there, become those of `pair`. Raises
    ValueError if they do not fit."""
    weights, _ = checkpoints.load_weights(folder, checkpoints.MODEL)
    # Heads are of a loss of their own, which one of the two may do without.
    both = pair.heads is not None and any(name.startswith("heads.") for name in weights)
    parts = ("fake.", "heads.") if both else ("fake.",)
    mine, found = (
        {name: value for name, value in part.items() if name.startswith(parts)} for part in (pair.state_dict(), weights)
    )
    checkpoints.check_fit(folder / checkpoints.MODEL, found, mine)
    pair.load_state_dict(found, strict=False)


def check_path_maker(folder: Path, config: RunConfig, plan: DistillConfig) -> None:
    """Raises ValueError if the student in a folder cannot make the paths of a plan (pairs.by start). config: of its run."""
    student = config.student
    if student is None or student.w_max is not None:
        lacks = "is no student" if student is None else "takes w as an input"
        raise ValueError(f"start {folder} {lacks}: pairs.by start learns the steps of a student without such an input")
    if student.w != plan.w:
        raise ValueError(
            f"start {folder} has guidance of w {student.w:g} folded in, not {plan.w:g}: give --w {student.w:g}"
        )
    grids = [
        f"{steps} steps, rho {rho:g}, shift {shift:g}"
        for steps, rho, shift in (
            (student.num_steps, student.rho, student.shift),
            (plan.stages[0], plan.rho, plan.shift),
        )
    ]
    if student.restart is None and grids[0] != grids[1]:
        raise ValueError(
            f"start {folder} was made for the grid of {grids[0]}, and its paths would be of {grids[1]}: begin stages with its "
            "steps, and give its rho and shift, or name a student of any number of steps"
        )


def weights_of(start: Path, config: RunConfig, make: Maker, plan: DistillConfig) -> dict[str, torch.Tensor]:
    """The weights of the student that --start names. config: of a run with a network of its kind. Raises ValueError if the
    student is of another kind than the teacher, or than the plan begins with."""
    saved = load_config(start)
    if plan.pairs.by == "start":
        check_path_maker(start, saved, plan)
    else:
        check_beginning(start, saved, plan.inverse)
    own = isinstance(saved.network, OwnNetwork)
    for what, theirs, mine in (
        ("process", saved.noise, config.noise),
        ("images", (saved.shape, saved.class_names), (config.shape, config.class_names)),
        ("network", own or saved.network, own or config.network),
    ):
        if theirs != mine:
            raise ValueError(f"start {start} has not the {what} of the teacher: name a student of that teacher")
    return load_network(start, saved, make(config) if own else None).state_dict()


def check_chain(made: list[tuple[Path, int]]) -> None:
    """Raises ValueError if a student is there whose own teacher, the student before, is yet to be made or trained on."""
    for (folder, steps), (after, _) in itertools.pairwise(made):
        found = checkpoints.described(folder)
        if (after / checkpoints.STATE).exists() and (found is None or found[0] < steps):
            short = f"{folder}, which has made {found[0]} steps and is to make {steps}" if found else ""
            raise ValueError(
                f"{after} was distilled from {short or _other_beginning(folder, after)}: give the same options as "
                "before, choose another --out, or remove that student and those after it to distil them again"
            )


def _other_beginning(folder: Path, after: Path) -> str:
    """Of a student that is there, where `folder`, which these options want before it, is not."""
    student = load_config(after).student
    halved = folder.name.removeprefix("student-")  # other methods' names have more, and their steps are no stage's
    if student is not None and halved.isdecimal() and int(halved) != student.teacher_steps:
        return f"a network of {student.teacher_steps} steps, and by these options it is from {folder}"
    return f"{folder}, which is gone"
