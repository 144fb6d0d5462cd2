"""The times of the grids of a distillation: what its teacher decides where nothing is said.

config is a DistillConfig, whose module asks here what its students have.
"""

from dataclasses import replace
from typing import Any, TypeVar

from distillkac.runs.config import RunConfig
from distillkac.runs.sampler import usual_rho

Config = TypeVar("Config", bound=Any)


def for_teacher(config: Config, teacher: RunConfig) -> Config:
    """The config with nothing left open that the teacher's run decides."""
    return replace(config, rho=rho_of(config, teacher), shift=shift_of(config, teacher))


def shift_of(config: Any, teacher: RunConfig) -> float:
    return teacher.times.factor(teacher.shape) if config.shift is None else config.shift


def rho_of(config: Any, teacher: RunConfig) -> float:
    if config.rho is not None:
        return config.rho
    if shift_of(config, teacher) != 1:
        return 1.0
    # Stored paths are those of the teacher at its best, if it is the teacher that makes them.
    return usual_rho(teacher.shape, student=config.method != "pairs" or config.pairs.by != "teacher")
