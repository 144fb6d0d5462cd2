"""Training: one loop for teachers and students, what it fits, and what keeps it exact on any number of processes."""

from typing import TYPE_CHECKING

from distillkac.base.lazy import importer

if TYPE_CHECKING:
    from distillkac.training.batches import Batch
    from distillkac.training.ema import EMA
    from distillkac.training.fit import accelerator_for, fit_run
    from distillkac.training.loop import Fit, Trainer
    from distillkac.training.objective import FlowMatching, Objective
    from distillkac.training.teacher import config_for, train

__all__ = [
    "EMA",
    "Batch",
    "Fit",
    "FlowMatching",
    "Objective",
    "Trainer",
    "accelerator_for",
    "config_for",
    "fit_run",
    "train",
]

# The loop needs accelerate, which takes seconds to import.
__getattr__, __dir__ = importer(
    __name__,
    {
        "batches": ("Batch",),
        "ema": ("EMA",),
        "fit": ("accelerator_for", "fit_run"),
        "loop": ("Fit", "Trainer"),
        "objective": ("FlowMatching", "Objective"),
        "teacher": ("config_for", "train"),
    },
)
