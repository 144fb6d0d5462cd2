"""The noise of other people's models: how much data and noise their input holds, and by what number they are told.

A diffusion or flow model sees x' = alpha x_0 + sigma eps. Whatever its alpha and sigma, the ratio R = sigma / alpha says where
it is (docs/method.md, "Any Gaussian teacher"). The tables are computed as diffusers computes them, in float32, so that they are
to the bit those that the model was trained with; what follows from them is float64.
"""

import itertools
import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from distillkac.base.ranges import in_ranges

__all__ = ["SCHEDULES", "NoiseSchedule", "ScheduleName"]

ScheduleName = Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "trained_betas", "edm", "flow"]
SCHEDULES: tuple[ScheduleName, ...] = get_args(ScheduleName)
MOST = 100_000  # timesteps: more are a mistake, or meant to fill the memory
CPU = torch.device("cpu")  # also where networks are made without memory, on the device "meta"


@dataclass(frozen=True)
@in_ranges(
    "schedule",
    timesteps="[1, 1e12]",
    beta_start="[0, 1]",
    beta_end="[0, 1]",
    betas="[0, 1]",
    used="[0, 1e12]",
    sigma_min="(0, 1e6]",
    sigma_max="(0, 1e6]",
    sigma_data="(0, 1e6]",
)
class NoiseSchedule:
    """A schedule by its name: of betas, for variance-preserving models (alpha^2 + sigma^2 = 1) that are told the number of a
    timestep; "edm" (alpha = 1), which are told log(sigma) / 4; "flow" (alpha + sigma = 1), which are told timesteps * sigma.

    Raises ValueError, naming what it is, if it cannot be inverted.
    """

    name: ScheduleName
    timesteps: int = 1000
    """How many it was trained with; the number that a flow model is told at pure noise."""
    beta_start: float = 0.0001
    beta_end: float = 0.02
    betas: tuple[float, ...] = ()
    """trained_betas: all of them."""
    zero_terminal_snr: bool = False
    """Whether the betas are rescaled so that nothing of the data is left at the last timestep."""
    used: int | None = None
    """How many of a table's timesteps the flow goes through, from the first: None for all of them."""
    sigma_min: float = 0.002
    """edm: the least noise."""
    sigma_max: float = 80.0
    """edm: the most."""
    sigma_data: float = 0.5
    """edm: standard deviation of the data."""

    def __post_init__(self) -> None:
        if not 3 <= self.timesteps <= MOST:
            raise ValueError(f"the schedule has {self.timesteps} timesteps, and must have 3 to {MOST}")
        if len(self.betas) != (self.timesteps if self.name == "trained_betas" else 0):
            raise ValueError(f"trained_betas are one for each of the {self.timesteps} timesteps, got {len(self.betas)}")
        if self.name == "edm" and not (0 < self.sigma_min < self.sigma_max < math.inf and self.sigma_data > 0):
            raise ValueError(
                "an edm schedule needs 0 < sigma_min < sigma_max and sigma_data > 0, got "
                f"{self.sigma_min}, {self.sigma_max} and {self.sigma_data}"
            )
        if self.used is not None and not (self.has_table and 3 <= self.used <= self.timesteps):
            raise ValueError(f"3 to {self.timesteps} timesteps of a table of betas can be used, got {self.used}")
        if self.has_table:
            ratios = self.ratios()
            rising = bool((ratios[1:] > ratios[:-1]).all() and ratios[0] > 0)  # not where one is NaN
            if not rising or not torch.isfinite(ratios[: -1 if self.ends_in_noise else None]).all():
                raise ValueError(
                    f"the {self.name} schedule cannot be inverted: its noise must grow from each of the {self.timesteps} "
                    "timesteps to the next, with betas in (0, 1)"
                )

    @property
    def has_table(self) -> bool:
        """Whether it knows timesteps, and no noise between them."""
        return self.name not in ("edm", "flow")

    @property
    def ends_in_noise(self) -> bool:
        """Whether nothing of the data is left at the last timestep of its table."""
        return self.zero_terminal_snr and self.used in (None, self.timesteps)

    def up_to(self, ratio: float) -> "NoiseSchedule":
        """This schedule without what has more noise than `ratio` times the data. Raises ValueError if hardly any is left."""
        least, largest = self.ends
        if largest <= ratio:
            return self
        if least >= ratio:
            raise ValueError(f"max_ratio {ratio:g} leaves nothing of a schedule whose ratios begin at {least:.3g}")
        if self.name == "edm":
            return replace(self, sigma_max=ratio)
        if self.name == "flow":
            raise ValueError("a flow goes on to pure noise, and says there what the data are: omit max_ratio")
        return replace(self, used=int((self.ratios() <= ratio).sum()))

    @property
    def ends(self) -> tuple[float, float]:
        """(least, largest) ratio R that the model knows; the largest is infinite where no data are left."""
        if self.name == "flow":
            return 0.0, math.inf
        if self.name == "edm":
            return self.sigma_min, self.sigma_max
        ratios = self.ratios()
        return float(ratios[0]), float(ratios[-1])

    def ratios(self) -> Tensor:
        """(used,) float64: R of every timestep of a table of betas, on the CPU."""
        alphas = torch.cumprod(1.0 - self.all_betas(), 0).double()
        return ((1 - alphas) / alphas).sqrt()

    def knots(self) -> Tensor:
        """(used,) float64: log R, between which timesteps are interpolated. The last has no logarithm where no data are
        left: there the ratios are taken to go on growing as they did a timestep before."""
        knots = self.ratios().log()
        if self.ends_in_noise:
            knots[-1] = 2 * knots[-2] - knots[-3]
        return knots

    def all_betas(self) -> Tensor:
        """(used,) float32, of a table: as they are, rescaled where that is meant."""
        start, end, count = self.beta_start, self.beta_end, self.timesteps
        if self.name == "trained_betas":
            betas = torch.tensor(self.betas, dtype=torch.float32, device=CPU)
        elif self.name == "linear":
            betas = torch.linspace(start, end, count, dtype=torch.float32, device=CPU)
        elif self.name == "scaled_linear":
            betas = torch.linspace(start**0.5, end**0.5, count, dtype=torch.float32, device=CPU) ** 2
        elif self.name == "sigmoid":
            betas = torch.sigmoid(torch.linspace(-6, 6, count, dtype=torch.float32, device=CPU)) * (end - start) + start
        else:
            bars = [math.cos((i / count + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(count + 1)]
            steps = [min(1 - after / before, 0.999) for before, after in itertools.pairwise(bars)]
            betas = torch.tensor(steps, dtype=torch.float32, device=CPU)
        return (_with_zero_snr(betas) if self.zero_terminal_snr else betas)[: self.used]


def _with_zero_snr(betas: Tensor) -> Tensor:
    """Rescaled to leave nothing of the data at the end (Lin et al. 2024, algorithm 1)."""
    roots = torch.cumprod(1.0 - betas, 0).sqrt()
    first, last = roots[0].clone(), roots[-1].clone()
    roots = (roots - last) * (first / (first - last))
    bars = roots**2
    return 1 - torch.cat([bars[:1], bars[1:] / bars[:-1]])
