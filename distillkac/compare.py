"""Compare processes and distillation methods over several seeds: `python -m distillkac.compare`, or `make compare`."""

import concurrent.futures
import contextlib
import dataclasses
import multiprocessing
import os
import sys
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillkac import data, distill, train
from distillkac.base import files
from distillkac.base.commands import command, prog
from distillkac.base.options import parse
from distillkac.base.outputs import check_file, check_folder
from distillkac.base.progress import Bar
from distillkac.base.ranges import SEEDS, in_ranges
from distillkac.distillation.stages import DistillConfig
from distillkac.evaluation.comparison import RESULTS, Method, Plan, Setting, full_plan, quick_plan
from distillkac.runs.process_config import ProcessConfig

if TYPE_CHECKING:
    from distillkac.evaluation.metrics import Evaluator

EVERY_SECONDS = 5


@dataclass(frozen=True)
@in_ranges("", seeds=SEEDS, workers="[1, 1024]")
class CompareArgs:
    """Trains and distils Gaussian, telegraph and planar flows on the digits with several seeds, and measures them all.

    Writes OUT/comparison.md (tables, mean and standard deviation over the seeds), comparison.csv, frechet.png and a
    picture of samples side by side. What is finished is kept: the same command goes on where it was stopped.
    """

    out: Path = Path("runs/compare")
    """Folder of everything; a run folder for each process and seed."""
    quick: bool = False
    """A small version of a fraction of the time: one seed, short training. Its figures mean little."""
    processes: tuple[str, ...] = ()
    """Which kinds of noise, by name: telegraph, planar, gaussian-matched, gaussian, planar-few-turns, telegraph-few-turns, and
    quad, which is not among them unless it is named."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds; three are enough for the standard deviations of docs/results.md."""
    workers: int = 2
    """Processes that work at once, with one thread each."""
    pages: tuple[Path, ...] = ()
    """Markdown files to put the result into, in place of what is there: all tables between <!-- compare:begin --> and
    <!-- compare:end -->, the short one between <!-- compare-short:begin --> and <!-- compare-short:end -->."""


@command
def main(argv: list[str] | None = None) -> int:
    args = parse(CompareArgs, argv, prog("compare"))
    if not args.seeds:
        raise ValueError("seeds must name at least one")
    if len(set(args.seeds)) < len(args.seeds):
        raise ValueError(f"seeds must be named once each, got {' '.join(map(str, args.seeds))}: omit what repeats")
    # Torch only now, so that help and mistakes in options come at once; here and below.
    from distillkac.evaluation import comparison_report
    from distillkac.evaluation.metrics import Evaluator

    plan = (quick_plan if args.quick else full_plan)(args.seeds, args.processes)
    check_folder(args.out, *comparison_report.FILES)
    for page in args.pages:
        check_file(page)
        files.marks_of(page, (comparison_report.FULL, comparison_report.SHORT))
    check_same_plan(args.out, plan)
    built_in = data.DataConfig()
    check_same_evaluator(args.out, plan, Evaluator(data.load(built_in, "train"), data.load(built_in, "test"), args.out))
    cells = [(setting, seed) for seed in plan.seeds for setting in plan.settings]
    start, done = time.perf_counter(), 0
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(args.workers, mp_context=spawn, initializer=one_thread) as pool:
        waiting = {pool.submit(run_cell, args.out, plan, setting, seed): (setting, seed) for setting, seed in cells}
        bar = Bar(title="compare", unit="network", total=networks(plan), leave=True, seconds=None)
        watch = threading.Event()
        threading.Thread(target=_follow, args=(bar, watch, args.out, plan), daemon=True).start()
        try:
            for future in concurrent.futures.as_completed(waiting):
                setting, seed = waiting[future]
                finish(future, cell_folder(args.out, setting, seed))
                done += 1
                report(args, plan)
                spent = (time.perf_counter() - start) / 60
                left = spent / done * (len(cells) - done)
                print(
                    f"{setting.name}, seed {seed}: done ({done} of {len(cells)}; {spent:.0f} min, about {left:.0f} left)",
                    flush=True,
                )
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        finally:
            watch.set()
    print(report(args, plan))
    return 0


def networks(plan: Plan) -> int:
    """How many networks the plan measures, over all its seeds."""
    samples = (method.samples for setting in plan.settings for method in plan.methods(setting))
    return len(plan.seeds) * (len(plan.settings) * len(plan.teacher_samples) + sum(map(len, samples)))


def measured(out: Path, plan: Plan) -> int:
    """How many of them are measured already."""
    paths = (cell_folder(out, setting, seed) / RESULTS for setting in plan.settings for seed in plan.seeds)
    return sum(len(files.read_json(path)) for path in paths if path.exists())


def _follow(bar: Bar, stop: threading.Event, out: Path, plan: Plan) -> None:
    """Shows on a terminal how far the workers are; what an earlier command measured does not count as speed."""
    bar.initial = bar.n = measured(out, plan)
    while not stop.wait(EVERY_SECONDS):
        bar.update(measured(out, plan) - bar.n)
    bar.close()


