"""What else an op costs: bfloat16 beside float32, the fixed price of a call, import and first use."""

import json
import subprocess
import sys
from functools import partial

import pytest
import torch

from benchmarks.problems import BYTES, LARGE, SMALL, label, op_calls, tensors
from benchmarks.race import Rival, at_least

TABLE_NODES, TABLE_QUANTILES = 1000, 4096


@pytest.mark.parametrize("shape", [SMALL, LARGE], ids=label)
@pytest.mark.parametrize("op", BYTES)
def test_bfloat16(race, level, device, op, shape):
    half, single = (op_calls(shape, device, dtype)[op] for dtype in (torch.bfloat16, torch.float32))
    check_bfloat16(op, half(), single())
    rivals = {"float32": Rival(single, at_least(1))}
    race(half, rivals, BYTES[op] // 2, op=op, shape=shape, column="out", dtype="bfloat16")


def check_bfloat16(op, half, single):
    """The results differ by the rounding of inputs and outputs, 2^-8 each; velocities steepen it near the cone."""
    half, single = (v if isinstance(v, tuple) else (v,) for v in (half, single))
    for low, high in zip(half, single, strict=True):
        assert torch.linalg.vector_norm(low.float() - high) < 0.03 * torch.linalg.vector_norm(high)


@pytest.mark.parametrize("op", BYTES)
def test_fixed_price_of_a_call(race, one_thread, device, op):
    call = op_calls((4, 8), device)[op]
    a, b, out = tensors(3, (4, 8), device)
    with torch.no_grad():
        race(
            call, {"torch.add": partial(torch.add, a, b, out=out)}, op=op, shape=(4, 8), column="out", series="overhead"
        )


# The import of torch and the pages of the output belong to neither side.
FIRST_USE = """
import json, resource, time, torch
torch.set_num_threads(1)
def megabytes():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 1e6
def timed(function):
    before, start = megabytes(), time.perf_counter()
    result = function()
    return result, 1e3 * (time.perf_counter() - start), megabytes() - before
def load():
    from distillkac import ops
    return ops
t, out = torch.rand(64), torch.zeros(64, 3, 32, 32)
ops, import_ms, import_MB = timed(load)
_, first_ms, first_MB = timed(lambda: ops.kac_noise(t, (3, 32, 32), "telegraph", 25.0, 2.0, 1, out=out))
_, second_ms, _ = timed(lambda: ops.kac_noise(t, (3, 32, 32), "telegraph", 25.0, 2.0, 1, out=out))
figures = [import_ms, import_MB, first_ms, first_MB, second_ms]
"""
BUILD_TABLE = """
import json, os, resource, time, torch
from benchmarks.baselines import TableSampler
def megabytes():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 1e6
before, start = megabytes(), time.perf_counter()
table = TableSampler(25.0, 2.0, nodes=NODES, quantiles=QUANTILES)
figures = [time.perf_counter() - start, megabytes() - before]
"""


def fresh_process(program: str, times_run: int) -> list[float]:
    """Medians of the list `figures` that a program leaves behind, each run in a process of its own."""
    runs = []
    for _ in range(times_run):
        command = [sys.executable, "-c", program + "\nprint(json.dumps(figures))"]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        runs.append(json.loads(output.splitlines()[-1]))
    return torch.tensor(runs).median(0).values.tolist()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_first_use(measure, on_cpu):
    names = ("import_ms", "import_MB", "first_call_ms", "first_call_MB", "second_call_ms")
    bars = {"first_call_ms": 5, "first_call_MB": 1}
    measure(
        lambda: dict(zip(names, fresh_process(FIRST_USE, 5), strict=True)), bars, op="kac_noise", series="first use"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_public_table(measure, on_cpu):
    """What the public Kac code builds before its first draw, for TABLE_NODES of its 50,000 times."""
    program = BUILD_TABLE.replace("NODES", str(TABLE_NODES)).replace("QUANTILES", str(TABLE_QUANTILES))
    names = (f"seconds_per_{TABLE_NODES}_times", f"MB_per_{TABLE_NODES}_times")
    measure(lambda: dict(zip(names, fresh_process(program, 1), strict=True)), op="table sampler", series="first use")
