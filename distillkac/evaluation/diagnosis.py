"""The whole diagnosis of a run, section by section: measured by diagnostics.py, printed by diagnostics_texts.py,
and drawn by diagnostics_plots.py."""

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from distillkac import data
from distillkac.base import files
from distillkac.base.outputs import check_folder
from distillkac.base.random import generator
from distillkac.data import class_means
from distillkac.evaluation import diagnostics, diagnostics_plots, diagnostics_texts, diffusion_limit
from distillkac.evaluation.diagnosis_options import DiagnoseArgs
from distillkac.evaluation.energy_ranks import energy_ranks
from distillkac.evaluation.metrics import Evaluator
from distillkac.runs.class_shares import reference_labels
from distillkac.runs.config import RunConfig, load_config, refuse_few_steps
from distillkac.runs.device import device
from distillkac.runs.run import Run, open_run, say_if_another_teacher, students
from distillkac.runs.run_data import RunData
from distillkac.runs.sampler import SamplerConfig, Trained, usual_rho
from distillkac.runs.sampling import class_labels, generate
from distillkac.runs.times_config import learned_at

UNFINISHED = "diagnosis-unfinished.json"  # so that an earlier diagnosis.json stays until there is a whole one
PICTURES = ("speeds", "students", "steps", "sensitivity", "diffusion-limit", "guidance")


def diagnose(args: DiagnoseArgs) -> None:
    """Measures, prints and draws, and writes diagnosis.json; what sections found before one that fails, UNFINISHED keeps.
    Raises ValueError if it is no run that can be diagnosed."""
    config = load_config(args.run)
    if config.student is not None:
        raise ValueError(f"{args.run} is itself a student; diagnose the run of its teacher")
    refuse_few_steps(args.run, config, "is diagnosed")
    if config.latent is not None:
        raise ValueError(f"{args.run} learned latents, whose flow diagnose cannot compare with images yet")
    out = args.out or args.run / "diagnosis"
    check_folder(out, "diagnosis.json", UNFINISHED, *(f"{name}.png" for name in PICTURES))
    teacher, train = open_run(args.run, device()), RunData(args.run, config, args.data).load("train")
    made = [open_run(path, device()) for path in students(args.run)]
    for run in made:
        say_if_another_teacher(run.folder)
    labels = class_labels(config, args.num)
    paths = _Paths(teacher, labels, args.seed, args.batch_size)
    report: dict[str, Any] = {"num": args.num, "seed": args.seed, "process": teacher.process.to_dict()}
    report |= _training_section(config)
    errors = cache(lambda: {run.name: _student_errors(paths, run) for run in made})
    evaluator = cache(lambda: _evaluator(args, teacher, train))
    sections: dict[str, Callable[[], dict]] = {
        "speeds": lambda: _speed_sections(args, paths, train, out),
        "students": lambda: _students_section(errors(), out),
        "steps": lambda: _steps_section(args, paths, made, errors(), out),
        "sensitivity": lambda: _sensitivity_section(paths, made, out),
        "start": lambda: _start_section(paths, train),
        "diffusion": lambda: _limit_section(out),
        "energies": lambda: _energy_section(args, teacher, evaluator()),
        "guidance": lambda: _guidance_section(args, teacher, evaluator(), out),
    }
    for name, section in sections.items():
        files.write_json(out / UNFINISHED, report)
        try:
            report |= section()
        except BaseException:
            print(f"diagnose ended in its section {name}; those before it are in {out / UNFINISHED}", file=sys.stderr)
            raise
    files.write_json(out / "diagnosis.json", report)
    (out / UNFINISHED).unlink()
    print(f"written to {out}")


@dataclass
class _Paths:
    """The teacher's AB-2 paths from the common prior noise, each made once: (N + 1, num, ...), with their times (N + 1,)."""

    teacher: Run
    labels: torch.Tensor
    seed: int
    batch_size: int

    def __post_init__(self):
        self.made = {}

    def __call__(self, steps, rho, w, shift=1.0):
        if (steps, rho, w, shift) not in self.made:
            sampler = SamplerConfig(steps=steps, integrator="ab2", rho=rho, w=w, shift=shift, model="teacher")
            self.made[steps, rho, w, shift] = self.of(self.teacher, sampler)
        return self.made[steps, rho, w, shift]

    def of(self, run, sampler):
        samples = generate(run, self.labels, sampler, self.seed, self.batch_size, path=True)
        return samples.path, samples.times


# Each section is measured, printed and drawn; it returns its part of diagnosis.json.


def _training_section(config: RunConfig) -> dict:
    """At which times the teacher learned, and how much each counted: errors are least there."""
    print(f"training    {learned_at(config)}{f'; augment {config.augment:g}' if config.augment else ''}", flush=True)
    names = ("times", "weight", "augment", "augmentation")
    return {"training": {name: value for name, value in asdict(config).items() if name in names}}


