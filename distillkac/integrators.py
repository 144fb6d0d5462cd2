"""Integrators of dx/dt = u(x, t) from t = 1 (noise) down to t = 0 (data).

`num_steps` is the number of intervals; the number of network evaluations is counted by the field (guidance.py).
"""

from itertools import pairwise

import torch

from distillkac import ops

METHODS = ("euler", "heun", "ab2")


def time_grid(num_steps: int, rho: float = 1.5) -> torch.Tensor:
    """t_i = (1 - i / N)^rho, i = 0 .. N: float64 (N + 1,), from exactly 1 down to exactly 0.

    rho > 1 makes the steps shorter towards the data; 1.5 is best for distillation, 2 for a plain teacher.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    if not rho > 0:
        raise ValueError(f"rho must be positive, got {rho}")
    i = torch.arange(num_steps + 1, dtype=torch.float64)
    return (1 - i / num_steps) ** rho


def integrate(field, x, y, grid, method="ab2", path=False):
    """Carries x along the field over the grid.

    field:  GuidedVelocity. x: (B, ...) state at grid[0]. y: (B,) class labels.
    grid:   decreasing times, float64: (N + 1,) common to all rows, or (N + 1, B) with a grid for each row.
    method: "euler"; "heun", two evaluations per step; "ab2", Adams-Bashforth with variable step and one evaluation per
            step, whose first step is Euler: x - h ((1 + r) u - r u_prev), r = h / (2 h_prev).
    Returns x at grid[-1], or with `path` all N + 1 states stacked (N + 1, B, ...). The order is 1, 2 and 2.
    """
    if method not in METHODS:
        raise ValueError(f"integrator must be one of {', '.join(METHODS)}, got {method!r}")
    if grid.dim() == 1:
        grid = grid.tolist()
    states, u_prev, h_prev = [x], None, None
    for t, t_next in pairwise(grid):
        h = t - t_next
        u_cond, u_uncond, w = field.evaluate(x, t, y)
        x_next, u = ops.guided_step(x, u_cond, u_uncond, u_prev, w, h, h_prev, field.max_speed, field.process)
        if method == "heun":
            mean = (u + field(x_next, t_next, y)) / 2
            x_next, _ = ops.guided_step(x, mean, None, None, 0.0, h, None)
        if method == "ab2":
            u_prev, h_prev = u, h
        x = x_next
        if path:
            states.append(x)
    return torch.stack(states) if path else x
