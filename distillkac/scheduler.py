"""A scheduler of the diffusers library for finite-speed flows, for its ordinary loops.

    scheduler = KacScheduler.from_pretrained("runs/demo")
    scheduler.set_timesteps(20)
    x = scheduler.prior((16, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    for t in scheduler.timesteps:
        u = network(x, t.expand(len(x)), labels)
        x = scheduler.step(u, t, x).prev_sample

The model predicts the velocity u(x, t), t from 1 (noise) to 0 (data). docs/method.md has the equations. One that answers with
average velocities (its `interval_embedding` is True) is told where the step leads as well, before each step:

    u = network(x, t.expand(len(x)), labels, r=scheduler.next_timestep.expand(len(x)))
"""

import inspect
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import SchedulerMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.utils import BaseOutput

from distillkac._scheduler_options import Kinetic, plain_numbers, times_of
from distillkac.base.ranges import whole
from distillkac.base.tensors import column
from distillkac.flow import patches
from distillkac.flow.integrators import restarted, time_grid
from distillkac.flow.methods import USUAL_RHO, rho_in
from distillkac.flow.processes import Process
from distillkac.runs import checkpoints
from distillkac.runs.config import load_config
from distillkac.runs.process_config import ProcessConfig
from distillkac.runs.run import default_network
from distillkac.runs.sampler import Trained

__all__ = ["KacScheduler", "KacSchedulerOutput"]

Generators = torch.Generator | list[torch.Generator] | None
Device = torch.device | str | None


@dataclass
class KacSchedulerOutput(BaseOutput):
    """prev_sample: the state at the next time, like the sample. pred_original_sample: x - t u, one Euler step to t = 0, or
    the data that a step by gamma predicts; None where u is an average velocity over another step than that to the data."""

    prev_sample: torch.Tensor
    pred_original_sample: torch.Tensor | None


