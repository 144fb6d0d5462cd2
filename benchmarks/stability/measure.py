"""A cell of the table: images, and what became of them."""

import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from benchmarks.stability.plan import Cell, bound_of
from benchmarks.stability.store import Store
from distillkac.evaluation.diagnostics import OUT_OF_RANGE
from distillkac.evaluation.metrics import Evaluator
from distillkac.runs.config import load_config
from distillkac.runs.run import Run, open_run
from distillkac.runs.run_data import RunData
from distillkac.runs.sampler import SamplerConfig
from distillkac.runs.sampling import class_labels, generate


@lru_cache(maxsize=8)
def opened(folder: Path) -> Run:
    return open_run(folder, torch.device("cpu"))


@lru_cache(maxsize=1)
def evaluator_of(folder: Path, cache: Path) -> Evaluator:
    """Of the images that a run has learned; their features are taken once."""
    images = RunData(folder, load_config(folder))
    return Evaluator(images.load("train"), images.load("test"), cache)


def ranges(images: torch.Tensor) -> dict[str, float]:
    """How images (n, ...) leave [-1, 1], of those that are finite.

    not_finite: share of images with a value that is not. beyond, far_beyond: shares of pixels with |x| above 1 and above 1.05.
    excess: mean of |x| - 1 over the pixels beyond. largest: |x|. All but the first are 0 where no image is finite.
    """
    finite = images.isfinite().flatten(1).all(1)
    sizes = images[finite].abs().double()
    row = {"not_finite": 1 - float(finite.double().mean())}
    if not sizes.numel():
        return row | {"beyond": 0.0, "far_beyond": 0.0, "excess": 0.0, "largest": 0.0}
    over = sizes[sizes > 1] - 1
    row |= {"beyond": over.numel() / sizes.numel(), "far_beyond": float((sizes > OUT_OF_RANGE).double().mean())}
    return row | {"excess": float(over.mean()) if over.numel() else 0.0, "largest": float(sizes.max())}


def measure(store: Store, cell: Cell) -> None:
    """Draws and measures the images of a cell and keeps the row; nothing if it is there."""
    if store.read("grid", cell.name) is not None:
        return
    run, plan = opened(store.network(cell.process, cell.network)), store.plan
    limit = bound_of(run.process) if cell.bounded else None
    model = "teacher" if cell.network == "teacher" else "student"
    sampler = SamplerConfig(steps=cell.steps, w=cell.w, max_speed=limit, model=model)  # type: ignore[arg-type]  # a word of it
    labels = class_labels(run.config, plan.num)
    start = time.process_time()
    samples = generate(run, labels, sampler, plan.seed)
    seconds = time.process_time() - start
    row: dict[str, Any] = {**vars(cell), "max_speed": limit, "nfe": samples.nfe, "num": plan.num}
    row |= {"seconds_per_1000": 1000 * seconds / plan.num} | ranges(samples.images)
    whole = samples.images.isfinite().flatten(1).all(1)
    evaluator = evaluator_of(store.network(cell.process, "teacher"), store.out)
    if int(whole.sum()) > 1:
        found = evaluator(samples.images[whole], labels[whole])
        row |= {name: found[name] for name in ("frechet", "accuracy", "diversity") if name in found}
    row |= {"weights": store.digest(cell.process, cell.network), "evaluator_digest": evaluator.digest}
    store.write("grid", cell.name, row)
