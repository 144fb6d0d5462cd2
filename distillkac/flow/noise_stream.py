"""New noise at every call, for training loops that keep no count of what they drew."""

import torch
from torch import Tensor

from distillkac.flow.processes import Process

__all__ = ["NoiseStream"]


class NoiseStream:
    """A process whose every call draws new noise: keeps the `offset` that `Process.pair` and `Process.prior` want.

    process: with f = "linear" or "cosine", so that x_1 is noise alone, or with a path, which leaves little of the data
    there: its pairs end at that much of x0 beside the noise of x1. seed: int; streams of other seeds are independent,
    and each process of a distributed run wants its own. next_row: the first row of noise not used yet; save it with a
    checkpoint and give it again to go on with noise that was never seen.
    """

    def __init__(self, process: Process, seed: int = 0, next_row: int = 0) -> None:
        if process.f == "exp":
            raise ValueError(
                f'{process.name}: f = "exp" leaves data in x_1, so no noise alone begins its paths; take "linear" or "cosine"'
            )
        self.process, self.seed, self.next_row = process, seed, next_row
        self._prior_row: int | None = None  # the first row of what `prior_like` drew last

    def prior_like(self, x: Tensor) -> Tensor:
        """New noise x_1 = K_{g(1)} in the shape, dtype and device of x (B, ...), whose values are not used."""
        self._prior_row = self._take(len(x))
        return self._prior(x, self._prior_row)

    def pair(self, x0: Tensor, t: Tensor, x1: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(x_t, u) as `Process.pair` gives them, from new noise, or on the paths that end in x1.

        x0: (B, ...) data, also float64, which is computed in float32. t: (B,) in [0, 1], of any floating dtype.
        x1: what `prior_like` drew last, with its rows in their order; anything else is a ValueError, because the path to a
        given end is known only for the noise of this stream. The same x1 may serve again, at other times or with other x0.
        """
        if x1 is not None and getattr(x1, "shape", None) != x0.shape:
            got = tuple(x1.shape) if isinstance(x1, Tensor) else type(x1).__name__
            raise ValueError(f"x1 must be a tensor of the shape of x0, {tuple(x0.shape)}, got {got}")
        row = self._take(len(x0)) if x1 is None else self._row_of(x1)
        data = x0.float() if x0.dtype == torch.float64 else x0
        times = t.float() if t.dtype in (torch.float16, torch.bfloat16) else t
        x_t, u = self.process.pair(data, times, self.seed, row)
        return x_t.to(x0.dtype), u.to(x0.dtype)

    def _take(self, rows: int) -> int:
        first, self.next_row = self.next_row, self.next_row + rows
        return first

    def _prior(self, x: Tensor, row: int) -> Tensor:
        return self.process.prior(len(x), tuple(x.shape[1:]), self.seed, row, x.device).to(x.dtype)

    def _row_of(self, x1: Tensor) -> int:
        if self._prior_row is None or not torch.equal(x1, self._prior(x1, self._prior_row)):
            raise ValueError(
                "x1 is not the noise that this stream drew last, so the paths to it are not known; take x1 from prior_like and "
                "keep the order of its rows, or omit it for new noise"
            )
        return self._prior_row
