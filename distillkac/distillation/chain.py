"""A distillation from its first stage to its last: `distill` is `python -m distillkac.distill` as a function."""

import contextlib
import copy
import dataclasses
import os
import warnings
from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from distillkac.data import Dataset, class_means
from distillkac.distillation.grids import for_teacher
from distillkac.distillation.images import given_images
from distillkac.distillation.inverse_options import refuse_unused
from distillkac.distillation.objectives import generator_and_fake, inverse_objective, objective, teacher_velocity
from distillkac.distillation.stages import DistillConfig, inverse_config, paths_config, stages_of, student_config
from distillkac.distillation.stored_paths import Paths
from distillkac.distillation.students import (
    Maker,
    check_chain,
    check_start,
    check_start_folder,
    go_on_with_fake,
    maker,
    say_if_of_another_teacher,
    usual_beginning,
    weights_of,
)
from distillkac.flow.guidance import GuidedVelocity
from distillkac.runs import checkpoints
from distillkac.runs import config as configs
from distillkac.runs.config import RunConfig, refuse_few_steps
from distillkac.runs.own_network import OwnNetwork
from distillkac.runs.run import Run, student_folder
from distillkac.training.compiled import compile_calls
from distillkac.training.fit import accelerator_for, fit_run, own_accelerate, refuse_shipped


def distill(
    run: Run,
    dataset: Dataset | None = None,
    network: Callable[[], nn.Module] | None = None,
    config: DistillConfig | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    start: str | os.PathLike[str] | None = None,
    resume: bool = False,
) -> list[Run]:
    """Distils a teacher into students of few steps, as `python -m distillkac.distill` does, in RUN/student-20, -4, -2, -1.

    run: what `train` or `open_run` returned. dataset: the images it was trained on; None where its config knows where they
    are. network: where the run has an own network, a function that makes the one of a student; by default students are copies
    of the teacher. It is needed for what copies cannot do: config.w_max (networks with `guidance_embedding` = True, whose
    forward takes w), inverse.start "random", and a teacher without weights, such as a function in a VelocityFrom. out,
    start, resume: as --out, --start and --resume of the command.

    Returns the students in order, with their averaged networks. Ctrl-C saves, then raises KeyboardInterrupt. Raises
    ValueError before anything is trained if the run, the images or the network will not do.
    """
    if not isinstance(run, Run):
        raise ValueError(f"run must be what train or open_run returned, got {run!r:.80}")
    config = DistillConfig() if config is None else configs.checked(config, DistillConfig)
    _say_unused(config)
    run, config = dataclasses.replace(run, folder=run.folder.absolute()), for_teacher(config, run.config)
    begin = None if start is None else Path(start).expanduser()
    check_start_folder(begin, config)
    refuse_teacher(run.folder, run.config, config)
    _check_weights(run)
    make = maker(run, network, config)
    students_in = run.folder if out is None else Path(out).expanduser()
    images, teacher = given_images(run, dataset, config, students_in)
    means = _means(images) if config.exact_start else None
    with own_accelerate():
        accelerator = accelerator_for(config.optim)
        # Prepared for mixed precision, and moved to its device; that of the caller stays as it is, in train mode perhaps.
        still = copy.deepcopy(run.network).eval().requires_grad_(False)
        teaching = accelerator.prepare_model(still, evaluation_mode=True)
        chain = Chain(
            run.folder, students_in, begin, config, teacher, teaching, make, images, means, accelerator, resume
        )
        made = []
        for student, finished in chain():
            made.append(student)
            if not finished:
                raise KeyboardInterrupt(f"stopped at {student.name}; distill(..., resume=True) goes on")
    return made


def _say_unused(config: DistillConfig) -> None:
    """Warns of options that lone inverse distillation does not look at: in Python one set may be meant for several plans."""
    try:
        refuse_unused(config, DistillConfig())
    except ValueError as unused:
        warnings.warn(f"{unused}; it is not looked at", stacklevel=3)


def _check_weights(run: Run) -> None:
    """Raises ValueError if the network is not what its folder holds, by whose digest students know their teacher."""
    digest_of(run.folder)
    saved, _ = checkpoints.load_weights(run.folder)
    mine = {name: value.detach().cpu() for name, value in run.network.state_dict().items()}
    if mine.keys() != saved.keys() or not all(torch.equal(saved[name], mine[name]) for name in saved):
        raise ValueError(
            f"run.network has other weights than {run.folder} has now, which was trained on, or the network changed: open it "
            "again with distillkac.runs.open_run"
        )


