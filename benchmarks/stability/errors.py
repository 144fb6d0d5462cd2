"""Is a network that ends in the right place also on the right way? Rank correlations of endpoint and path errors."""

from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.stability.measure import opened
from benchmarks.stability.store import Store
from distillkac.evaluation import energy_ranks
from distillkac.evaluation.diagnostics import PathErrors, path_errors
from distillkac.runs.run import Run
from distillkac.runs.sampler import SamplerConfig, Trained
from distillkac.runs.sampling import class_labels, generate

ALL = 0  # steps of the row over all steps
FINE, COUNTS, GUIDED = 100, (1, 2, 4, 10, 20), (0.0, 4.0)


def spearman(errors: list[PathErrors]) -> float | None:
    """Rank correlation of endpoint and path error over all samples of all of these."""
    ends, paths = torch.cat([e.endpoint for e in errors]), torch.cat([e.path for e in errors])
    return energy_ranks.spearman(ends, paths)


def measure_errors(store: Store, process: str) -> None:
    """A row for each network, weight and number of steps, and one over all steps of a network; nothing if they are there."""
    if store.read("errors", process) is not None:
        return
    rows: list[dict[str, Any]] = []
    for network in ("teacher", "student"):
        own = opened(store.network(process, network))
        for w in GUIDED:
            found = {steps: error for steps, error in _errors(store, process, own, w)}
            base = {"process": process, "network": network, "w": w, "weights": store.digest(process, network)}
            for steps, error in found.items():
                keys = ("endpoint", "path", "curvature", "spearman")
                summary = error.summary()
                rows.append(base | {"steps": steps} | {key: summary[key] for key in keys})
            rows.append(base | {"steps": ALL, "spearman": spearman(list(found.values()))} | _of_means(found))
    store.write("errors", process, rows)


def _of_means(found: dict[int, PathErrors]) -> dict[str, float | None]:
    """Rank correlation of the mean errors, a number of steps each."""
    ends, paths = (
        torch.tensor([float(getattr(error, name).mean()) for error in found.values()]) for name in ("endpoint", "path")
    )
    return {"spearman_of_means": energy_ranks.spearman(ends, paths)}


def _errors(store: Store, process: str, run: Run, w: float) -> Iterator[tuple[int, PathErrors]]:
    """(steps, errors) of a network in few steps beside its teacher's path in 100 AB-2 steps, from the same noise."""
    teacher = opened(store.network(process, "teacher"))
    rho = Trained.of(run.config).rho
    labels = class_labels(run.config, store.plan.path_num)
    fine = SamplerConfig(steps=FINE, integrator="ab2", rho=rho, w=w, model="teacher")
    samples = generate(teacher, labels, fine, store.plan.seed, path=True)
    assert samples.path is not None
    for steps in COUNTS:
        # Fresh noise on the way has no path to compare with.
        few = SamplerConfig(steps=steps, rho=rho, w=w, restart=None if run is teacher else 0.0)
        own = generate(run, labels, few, store.plan.seed, path=True).path
        assert own is not None
        yield steps, path_errors(samples.path, own, samples.times)
