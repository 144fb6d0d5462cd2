"""The whole diagnosis of a run, section by section: measured by diagnostics.py, printed, and drawn by diagnostics_plots.py."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from distillkac import data
from distillkac.base import files
from distillkac.base.outputs import check_folder
from distillkac.base.random import generator
from distillkac.data import class_means
from distillkac.evaluation import diagnostics, diagnostics_plots, diffusion_limit
from distillkac.evaluation.diagnosis_options import DiagnoseArgs
from distillkac.evaluation.energy_ranks import energy_ranks
from distillkac.evaluation.metrics import Evaluator, describe
from distillkac.runs.class_shares import reference_labels
from distillkac.runs.config import RunConfig, load_config, refuse_few_steps
from distillkac.runs.device import device
from distillkac.runs.run import Run, open_run, say_if_another_teacher, students
from distillkac.runs.run_data import RunData
from distillkac.runs.sampler import SamplerConfig, Trained, usual_rho
from distillkac.runs.sampling import class_labels, generate
from distillkac.runs.times_config import learned_at

PICTURES = ("speeds", "students", "steps", "sensitivity", "diffusion-limit", "guidance")


def diagnose(args: DiagnoseArgs) -> None:
    """Measures, prints and draws, and writes diagnosis.json. Raises ValueError if it is no run that can be diagnosed."""
    config = load_config(args.run)
    if config.student is not None:
        raise ValueError(f"{args.run} is itself a student; diagnose the run of its teacher")
    refuse_few_steps(args.run, config, "is diagnosed")
    if config.latent is not None:
        raise ValueError(f"{args.run} learned latents, whose flow diagnose cannot compare with images yet")
    out = args.out or args.run / "diagnosis"
    check_folder(out, "diagnosis.json", *(f"{name}.png" for name in PICTURES))
    teacher, train = open_run(args.run, device()), RunData(args.run, config, args.data).load("train")
    made = [open_run(path, device()) for path in students(args.run)]
    for run in made:
        say_if_another_teacher(run.folder)
    labels = class_labels(config, args.num)
    paths = _Paths(teacher, labels, args.seed, args.batch_size)
    report: dict[str, Any] = {"num": args.num, "seed": args.seed, "process": teacher.process.to_dict()}
    report |= _training_section(config)
    report |= _speed_sections(args, paths, train, out)
    errors = {run.name: _student_errors(paths, run) for run in made}
    report |= _error_sections(args, paths, made, errors, out)
    report |= _sensitivity_section(paths, made, out)
    report |= _start_sections(paths, train, out)
    evaluator = _evaluator(args, teacher, train)
    report |= _energy_section(args, teacher, evaluator)
    report |= _guidance_section(args, teacher, evaluator, out)
    files.write_json(out / "diagnosis.json", report)
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
    _print_speeds(speeds)
    near_data = diagnostics.near_data(teacher, x0, y, args.seed)
    _print_near_data(near_data)
    diagnostics_plots.save_speeds(speeds, near_data, out / "speeds.png")
    return {"speeds": speeds, "near_data": near_data}


def _error_sections(
    args: DiagnoseArgs, paths: _Paths, made: list[Run], errors: dict[str, diagnostics.PathErrors], out: Path
) -> dict:
    """Errors of the students on the way, and the teacher's error against its number of steps."""
    students = {name: found.summary() for name, found in errors.items()}
    _print_students(students)
    if errors:
        diagnostics_plots.save_students(errors, out / "students.png")
    few = paths.labels[: 64 if args.reference_num is None else args.reference_num]
    steps = diagnostics.step_errors(paths.teacher, few, args.seed)
    _print_steps(steps)
    known = [(run.name, run.config.student) for run in made if run.config.student is not None]
    chain = {s.num_steps: float(errors[name].endpoint.median()) for name, s in known if s.method == "endpoint"}
    diagnostics_plots.save_steps(steps, chain, out / "steps.png")
    return {"students": students, "steps": steps}


def _sensitivity_section(paths: _Paths, made: list[Run], out: Path) -> dict:
    """How far an image moves with its noise."""
    ratios = {run.name: diagnostics.sensitivity(run, paths.labels, paths.seed) for run in [paths.teacher, *made]}
    found = {name: _statistics(values) for name, values in ratios.items()}
    _print_sensitivity(found)
    diagnostics_plots.save_sensitivity(ratios, out / "sensitivity.png")
    return {"sensitivity": found}


def _start_sections(paths: _Paths, train, out: Path) -> dict:
    """The network at t = 1 against the exact velocity there, and the processes against Brownian motion."""
    start = diagnostics.start_error(paths.teacher, class_means(train), paths.labels, paths.seed)
    _print_start(start)
    limit = diffusion_limit.diffusion_limit()
    _print_limit(limit)
    diagnostics_plots.save_limit(limit, out / "diffusion-limit.png")
    return {"start": start, "diffusion_limit": limit}


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
    _print_energies(found)
    return {"energies": found | {"evaluator": evaluator.identity}}