class KacScheduler(SchedulerMixin, ConfigMixin):
    """Steps of a velocity field from noise to data: Euler, or Adams-Bashforth 2 with one evaluation a step.

    process: telegraph, planar, quad or gaussian, with its a, c or sigma and its schedules f, g. rho: exponent of the time
    grid (1 - i/N)^rho; None for a teacher's usual one by the number of steps, 2, but in up to 6 steps 1 (and 1 where times are
    shifted); a student's own for a student. integrator: "ab2" for teachers, "euler" for
    students. max_speed: bound of the velocity of a pixel (telegraph), pair (planar) or 2x2 patch (quad), or None. num_steps:
    the steps of a student, which takes no other number; None for what takes any. restart: the share of each Euler step that is
    drawn anew with fresh noise. average_velocity: the model answers with average velocities and is given `next_timestep`.
    shift: of the grid's times, by the process (flow.time_shift); 1 for none.
    predicts_data: whether x - t u stands for the data (students), or u is the velocity of the process (teachers), which gamma
    and shaping must know (set_timesteps); None where num_steps or integrator "ab2" say it.
    tau_max: where a gaussian flow ends, of adopted models; path: in place of its f and g (flow.processes.Gaussian).
    """

    order = 1
    init_noise_sigma = 1.0  # what `prior` gives needs no scaling

    @register_to_config
    def __init__(
        self,
        process: Literal["telegraph", "planar", "quad", "gaussian"] = "telegraph",
        a: float = 25.0,
        c: float = 2.0,
        sigma: float = 1.0,
        f: Literal["linear", "cosine"] = "linear",
        g: Literal["linear", "quadratic"] = "linear",
        rho: float | None = None,
        integrator: Literal["euler", "ab2"] = "ab2",
        max_speed: float | None = None,
        num_steps: int | None = None,
        restart: float = 0.0,
        average_velocity: bool = False,
        tau_max: float = 1.0,
        path: str | None = None,
        shift: float = 1.0,
        predicts_data: bool | None = None,
    ) -> None:
        self.register_to_config(**plain_numbers(self.config))
        if num_steps is not None and rho is None:
            raise ValueError(f"a student of {num_steps} steps has a grid of its own: give its rho")
        if average_velocity and (restart > 0 or integrator != "euler"):
            raise ValueError(
                "average velocities lead to the end of a step alone, by an Euler step without fresh noise: restart 0 and "
                f"integrator euler, got {restart}, {integrator}"
            )
        numbers = {field.name: self.config[field.name] for field in fields(ProcessConfig)}
        noise = ProcessConfig(**numbers)
        if said := noise.unused():  # a warning: pipelines saved by earlier versions may have one
            warnings.warn(f"{said}: it means nothing here, omit it", stacklevel=2)
        self.process: Process = noise.build()
        self.timesteps = torch.empty(0)
        self.num_inference_steps: int | None = None
        self._grid: torch.Tensor | None = None
        self._step = 0
        self._previous: tuple[torch.Tensor, float] | None = None
        self._kinetic = Kinetic()

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *args: Any, **options: Any
    ) -> "KacScheduler":
        """From a run folder of distillkac (a teacher's or a student's), or whatever diffusers takes.

        options: settings that replace the run's. Raises ValueError for one that a scheduler does not have.
        """
        folder = Path(pretrained_model_name_or_path).expanduser()
        if not (
            folder / cls.config_name
        ).exists():  # what save_pretrained wrote goes before a shipped model of its name
            folder = default_network(folder)
        if not (folder / checkpoints.EMA).exists():
            return super().from_pretrained(pretrained_model_name_or_path, *args, **options)
        config = load_config(folder)
        trained = Trained.of(config)
        settled = trained.settle(trained.sampler(), str(folder))
        steps = trained.num_steps if trained.restart is None else None
        grid = {"rho": settled.rho, "integrator": settled.integrator, "num_steps": steps, "restart": settled.restart}
        grid |= {"shift": settled.shift, "predicts_data": trained.predicts_data}
        if not trained.predicts_data and settled.rho == USUAL_RHO:
            grid["rho"] = None  # by the number of steps
        grid["average_velocity"] = config.objective == "average-velocity"
        noise = {field.name: getattr(config.noise, field.name) for field in fields(ProcessConfig)}
        known = inspect.signature(cls.__init__).parameters
        if args or (unknown := [name for name in options if name not in known]):
            told = "a second argument" if args else f"the keyword {unknown[0]}"
            raise ValueError(f"a scheduler of a run folder does not take {told}; it takes {', '.join([*known][1:])}")
        return cls(**noise | grid | options)

    def set_timesteps(
        self,
        num_inference_steps: int,
        device: Device = None,
        *,
        gamma: float | None = None,
        launch: float = 0.0,
        landing: float = 0.0,
        predicts_data: bool | None = None,
    ) -> None:
        """N steps: `timesteps` are their N start times, float32, from 1 down; the last step ends at 0.

        gamma, launch, landing: as the options of `sample`, until the next call. With a gamma the steps are those of
        trajectory-consistency sampling (docs/method.md, section 6), in place of the scheduler's integrator and restart, and a
        student takes any number; launch and landing shape a teacher's velocity. predicts_data: in place of the scheduler's.
        Raises ValueError for a number of steps that a student was not made for, and for what does not go together.
        """
        num_inference_steps = whole("num_inference_steps", num_inference_steps)
        if gamma is None and self.config.num_steps not in (None, num_inference_steps):
            raise ValueError(
                f"this is the scheduler of a student of {self.config.num_steps} Euler steps on its own grid, got "
                f"{num_inference_steps}; choose the teacher or another student"
            )
        kinetic = Kinetic.of(self.config, self.process, gamma, launch, landing, predicts_data)
        self._grid = time_grid(num_inference_steps, self.rho_in(num_inference_steps), self.config.shift, self.process)
        self.timesteps = self._grid[:-1].float().to(device)
        self.num_inference_steps, self._step, self._previous = num_inference_steps, 0, None
        self._kinetic = kinetic

    def rho_in(self, num_inference_steps: int) -> float:
        """The exponent of the grid in so many steps."""
        if self.config.rho is not None:
            return float(self.config.rho)
        return rho_in(num_inference_steps) if self.config.shift == 1 else 1.0

    @property
    def next_timestep(self) -> torch.Tensor:
        """The time that the next `step` leads to, a tensor like those of `timesteps`; 0 in the last step. Raises ValueError
        before set_timesteps and after the last step."""
        grid = self._begun()
        return grid[self._step + 1].to(self.timesteps)

    def scale_model_input(self, sample: torch.Tensor, timestep: float | torch.Tensor | None = None) -> torch.Tensor:
        """The sample: the network takes states as they are."""
        return sample

    def prior(self, shape: tuple[int, ...], generator: Generators = None, device: Device = None) -> torch.Tensor:
        """Noise at t = 1 of shape (B, ...), float32, seeded from the generator (or torch's own).

        generator: on any device, for only a seed is drawn from it; or a list with one for each row, whose noise is then
        what that generator gives alone.
        """
        size = tuple(shape[1:])
        return _drawn(shape[0], generator, lambda rows, seed: self.process.prior(len(rows), size, seed, device=device))

    def step(
        self,
        model_output: torch.Tensor,
        timestep: float | torch.Tensor,
        sample: torch.Tensor,
        return_dict: bool = True,
        generator: Generators = None,
    ) -> KacSchedulerOutput | tuple[torch.Tensor]:
        """From `timestep` to the next one. model_output: the (guided) velocity at (sample, timestep), like the sample.
        generator: of the fresh noise where `restart` or gamma is above 0, as in `prior`.

        Raises ValueError before set_timesteps, and for a timestep that is not the next of `timesteps`.
        """
        t, t_next = self._begun()[self._step : self._step + 2].tolist()
        if abs(float(timestep) - t) > 1e-5:
            raise ValueError(f"steps go through `timesteps` in order: expected {t:.6g} next, got {float(timestep):.6g}")
        h = t - t_next
        u_prev, h_prev = self._previous or (None, None)
        model_output = self._kinetic.shaped(model_output, t)
        x_next, u = patches.guided_step(
            sample, model_output, None, u_prev, 0.0, h, h_prev, self.config.max_speed, self.process.speed_norm
        )
        x_hat, share = sample - t * u, self.config.restart  # of average velocities the share is 0
        by_gamma = self._kinetic.gamma
        share = share if by_gamma is None else by_gamma

        def some(rows: range, seed: int) -> torch.Tensor:
            part = slice(rows.start, rows.stop)
            if by_gamma is not None:
                return self._kinetic.step(self.process, sample[part], u[part], t, t_next, seed, self._step)
            return restarted(self.process, x_next[part], x_hat[part], t_next, share, seed, self._step)

        if share > 0 and t_next > 0:
            x_next = _drawn(len(sample), generator, some)
        elif by_gamma is not None:  # nothing is drawn
            x_next = some(range(len(sample)), 0)
        if by_gamma is not None:
            x_hat = self._kinetic.predicted(self.process, sample, u, t)
        self._previous = (u, h) if self.config.integrator == "ab2" and by_gamma is None else None
        self._step += 1
        if not return_dict:
            return (x_next,)
        known = t_next == 0 or not self.config.average_velocity
        return KacSchedulerOutput(prev_sample=x_next, pred_original_sample=x_hat if known else None)

    def _begun(self) -> torch.Tensor:
        """The time grid. Raises ValueError where no step is left in it."""
        if self._grid is None or self.num_inference_steps is None:
            raise ValueError("call set_timesteps before step")
        if self._step >= self.num_inference_steps:
            raise ValueError(f"all {self.num_inference_steps} steps are done; call set_timesteps to begin anew")
        return self._grid

    def sample_noise(
        self, original_samples: torch.Tensor, timesteps: torch.Tensor, generator: Generators = None
    ) -> torch.Tensor:
        """K_{g(t)}, like original_samples: the noise for `add_noise` and `get_velocity`. timesteps: (B,) in [0, 1].

        generator: as in `prior`. Raises ValueError, as these do, for what is not one time for each row; of times on a GPU
        rows of those outside are NaN.
        """
        _, (g, _) = self.process.schedules(times_of(timesteps, original_samples))
        size = tuple(original_samples.shape[1:])
        noise = _drawn(len(g), generator, lambda rows, seed: self.process.noise(g[rows.start : rows.stop], size, seed))
        return noise.to(original_samples)

    def add_noise(self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """x_t = f(t) x_0 + noise, noise from `sample_noise` at the same timesteps (it is not unit Gaussian)."""
        (f, _), _ = self.process.schedules(times_of(timesteps, original_samples))
        return column(f.to(original_samples), original_samples) * original_samples + noise

    def get_velocity(self, sample: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """The training target f' x_0 + g' v(g, noise). sample: x_0, noise: from `sample_noise`."""
        (_, df), (g, dg) = self.process.schedules(times_of(timesteps, sample))
        return column(df.to(sample), sample) * sample + column(dg.to(sample), sample) * self.process.velocity(noise, g)

    def __len__(self) -> int:
        return len(self.timesteps)


def _drawn(count: int, generator: Generators, noise: Callable[[range, int], torch.Tensor]) -> torch.Tensor:
    """noise(rows, seed) of all rows by one generator, or of each row by its own."""
    if not isinstance(generator, (list, tuple)):
        return noise(range(count), _seed(generator))
    if len(generator) != count:
        raise ValueError(f"a list of generators must have one for each image, got {len(generator)} for {count}")
    return torch.cat([noise(range(i, i + 1), _seed(own)) for i, own in enumerate(generator)])


def _seed(generator: torch.Generator | None) -> int:
    if not isinstance(generator, (torch.Generator, type(None))):
        raise ValueError(f"generator must be a torch.Generator or a list of them, got {type(generator).__name__}")
    device = generator.device if generator is not None else "cpu"
    return int(torch.randint(2**62, (), generator=generator, device=device))
