"""The two schedules of a mean-reverting bridge x_t = f(t) x_0 + K_{g(t)} (docs/method.md, section 3).

f says how much of the data is left at time t, g how old the Kac noise is. Each name maps to the value and
the derivative, in plain torch; the kernels have their own copy in `csrc/ops/schedules.h`.
A new one is added here and at the places that csrc/README.md lists ("Add a schedule").
"""

import math
from typing import Literal, get_args

import torch

__all__ = ["F_NAMES", "G_NAMES", "FName", "GName", "f_schedule", "g_schedule"]

FName = Literal["linear", "cosine", "exp"]
GName = Literal["linear", "quadratic"]
F_NAMES: tuple[FName, ...] = get_args(FName)
G_NAMES: tuple[GName, ...] = get_args(GName)


def f_schedule(t: torch.Tensor, name: FName, kappa: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """f(t) and f'(t): `linear` 1 - t, `cosine` cos(pi t / 2), `exp` exp(-kappa t).

    t: any shape, in [0, 1]. Returns two tensors of t's shape and dtype.
    f(1) = 0 for `linear` and `cosine`; with `exp`, x_1 still contains exp(-kappa) x_0.
    """
    if name == "linear":
        return 1 - t, torch.full_like(t, -1.0)
    if name == "cosine":
        # f(1) is 0 by definition; cos(pi/2) in floating point is not.
        f = torch.where(t == 1, torch.zeros_like(t), torch.cos(math.pi / 2 * t))
        return f, -math.pi / 2 * torch.sin(math.pi / 2 * t)
    if name == "exp":
        f = torch.exp(-kappa * t)
        return f, -kappa * f
    raise ValueError(f"f must be one of {', '.join(F_NAMES)}, got {name!r}")


def g_schedule(t: torch.Tensor, name: GName) -> tuple[torch.Tensor, torch.Tensor]:
    """g(t) and g'(t): `linear` t, `quadratic` t^2. t: any shape, in [0, 1]."""
    if name == "linear":
        return t, torch.ones_like(t)
    if name == "quadratic":
        return t * t, 2 * t
    raise ValueError(f"g must be one of {', '.join(G_NAMES)}, got {name!r}")
