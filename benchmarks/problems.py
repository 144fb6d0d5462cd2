"""The problems of the contests: shapes, rates and inputs, the same for every file."""

import functools
from functools import partial

import torch

from benchmarks import baselines, checks
from distillkac import ops

PROCESSES = ("telegraph", "planar", "quad")
COLUMNS = ("out", "allocating")
SMALL, MEDIUM, LARGE = (64, 3, 32, 32), (256, 3, 32, 32), (32, 3, 256, 256)
SHAPES = (SMALL, MEDIUM, LARGE)
RATES = ((9.0, 3.0), (25.0, 2.0))  # (a, c): rate of turns, speed
THIN_GRID = ((SMALL, *RATES[1]), (MEDIUM, *RATES[0]), (LARGE, *RATES[1]))  # every shape and every rate once at least
# Read and written for an element in float32.
BYTES = {"kac_noise": 4, "kac_velocity": 8, "kac_pair": 12, "guided_step": 24, "endpoint_loss": 16}
W, H, H_PREV = 1.5, 0.05, 0.06  # guidance weight and step lengths


def label(value) -> str:
    """Test id of a shape or a number."""
    return "x".join(map(str, value)) if isinstance(value, tuple) else f"{value:g}"


def thin_id(problem) -> str:
    shape, a, c = problem
    return f"{label(shape)}-{a:g}-{c:g}"


def times(rows: int, device) -> torch.Tensor:
    """(rows,) float32 in (0, 1)."""
    return torch.rand(rows, generator=torch.Generator().manual_seed(7)).clamp(min=1e-4).to(device)


def tensors(count: int, shape, device, dtype=torch.float32) -> list[torch.Tensor]:
    """Standard normal tensors, each its own."""
    return [torch.randn(shape, generator=torch.Generator().manual_seed(i)).to(device, dtype) for i in range(count)]


@functools.lru_cache(maxsize=4)
def public_table(a: float, c: float, device: torch.device, nodes: int = 1000, end: float = 1.0):
    """The public Kac code's table, checked against the exact law at its last time."""
    table = baselines.TableSampler(a, c, end, nodes, device=device)
    t = torch.full((20,), end, device=device)

    def draw(_):
        torch.manual_seed(3)
        return table.sample(t, (5000,)).abs() / (c * end)

    assert checks.ks_ratio(draw, 1, "telegraph", a * end, bins=200) < 1.5
    return table


def op_calls(shape, device, dtype=torch.float32) -> dict:
    """{op: a call of it that writes into tensors that are there already}; telegraph, (a, c) = (25, 2)."""
    t = times(shape[0], device)
    x, u, x_end, previous, *out = tensors(6, shape, device, dtype)
    gradient = torch.empty(shape, device=device)
    k = (0.9 * ops.kac_noise(t, shape[1:], "telegraph", *RATES[1], 1)).to(dtype)
    return {
        "kac_noise": partial(ops.kac_noise, t, shape[1:], "telegraph", *RATES[1], 1, out=out[0]),
        "kac_velocity": partial(ops.kac_velocity, k, t, "telegraph", *RATES[1], out=out[0]),
        "kac_pair": partial(ops.kac_pair, x, t, "telegraph", *RATES[1], seed=1, out=tuple(out)),
        "guided_step": partial(ops.guided_step, x, u, x_end, previous, W, H, H_PREV, out=tuple(out)),
        "endpoint_loss": partial(ops.endpoint_loss, x, u, x_end, t + 0.1, out=gradient),
    }
