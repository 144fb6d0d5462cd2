"""Integrators of dx/dt = u(x, t) from t = 1 (noise) down to t = 0 (data).

`num_steps` is the number of intervals; the number of network evaluations is counted by the field (guidance.py).
"""

from collections.abc import Callable, Iterable
from itertools import pairwise
from numbers import Integral

import torch

from distillkac import ops
from distillkac.base.random import derive_seed, uniform_rows
from distillkac.base.tensors import column, sent
from distillkac.flow import patches
from distillkac.flow.fields import Field
from distillkac.flow.methods import METHODS, Method, rho_in
from distillkac.flow.path_energy import PathEnergy
from distillkac.flow.processes import Process
from distillkac.flow.time_shift import shifted

__all__ = [
    "METHODS",
    "Method",
    "check_grid_to_data",
    "integrate",
    "restart_chain",
    "restarted",
    "takes_end",
    "time_grid",
]


def time_grid(
    num_steps: int, rho: float | None = None, shift: float = 1.0, process: Process | None = None
) -> torch.Tensor:
    """t_i = (1 - i / N)^rho, i = 0 .. N: float64 (N + 1,), from exactly 1 down to exactly 0.

    rho > 1 makes the steps shorter towards the data; 1.5 is best for distillation. None is the usual one of a plain teacher by
    the number of steps (methods.rho_in), and 1 with a shift. shift: other than 1 the times are shifted (time_shift.py), which
    the process decides.
    """
    if not isinstance(num_steps, Integral) or (num_steps := int(num_steps)) < 1:
        raise ValueError(f"num_steps must be a whole number of at least 1, got {num_steps}")
    if rho is None:
        rho = rho_in(num_steps) if shift == 1 else 1.0
    if not rho > 0:
        raise ValueError(f"rho must be positive, got {rho}")
    i = torch.arange(num_steps + 1, dtype=torch.float64)
    grid = (1 - i / num_steps) ** rho
    if shift == 1:
        return grid
    if process is None:
        raise ValueError(f"how far shift {shift} moves a time is a matter of the process: give it")
    return shifted(grid, process, shift)


def integrate(
    field: Field,
    x: torch.Tensor,
    y: torch.Tensor | None,
    grid: torch.Tensor,
    method: Method = "ab2",
    path: bool = False,
    energy: PathEnergy | None = None,
) -> torch.Tensor:
    """Carries x along the field over the grid.

    field:  a fields.Field, such as GuidedVelocity. x: (B, ...) state at grid[0]. y: (B,) class labels, None for a field
            without classes. One that takes the end of the step is told it, and steps by "euler" alone.
    grid:   decreasing times, float64: (N + 1,) common to all rows, or (N + 1, B) with a grid for each row.
    method: "euler"; "heun", two evaluations per step; "ab2", Adams-Bashforth with variable step and one evaluation per
            step, whose first step is Euler: x - h ((1 + r) u - r u_prev), r = h / (2 h_prev).
    energy: a new PathEnergy, which has the kinetic energy of each row's path afterwards.
    Returns x at grid[-1], or with `path` all N + 1 states stacked (N + 1, B, ...). The order is 1, 2 and 2.
    Gradients flow back through every step, to x and to the network's weights, as through any torch function, and the graph
    of all steps is kept for it: to draw samples, call it under torch.no_grad().
    """
    if method not in METHODS:
        raise ValueError(f"integrator must be one of {', '.join(METHODS)}, got {method!r}")
    _check_field(field)
    if (averages := takes_end(field)) and method != "euler":
        raise ValueError(
            f"the field answers with average velocities, each of which is one Euler step: integrator euler, got {method!r}"
        )
    _check_grid(grid, len(x))
    times: Iterable[float | torch.Tensor] = grid.tolist() if grid.dim() == 1 else grid
    states = [x]
    u_prev: torch.Tensor | None = None
    h_prev: float | torch.Tensor | None = None
    for t, t_next in pairwise(times):
        h = t - t_next
        u_cond, u_uncond, w = field.evaluate(x, t, y, *((t_next,) if averages else ()))
        x_next, u = patches.guided_step(x, u_cond, u_uncond, u_prev, w, h, h_prev, field.max_speed, field.speed_norm)
        if method == "heun":
            u = (u + field(x_next, t_next, y)) / 2
            x_next, _ = ops.guided_step(x, u, None, None, 0.0, h, None)
        if energy is not None:
            energy.add(_went_with(u, u_prev, h, h_prev), h)
        if method == "ab2":
            u_prev, h_prev = u, h
        x = x_next
        if path:
            states.append(x)
    return torch.stack(states) if path else x


