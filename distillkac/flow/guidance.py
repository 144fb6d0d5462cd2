"""Classifier-free guidance in velocity space: u = u_cond + w (u_cond - u_uncond).

w is the paper's weight, 0 = no guidance; the `guidance_scale` that diffusers users know is 1 + w.
"""

from collections.abc import Callable
from typing import Any

import torch

from distillkac.base.ranges import is_number
from distillkac.base.tensors import column, sent
from distillkac.flow import patches
from distillkac.flow.fields import (
    SPEED_NORMS,
    Network,
    SpeedNorm,
    Weight,
    guidance_embedding,
    interval_embedding,
    null_class,
)
from distillkac.flow.shaping import Shaping

__all__ = ["GuidedVelocity"]


class GuidedVelocity:
    """A network as the velocity field of an integrator (fields.Field), with guidance and an honest count of evaluations.

    network: as fields.Network says, any function (x (B, ...), t (B,), y (B,)) -> velocity like x; its `null_class` is needed
             where w > 0. One with `guidance_embedding` is given w, one with `interval_embedding` the end r of the step.
    w:       guidance weight >= 0, a float or a (B,) tensor.
    interval: guidance acts for t in [low, high]; outside it the field is unguided.
    max_speed: if given, the guided velocity is limited to it.
    speed_norm: what that limits, a process' own `speed_norm`: "telegraph" each coordinate, "planar" the length of each pair,
             "quad" that of each 2x2 patch.
    shaping: if given, the guided velocity is multiplied by `shaping.factor(t)`, and what comes of it limited. Not for a network
             with `interval_embedding`, whose answer is no velocity at one time.

    `nfe` counts network evaluations per sample since the start: two where guided, one where not.
    """

    def __init__(
        self,
        network: Network,
        w: Weight = 0.0,
        interval: tuple[float, float] = (0.0, 1.0),
        max_speed: float | None = None,
        speed_norm: SpeedNorm = "telegraph",
        shaping: Shaping | None = None,
    ) -> None:
        if not (torch.is_tensor(w) or is_number(w)):
            raise ValueError(
                f"guidance weight w must be a number or a (B,) tensor, got {w!r:.80}, of type {type(w).__name__}"
            )
        weights = torch.as_tensor(w)
        if not (torch.isfinite(weights).all() and (weights >= 0).all()):
            raise ValueError(f"guidance weight w must be finite and at least 0 (0 = no guidance), got {w}")
        if not 0 <= interval[0] <= interval[1] <= 1:
            raise ValueError(f"guidance interval must be 0 <= low <= high <= 1, got {tuple(interval)}")
        if max_speed is not None and not max_speed > 0:
            raise ValueError(f"max_speed must be positive, got {max_speed}")
        if speed_norm not in SPEED_NORMS:
            raise ValueError(f"speed_norm must be one of {', '.join(SPEED_NORMS)}, got {speed_norm!r}")
        self.network: Callable[..., torch.Tensor] = network
        self.w, self.interval = w, (interval[0], interval[1])
        self.max_speed, self.speed_norm = max_speed, speed_norm
        self.embedded = guidance_embedding(network)
        self.takes_end = interval_embedding(network)
        if shaping is not None and self.takes_end:
            raise ValueError(
                f"{type(network).__name__} answers with average velocities over a step (interval_embedding), which no shaping "
                "of one time suits: omit shaping"
            )
        self.shaping = shaping
        self.nfe = 0

    def evaluate(
        self,
        x: torch.Tensor,
        t: float | torch.Tensor,
        y: torch.Tensor | None,
        r: float | torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None, Weight]:
        """The network's answers at (x, t), shaped where it is asked for: (u_cond, u_uncond or None, w there).

        x: (B, ...). t: a float common to all rows, or (B,). y: (B,) class labels; None, where nothing is guided, for a
        network without classes. r: for a network with `interval_embedding` the time that the step leads to, like t; None is t
        itself, and the answer the velocity there. u_uncond is None, and only one evaluation is made, where guidance does
        nothing: w = 0, t outside the interval, or w is a network input. Raises ValueError if a class that guidance needs is
        missing, the network takes no r, or its answer is not like x.
        """
        u_cond, u_uncond, w = self._answers(x, t, y, r)
        if self.shaping is None:
            return u_cond, u_uncond, w
        eta = self.shaping.factor(t)
        eta = sent(column(eta, x), x.device).to(x.dtype) if torch.is_tensor(eta) else eta
        return eta * u_cond, None if u_uncond is None else eta * u_uncond, w

    def _answers(
        self, x: torch.Tensor, t: float | torch.Tensor, y: torch.Tensor | None, r: float | torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None, Weight]:
        w, times = self._weight(t), self._rows(t, x)
        network, last = self.network, self._end(r, times, x)
        if self.embedded:
            self.nfe += 1
            return self._like(x, network(x, times, y, self._rows(w, x), **last)), None, 0.0
        if isinstance(w, float) and w == 0:
            self.nfe += 1
            return self._like(x, network(x, times, y, **last)), None, 0.0
        y, null = self._labels(y)
        self.nfe += 2
        last = {name: torch.cat([value, value]) for name, value in last.items()}
        twice = torch.cat([x, x])
        both = self._like(twice, network(twice, torch.cat([times, times]), torch.cat([y, null]), **last))
        u_cond, u_uncond = both.chunk(2)
        return u_cond, u_uncond, w

    def __call__(
        self,
        x: torch.Tensor,
        t: float | torch.Tensor,
        y: torch.Tensor | None,
        r: float | torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The guided, speed-limited velocity at (x, t). Arguments as in `evaluate`; returns like x."""
        u_cond, u_uncond, w = self.evaluate(x, t, y, r)
        if u_uncond is None:
            if self.max_speed is None:
                return u_cond
            u_uncond, w = u_cond, 0.0
        return patches.guided_velocity(u_cond, u_uncond, w, self.max_speed, self.speed_norm)

    def _end(self, r: float | torch.Tensor | None, times: torch.Tensor, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """The further argument of a network that takes the end of the step."""
        if self.takes_end:
            return {"r": times if r is None else self._rows(r, x)}
        if r is not None:
            raise ValueError(f"{type(self.network).__name__} takes no end r of a step (interval_embedding): omit r")
        return {}

    def _like(self, x: torch.Tensor, answer: Any) -> torch.Tensor:
        """The network's answer. Raises ValueError if it is no velocity like x, which torch would stretch or convert."""
        if not isinstance(answer, torch.Tensor) or (answer.shape, answer.dtype) != (x.shape, x.dtype):
            known = isinstance(answer, torch.Tensor)
            got = f"{answer.dtype} {tuple(answer.shape)}" if known else f"a {type(answer).__name__}"
            raise ValueError(
                f"{type(self.network).__name__} must answer with a velocity like x, {x.dtype} {tuple(x.shape)}, got {got}"
            )
        return answer

    @staticmethod
    def _rows(value: float | torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        if torch.is_tensor(value):
            return sent(value, x.device).float().expand(len(x))
        return torch.full((len(x),), value, dtype=torch.float32, device=x.device)

    def _labels(self, y: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """(y, as many labels that mean "no class")."""
        if y is None:
            raise ValueError("guidance needs class labels y (B,), got None; use w = 0 for a network without classes")
        return y, torch.full_like(y, null_class(self.network))

    def _weight(self, t: float | torch.Tensor) -> Weight:
        w = self.w if torch.is_tensor(self.w) else float(self.w)
        low, high = self.interval
        if not torch.is_tensor(t):
            return w if low <= t <= high else 0.0
        if self.interval == (0.0, 1.0) or (not torch.is_tensor(w) and w == 0):
            return w
        inside = (t >= low) & (t <= high)
        return (sent(w, t.device).float() if torch.is_tensor(w) else w) * inside
