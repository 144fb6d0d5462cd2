"""The noise processes behind one interface: three finite-speed Kac processes, and Gaussian flow matching as baseline.

Time runs from t = 0 (data) to t = 1 (noise). With schedules f and g and K the noise of process time g(t):

    x_t = f(t) x_0 + K_{g(t)},        target velocity  u = f'(t) x_0 + g'(t) v(g(t), K).
"""

import math
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from distillkac import ops
from distillkac.base.random import normal_rows
from distillkac.base.tensors import column, sent
from distillkac.flow import patches
from distillkac.flow.fields import SpeedNorm
from distillkac.flow.probability_paths import PathFunction, check_path, path_end, path_scales, path_schedules
from distillkac.flow.process import Process, check_times
from distillkac.ops.schedules import FName, GName

__all__ = ["PROCESSES", "Gaussian", "Planar", "Process", "Quad", "Telegraph", "from_dict"]


SERIES = 1e-4
"""Expected turns below which the spread and the slope of its logarithm come from the series: the closed form would cancel."""


def _unturned(x: Tensor) -> Tensor:
    """x - 1 + e^-x, to which the variance of a flight is in proportion, to rounding for every x >= 0."""
    return torch.where(x < SERIES, x * x / 2 * (1 - x / 3 + x * x / 12), x + torch.expm1(-x))