def _guidance_section(args: DiagnoseArgs, teacher: Run, evaluator: Evaluator | None, out: Path) -> dict:
    found = _guidance(args, teacher, evaluator)
    _print_guidance(found)
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


def _print_speeds(found):
    energy = found["energy"]
    print(
        f"energy      1/2 int |u|^2 dt / D: teacher {energy['teacher']:.3f}; straight lines {energy['straight']:.3f}, "
        f"targets {energy['targets']:.3f}"
    )
    if found["bound"] is None:
        print("speed       no speed limit for the Gaussian process", flush=True)
        return
    network, targets = found["network"], found["targets"]
    print(
        f"speed       of the bound |f'| max|x0| + g' c, targets reach {targets['max_ratio']:.4f} (none may exceed it: "
        f"{targets['above']:.0%});\n            the network at most {network['max_ratio']:.2f}, above it in "
        f"{network['above']:.2%} of places",
        flush=True,
    )


def _print_near_data(found):
    print(f"t -> 0      {'RMS velocity at t =':22}" + "".join(f"{t:9.0e}" for t in found["times"]) + "  exponent")
    for name, title in (("network", "network"), ("targets", "targets"), ("diffusion", "sqrt(t)-diffusion")):
        values = "".join(f"{v:9.3g}" for v in found[name])
        print(f"{'':12}{title:22}{values}{found['exponents'][name]:10.2f}", flush=True)


def _print_students(found):
    if not found:
        print("students    none yet")
        return
    titles = ("endpoint", "path", "nodes", "curvature", "pearson", "spearman", "slope")
    print(f"students    {'RMS from the teacher':22}" + "".join(f"{title:>10}" for title in titles))
    for name, row in found.items():
        cells = "".join(_number(row[title], ".3f", 10) for title in titles)
        print(f"{'':12}{name:22}{cells}", flush=True)


def _print_steps(found):
    print(f"steps       {'RMS endpoint error, M =':22}" + "".join(f"{m:9d}" for m in found["steps"]) + "  exponent")
    for name, slope in found["exponents"].items():
        values = "".join(f"{v:9.4f}" for v in found[name])
        print(f"{'':12}{name.replace('_', ', '):22}{values}{_number(slope, '.2f', 10)}", flush=True)


def _number(value, spec, width):
    return f"{'-' if value is None else format(value, spec):>{width}}"


def _print_sensitivity(found):
    print(f"sensitivity {'|dx_0| / |dz|':22}{'mean':>9}{'95%':>9}{'max':>9}")
    for name, row in found.items():
        print(f"{'':12}{name:22}" + "".join(f"{value:9.2f}" for value in row.values()), flush=True)


def _print_start(found):
    words = {"class": "of a class", "no_class": "of no class"}
    parts = [f"{found[name]:.1%} {words[name]}" for name in words if found[name] is not None]
    print(f"start       distance from the exact velocity at t = 1: {', '.join(parts)}", flush=True)


def _print_limit(found):
    chosen = [found["a"].index(a) for a in (1, 10, 100, 1000)]
    print(f"diffusion   {'W1 to N(0, 1), a =':22}" + "".join(f"{found['a'][i]:9d}" for i in chosen) + "  exponent")
    for name in diffusion_limit.LIMITS:
        values = "".join(f"{found[name][i]:9.2g}" for i in chosen)
        print(f"{'':12}{name:22}{values}{found['exponents'][name]:10.2f}", flush=True)


def _print_energies(found):
    energy, few = found["energy"], "quantile_5"
    print(
        f"energies    of {found['num']} paths: mean {energy['mean']:.3f}, 90% in [{energy[few]:.3f}, "
        f"{energy['quantile_95']:.3f}]; rank correlation of an image's energy"
    )
    for name, title in (("nearest", "with distance to data"), ("confidence", "with confidence")):
        if name in found:
            cells = ", ".join(f"{_number(found[name][how], '.2f', 5)} {how} " for how in ("all", "within"))
            print(f"{'':12}{title:22}{cells.rstrip()} a class", flush=True)


def _print_guidance(found):
    if found is None:
        print("guidance    not measured")
        return
    limits = dict.fromkeys(row["max_speed"] for row in found["rows"])
    print(f"guidance    {'w =':22}" + "".join(f"{w:9g}" for w in diagnostics.WEIGHTS))
    for key, title, spec in (
        ("not_finite", "not finite", "d"),
        ("out_of_range", "|x| > 1.05", ".1%"),
        ("frechet", "Fréchet", ".3f"),
    ):
        for limit in limits:
            values = [row[key] for row in found["rows"] if row["max_speed"] == limit]
            words = "no speed limit" if limit is None else f"limit {limit:.3g}"
            cells = "".join(_number(v, spec, 9) for v in values)
            print(f"{'':12}{title + ', ' + words:22}{cells}", flush=True)
    print(f"{'':12}evaluator of the Fréchet distances: {describe(found['evaluator'])}", flush=True)