def report(args: CompareArgs, plan: Plan) -> str:
    """Writes the report of what is measured so far, and returns it."""
    from distillkac.evaluation import comparison_report

    rows: list[dict[str, Any]] = []
    for setting in plan.settings:
        for seed in plan.seeds:
            path = cell_folder(args.out, setting, seed) / RESULTS
            rows += files.read_json(path) if path.exists() else []
    text = comparison_report.write(args.out, plan, rows)
    files.into_pages(args.pages, comparison_report.texts(plan, rows))
    return text


def check_same_plan(out: Path, plan: Plan) -> None:
    """Raises ValueError if the folder holds results of another plan (quick and full, say): they must not be mixed."""
    path, described = out / "plan.json", files.as_json(plan.described())
    if path.exists() and files.read_json(path) != described:
        raise ValueError(f"{out} holds the results of another plan; choose another --out, or delete it")
    out.mkdir(parents=True, exist_ok=True)
    files.write_json(path, described)


def check_same_evaluator(out: Path, plan: Plan, evaluator: "Evaluator") -> None:
    """Raises ValueError naming results of another evaluator: a table must not put their figures beside new ones."""
    from distillkac.evaluation import comparison_report
    from distillkac.evaluation.metrics import describe

    for setting in plan.settings:
        for seed in plan.seeds:
            path = cell_folder(out, setting, seed) / RESULTS
            for row in files.read_json(path) if path.exists() else []:
                found = comparison_report.evaluator_of(row)
                if found != evaluator.identity:
                    raise ValueError(
                        f"{path} was measured by another evaluator ({describe(found)}; now {describe(evaluator.identity)}): "
                        f"their figures do not compare. Delete {RESULTS} of each cell to measure again what is trained, or "
                        "choose another --out"
                    )


def cell_folder(out: Path, setting: Setting, seed: int) -> Path:
    return out / f"{setting.name}-seed-{seed}"


def run_cell(out: Path, plan: Plan, setting: Setting, seed: int) -> None:
    """Everything for one process and one seed: teacher, students, measurements. What exists is not done again."""
    from distillkac.evaluation.measurements import Measurements
    from distillkac.runs.run import student_folder

    folder = cell_folder(out, setting, seed)
    folder.mkdir(parents=True, exist_ok=True)
    with (
        open(folder / "log.txt", "a", encoding="utf-8") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        _command(train.main, teacher_options(folder, plan, setting, seed))
        measured = Measurements(folder, plan, setting, seed)
        for integrator, steps in plan.teacher_samples:
            measured(folder, "teacher", steps, integrator=integrator)
        for method in plan.methods(setting):
            target = folder / method.folder
            _command(distill.main, method_options(folder, method, seed))
            reference = method.config.w if method.config.w > 0 else None
            for steps, restart in method.samples:
                student = student_folder(target, *method.student(steps))
                measured(student, method.name, steps, restart, reference=reference)


def teacher_options(folder: Path, plan: Plan, setting: Setting, seed: int) -> list[str]:
    from distillkac.runs import checkpoints

    noise = _changes(setting.noise, ProcessConfig())
    resume = ["--resume"] if (folder / checkpoints.STATE).exists() else []
    return ["--run", str(folder), *noise, "--steps", str(plan.teacher_steps), "--seed", str(seed), *resume]


def method_options(folder: Path, method: Method, seed: int) -> list[str]:
    """The command line of a method: what differs from the default configuration."""
    from distillkac.runs.run import student_folder

    target, words = folder / method.folder, _changes(method.config, DistillConfig())
    if method.after is not None:
        words += ["--start", str(student_folder(folder / method.after, 1))]
    resume = ["--resume"] if target.exists() else []
    return [str(folder), "--out", str(target), *words, "--seed", str(seed), *resume]


def _changes(config, default, prefix: str = "") -> list[str]:
    words = []
    for f in dataclasses.fields(config):
        value, before = getattr(config, f.name), getattr(default, f.name)
        if dataclasses.is_dataclass(value):
            words += _changes(value, before, f"{f.name}.")
        elif value != before:
            words += _option(prefix + f.name, value)
    return words


def _option(name: str, value) -> list[str]:
    name = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        return [name if value else name.replace("--", "--no-", 1)]
    if isinstance(value, tuple):
        return [name, *([",".join(map(str, value))] if value else [])]
    return [name, str(value)]


def _command(main, options: list[str]) -> None:
    print("$", *options, flush=True)
    if code := main(options):
        raise ValueError(f"{' '.join(options)}: ended with exit code {code}; see log.txt in the cell's folder")


def finish(future: concurrent.futures.Future, folder: Path) -> None:
    """Raises what a cell failed by; ValueError where its worker, or one beside it, ended with no word."""
    try:
        future.result()
    except concurrent.futures.BrokenExecutor as error:
        raise ValueError(
            f"a worker was ended from outside, as where memory runs out, before {folder} was done: give the same command "
            "again, which goes on, with fewer --workers if that was the reason"
        ) from error


def one_thread() -> None:
    """Prepares a worker: one thread, and it ends when the command does (a cell may take half an hour)."""
    import torch

    torch.set_num_threads(1)
    if (parent := multiprocessing.parent_process()) is not None:
        threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
