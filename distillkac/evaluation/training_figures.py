"""The figures of a network while it is trained: those of `evaluate`, and the share of copies."""

import time
from collections.abc import Callable
from pathlib import Path

import torch

from distillkac.data import ImageDataset
from distillkac.evaluation.copies import Copies
from distillkac.evaluation.metrics import Evaluator, describe

FIGURES = ("frechet", "frechet_train", "accuracy", "diversity", "nn_ratio")


class TrainingFigures:
    """Measures images against the splits of a data set: metrics.py, copies.py. For `train --optim.measure-every`, and for
    distillkac.training.train(..., measure=TrainingFigures(images, held_out)).

    train, test: the splits as `data.load` gives them, or functions that load them, called when they are first needed.
    cache_dir: where an evaluator that has to be trained is kept and found again, such as the run folder.
    """

    def __init__(
        self,
        train: ImageDataset | Callable[[], ImageDataset],
        test: ImageDataset | Callable[[], ImageDataset],
        cache_dir: Path | None = None,
    ):
        self.splits, self.cache_dir = (train, test), cache_dir
        self.evaluator: Evaluator | None = None

    def prepare(self) -> None:
        """Loads the images and finds the evaluator, or trains it, and says so."""
        if self.evaluator is not None:
            return
        start = time.perf_counter()
        train, test = (split() if callable(split) else split for split in self.splits)
        self.evaluator, self.copies = Evaluator(train, test, self.cache_dir), Copies(train, test)
        seconds = time.perf_counter() - start
        print(
            f"measuring by the evaluator {describe(self.evaluator.identity)}, ready in {seconds:.0f} s, which do not count as "
            "time of the training",
            flush=True,
        )

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
        """images: (n, C, H, W), n >= 2. labels: (n,) the classes asked for."""
        self.prepare()
        assert self.evaluator is not None
        found = self.evaluator(images, labels)
        return {name: found[name] for name in FIGURES if name in found} | self.copies(images)
