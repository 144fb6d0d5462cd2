"""What is measured of the networks of a comparison: the rows of its results.json files."""

from pathlib import Path
from typing import Any

import torch

from distillkac.base import files
from distillkac.evaluation import comparison_report
from distillkac.evaluation.comparison import RESULTS, Plan, Setting
from distillkac.evaluation.metrics import Evaluator
from distillkac.evaluation.moments import Moments, frechet_distance
from distillkac.flow.methods import Method as Integrator
from distillkac.runs.class_shares import reference_labels
from distillkac.runs.config import load_config
from distillkac.runs.run import open_run
from distillkac.runs.run_data import RunData
from distillkac.runs.sampler import SamplerConfig, Trained
from distillkac.runs.sampling import generate
from distillkac.training.cost import flops_per_image

GRID_IMAGES = 40


class Measurements:
    """Rows of a cell's results.json, each measured once."""

    def __init__(self, folder: Path, plan: Plan, setting: Setting, seed: int):
        self.folder, self.plan, self.setting, self.seed = folder, plan, setting, seed
        path = folder / RESULTS
        self.rows = files.read_json(path) if path.exists() else []
        self._evaluator: Evaluator | None = None
        self._guided: dict[float, Moments] = {}

    def __call__(
        self,
        run_folder: Path,
        method: str,
        steps: int,
        restart: float = 0.0,
        integrator: Integrator = "euler",
        reference=None,
    ) -> None:
        """Measures a network. reference: the guidance weight of the teacher whose samples it is compared with too."""
        key: dict[str, Any] = {"setting": self.setting.name, "seed": self.seed, "method": method}
        key |= {"steps": steps, "restart": restart, "integrator": integrator}
        if any(all(row[k] == v for k, v in key.items()) for row in self.rows):
            return
        run = open_run(run_folder, torch.device("cpu"))
        labels = reference_labels(run.config, self.plan.num)
        sampler = SamplerConfig(steps=steps, restart=restart, integrator=integrator)
        samples = generate(run, labels, sampler)
        settled = Trained.of(run.config).settle(sampler, run.name)
        row = key | {"rho": settled.rho, "nfe": samples.nfe, "seconds_per_image": samples.seconds / self.plan.num}
        row |= {"flops_per_image": samples.nfe * flops_per_image(run.network, run.config.shape)} | self.evaluator(
            samples.images, labels
        )
        if reference is not None:
            ours = Moments.of(self.evaluator.features(samples.images))
            row["frechet_guided_teacher"] = frechet_distance(ours, self._teacher_moments(reference, labels))
        row |= {"evaluator": self.evaluator.name, "evaluator_digest": self.evaluator.digest}
        comparison_report.save_samples(self.folder, method, steps, integrator, restart, samples.images[:GRID_IMAGES])
        self.rows.append(row)
        files.write_json(self.folder / RESULTS, self.rows)
        print(row, flush=True)

    @property
    def evaluator(self) -> Evaluator:
        if self._evaluator is None:
            images = RunData(self.folder, load_config(self.folder))
            # Kept in OUT, had it to be trained: all cells share it.
            self._evaluator = Evaluator(images.load("train"), images.load("test"), self.folder.parent)
        return self._evaluator

    def _teacher_moments(self, w: float, labels: torch.Tensor) -> Moments:
        """Of the guided teacher's samples, with other noise than the students'."""
        if w not in self._guided:
            teacher = open_run(self.folder, torch.device("cpu"))
            samples = generate(teacher, labels, SamplerConfig(steps=20, w=w, model="teacher"), seed=1)
            self._guided[w] = Moments.of(self.evaluator.features(samples.images))
        return self._guided[w]
