"""Sampling in few steps with a share of fresh noise that is continuous: trajectory-consistency sampling (arXiv 2402.19159).

At t the data are predicted, x_hat, and what is left is noise, K = x - f(t) x_hat. K goes back along its flow to an earlier
time s, and from there onward as the process itself moves (onward.py), to the next time:

    s = (1 - gamma) t_next,    K' = onward(back(K)),    x_next = f(t_next) x_hat + K'.

Given x_hat, K keeps the law of the process at every time for any gamma. gamma = 0 draws nothing; gamma = 1 is fresh noise.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Literal, get_args

import torch

from distillkac.base.random import derive_seed
from distillkac.flow.fields import Field
from distillkac.flow.integrators import check_grid_to_data, restarted, takes_end
from distillkac.flow.onward import back, cone_kept, known, onward
from distillkac.flow.path_energy import PathEnergy
from distillkac.flow.processes import Gaussian, Planar, Process, Telegraph

__all__ = ["Means", "data_and_noise", "trajectory_chain", "trajectory_step"]

Means = Literal["data", "velocity"]
HALVINGS = 30  # of the light cone: to beyond the digits of float32
BARE = 0.1  # data are found from the state where f is above it, else from the velocity: neither is divided by what is small


def trajectory_chain(
    field: Field,
    x: torch.Tensor,
    y: torch.Tensor | None,
    grid: torch.Tensor,
    process: Process,
    gamma: float,
    seed: int,
    offset: int = 0,
    path: bool = False,
    means: Means = "data",
    energy: PathEnergy | None = None,
) -> torch.Tensor:
    """Steps of a student or teacher with the share `gamma` of fresh noise, in [0, 1], at any number of steps.

    means: what the field's answer u says. "data": of a network of few steps, x - t u is the data. "velocity": of a teacher, u
    is the velocity of the process, and x_hat the data whose own path through x has it.
    field, x, y, path, energy: as in `integrate`. grid: (N + 1,) decreasing to 0. seed, offset: of the fresh noise; row b
    depends on (seed, offset + b) alone. One evaluation a step; a field that takes the end of the step is asked for that to 0.
    Returns as `integrate` does. Raises ValueError for a gamma out of range, another grid or meaning, or an unknown process.
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma is the share of fresh noise, in [0, 1], got {gamma}")
    check_grid_to_data(grid)
    known(process)
    if (averages := takes_end(field)) and means == "velocity":
        raise ValueError('the field answers with average velocities, which lead to the data: means must be "data"')
    states, times = [x], grid.tolist()
    answer: Callable[..., torch.Tensor] = field
    for step, (t, t_next) in enumerate(pairwise(times)):
        u = answer(x, t, y, *((0.0,) if averages else ()))
        if energy is not None:
            energy.add(u, t - t_next)
        x = trajectory_step(process, x, u, t, t_next, gamma, seed, step, offset, means)
        if path:
            states.append(x)
    return torch.stack(states) if path else x


def trajectory_step(
    process: Process,
    x: torch.Tensor,
    u: torch.Tensor,
    t: float,
    t_next: float,
    gamma: float,
    seed: int,
    step: int = 0,
    offset: int = 0,
    means: Means = "data",
) -> torch.Tensor:
    """The end of step number `step` of `trajectory_chain`, like x, from the field's answer u at (x, t). t_next: in [0, t)."""
    x_hat, k = data_and_noise(process, x, u, t, means)
    if gamma == 1 or t_next == 0:
        return restarted(process, x_hat, x_hat, t_next, 1.0, seed, step, offset)
    _, ages = process.scales(torch.tensor([t, (1 - gamma) * t_next, t_next], dtype=torch.float64))
    age, back_to, to = ages.tolist()
    before = back(process, k, age, back_to)
    k = onward(process, before, back_to, to, derive_seed(seed, "trajectory", step), offset)
    return _scale_of_data(process, t_next) * x_hat + k


def data_and_noise(
    process: Process, x: torch.Tensor, u: torch.Tensor, t: float, means: Means
) -> tuple[torch.Tensor, torch.Tensor]:
    """(x_hat, K) that the answer u at (x, t) says, each like x: x = f x_hat + K. x, u: (B, ...). t: in (0, 1]. means: as in
    `trajectory_chain`. A K beyond the light cone, where no displacement is, is brought back onto it."""
    if means not in get_args(Means):
        raise ValueError(f"means must be one of {', '.join(get_args(Means))}, got {means!r}")
    (f, df), (g, dg) = ([float(v) for v in pair] for pair in process.schedules(torch.tensor(t, dtype=torch.float64)))
    if means == "data":
        x_hat = x - t * u
        k = x - f * x_hat
        if isinstance(process, Telegraph):  # the velocity jumps at the cone, from which rounding would take the atoms
            rounding = 4 * torch.finfo(x.dtype).eps * (x.abs() + (f * x_hat).abs())
            k = torch.where(k.abs() + rounding >= process.c * g, k.sign() * (2 * process.c * g), k)
        return x_hat, cone_kept(process, k, g)
    # u = f' x_hat + g' v(g, K) and x = f x_hat + K: -f' K + f g' v(g, K) = f u - f' x, which grows with K.
    k = _with_velocity(process, f * u - df * x, g, -df, f * dg)
    if f > BARE:
        return (x - k) / f, k
    ages = torch.full((len(x),), g, dtype=torch.float64, device=x.device)
    return (dg * process.velocity(k, ages) - u) / -df, k


def _with_velocity(process: Process, aim: torch.Tensor, age: float, p: float, q: float) -> torch.Tensor:
    """K with p K + q v(age, K) = aim, p >= 0 and q >= 0, not both 0; on the light cone where none inside has it."""
    law = known(process)
    if isinstance(law, Gaussian):
        return aim / (p + q / age)
    pairs, c = isinstance(law, Planar), law.c
    size = aim.unflatten(-1, (-1, 2)).norm(dim=-1, keepdim=True) if pairs else aim.abs()
    ages = torch.full((len(aim),), age, dtype=torch.float64, device=aim.device)
    low, high = torch.zeros_like(size, dtype=torch.float64), torch.full_like(size, c * age, dtype=torch.float64)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if pairs:  # eq. 7
            v = middle / (age + ((c * age - middle) * (c * age + middle)).clamp(min=0).sqrt() / c)
        else:
            v = process.velocity(middle.float(), ages)
        below = p * middle + q * v < size
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    if not pairs:
        return cone_kept(process, torch.copysign(high.to(aim.dtype), aim), age)
    k = aim.unflatten(-1, (-1, 2)) * (high / size.clamp(min=1e-30)).to(aim.dtype)
    return cone_kept(process, k.flatten(-2), age)


def _scale_of_data(process: Process, t: float) -> float:
    return float(process.scales(torch.tensor(t, dtype=torch.float64))[0])
