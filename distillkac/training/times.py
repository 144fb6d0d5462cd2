"""At which times flow matching learns, and how much each counts (docs/method.md, section 10)."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from distillkac.flow.processes import Process
from distillkac.flow.time_shift import shifted, time_of
from distillkac.runs.times_config import TimesConfig
from distillkac.training.batches import BELOW_ONE
from distillkac.training.optimizer import outer_layers

GAMMA = 5.0
"""Ratio of the data's variance to the noise's from which on a time counts less, of Hang et al. 2023."""
WAVES = 32  # of the learned curve: steps of time of about 1/32, in which a telegraph of a = 25 turns about once


@dataclass(frozen=True)
class TimeLaw:
    """Makes times of uniform draws, by the inverse of their distribution: strata stay strata. shift: as in `shifted`."""

    config: TimesConfig
    process: Process
    shift: float

    def __call__(self, draws: Tensor) -> Tensor:
        """(n,) in [0, 1) -> times (n,) float32 in [0, 1), growing with the draws."""
        t = draws.double()
        if self.config.draw == "logit-normal":
            t = torch.sigmoid(self.config.mean + self.config.std * torch.special.ndtri(t))
        return shifted(t, self.process, self.shift).float().clamp(max=BELOW_ONE)


def law_of(config: TimesConfig, process: Process, shape: tuple[int, ...]) -> TimeLaw | None:
    """None for uniform times as they are drawn. shape: (C, H, W) of the images."""
    shift = config.factor(shape)
    return None if config.draw == "uniform" and shift == 1 else TimeLaw(config, process, shift)


@dataclass(frozen=True)
class MinSNR:
    """The weight of a time: 1, and less where there is so little noise that any guess of the data would be a good one.

    An error e of the data that a velocity u belongs to is one of (f' - f g' s'/s) e of u, where s is the spread of K and the
    velocity of K taken as (s'/s) K, which in the mean it is. Its square counts errors of the data 1/t^2 times near t = 0. The
    weight keeps that factor at what it is where f^2 / s^2, the signal to noise ratio of data of variance 1, is GAMMA.
    """

    process: Process

    def __post_init__(self) -> None:
        self._largest  # noqa: B018  # now, and in no step of the training

    def __call__(self, t: Tensor) -> Tensor:
        """(B,) -> (B,) float32 in [0, 1]."""
        return (self._largest / self._factor(t.double())).clamp(max=1).float()

    @cached_property
    def _largest(self) -> float:
        """Of the factors that are left as they are."""
        root = torch.full((1,), GAMMA**0.5, dtype=torch.float64)
        return float(self._factor(time_of(root, self.process)))

    def _factor(self, t: Tensor) -> Tensor:
        (f, df), (g, dg) = self.process.schedules(t)
        slope = f * dg * self.process.log_std_slope(g)
        return (df - slope.nan_to_num(nan=math.inf, posinf=math.inf)).square()  # at 0 g' may be 0


class WithUncertainty(nn.Module):
    """A network beside a curve u(t) that learns the logarithm of its loss at every time (Karras et al. 2024, EDM2).

    The loss of a row is then loss / e^u + u, least where e^u is the mean loss at that time, so that all times count alike. Only
    the network is averaged and exported; the curve is saved with what a training goes on from.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.curve = nn.Linear(WAVES, 1, bias=False, device=next(network.parameters()).device)
        nn.init.zeros_(self.curve.weight)  # at first all is as without it

    @property
    def averaged(self) -> nn.Module:
        return self.network

    def outer_layers(self) -> list[nn.Module]:
        return [*outer_layers(self.network), self.curve]

    def param_groups(self) -> list[dict]:
        named = getattr(self.network, "param_groups", None)
        groups = named() if callable(named) else [{"params": list(self.network.parameters())}]
        return [*groups, {"params": list(self.curve.parameters()), "weight_decay": 0.0}]

    def forward(self, x: Tensor, t: Tensor, y: Tensor, **more: Tensor) -> tuple[Tensor, Tensor]:
        """(the network's answer, u (B,) float32)."""
        waves = torch.cos(torch.pi * t.float()[:, None] * torch.arange(WAVES, device=t.device))
        with torch.autocast(t.device.type, enabled=False):
            u = self.curve(waves).sum(1)  # of the one column; FSDP2 warns of a view that is returned
        return self.network(x, t, y, **more), u