def refuse_teacher(folder: Path, run: RunConfig, config: DistillConfig) -> None:
    """Raises ValueError if this run cannot be distilled like that."""
    if run.student is not None:
        raise ValueError(f"{folder} is itself a student; distil the run of its teacher")
    refuse_few_steps(folder, run, "is distilled")
    if (config.w > 0 or config.w_max) and run.label_drop == 0:
        raise ValueError(f"{folder} was trained with label_drop 0 and cannot be guided; use --w 0")


@dataclass(frozen=True)
class Chain:
    """What the stages of one distillation have in common; called, it makes the students.

    run, out: folders of the teacher and of the students. start: of the student that a lone inverse distillation begins with.
    teacher: the config of its run. network: its network, prepared. means: the class means, for an exact start.
    """

    run: Path
    out: Path
    start: Path | None
    config: DistillConfig
    teacher: RunConfig
    network: nn.Module
    make: Maker
    dataset: Dataset
    means: torch.Tensor | None
    accelerator: Accelerator
    resume: bool

    def __call__(self) -> Iterator[tuple[Run, bool]]:
        """Each student, and whether the next may begin: it may not if Ctrl-C came, even as the pictures were drawn."""
        plan = students(self.config, self.out)
        refuse_shipped(self.out)
        compile_calls(self.network, self.accelerator, self.config.optim)
        if self.resume:
            self._check(plan)
        with contextlib.ExitStack() as held:  # until the last student is made
            yield from self._students(plan, held)

    def _students(self, plan: list[tuple[Path, int]], held: contextlib.ExitStack) -> Iterator[tuple[Run, bool]]:
        config, digest, paths = self.config, digest_of(self.run), None
        # What the next student is distilled from, or starts from.
        before, latest, current = self.network, self.run, self.teacher
        if config.pairs.by == "start":
            before, latest = self._named_student(digest)
        for number, stage in enumerate(stages_of(config), 1):
            if paths is None and stage.by_teacher == (config.pairs.by == "teacher"):
                paths = self._paths(before, latest, held)
            current = known_teacher(student_config(current, stage, config), digest, latest)
            student, current = self._student(current, before)
            latest = student_folder(self.out, stage.usual_steps, stage.method)
            process = self.teacher.noise.build()
            learns = objective(before, self.network, process, stage, config, self.means, paths)
            title = f"{number} of {len(plan)}: {stage.title}"
            run, finished = self._fit(latest, current, student, learns, self.accelerator, title)
            yield run, finished
            if not finished:
                return
            # A copy, as of the teacher: what is prepared computes in mixed precision for ever.
            before = self.accelerator.prepare_model(copy.deepcopy(run.network), evaluation_mode=True)
            compile_calls(before, self.accelerator, config.optim)
            del run  # large networks are held no longer than they are needed
            self.accelerator.wait_for_everyone()  # until the main process has written it
        if config.inverse.steps:
            paths = paths or self._paths(self.network, self.run, held)  # no stage asked for them
            yield self._inverse(before, latest, digest, f"{len(plan)} of {len(plan)}: inverse", paths)

    def _named_student(self, teacher: str) -> tuple[nn.Module, Path]:
        """The student that --start names, prepared, and its folder. teacher: digest of the teacher's weights."""
        assert self.start is not None, "see check_start_folder"
        say_if_of_another_teacher(self.start, self.run, teacher)
        network = self.make(self.teacher)
        network.load_state_dict(weights_of(self.start, self.teacher, self.make, self.config))
        prepared = self.accelerator.prepare_model(network.eval().requires_grad_(False), evaluation_mode=True)
        compile_calls(prepared, self.accelerator, self.config.optim)
        return prepared, self.start

    def _paths(self, maker: nn.Module, folder: Path, held: contextlib.ExitStack) -> Paths | None:
        """The paths, if the plan stores any, which are made as they are asked for, until `held` ends.

        maker: the network whose paths they are, the teacher's or that of a student of any number of steps. folder: its own.
        """
        process, accelerator, config = self.teacher.noise.build(), self.accelerator, self.config
        wanted = paths_config(self.teacher, digest_of(folder), config, self.means)
        if wanted is None:
            return None
        if maker is self.network:
            velocity = teacher_velocity(maker, process, config, self.means)
        else:  # its guidance is folded in
            velocity = GuidedVelocity(maker, speed_norm=process.speed_norm)
        ranks = (accelerator.process_index, accelerator.num_processes)
        paths = Paths(self.out, wanted, config.pairs.count, velocity, process, accelerator.device, *ranks)
        held.callback(paths.close)
        return paths

    def _check(self, plan: list[tuple[Path, int]]) -> None:
        inverse = self.config.inverse
        check_chain(plan[:-1] if inverse.steps and inverse.start != "student" else plan)
        if self.accelerator.is_main_process and not any((folder / checkpoints.STATE).exists() for folder, _ in plan):
            print(f"nothing to resume in {self.out}: its students begin at step 0", flush=True)

    def _student(self, config: RunConfig, before: nn.Module) -> tuple[nn.Module, RunConfig]:
        """The network of a student with the weights of the network before, and its config."""
        student = self.make(config)
        weights = self.accelerator.unwrap_model(before).state_dict()
        if isinstance(config.network, OwnNetwork):
            check_start(student, weights, self.config.w_max is not None)
            config = dataclasses.replace(config, network=OwnNetwork.of(student))
        # Not strict: a student conditioned on w has an embedding that a plain teacher lacks, and that starts at zero.
        student.load_state_dict(weights, strict=False)
        return student, config

    def _inverse(
        self, before: nn.Module, latest: Path, digest: str, title: str, paths: Paths | None
    ) -> tuple[Run, bool]:
        config = inverse_config(self.teacher, self.config)
        generator, started_from = self._generator(config, before, latest)
        if isinstance(config.network, OwnNetwork):
            config = dataclasses.replace(config, network=OwnNetwork.of(generator))
        pair = generator_and_fake(generator, self.accelerator.unwrap_model(self.network), self.config, config.shape)
        if self.config.inverse.fake == "start":
            assert started_from is not None, "see inverse_options.py"
            go_on_with_fake(pair, started_from)
        return self._fit(
            student_folder(self.out, self.config.inverse.num_steps, "inverse"),
            known_teacher(config, digest, started_from),
            pair,
            inverse_objective(self.network, config.noise.build(), self.config, paths),
            accelerator_for(self.config.optim, alternating=True),
            title,
        )

    def _generator(self, config: RunConfig, before: nn.Module, latest: Path) -> tuple[nn.Module, Path | None]:
        """The network that inverse distillation starts from, and the folder of its weights. before, latest: the student of the
        last stage, if there was one, and its folder."""
        network, start = self.make(config), self.config.inverse.start
        folder = {"random": None, "teacher": self.run, "student": latest}[start]
        if start == "student" and len(self.config.stages) == 1:  # no stage made one just now
            teacher = digest_of(self.run)
            folder = self.start or usual_beginning(self.out, teacher)
            say_if_of_another_teacher(folder, self.run, teacher)
            network.load_state_dict(weights_of(folder, config, self.make, self.config))
        elif start != "random":
            source = before if start == "student" else self.network
            network.load_state_dict(self.accelerator.unwrap_model(source).state_dict())
        return network, folder

    def _fit(self, folder, config, network, learns, accelerator, title) -> tuple[Run, bool]:
        fit = fit_run(folder, config, network, learns, self.dataset, accelerator, title, self.resume)
        made = Run(folder.absolute(), config, config.noise.build(), fit.network, accelerator.device)
        return made, fit.finished and not fit.interrupted