def _speed_sections(args: DiagnoseArgs, paths: _Paths, train, out: Path) -> dict:
    """Speeds and their bound on the way, and velocities near the data."""
    rows = torch.randperm(len(train), generator=generator(args.seed, "diagnose"))[: args.num]
    x0, y = data.read(train, rows)
    teacher, rho = paths.teacher, usual_rho(train.shape, student=True)
    path, grid = paths(diagnostics.FINE_STEPS, rho, 0.0)
    speeds = diagnostics.speeds(teacher, path, grid, x0, args.seed)
    diagnostics_texts.print_speeds(speeds)
    near_data = diagnostics.near_data(teacher, x0, y, args.seed)
    diagnostics_texts.print_near_data(near_data)
    diagnostics_plots.save_speeds(speeds, near_data, out / "speeds.png")
    return {"speeds": speeds, "near_data": near_data}


def _students_section(errors: dict[str, diagnostics.PathErrors], out: Path) -> dict:
    """Errors of the students on the way."""
    students = {name: found.summary() for name, found in errors.items()}
    diagnostics_texts.print_students(students)
    if errors:
        diagnostics_plots.save_students(errors, out / "students.png")
    return {"students": students}


def _steps_section(
    args: DiagnoseArgs, paths: _Paths, made: list[Run], errors: dict[str, diagnostics.PathErrors], out: Path
) -> dict:
    """The teacher's error against its number of steps, with the errors of the students that learned the ends of its paths."""
    few = paths.labels[: 64 if args.reference_num is None else args.reference_num]
    steps = diagnostics.step_errors(paths.teacher, few, args.seed)
    diagnostics_texts.print_steps(steps)
    known = [(run.name, run.config.student) for run in made if run.config.student is not None]
    chain = {s.num_steps: float(errors[name].endpoint.median()) for name, s in known if s.method == "endpoint"}
    diagnostics_plots.save_steps(steps, chain, out / "steps.png")
    return {"steps": steps}


def _sensitivity_section(paths: _Paths, made: list[Run], out: Path) -> dict:
    """How far an image moves with its noise."""
    ratios = {run.name: diagnostics.sensitivity(run, paths.labels, paths.seed) for run in [paths.teacher, *made]}
    found = {name: _statistics(values) for name, values in ratios.items()}
    diagnostics_texts.print_sensitivity(found)
    diagnostics_plots.save_sensitivity(ratios, out / "sensitivity.png")
    return {"sensitivity": found}


def _start_section(paths: _Paths, train) -> dict:
    """The network at t = 1 against the exact velocity there."""
    start = diagnostics.start_error(paths.teacher, class_means(train), paths.labels, paths.seed)
    diagnostics_texts.print_start(start)
    return {"start": start}


def _limit_section(out: Path) -> dict:
    """The processes against Brownian motion."""
    limit = diffusion_limit.diffusion_limit()
    diagnostics_texts.print_limit(limit)
    diagnostics_plots.save_limit(limit, out / "diffusion-limit.png")
    return {"diffusion_limit": limit}


def _evaluator(args: DiagnoseArgs, teacher: Run, train) -> Evaluator | None:
    """None where nothing asks for it: for other than the built-in data it has to be trained."""
    guided = args.guidance_num and teacher.config.label_drop > 0
    if not guided and not args.energy_num:
        return None
    return Evaluator(train, RunData(args.run, teacher.config, args.data).load("test"), args.run)


def _energy_section(args: DiagnoseArgs, teacher: Run, evaluator: Evaluator | None) -> dict:
    """What the energy of a path goes with."""
    if not args.energy_num or evaluator is None:
        print("energies    not measured")
        return {"energies": None}
    found = energy_ranks(teacher, evaluator, args.energy_num, args.seed, args.batch_size)
    diagnostics_texts.print_energies(found)
    return {"energies": found | {"evaluator": evaluator.identity}}


def _guidance_section(args: DiagnoseArgs, teacher: Run, evaluator: Evaluator | None, out: Path) -> dict:
    found = _guidance(args, teacher, evaluator)
    diagnostics_texts.print_guidance(found)
    if found is not None:
        diagnostics_plots.save_guidance(found, out / "guidance.png")
    return {"guidance": found}


def _student_errors(paths: _Paths, run: Run) -> diagnostics.PathErrors:
    trained = Trained.of(run.config)
    sampler = replace(trained.sampler(), restart=0.0)  # fresh noise on the way has no path to compare with
    settled = trained.settle(sampler, run.name)
    own, _ = paths.of(run, sampler)
    path, grid = paths(diagnostics.fine_steps(sampler.steps), settled.rho, settled.guidance, settled.shift)
    return diagnostics.path_errors(path, own, grid)


def _statistics(values: torch.Tensor) -> dict:
    return {
        "mean": float(values.mean()),
        "quantile_95": float(torch.quantile(values, 0.95)),
        "max": float(values.max()),
    }


def _guidance(args: DiagnoseArgs, teacher: Run, evaluator: Evaluator | None) -> dict | None:
    """None where it was not asked for, or where the network was trained without it."""
    if not args.guidance_num or teacher.config.label_drop == 0 or evaluator is None:
        return None
    largest = teacher.process.max_target_speed() if args.max_speed is None else args.max_speed
    limit = None if largest == float("inf") else largest
    labels = reference_labels(teacher.config, args.guidance_num)
    rows = diagnostics.guidance(teacher, evaluator, labels, limit, args.seed, args.batch_size)
    return {"num": args.guidance_num, "max_speed": limit, "evaluator": evaluator.identity, "rows": rows}