@dataclass(frozen=True)
class _Kac(Process):
    name: ClassVar[SpeedNorm]
    a: float = 25.0
    c: float = 2.0
    f: FName = "linear"
    g: GName = "linear"
    kappa: float = 1.0

    def __post_init__(self) -> None:
        self._check()

    def noise(self, t: Tensor, size: tuple[int, ...], seed: int, offset: int = 0) -> Tensor:
        return ops.kac_noise(t, size, self.name, self.a, self.c, seed, offset)

    def velocity(self, k: Tensor, t: Tensor) -> Tensor:
        return ops.kac_velocity(k, t, self.name, self.a, self.c)

    def pair(self, x0: Tensor, t: Tensor, seed: int, offset: int = 0) -> tuple[Tensor, Tensor]:
        return ops.kac_pair(x0, t, self.name, self.a, self.c, self.f, self.g, seed, offset, self.kappa)

    def pair_to(self, x0: Tensor, t: Tensor, t_to: Tensor, seed: int, offset: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        parts = (self.name, self.a, self.c, self.f, self.g, seed, offset, self.kappa)
        return ops.kac_pair(x0, t, *parts, t_to=t_to)

    def max_target_speed(self, data_bound: float = 1.0) -> float:
        # For every pair of schedules |f'| |x_0| + g' c is monotone or convex in t, so its maximum is at an end.
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
        (_, df), (_, g_speed) = self.schedules(ends)
        return float((df.abs() * data_bound * self._norm_factor + g_speed * self.c).max())

    @property
    def limit_std(self) -> float:
        return self.c / math.sqrt(self.a)

    _norm_factor: ClassVar[float] = 1.0


@dataclass(frozen=True)
class Telegraph(_Kac):
    """Each coordinate runs at speed +-c and turns at rate a (the Kac process; damped 1-D waves).

    a: turns per unit time, > 0. c: speed in pixel units per unit time, > 0.
    """

    name: ClassVar[SpeedNorm] = "telegraph"

    def std(self, t: Tensor) -> Tensor:
        turns = self.a * t.double()
        return self.c / self.a * (_unturned(2 * turns) / 2).sqrt()

    def log_std_slope(self, t: Tensor) -> Tensor:
        turns = self.a * t.double()
        slope = -self.a * torch.expm1(-2 * turns) / (2 * turns + torch.expm1(-2 * turns))
        return torch.where(turns < SERIES, 1 / t.double() - self.a / 3, slope)


def _slope_of_flight(a: float, t: Tensor) -> Tensor:
    """d log std / dt where the variance is in proportion to a t - 1 + e^(-a t): of fresh directions, in any dimension."""
    turns = a * t.double()
    slope = -a * torch.expm1(-turns) / (turns + torch.expm1(-turns)) / 2
    return torch.where(turns < SERIES, 1 / t.double() - a / 6, slope)


@dataclass(frozen=True)
class Planar(_Kac):
    """Each pair of neighbouring pixels runs in the plane at speed c and takes a fresh direction at rate a.

    Damped 2-D waves. a, c as in `Telegraph`. The last axis must be even.
    """

    name: ClassVar[SpeedNorm] = "planar"
    speed_norm: ClassVar[SpeedNorm] = "planar"
    _norm_factor: ClassVar[float] = 2.0**0.5

    def std(self, t: Tensor) -> Tensor:
        turns = self.a * t.double()
        return self.c / self.a * _unturned(turns).sqrt()

    def log_std_slope(self, t: Tensor) -> Tensor:
        return _slope_of_flight(self.a, t)

    def check_shape(self, size: tuple[int, ...]) -> None:
        patches.check_shape("planar", size)


@dataclass(frozen=True)
class Quad(_Kac):
    """Each patch of 2x2 pixels (of a row of numbers: each four) runs in four dimensions at speed c and takes a fresh direction
    at rate a.

    a, c as in `Telegraph`. Height and width must be even. The default c gives the spread that 2 gives the others: per
    coordinate the variance grows by c^2 / (2 a), not c^2 / a.
    """

    c: float = 2 * 2.0**0.5

    name: ClassVar[SpeedNorm] = "quad"
    speed_norm: ClassVar[SpeedNorm] = "quad"
    _norm_factor: ClassVar[float] = 2.0

    def noise(self, t: Tensor, size: tuple[int, ...], seed: int, offset: int = 0) -> Tensor:
        self.check_shape(tuple(size))
        together = (*size[:-2], size[-2] // 2, 2 * size[-1]) if len(size) > 1 else tuple(size)
        return patches.scattered(super().noise(t, together, seed, offset))

    def velocity(self, k: Tensor, t: Tensor) -> Tensor:
        self.check_shape(tuple(k.shape[1:]))
        return patches.scattered(super().velocity(patches.gathered(k), t))

    def pair(self, x0: Tensor, t: Tensor, seed: int, offset: int = 0) -> tuple[Tensor, Tensor]:
        self.check_shape(tuple(x0.shape[1:]))
        x_t, u = super().pair(patches.gathered(x0), t, seed, offset)
        return patches.scattered(x_t), patches.scattered(u)

    def pair_to(self, x0: Tensor, t: Tensor, t_to: Tensor, seed: int, offset: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        self.check_shape(tuple(x0.shape[1:]))
        x_t, u, x_to = super().pair_to(patches.gathered(x0), t, t_to, seed, offset)
        return patches.scattered(x_t), patches.scattered(u), patches.scattered(x_to)

    def std(self, t: Tensor) -> Tensor:
        turns = self.a * t.double()
        return self.c / self.a * (_unturned(turns) / 2).sqrt()

    def log_std_slope(self, t: Tensor) -> Tensor:
        return _slope_of_flight(self.a, t)

    @property
    def limit_std(self) -> float:
        return self.c / math.sqrt(2 * self.a)

    def check_shape(self, size: tuple[int, ...]) -> None:
        patches.check_shape("quad", size)


@dataclass(frozen=True)
class Gaussian(Process):
    """Gaussian flow matching, the infinite-speed baseline: K_t = sigma t z, v = sigma z with z standard normal.

    tau_max: in (0, 1]; f and g at t are those of tau_max t. Adopted models reach no further (method.md, Any Gaussian teacher).
    path: a name of probability_paths.PATHS, or a function t -> (alpha, sigma); alpha is then f and sigma is g, so that
    x_t = alpha(t) x_0 + sigma sigma(t) z, where the first sigma is the number of that name, usually 1.
    """

    sigma: float = 1.0
    f: FName = "linear"
    g: GName = "linear"
    kappa: float = 1.0
    tau_max: float = 1.0
    path: str | PathFunction | None = None

    name: ClassVar[str] = "gaussian"

    def __post_init__(self) -> None:
        self._check()
        if self.tau_max > 1:
            raise ValueError(f"gaussian: tau_max must lie in (0, 1], got {self.tau_max}")
        if self.tau_max < 1 and (self.f, self.g) != ("linear", "linear"):
            raise ValueError(f"gaussian: tau_max below 1 is for linear f and g, got {self.f} and {self.g}")
        if self.path is not None:
            if (self.f, self.g, self.tau_max) != ("linear", "linear", 1):
                raise ValueError("gaussian: a path says what f, g and tau_max would say: omit these, or the path")
            check_path(self.path)

    def schedules(self, t: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        if self.path is not None:
            return path_schedules(self.path, t)
        (f, df), (g, dg) = super().schedules(self.tau_max * t)
        return (f, self.tau_max * df), (g, self.tau_max * dg)

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return super().scales(t) if self.path is None else path_scales(self.path, t)

    @property
    def prior_std(self) -> float:
        """Of a coordinate of `prior`: of x_1 for data of mean 0 and variance 1, as samplers of diffusion models begin."""
        left, age = (1 - self.tau_max, self.tau_max) if self.path is None else path_end(self.path)
        return math.hypot(left, self.sigma * age)

    def prior(
        self, n: int, size: tuple[int, ...], seed: int, offset: int = 0, device: torch.device | str | None = None
    ) -> Tensor:
        return self.prior_std * sent(normal_rows(n, tuple(size), seed, offset), device)

    def to_dict(self) -> dict[str, Any]:
        """As `Process.to_dict`; tau_max 1 and no path are not told, as before there were others. Raises ValueError if
        the path is a function, which has no name."""
        if callable(self.path):
            raise ValueError(
                "gaussian: its path is a function: give it a name with distillkac.flow.add_path, and say that"
            )
        plain = {"tau_max": 1, "path": None}
        return {key: value for key, value in super().to_dict().items() if key not in plain or value != plain[key]}

    def noise(self, t: Tensor, size: tuple[int, ...], seed: int, offset: int = 0) -> Tensor:
        z = sent(normal_rows(len(t), tuple(size), seed, offset), t.device)
        return self.sigma * column(t.to(z.dtype), z) * z

    def std(self, t: Tensor) -> Tensor:
        return self.sigma * t.double()

    def log_std_slope(self, t: Tensor) -> Tensor:
        return 1 / t.double()

    @property
    def limit_std(self) -> float:
        return self.sigma

    def velocity(self, k: Tensor, t: Tensor) -> Tensor:
        # v = K / t = sigma z; at t = 0 the displacement is 0 and so is the mean velocity there.
        age = column(t.to(k.dtype), k)
        return torch.where(age > 0, k / age.clamp(min=torch.finfo(k.dtype).tiny), torch.zeros_like(k))

    def pair(self, x0: Tensor, t: Tensor, seed: int, offset: int = 0) -> tuple[Tensor, Tensor]:
        return self._with(self._draw(x0, seed, offset), x0, t)

    def pair_to(self, x0: Tensor, t: Tensor, t_to: Tensor, seed: int, offset: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        z = self._draw(x0, seed, offset)  # what takes the time, once
        return *self._with(z, x0, t), self._with(z, x0, t_to)[0]

    def _draw(self, x0: Tensor, seed: int, offset: int) -> Tensor:
        return sent(normal_rows(len(x0), tuple(x0.shape[1:]), seed, offset), x0.device).to(x0.dtype)

    def _with(self, z: Tensor, x0: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        check_times(t, len(x0))
        (f, f_dot), (g, g_dot) = ([column(v.to(x0.dtype), x0) for v in pair] for pair in self.schedules(t))
        return f * x0 + self.sigma * g * z, f_dot * x0 + self.sigma * g_dot * z


PROCESSES: dict[str, type[Telegraph | Planar | Quad | Gaussian]] = {
    process.name: process for process in (Telegraph, Planar, Quad, Gaussian)
}


def from_dict(values: dict[str, Any]) -> Process:
    """The process that `to_dict` described. Raises ValueError on an unknown name or parameter."""
    values = dict(values)
    name = values.pop("name", None)
    if name not in PROCESSES:
        raise ValueError(f"process must be one of {', '.join(PROCESSES)}, got {name!r}")
    try:
        return PROCESSES[name](**values)
    except TypeError:
        known = ", ".join(field.name for field in fields(PROCESSES[name]))
        raise ValueError(f"{name}: parameters are {known}, got {', '.join(values)}") from None
