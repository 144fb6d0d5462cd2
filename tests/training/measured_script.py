"""`distillkac.train` on several processes, which does not wait until 5% of its time are enough for a measurement."""

import os
import sys

from distillkac import train
from distillkac.evaluation import training_figures
from distillkac.training import measuring

FAILING = "MEASUREMENT_FAILS"
"""Variable of the environment: the evaluator breaks."""


def broken(*_):
    raise RuntimeError("the evaluator broke")


if __name__ == "__main__":
    measuring.SHARE = 1e9
    if FAILING in os.environ:
        training_figures.TrainingFigures.prepare = lambda _: None
        training_figures.TrainingFigures.__call__ = broken
    sys.exit(train.main())
