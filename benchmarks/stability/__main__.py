"""Strong guidance, few steps and a bound on the speed, by process: `python -m benchmarks.stability`, or `make stability`."""

import concurrent.futures
import multiprocessing
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.stability import plan as plans
from benchmarks.stability.plan import Plan
from distillkac.base import files
from distillkac.base.commands import command
from distillkac.base.options import parse
from distillkac.base.outputs import check_file, check_folder
from distillkac.compare import one_thread

if TYPE_CHECKING:
    from benchmarks.stability.store import Store

Task = tuple[Callable[..., None], tuple[Any, ...]]


@dataclass(frozen=True)
class StabilityArgs:
    """Measures teachers and students of the digits under guidance: values that are not finite, pixels out of range, Fréchet
    distance and time, by process, steps and weight, with and without a bound on the speed; rank correlations of endpoint and
    path errors; and AB-2 beside Euler on two grids.

    Writes OUT/stability.csv, errors.csv and integrators.csv, stability.png and integrators.png. Trains the networks that are
    not given. What is finished is kept: the same command goes on where it was stopped.
    """

    out: Path = Path("runs/stability")
    """Folder of everything."""
    quick: bool = False
    """A small version: short training, few images. Its figures mean little."""
    telegraph: Path | None = None
    """Run folder of a teacher that is there (train --preset demo); else one is trained."""
    planar: Path | None = None
    """The same of planar noise (--process planar)."""
    gaussian: Path | None = None
    """The same of Gaussian noise (--process gaussian --sigma 1)."""
    num: int | None = None
    """Images of a cell; 1000, and 200 with --quick."""
    processes: tuple[str, ...] = tuple(plans.PROCESSES)
    """Which of them; the others are left as they are."""
    steps: tuple[int, ...] = ()
    """Numbers of steps of the table; by default 1, 2, 4, 10, 20 and 100, with --quick 1, 4 and 20."""
    seed: int = 0
    """Of training and of noise."""
    workers: int = 2
    """Processes that work at once, with one thread each."""
    pages: tuple[Path, ...] = ()
    """Markdown files to put the tables into, in place of what is between <!-- stability:begin --> and <!-- stability:end -->,
    and the like of stability-errors and stability-integrators."""


@command
def main(argv: list[str] | None = None) -> int:
    args = parse(StabilityArgs, argv, "python -m benchmarks.stability")
    num = (200 if args.quick else 1000) if args.num is None else args.num
    if args.workers < 1 or num < 64:
        raise ValueError(f"workers must be at least 1 and num at least 64, got {args.workers} and {num}")
    if not args.processes or not set(args.processes) <= set(plans.PROCESSES):
        raise ValueError(
            f"processes must be some of {', '.join(plans.PROCESSES)}, got {', '.join(args.processes) or 'none'}"
        )
    if any(steps < 1 for steps in args.steps):
        raise ValueError(f"steps must be at least 1 each, got {args.steps}")
    from benchmarks.stability import report  # torch and matplotlib only now
    from benchmarks.stability.store import Store

    plan = (plans.quick_plan if args.quick else plans.full_plan)(num, args.seed)
    given = {name: getattr(args, name) for name in plans.PROCESSES if getattr(args, name) is not None}
    store = Store(args.out, plan, given)
    check_folder(args.out, *report.FILES)
    for page in args.pages:
        check_file(page)
        files.marks_of(page, report.NAMES)
    store.check()
    store.checked([row for part in report.CSV for row in store.rows(part)])
    start = time.perf_counter()
    with _pool(args.workers) as pool:
        _all(pool, [(store.train, (process,)) for process in args.processes], "networks")
        _all(pool, tasks(store, args, plan), "measurements")
    texts = report.write(args.out, store)
    files.into_pages(args.pages, texts)
    print(*texts.values(), sep="\n")
    print(f"written to {args.out}; {(time.perf_counter() - start) / 60:.1f} min")
    return 0


def tasks(store: "Store", args: StabilityArgs, plan: Plan) -> list[Task]:
    """What is to be measured: small cells, errors, integrators of networks, large cells, and last the exact velocities."""
    from benchmarks.stability.errors import measure_errors
    from benchmarks.stability.integrators import measure_integrators, sources
    from benchmarks.stability.measure import measure

    steps = args.steps or (plans.QUICK_STEPS if args.quick else plans.STEPS)
    weights = plans.QUICK_WEIGHTS if args.quick else plans.WEIGHTS
    cells: list[Task] = [(measure, (store, cell)) for cell in plans.cells(args.processes, weights, steps)]
    few = sum(cell.steps <= 4 for cell in plans.cells(args.processes, weights, steps))
    errors: list[Task] = [(measure_errors, (store, process)) for process in args.processes]
    found = [source for source in sources(plan) if source.split("-")[1] in args.processes]
    ways: list[Task] = [(measure_integrators, (store, source)) for source in found]
    networks = sum(source.startswith("network") for source in found)
    return [*cells[:few], *errors, *ways[:networks], *cells[few:], *ways[networks:]]


def _all(pool: concurrent.futures.ProcessPoolExecutor, todo: list[Task], title: str) -> None:
    """Does them all, and says how far it is about every tenth of them."""
    start, waiting = time.perf_counter(), [pool.submit(task, *arguments) for task, arguments in todo]
    try:
        for done, future in enumerate(concurrent.futures.as_completed(waiting), 1):
            future.result()
            if done == len(todo) or done % max(1, len(todo) // 10) == 0:
                print(f"{title}: {done} of {len(todo)}, {(time.perf_counter() - start) / 60:.1f} min", flush=True)
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise


def _pool(workers: int) -> concurrent.futures.ProcessPoolExecutor:
    spawn = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(workers, mp_context=spawn, initializer=one_thread)


if __name__ == "__main__":
    sys.exit(main())
