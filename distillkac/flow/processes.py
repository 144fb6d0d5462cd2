"""The noise processes behind one interface: two finite-speed Kac processes, and Gaussian flow matching as baseline.

Time runs from t = 0 (data) to t = 1 (noise). With schedules f and g and K the noise of process time g(t):

    x_t = f(t) x_0 + K_{g(t)},        target velocity  u = f'(t) x_0 + g'(t) v(g(t), K).
"""

from dataclasses import asdict, dataclass, fields
from typing import ClassVar

import torch

from distillkac import ops
from distillkac.base.random import normal_rows
from distillkac.ops.schedules import F_NAMES, G_NAMES, f_schedule, g_schedule


def _column(t: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """(B,) -> (B, 1, ..., 1) in the dtype of `like`."""
    return t.to(like.dtype).view(-1, *[1] * (like.dim() - 1))


@dataclass(frozen=True)
class Process:
    """What every process shares. f, g: schedule names; kappa: rate of f = "exp"."""

    name: ClassVar[str]
    # Whether a speed limit holds for each coordinate or for each pair of neighbouring coordinates.
    speed_norm: ClassVar[str] = "telegraph"

    def _check(self) -> None:
        for field, value in asdict(self).items():
            if isinstance(value, (int, float)) and not 0 < value < float("inf"):
                raise ValueError(f"{self.name}: {field} must be positive and finite, got {value}")
        if self.f not in F_NAMES:
            raise ValueError(f"{self.name}: f must be one of {', '.join(F_NAMES)}, got {self.f!r}")
        if self.g not in G_NAMES:
            raise ValueError(f"{self.name}: g must be one of {', '.join(G_NAMES)}, got {self.g!r}")

    def check_shape(self, size: tuple[int, ...]) -> None:
        """Raises ValueError if the process cannot act on samples of this size."""

    def noise(self, t: torch.Tensor, size: tuple[int, ...], seed: int, offset: int = 0) -> torch.Tensor:
        """K after process time t. t: (B,). Returns (B, *size); row b depends on (seed, offset + b) only."""
        raise NotImplementedError

    def velocity(self, k: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Conditional velocity v(t, k) of the displacement k after process time t. k: (B, ...), t: (B,)."""
        raise NotImplementedError

    def std(self, t: torch.Tensor) -> torch.Tensor:
        """Standard deviation of a coordinate of K_t (docs/method.md, eq. 3). t: (B,) -> (B,) float64."""
        raise NotImplementedError

    def prior(self, n: int, size: tuple[int, ...], seed: int, offset: int = 0, device=None) -> torch.Tensor:
        """x_1 of n samples: K_{g(1)}, since f(1) = 0 for the linear and cosine f. Returns (n, *size).

        With f = "exp" some data is left at t = 1, exp(-kappa) x_0, which this prior leaves out.
        """
        return self.noise(torch.ones(n, device=device), size, seed, offset)

    def bridge(self, x0: torch.Tensor, t: torch.Tensor, seed: int, offset: int = 0) -> torch.Tensor:
        """x_t = f(t) x_0 + K_{g(t)}. x0: (B, ...), t: (B,) in [0, 1]. Returns like x0."""
        f, _ = f_schedule(t, self.f, self.kappa)
        g, _ = g_schedule(t, self.g)
        return _column(f, x0) * x0 + self.noise(g, tuple(x0.shape[1:]), seed, offset)

    def pair(self, x0: torch.Tensor, t: torch.Tensor, seed: int, offset: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """(x_t, u) for training: the state and its target velocity. x0: (B, ...), t: (B,) in [0, 1]."""
        raise NotImplementedError

    def max_target_speed(self, data_bound: float = 1.0) -> float:
        """A number no |u| of `pair` exceeds, for data in [-data_bound, data_bound]: max_t |f'| |x_0| + g' c.

        Per coordinate for the telegraph; for planar the norm of a pair, whose |x_0| reaches sqrt(2) data_bound.
        Infinite for the Gaussian process, which has no speed limit.
        """
        return float("inf")

    def to_dict(self) -> dict:
        """{"name": ..., parameters}: what `from_dict` takes."""
        return {"name": self.name, **asdict(self)}


@dataclass(frozen=True)
class _Kac(Process):
    a: float = 25.0
    c: float = 2.0
    f: str = "linear"
    g: str = "linear"
    kappa: float = 1.0

    def __post_init__(self):
        self._check()

    def noise(self, t, size, seed, offset=0):
        return ops.kac_noise(t, size, self.name, self.a, self.c, seed, offset)

    def velocity(self, k, t):
        return ops.kac_velocity(k, t, self.name, self.a, self.c)

    def pair(self, x0, t, seed, offset=0):
        return ops.kac_pair(x0, t, self.name, self.a, self.c, self.f, self.g, seed, offset, self.kappa)

    def max_target_speed(self, data_bound=1.0):
        # For every pair of schedules |f'| |x_0| + g' c is monotone or convex in t, so its maximum is at an end.
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
        f_speed = f_schedule(ends, self.f, self.kappa)[1].abs()
        g_speed = g_schedule(ends, self.g)[1]
        return float((f_speed * data_bound * self._norm_factor + g_speed * self.c).max())

    _norm_factor: ClassVar[float] = 1.0


@dataclass(frozen=True)
class Telegraph(_Kac):
    """Each coordinate runs at speed +-c and turns at rate a (the Kac process; damped 1-D waves).

    a: turns per unit time, > 0. c: speed in pixel units per unit time, > 0.
    """

    name: ClassVar[str] = "telegraph"

    def std(self, t):
        turns = self.a * t.double()
        return self.c / self.a * (turns + torch.expm1(-2 * turns) / 2).sqrt()


@dataclass(frozen=True)
class Planar(_Kac):
    """Each pair of neighbouring pixels runs in the plane at speed c and takes a fresh direction at rate a.

    Damped 2-D waves. a, c as in `Telegraph`. The last axis must be even.
    """

    name: ClassVar[str] = "planar"
    speed_norm: ClassVar[str] = "planar"
    _norm_factor: ClassVar[float] = 2.0**0.5

    def std(self, t):
        turns = self.a * t.double()
        return self.c / self.a * (turns + torch.expm1(-turns)).sqrt()

    def check_shape(self, size):
        if size[-1] % 2:
            raise ValueError(
                f"planar: pairs neighbouring pixels of a row, so the image width must be even, got {size[-1]}; "
                "resize the images or use the telegraph process"
            )


@dataclass(frozen=True)
class Gaussian(Process):
    """Gaussian flow matching, the infinite-speed baseline: K_t = sigma t z, v = sigma z with z standard normal."""

    sigma: float = 1.0
    f: str = "linear"
    g: str = "linear"
    kappa: float = 1.0

    name: ClassVar[str] = "gaussian"

    def __post_init__(self):
        self._check()

    def noise(self, t, size, seed, offset=0):
        z = normal_rows(len(t), tuple(size), seed, offset).to(t.device)
        return self.sigma * _column(t, z) * z

    def std(self, t):
        return self.sigma * t.double()

    def velocity(self, k, t):
        # v = K / t = sigma z; at t = 0 the displacement is 0 and so is the mean velocity there.
        column = _column(t, k)
        return torch.where(column > 0, k / column.clamp(min=torch.finfo(k.dtype).tiny), torch.zeros_like(k))

    def pair(self, x0, t, seed, offset=0):
        z = normal_rows(len(t), tuple(x0.shape[1:]), seed, offset).to(x0)
        f, f_dot = (_column(v, x0) for v in f_schedule(t, self.f, self.kappa))
        g, g_dot = (_column(v, x0) for v in g_schedule(t, self.g))
        return f * x0 + self.sigma * g * z, f_dot * x0 + self.sigma * g_dot * z


class NoiseStream:
    """A process whose every call draws new noise: keeps the `offset` that `Process.pair` and `Process.prior` want.

    process: with f = "linear" or "cosine", so that x_1 is noise alone. seed: int; streams of other seeds are independent,
    and each process of a distributed run wants its own. next_row: the first row of noise not used yet; save it with a
    checkpoint and give it again to go on with noise that was never seen.
    """

    def __init__(self, process: Process, seed: int = 0, next_row: int = 0):
        if process.f == "exp":
            raise ValueError(
                f'{process.name}: f = "exp" leaves data in x_1, so no noise alone begins its paths; take "linear" or "cosine"'
            )
        self.process, self.seed, self.next_row = process, seed, next_row
        self._prior_row: int | None = None  # the first row of what `prior_like` drew last

    def prior_like(self, x: torch.Tensor) -> torch.Tensor:
        """New noise x_1 = K_{g(1)} in the shape, dtype and device of x (B, ...), whose values are not used."""
        self._prior_row = self._take(len(x))
        return self._prior(x, self._prior_row)

    def pair(
        self, x0: torch.Tensor, t: torch.Tensor, x1: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(x_t, u) as `Process.pair` gives them, from new noise, or on the paths that end in x1.

        x0: (B, ...) data, also float64, which is computed in float32. t: (B,) in [0, 1], of any floating dtype.
        x1: what `prior_like` drew last, with its rows in their order; anything else is a ValueError, because the path to a
        given end is known only for the noise of this stream. The same x1 may serve again, at other times or with other x0.
        """
        if x1 is not None and getattr(x1, "shape", None) != x0.shape:
            got = tuple(x1.shape) if isinstance(x1, torch.Tensor) else type(x1).__name__
            raise ValueError(f"x1 must be a tensor of the shape of x0, {tuple(x0.shape)}, got {got}")
        row = self._take(len(x0)) if x1 is None else self._row_of(x1)
        data = x0.float() if x0.dtype == torch.float64 else x0
        times = t.float() if t.dtype in (torch.float16, torch.bfloat16) else t
        x_t, u = self.process.pair(data, times, self.seed, row)
        return x_t.to(x0.dtype), u.to(x0.dtype)

    def _take(self, rows: int) -> int:
        first, self.next_row = self.next_row, self.next_row + rows
        return first

    def _prior(self, x: torch.Tensor, row: int) -> torch.Tensor:
        return self.process.prior(len(x), tuple(x.shape[1:]), self.seed, row, x.device).to(x.dtype)

    def _row_of(self, x1: torch.Tensor) -> int:
        if self._prior_row is None or not torch.equal(x1, self._prior(x1, self._prior_row)):
            raise ValueError(
                "x1 is not the noise that this stream drew last, so the paths to it are not known; take x1 from prior_like and "
                "keep the order of its rows, or omit it for new noise"
            )
        return self._prior_row


PROCESSES = {process.name: process for process in (Telegraph, Planar, Gaussian)}


def from_dict(values: dict) -> Process:
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
