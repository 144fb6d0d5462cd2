"""What every noise process is: the interface that training, sampling and distillation ask."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from distillkac.base.ranges import is_number
from distillkac.base.tensors import column
from distillkac.flow.fields import SpeedNorm
from distillkac.ops.schedules import F_NAMES, G_NAMES, FName, GName, f_schedule, g_schedule

__all__ = ["Process", "check_times"]


def check_times(t: Any, rows: int, name: str = "t") -> None:
    """Raises ValueError unless t is a tensor of one time for each row, (rows,). One of shape (1,) would give every row the same
    noise, and torch would stretch it."""
    if not isinstance(t, Tensor) or t.shape != (rows,) or not t.is_floating_point():
        got = f"{t.dtype} {tuple(t.shape)}" if isinstance(t, Tensor) else f"{t!r:.80}"
        raise ValueError(
            f"{name} must be a floating-point tensor of one time in [0, 1] for each row, ({rows},), got {got}: repeat one that "
            f"is meant for all, torch.full(({rows},), t)"
        )


class Process:
    """What every process shares: a frozen dataclass of numbers and names. f, g: schedules; kappa: rate of f = "exp"."""

    name: ClassVar[str]
    # What a speed limit holds for: each coordinate, pair or patch.
    speed_norm: ClassVar[SpeedNorm] = "telegraph"
    f: FName
    g: GName
    kappa: float

    def _check(self) -> None:
        for field, value in vars(self).items():
            if field not in ("f", "g", "path") and not (is_number(value) and 0 < value < float("inf")):
                raise ValueError(f"{self.name}: {field} must be positive and finite, got {value!r:.80}")
        if self.f not in F_NAMES:
            raise ValueError(f"{self.name}: f must be one of {', '.join(F_NAMES)}, got {self.f!r}")
        if self.g not in G_NAMES:
            raise ValueError(f"{self.name}: g must be one of {', '.join(G_NAMES)}, got {self.g!r}")

    def check_shape(self, size: tuple[int, ...]) -> None:
        """Raises ValueError if the process cannot act on samples of this size."""

    def schedules(self, t: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """((f, f'), (g, g')) at t, each like t. t: any shape, in [0, 1]."""
        return f_schedule(t, self.f, self.kappa), g_schedule(t, self.g)

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(f, g) at t, the same numbers without the slopes, which of a path by name take longer."""
        (f, _), (g, _) = self.schedules(t)
        return f, g

    def noise(self, t: Tensor, size: tuple[int, ...], seed: int, offset: int = 0) -> Tensor:
        """K after process time t. t: (B,). Returns (B, *size); row b depends on (seed, offset + b) only."""
        raise NotImplementedError

    def velocity(self, k: Tensor, t: Tensor) -> Tensor:
        """Conditional velocity v(t, k) of the displacement k after process time t. k: (B, ...), t: (B,)."""
        raise NotImplementedError

    def std(self, t: Tensor) -> Tensor:
        """Standard deviation of a coordinate of K_t (docs/method.md, eq. 3). t: (B,) -> (B,) float64."""
        raise NotImplementedError

    def log_std_slope(self, t: Tensor) -> Tensor:
        """d log std / dt, 1/t near t = 0: the velocity of a displacement k, in the mean over all, is so many times k. t: (B,)
        -> (B,) float64."""
        raise NotImplementedError

    @property
    def limit_std(self) -> float:
        """Standard deviation, after unit time, of the Brownian motion that the process becomes when c^2 / a is kept and a
        grows without bound: c / sqrt(a), of quad c / sqrt(2 a)."""
        raise NotImplementedError

    def prior(
        self, n: int, size: tuple[int, ...], seed: int, offset: int = 0, device: torch.device | str | None = None
    ) -> Tensor:
        """x_1 of n samples: K_{g(1)}, since f(1) = 0 for the linear and cosine f. Returns (n, *size).

        With f = "exp" some data is left at t = 1, exp(-kappa) x_0, which this prior leaves out.
        """
        return self.noise(torch.ones(n, dtype=torch.float32, device=device), size, seed, offset)

    def bridge(self, x0: Tensor, t: Tensor, seed: int, offset: int = 0) -> Tensor:
        """x_t = f(t) x_0 + K_{g(t)}. x0: (B, ...), t: (B,) in [0, 1]. Returns like x0."""
        check_times(t, len(x0))
        (f, _), (g, _) = self.schedules(t)
        return (column(f.to(x0.dtype), x0) * x0 + self.noise(g, tuple(x0.shape[1:]), seed, offset)).to(x0.dtype)

    def pair(self, x0: Tensor, t: Tensor, seed: int, offset: int = 0) -> tuple[Tensor, Tensor]:
        """(x_t, u) for training: the state and its target velocity. x0: (B, ...), t: (B,) in [0, 1]."""
        raise NotImplementedError

    def pair_to(self, x0: Tensor, t: Tensor, t_to: Tensor, seed: int, offset: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """(x_t, u, x_to): `pair`, and the state at another time of the same path, in one pass. t_to: (B,) in [0, 1].

        All have the bits that `pair` gives them at t and at t_to.
        """
        x_t, u = self.pair(x0, t, seed, offset)
        return x_t, u, self.pair(x0, t_to, seed, offset)[0]

    def max_target_speed(self, data_bound: float = 1.0) -> float:
        """A number no |u| of `pair` exceeds, for data in [-data_bound, data_bound]: max_t |f'| |x_0| + g' c.

        Per coordinate for the telegraph; for planar the norm of a pair, whose |x_0| reaches sqrt(2) data_bound; for quad
        that of a patch, 2 data_bound.
        Infinite for the Gaussian process, which has no speed limit.
        """
        return float("inf")

    def to_dict(self) -> dict[str, Any]:
        """{"name": ..., parameters}: what `from_dict` takes."""
        return {"name": self.name, **vars(self)}