def students(config: DistillConfig, out: Path) -> list[tuple[Path, int]]:
    """(folder, optimizer steps) of every student that is made, in order."""
    made = [(student_folder(out, stage.usual_steps, stage.method), stage.steps) for stage in stages_of(config)]
    inverse = config.inverse
    return made + ([(student_folder(out, inverse.num_steps, "inverse"), inverse.steps)] if inverse.steps else [])


def digest_of(folder: Path) -> str:
    """The digest of the averaged weights of a run folder. Raises ValueError if there are none."""
    if (found := checkpoints.described(folder)) is None:
        raise ValueError(f"{folder} has no {checkpoints.EMA}: put it back, or train the run again")
    return found[1]


def known_teacher(config: RunConfig, teacher: str, latest: Path | None) -> RunConfig:
    """The config of a student with the digests of its teacher's weights, and of those in the folder that it starts from."""
    assert config.student is not None, "the config of a teacher"
    before = None if latest is None else digest_of(latest)
    return dataclasses.replace(config, student=dataclasses.replace(config.student, teacher=teacher, before=before))


def _means(dataset: Dataset) -> torch.Tensor:
    if not isinstance(dataset, Sized):
        raise ValueError(
            "exact_start takes the mean image of each class, and this data set has no __len__: it has no end"
        )
    return class_means(dataset)