def restart_chain(
    field: Field,
    x: torch.Tensor,
    y: torch.Tensor | None,
    grid: torch.Tensor,
    process: Process,
    share: float,
    seed: int,
    offset: int = 0,
    path: bool = False,
    energy: PathEnergy | None = None,
) -> torch.Tensor:
    """Euler steps of which a share is drawn anew: multistep sampling of a student, at any number of steps.

    At t the field predicts the data in one step, x_hat = x - t u. A coordinate (planar: a pair, quad: a patch) then moves on
    with probability 1 - share to x - h u, along the flow, and else to f x_hat + K, with fresh noise of the next time. 0 is the
    deterministic chain, 1 is consistency sampling. Given x_hat both have the law of the Gaussian process at that time; of the
    others what moves on keeps t_next / t of its noise, less than their law has there (docs/method.md, section 7).
    field, x, y, path, energy: as in `integrate`. grid: (N + 1,) decreasing to 0. seed, offset: of the fresh noise; row b
    depends on (seed, offset + b) alone. A field that takes the end of the step predicts the data by a step to 0, and goes
    along the flow by one to the next time: two evaluations where a share of the step is either.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"restart is the share of fresh noise, in [0, 1], got {share}")
    check_grid_to_data(grid)
    states, times, averages = [x], grid.tolist(), takes_end(field)
    answer: Callable[..., torch.Tensor] = field
    for step, (t, t_next) in enumerate(pairwise(times)):
        end = 0.0 if share == 1 else t_next
        u = answer(x, t, y, *((end,) if averages else ()))
        x_next = x - (t - t_next) * u
        if energy is not None:
            energy.add(u, t - t_next)
        to_data = answer(x, t, y, 0.0) if averages and 0 < share < 1 and t_next > 0 else u
        x = restarted(process, x_next, x - t * to_data, t_next, share, seed, step, offset)
        if path:
            states.append(x)
    return torch.stack(states) if path else x


def restarted(
    process: Process,
    x_next: torch.Tensor,
    x_hat: torch.Tensor,
    t_next: float | torch.Tensor,
    share: float,
    seed: int,
    step: int,
    offset: int = 0,
) -> torch.Tensor:
    """The end of step number `step` of `restart_chain`: a share of x_next, where the flow leads, is x_hat noised to t_next.

    x_next, x_hat: (B, ...); x_hat is the data in one step. t_next: common to all rows, or (B,) above 0. At t_next = 0, and with
    share 0, it is x_next as it is.
    """
    if share == 0 or (not torch.is_tensor(t_next) and t_next == 0):
        return x_next
    at = t_next if torch.is_tensor(t_next) else x_next.new_full((len(x_next),), t_next, dtype=torch.float32)
    fresh = process.bridge(x_hat, at, derive_seed(seed, "restart", step), offset)
    if share == 1:
        return fresh
    size = patches.size_of_groups(process.speed_norm, tuple(x_next.shape[1:]))
    drawn = uniform_rows(len(x_next), size, derive_seed(seed, "restart share", step), offset)
    drawn = patches.repeated(sent(drawn, x_next.device), process.speed_norm)
    return torch.where(drawn < share, fresh, x_next)


def _went_with(
    u: torch.Tensor, u_prev: torch.Tensor | None, h: float | torch.Tensor, h_prev: float | torch.Tensor | None
) -> torch.Tensor:
    """The velocity that a step was made with: (x - x_next) / h, without its rounding."""
    if u_prev is None or h_prev is None:
        return u
    r = h / (2 * h_prev)
    return torch.lerp(u_prev, u, 1 + (sent(column(r, u), u.device).to(u.dtype) if torch.is_tensor(r) else r))


def takes_end(field: object) -> bool:
    """Whether the field answers with average velocities, over [r, t] for its last argument r."""
    return getattr(field, "takes_end", False)


def _check_field(field: object) -> None:
    if not hasattr(field, "evaluate"):
        raise ValueError(
            f"field must be a velocity field with `evaluate`, got {type(field).__name__}: wrap a network or a function "
            "(x, t, y) -> velocity as GuidedVelocity(network)"
        )


def check_grid_to_data(grid: torch.Tensor) -> None:
    """Raises ValueError unless these are times (N + 1,) that decrease to 0."""
    _check_grid(grid, None)
    if float(grid[-1]) != 0:
        raise ValueError(f"grid must end at 0, where the data are, got {float(grid[-1])}")


def _check_grid(grid: torch.Tensor, rows: int | None) -> None:
    """Raises ValueError if these are no times to go along. rows: of the state, if each may have a grid of its own. The values
    of such grids, which may lie on a GPU, are not looked at."""
    shapes = "(N + 1,)" if rows is None else f"(N + 1,) or (N + 1, {rows})"
    if not torch.is_tensor(grid) or grid.dim() not in ((1,) if rows is None else (1, 2)) or len(grid) < 2:
        found = tuple(grid.shape) if torch.is_tensor(grid) else type(grid).__name__
        raise ValueError(f"grid must be a tensor of times {shapes}, N >= 1, such as time_grid(20), got {found}")
    if grid.dim() == 2:
        if grid.shape[1] != rows:
            raise ValueError(f"grid must have shape {shapes}, got {tuple(grid.shape)}")
        return
    times = grid.tolist()
    if not all(a > b for a, b in pairwise(times)) or not (times[0] <= 1 and times[-1] >= 0):
        raise ValueError(f"grid must be decreasing times in [0, 1], from noise (1) to data (0), got {times!r:.80}")
