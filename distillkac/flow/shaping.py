"""Kinetic trajectory shaping: a velocity that is made larger in the first part of the way, and smaller in the last.

With s = 1 - t, from 0 (noise) to 1 (data), the velocity is multiplied by

    eta(s) = 1 + launch (1 - s / turn)                                         for s < turn,
    eta(s) = 1 - landing (e^{rate r} - 1),    r = (s - turn) / (1 - turn),     from there on

(arXiv 2602.07928, where launch is alpha_0, landing beta_0, turn tau and rate k). No torch is imported here: launch and landing
are options of commands.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["Shaping"]


@dataclass(frozen=True)
class Shaping:
    """launch: in [0, 1], how much larger the first velocity is. landing: in [0, 1 / (e^rate - 1)], .0523 by default; at t = 0
    the velocity would be smaller by landing (e^rate - 1), and the last step begins a little before. turn: where the one ends
    and the other begins, in (0, 1). rate: > 0. Raises ValueError out of these ranges."""

    launch: float = 0.0
    landing: float = 0.0
    turn: float = 0.6
    rate: float = 3.0

    def __post_init__(self) -> None:
        if not 0 < self.turn < 1 or not 0 < self.rate <= 100:
            raise ValueError(f"shaping: turn must lie in (0, 1) and rate in (0, 100], got {self.turn} and {self.rate}")
        if not 0 <= self.launch <= 1:
            raise ValueError(f"launch must lie in [0, 1], of which 0 changes nothing, got {self.launch}")
        if not 0 <= self.landing <= (most := 1 / math.expm1(self.rate)):
            raise ValueError(
                f"landing must lie in [0, {most!r}], of which 0 changes nothing and more would turn back, got {self.landing}"
            )

    def factor(self, t: "float | torch.Tensor") -> "float | torch.Tensor":
        """eta at time t, in [0, 2]. t: a number in [0, 1], or a tensor of any shape, like which the answer is."""
        if isinstance(t, (int, float)):
            s = 1 - t
            if s < self.turn:
                return 1 + self.launch * (1 - s / self.turn)
            return 1 - self.landing * math.expm1(self.rate * (s - self.turn) / (1 - self.turn))
        way = 1 - t
        late = 1 - self.landing * (self.rate * (way - self.turn) / (1 - self.turn)).expm1()
        return late.where(way >= self.turn, 1 + self.launch * (1 - way / self.turn))
