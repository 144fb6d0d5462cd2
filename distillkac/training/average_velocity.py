"""Average velocities: a network that takes the end of the step as an input, learned from data alone (MeanFlow, Geng et al.
2025, arXiv 2505.13447).

u(x_t, t, r) is the average of the flow's velocity over [r, t], so one step x_t - (t - r) u leads to r, whatever r. Along a path
(t - r) u is the way from r to t, so by its derivative in t

    u = v - (t - r) du/dt,        d/dt along the path, dx/dt = v.

The right side, without a gradient, is what u is fitted to. v is the velocity of one image and one seed (process.pair), whose
mean over the images is the flow's, and as the right side is linear in v, the fit finds the average velocities of the flow.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from distillkac.base.random import derive_seed
from distillkac.base.tensors import column
from distillkac.flow.attention import written_out
from distillkac.runs.objectives import AverageVelocityConfig
from distillkac.training.batches import Batch
from distillkac.training.compiled import plain_calls
from distillkac.training.objective import FromData, like

SMALLEST_T = 1e-3  # earlier times are this one
FLOOR = 1e-3  # of the mean square error in the weight of a row

Answer = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(x, t) -> u, with labels and r as they are."""


@dataclass(frozen=True)
class AverageVelocity(FromData):
    """The objective of a run. config: its derivative is settled, see `settled`."""

    config: AverageVelocityConfig

    @property
    def evaluations(self) -> int:
        """Forward mode costs about two."""
        return 2 if self.config.derivative == "forward" else 1

    def __call__(self, network: nn.Module, batch: Batch) -> torch.Tensor:
        t, r = self.times(batch)
        y, seed = self.labels(batch), derive_seed(self.seed, "noise")

        def answer(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return like(x, network(x, t, y, r=r)).float()

        forward, s = self.config.derivative == "forward", torch.maximum(t - self.config.step, r)
        if forward:
            x, v = self.process.pair(batch.x0, t, seed, batch.first)
        else:
            x, v, x_s = self.process.pair_to(batch.x0, t, s, seed, batch.first)
        # The same dropout for the derivative and for what learns from it.
        with torch.random.fork_rng([x.device] if x.is_cuda else []), torch.no_grad():
            if forward:
                slope = forward_derivative(answer, x, t, v)
            else:
                u_s = answer(x_s, s)
        u = answer(x, t)
        now, mean = u.detach(), v
        if not forward:
            # (t - r) u(t) = (x_t - x_s) + (s - r) u(s), which holds for points s of any distance, not only for near ones.
            between = column(torch.where(s < t, t - s, 1.0), x)
            slope, mean = (now - u_s) / between, now + (x - x_s) / between - u_s
        aim = torch.where(column(r < t, x), mean - column(t - r, x) * slope, v)
        error = (u - aim).square().flatten(1).mean(1)
        return (error / (error.detach() + FLOOR) ** self.config.power).mean()

    def times(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """(t, r), each (B,): 0 <= r <= t <= 1."""
        config = self.config
        one, other = (batch.stratified(self.seed, name) for name in ("time", "other time"))
        if config.times == "logit-normal":
            one, other = (torch.sigmoid(config.mean + config.deviation * torch.special.ndtri(u)) for u in (one, other))
        t, r = torch.maximum(one, other).clamp(min=SMALLEST_T), torch.minimum(one, other)
        t = torch.where(batch.uniform(self.seed, "at one") < config.at_one, 1.0, t)
        return t, torch.where(batch.uniform(self.seed, "velocity") < config.velocity, t, r)


def forward_derivative(answer: Answer, x: torch.Tensor, t: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """d/dt of answer(x, t) along dx/dt = v, by forward mode, in float32. Raises whatever torch does where it knows none."""
    with plain_calls(), written_out(), _ForForwardMode(x.device.type):  # fused attention has no forward mode
        return torch.func.jvp(answer, (x, t), (v, torch.ones_like(t)))[1]


class _ForForwardMode(TorchFunctionMode):
    """Two things that torch's forward mode lacks. Autocast, which casts weights and not the images with a tangent: it is off.
    Group norms of tangents that lie in memory otherwise than the images do: those of a copy do not."""

    def __init__(self, device_type: str) -> None:
        super().__init__()
        self.device_type = device_type

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is nn.functional.group_norm:
            args = (args[0].clone(memory_format=torch.contiguous_format), *args[1:])
        with torch.autocast(self.device_type, enabled=False):
            return func(*args, **(kwargs or {}))
