"""What KacScheduler.set_timesteps may be asked for beside the number of steps: the options of `sample` by which a step draws
noise, or a velocity is shaped."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from distillkac.base.ranges import whole
from distillkac.flow.onward import known
from distillkac.flow.process import check_times
from distillkac.flow.processes import Process
from distillkac.flow.shaping import Shaping
from distillkac.flow.trajectory import Means, data_and_noise, trajectory_step
from distillkac.runs.process_config import ProcessConfig
from distillkac.runs.sampler import SamplerOptions, refuse_fresh

__all__ = ["Kinetic", "plain_numbers", "times_of"]

INTEGRATORS = ("euler", "ab2")


def plain_numbers(config: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a scheduler's settings that are NumPy's, as numbers of Python, which JSON can hold. Raises ValueError naming one
    that is out of its range, or no number. The process has checks of its own."""
    if (integrator := config["integrator"]) not in INTEGRATORS:
        raise ValueError(f"integrator must be one of {', '.join(INTEGRATORS)}, got {integrator!r}")
    asked = SamplerOptions(**{name: config[name] for name in ("max_speed", "rho", "shift", "restart")})
    if asked.restart and integrator != "euler":
        raise ValueError(
            f"restarts take Euler steps: give integrator euler with restart {asked.restart}, got {integrator}"
        )
    if config["num_steps"] is not None:
        whole("num_steps", config["num_steps"])
    return {name: value.item() for name, value in config.items() if isinstance(value, np.generic)}


class Kinetic(NamedTuple):
    """gamma: the share of fresh noise, None for the scheduler's own steps. shaping: of the velocity, None for none. means: what
    the model's answers are."""

    gamma: float | None = None
    shaping: Shaping | None = None
    means: Means = "data"

    @classmethod
    def of(
        cls,
        config: Mapping[str, Any],
        process: Process,
        gamma: float | None,
        launch: float,
        landing: float,
        predicts_data: bool | None,
    ) -> "Kinetic":
        """config: of the scheduler. predicts_data: in place of its own. Raises ValueError where these do not go together."""
        restart = None if gamma is not None else config["restart"]
        asked = SamplerOptions(gamma=gamma, restart=restart, launch=launch, landing=landing)
        straight = ProcessConfig.of(process).straight
        if gamma is None and not asked.shaped and (not restart or straight):
            return cls()
        if config["average_velocity"]:
            raise ValueError(
                "gamma, launch and landing are not for average velocities in this loop: omit them, or draw by sample --gamma"
            )
        data = _predicts_data(config) if predicts_data is None else predicts_data
        if asked.shaped and data:
            raise ValueError(
                "launch and landing shape the velocity of a teacher, and this is a student's scheduler: omit them"
            )
        if not straight and not (data and config["num_steps"] is None):
            refuse_fresh("the model of this scheduler", data, restart or 0.0, gamma)
        if gamma is not None:
            known(process)
        return cls(gamma, Shaping(launch, landing) if asked.shaped else None, "data" if data else "velocity")

    def shaped(self, u: torch.Tensor, t: float) -> torch.Tensor:
        return u if self.shaping is None else self.shaping.factor(t) * u

    def step(
        self, process: Process, x: torch.Tensor, u: torch.Tensor, t: float, t_next: float, seed: int, step: int
    ) -> torch.Tensor:
        """The state at t_next of a step by gamma."""
        return trajectory_step(process, x, u, t, t_next, self.gamma or 0.0, seed, step, means=self.means)

    def predicted(self, process: Process, x: torch.Tensor, u: torch.Tensor, t: float) -> torch.Tensor:
        """The data from which such a step begins."""
        return data_and_noise(process, x, u, t, self.means)[0]


def times_of(timesteps: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The times (B,). x: (B, ...). Raises ValueError unless there is one in [0, 1] for each row, as where they are numbers of
    timesteps, of which other schedulers of diffusers have 1000. On a GPU, where a look at them would wait for it, one outside
    is NaN and so is its row, as in the ops."""
    check_times(timesteps, len(x), "timesteps")
    inside = (timesteps >= 0) & (timesteps <= 1)
    if timesteps.device.type != "cpu":
        return timesteps.where(inside, torch.nan)
    if not inside.all():
        raise ValueError(
            f"timesteps must be times in [0, 1], from data to noise, got {timesteps.tolist()[:4]}: divide numbers of timesteps "
            "by how many there are"
        )
    return timesteps


def _predicts_data(config: Mapping[str, Any]) -> bool:
    if config["predicts_data"] is not None:
        return bool(config["predicts_data"])
    if config["num_steps"] is None and config["integrator"] != "ab2":
        raise ValueError(
            "restart, gamma, launch and landing must know what the model answers: give predicts_data, True where x - t u is a "
            "student's picture of the data, False where u is the velocity of a teacher"
        )
    return config["num_steps"] is not None
