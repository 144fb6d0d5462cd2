"""Noise correction: at t = 1 the marginal velocity is known, so the teacher's first step needs no network.

With f(1) = 0 the state x_1 = K says nothing about the data, hence u(1, x_1 | y) = f'(1) E[x_0 | y] + g'(1) v(g(1), x_1):
all that is unknown is the mean image of each class (after Imagine Flash, Kohler et al. 2024, section 3.3). Where a Gaussian
flow ends before pure noise (its tau_max, or its path), this holds for the noise that sampling begins with, of which no data are
a part: K = x_1 - f(1) E[x_0 | y].
"""

from typing import Any

import torch

from distillkac.base.tensors import column, sent
from distillkac.flow.fields import Network, Weight
from distillkac.flow.guidance import GuidedVelocity
from distillkac.flow.processes import Process

__all__ = ["ExactStart"]


class ExactStart(GuidedVelocity):
    """A GuidedVelocity that answers at t = 1 with the exact marginal velocity, there without an evaluation where all
    rows are told to be at 1 (t a number or on a CPU).

    process: with f(1) = 0. means: of data.class_means, (num_classes + 1, C, H, W), the last for
    "no class". options: w, interval, max_speed, shaping, of GuidedVelocity.
    """

    def __init__(self, network: Network, process: Process, means: torch.Tensor, **options: Any) -> None:
        super().__init__(network, speed_norm=process.speed_norm, **options)
        one = torch.ones((), dtype=torch.float64)
        (f, df), (g, dg) = process.schedules(one)
        self._f, self._df, self._dg = float(f), float(df), float(dg)
        if process.f == "exp":
            raise ValueError(f"noise correction needs f(1) = 0, got f = {process.f!r}, which leaves data at t = 1")
        if self.embedded:
            raise ValueError("noise correction is for teachers; a network with w as an input is a student")
        if self.takes_end:
            raise ValueError("noise correction is of the velocity; this network answers with average velocities")
        self._process, self._age, self._means = process, float(g), means

    def exact(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """u(1, x | y). x: (B, C, H, W) at t = 1. y: (B,), the number of classes for no class."""
        age, mean = torch.full((len(x),), self._age, device=x.device), sent(self._means, x.device).to(x.dtype)[y]
        return self._df * mean + self._dg * self._process.velocity(x - self._f * mean, age)

    def _answers(
        self, x: torch.Tensor, t: float | torch.Tensor, y: torch.Tensor | None, r: float | torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None, Weight]:
        some, every = self._starting(t)
        if not some:
            return super()._answers(x, t, y, r)
        if y is None:
            raise ValueError("noise correction needs class labels y (B,), got None")
        null = torch.full_like(y, len(self._means) - 1)
        if every:
            w = self._weight(t)
            guided = torch.is_tensor(w) or w != 0
            return self.exact(x, y), self.exact(x, null) if guided else None, w
        u_cond, u_uncond, w = super()._answers(x, t, y, r)
        assert torch.is_tensor(t), "a float is that of every row"
        start = column(t >= 1, x)
        # The other rows have data in them, which may reach further than any noise of t = 1.
        at_one = torch.where(start, x, 0)
        u_cond = torch.where(start, self.exact(at_one, y), u_cond)
        if u_uncond is not None:
            u_uncond = torch.where(start, self.exact(at_one, null), u_uncond)
        return u_cond, u_uncond, w

    @staticmethod
    def _starting(t: float | torch.Tensor) -> tuple[bool, bool]:
        """Whether some of the rows are at t = 1, and whether all are. Times on a GPU are not looked at, which would wait for
        it: some may be."""
        if not torch.is_tensor(t):
            return t >= 1, t >= 1
        if t.device.type != "cpu":
            return True, False
        return bool((t >= 1).any()), bool((t >= 1).all())
