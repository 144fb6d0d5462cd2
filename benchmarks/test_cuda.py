"""What only a GPU has: each op's share of the copy bandwidth, and CuPy where it is installed."""

import math
from functools import partial

import pytest
import torch

from benchmarks import baselines, checks
from benchmarks.problems import BYTES, LARGE, RATES, SMALL, label, op_calls, times
from distillkac import ops

pytestmark = pytest.mark.gpu
A, C = RATES[1]
HUGE = (128, 3, 256, 256)  # 100 MB a tensor: more than the caches of a GPU hold


@pytest.mark.parametrize("op", BYTES)
def test_share_of_the_copy_bandwidth(race, level, device, op):
    """A copy that moves as many bytes: its time over ours is our share of the bandwidth."""
    source = torch.ones(BYTES[op] * math.prod(HUGE) // 8, device=device)  # a float is read and written, 8 bytes
    target = torch.empty_like(source)
    call, process = op_calls(HUGE, device)[op], "telegraph" if op.startswith("kac") else None
    rivals = {"copy of as many bytes": partial(target.copy_, source)}
    race(call, rivals, BYTES[op], op=op, process=process, shape=HUGE, column="out")


@pytest.mark.parametrize("shape", [SMALL, LARGE], ids=label)
def test_noise_beside_cupy(race, level, device, shape):
    pytest.importorskip("cupy")
    t, out, normal = times(shape[0], device), torch.empty(shape, device=device), torch.empty(shape, device=device)
    draw, fill = partial(ops.kac_noise, t, shape[1:], "telegraph", A, C, 1, out=out), baselines.cupy_normal(normal)
    fill()
    checks.noise(draw(), t, "telegraph", A, C)
    assert abs(normal.double().square().mean() - 1) < checks.Z * math.sqrt(2 / normal.numel())
    rivals = {"CuPy standard_normal": fill}
    race(draw, rivals, 4, op="kac_noise", process="telegraph", shape=shape, column="out", series="CuPy")


@pytest.mark.parametrize("shape", [SMALL, LARGE], ids=label)
def test_velocity_beside_cupy(race, level, device, shape):
    pytest.importorskip("cupy")
    t, out, other = times(shape[0], device), torch.empty(shape, device=device), torch.empty(shape, device=device)
    k = ops.kac_noise(t, shape[1:], "telegraph", A, C, 1)
    ours, kernel = (
        partial(ops.kac_velocity, k, t, "telegraph", A, C, out=out),
        baselines.cupy_velocity(k, t, A, C, other),
    )
    kernel()
    for v in (ours(), other):
        checks.velocity(v, k, t, A, C)
    rivals = {"CuPy kernel, Bessel": kernel}
    race(ours, rivals, 8, op="kac_velocity", process="telegraph", shape=shape, column="out", series="CuPy")
