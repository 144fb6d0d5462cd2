"""AB-2 beside Euler on even grids and on those with shorter steps towards the data: where does which lead?

By trained networks without and with guidance, and by the exact velocity, which has no error of training, for the same
pictures at several resolutions.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch.nn import functional as F

from benchmarks.stability.measure import evaluator_of, opened
from benchmarks.stability.plan import PROCESSES, Plan
from benchmarks.stability.store import Store
from distillkac import data
from distillkac.base.random import derive_seed, generator
from distillkac.evaluation.diagnostics import rms
from distillkac.flow.exact_flow import ExactFlow
from distillkac.flow.integrators import Method, integrate, time_grid
from distillkac.runs.sampler import SamplerConfig
from distillkac.runs.sampling import class_labels, generate

COUNTS = (1, 2, 4, 10, 20, 100)
WAYS: tuple[tuple[Method, float], ...] = (("euler", 1.0), ("euler", 2.0), ("ab2", 1.0), ("ab2", 2.0))
REFERENCE = 200  # steps of AB-2 with rho = 2 that count as the truth
GUIDED, EXACT_SAMPLES, FEW = 4.0, 32, 20
# Process, guidance weight, and the most steps: the first has all, the others are there to be compared with it.
NETWORKS = (("telegraph", 0.0, COUNTS[-1]), ("telegraph", GUIDED, FEW), ("gaussian", 0.0, FEW))
EXACT = ("telegraph", "gaussian")

Ends = Callable[[int, Method, float], torch.Tensor]
"""(steps, method, rho) -> the images (n, C, H, W) of always the same noise."""


def sources(plan: Plan) -> tuple[str, ...]:
    """Names of the velocities: network-PROCESS-W and exact-PROCESS-SIDE."""
    networks = [f"network-{process}-{w:g}" for process, w, _ in NETWORKS]
    return (*networks, *(f"exact-{process}-{side}" for side in plan.sides for process in EXACT))


def measure_integrators(store: Store, source: str) -> None:
    """A row for each way and number of steps, kept at once each; what is there is not measured again."""
    rows: list[dict[str, Any]] = store.read("integrators", source) or []
    there = {(row["method"], row["rho"], row["steps"]) for row in rows}
    kind, process, value = source.split("-")
    most = {f"network-{name}-{w:g}": most for name, w, most in NETWORKS}.get(source, COUNTS[-1])
    counts = [steps for steps in COUNTS if steps <= most]
    todo = [(m, rho, steps) for steps in counts for m, rho in WAYS if (m, rho, steps) not in there]
    if not todo:
        return
    if kind == "network":
        ends, figures = of_network(store, process, float(value))
        base = {"process": process, "network": "teacher", "weights": store.digest(process, "teacher")}
    else:
        ends, figures, base = of_exact(store.plan, process, int(value)), lambda _: {}, {"process": process}
    truth = ends(REFERENCE, "ab2", 2.0)
    for method, rho, steps in todo:
        images = ends(steps, method, rho)
        away = rms(images - truth)
        row = {"source": source, "method": method, "rho": rho, "steps": steps, "error": float(rms(images - truth, 0))}
        rows.append(row | {"error_median": float(away.median())} | figures(images) | base)
        store.write("integrators", source, rows)


def of_network(store: Store, process: str, w: float) -> tuple[Ends, Callable[[torch.Tensor], dict[str, float]]]:
    """Of a teacher, and what its images are measured by."""
    plan, folder = store.plan, store.network(process, "teacher")
    run = opened(folder)
    labels = class_labels(run.config, plan.integrator_num)

    def ends(steps: int, method: Method, rho: float) -> torch.Tensor:
        sampler = SamplerConfig(steps=steps, integrator=method, rho=rho, w=w, model="teacher")
        return generate(run, labels, sampler, plan.seed).images

    def figures(images: torch.Tensor) -> dict[str, float]:
        found = evaluator_of(folder, store.out)(images, labels)
        return {"frechet": found["frechet"], "frechet_train": found["frechet_train"]}

    return ends, figures


def of_exact(plan: Plan, process: str, side: int) -> Ends:
    """Of the exact velocity onto grey pieces of photographs with so many pixels a side."""
    law, points = PROCESSES[process], pictures(plan.points, side, plan.seed)
    flow = ExactFlow(law, points)
    x = law.prior(EXACT_SAMPLES, tuple(points.shape[1:]), derive_seed(plan.seed, "prior"))

    @torch.no_grad()
    def ends(steps: int, method: Method, rho: float) -> torch.Tensor:
        # Neither method asks for the velocity at the end of a step, so not for that at t = 0, which is not defined.
        return integrate(flow, x, None, time_grid(steps, rho), method)

    return ends


@lru_cache(maxsize=4)
def pictures(count: int, side: int, seed: int) -> torch.Tensor:
    """(count, 1, side, side) grey pieces of two photographs, those of 32 x 32 pixels or means of neighbours of these."""
    dataset = data.load(data.DataConfig(builtin="patches"), "train")
    rows = torch.randperm(len(dataset), generator=generator(seed, "stability"))[:count]
    images, _ = data.read(dataset, rows)
    return F.avg_pool2d(images.mean(1, keepdim=True), images.shape[-1] // side)
