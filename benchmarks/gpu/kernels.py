"""The time of every kernel beside a copy of as many bytes and torch.randn. `python -m benchmarks.gpu.kernels`.

On a GPU by its own clock (CUDA events): the median of REPEATS times of CALLS calls, after WARM ones. The share is the copy's
time over the kernel's: at 1 the kernel is as fast as memory. Beside it is the share that csrc/tools/cuda_model.py predicts,
of a GPU that it knows. SHAPES has a large array, bound by the kernel, and a small one, bound by the launch.

    python -m benchmarks.gpu.kernels --results benchmarks/gpu/results     # keeps the times, in the file of this GPU
    python -m benchmarks.gpu.kernel_page --write                          # the tables of docs/speed.md from it
    python -m benchmarks.gpu.kernels --once                               # each once, for a profiler: counters.py

On a CPU (`--device cpu`) in small, by the wall clock, to show that the script works.
"""

import argparse
import datetime
import functools
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from csrc.tools import cuda_model
from distillkac import ops
from distillkac._kernels import native

SHAPES = {"cuda": ((128, 3, 256, 256), (256, 3, 32, 32)), "cpu": ((2, 3, 64, 64), (4, 3, 32, 32))}
ONCE = (64, 3, 256, 256)  # the shape under a profiler
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
A, C = 25.0, 2.0
PROCESSES = ("telegraph", "planar", "quad")
DRAWS_OF_TORCH = ("torch.randn", "torch.rand")
WARM, CALLS, REPEATS = 3, 20, 5
COLUMNS = ["kernel", "dtype", "shape", "µs", "a copy, µs", "share", "predicted", "TB/s", "time over torch.randn's"]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.kernels")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path, help="file of the table, for the summary of make gpu")
    parser.add_argument("--results", type=Path, help="folder whose file of this GPU gets the times")
    parser.add_argument("--once", action="store_true", help=f"call each kernel once, of {ONCE}, and measure nothing")
    args = parser.parse_args(argv)
    if args.once:
        for dtype in DTYPES:
            for _, call in calls(args.device, dtype, ONCE if args.device == "cuda" else SHAPES["cpu"][0]):
                call()
        return 0
    rows = []
    for row in measured(args.device):
        rows.append(row)
        print(
            "".join(f"{cell:<{width}}" for cell, width in zip(cells(row, rows), (32, 10, 18, *[10] * 6), strict=True))
        )
    if args.out:
        title = f"Time of each kernel on {args.device}"
        table = {"title": title, "columns": COLUMNS, "rows": [cells(row, rows) for row in rows]}
        args.out.write_text(json.dumps(table), encoding="utf-8")
    if args.results:
        keep(args.results, machine(args.device), "times", origin() | {"rows": rows})
    return 0


def measured(device: str) -> Iterator[dict]:
    """A row for each kernel, dtype and shape: times in microseconds; predicted: the share of a copy's bandwidth, or None."""
    clock = of_gpu if device == "cuda" else of_cpu
    known = known_machine(torch.cuda.get_device_name()) if device == "cuda" else None
    for dtype in DTYPES:
        for shape in SHAPES[device]:
            for kernel, call in calls(device, dtype, shape):
                size = math.prod(shape) * bytes_of(kernel, dtype)
                here = torch.ones(size // 8, device=device)  # a copy reads and writes: 2 · 4 bytes
                there = torch.empty_like(here)
                us, copy_us = clock(call), clock(lambda there=there, here=here: there.copy_(here))
                row = {"kernel": kernel, "dtype": dtype, "shape": list(shape), "us": round(us, 2)}
                yield row | {"copy_us": round(copy_us, 2), "predicted": predicted(kernel, dtype, known)}


def calls(device: str, dtype: str, shape: tuple[int, ...]) -> Iterator[tuple[str, Callable[[], object]]]:
    """(kernel as csrc/tools/sass_budget.json names it, a call of it that allocates as little as may be)."""
    kind, size = DTYPES[dtype], shape[1:]
    t = torch.rand(shape[0], generator=torch.Generator().manual_seed(7)).clamp(min=1e-4).to(device)
    x, u, end, before, one, two, three = (torch.randn(shape, device=device).to(kind) for _ in range(7))
    later, delta, gradient = t.flip(0), t + 0.1, torch.empty(shape, device=device)
    yield DRAWS_OF_TORCH[0], lambda: one.normal_()
    yield DRAWS_OF_TORCH[1], lambda: one.uniform_()
    for name in PROCESSES:
        k = (0.9 * ops.kac_noise(t, size, name, A, C, 1)).to(kind)
        yield f"kac_noise {name}", lambda name=name: ops.kac_noise(t, size, name, A, C, 1, out=one)
        yield f"kac_velocity {name}", lambda name=name, k=k: ops.kac_velocity(k, t, name, A, C, out=one)
        yield f"kac_pair {name}", lambda name=name: ops.kac_pair(x, t, name, A, C, seed=1, out=(one, two))
        yield (
            f"kac_pair to t_to {name}",
            lambda name=name: ops.kac_pair(x, t, name, A, C, seed=1, t_to=later, out=(one, two, three)),
        )
    step = (x, u, end, before, 1.5, 0.05, 0.06)
    yield "guided_velocity of coordinates", lambda: ops.guided_velocity(u, end, 1.5)
    yield "guided_step of coordinates", lambda: ops.guided_step(*step, out=(one, two))
    yield "guided_step of pairs", lambda: ops.guided_step(*step, max_speed=2.0, process="planar", out=(one, two))
    yield "endpoint_loss", lambda: ops.endpoint_loss(x, u, end, delta, out=gradient)


def of_gpu(call: Callable[[], object]) -> float:
    """Microseconds of a call by the GPU's clock; where a launch takes longer than the kernel, of the launch."""
    for _ in range(WARM):
        call()
    times = []
    for _ in range(REPEATS):
        torch.cuda.synchronize()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(CALLS):
            call()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / CALLS * 1e3)
    return statistics.median(times)


def of_cpu(call: Callable[[], object]) -> float:
    call()
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        call()
        times.append((time.perf_counter() - began) * 1e6)
    return statistics.median(times)


def bytes_of(kernel: str, dtype: str) -> int:
    """Bytes that it reads and writes for an element."""
    return cuda_model.bytes_of(f"kac_noise {dtype}" if kernel in DRAWS_OF_TORCH else f"{kernel} {dtype}")


def known_machine(gpu: str) -> cuda_model.Machine | None:
    """What cuda_model.py knows of a GPU by its name, such as "NVIDIA H200"; None of another, as of H100s that are narrower."""
    return cuda_model.MACHINES.get(gpu.removeprefix("NVIDIA ").removesuffix(" 80GB HBM3"))


@functools.cache
def budget() -> dict:
    """What csrc/tools/sass.py counted."""
    return json.loads(cuda_model.BUDGET.read_text(encoding="utf-8"))


def predicted(kernel: str, dtype: str, known: cuda_model.Machine | None) -> float | None:
    if known is None or kernel in DRAWS_OF_TORCH:
        return None
    name = f"{kernel} {dtype}"
    return round(cuda_model.share(name, budget()[known.architecture][name], known), 3)


def cells(row: dict, rows: list[dict]) -> list[str]:
    """A row as text, in COLUMNS."""
    size = math.prod(row["shape"]) * bytes_of(row["kernel"], row["dtype"])
    share, rate = row["copy_us"] / row["us"], size / row["us"] / 1e6
    figures = [f"{row['us']:.1f}", f"{row['copy_us']:.1f}", f"{share:.2f}"]
    figures += ["" if row["predicted"] is None else f"{row['predicted']:.2f}", f"{rate:.2f}", beside_randn(row, rows)]
    return [row["kernel"], row["dtype"], "×".join(map(str, row["shape"])), *figures]


def beside_randn(row: dict, rows: list[dict]) -> str:
    """The time of a kernel that only draws over torch.randn's of that dtype and shape, if it is there."""
    alike = [one for one in rows if (one["dtype"], one["shape"]) == (row["dtype"], row["shape"])]
    randn = [one["us"] for one in alike if one["kernel"] == DRAWS_OF_TORCH[0]]
    return f"{row['us'] / randn[0]:.2f}" if randn and row["kernel"].startswith("kac_noise") else ""


def machine(device: str) -> dict:
    """What the times are of."""
    build = native.build_info()
    return {
        "gpu": torch.cuda.get_device_name() if device == "cuda" else platform.machine() + " CPU, in small",
        "architecture": "sm_{}{}".format(*torch.cuda.get_device_capability()) if device == "cuda" else "",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "nvcc": build["cuda"],
        "driver": driver() if device == "cuda" else "",
        "cpu": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
    }


def driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


def origin() -> dict:
    return {"commit": native.build_info()["commit"], "date": datetime.date.today().isoformat()}


def keep(folder: Path, of: dict, what: str, value: dict) -> None:
    """Puts times or counters into the file of a machine, a line for each row, and leaves the other as it was; the machine is
    that of the times."""
    path = folder / f"{re.sub('[^a-z0-9]+', '-', of['gpu'].lower())}.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(
        as_json(known | {"machine": of if what == "times" else known.get("machine", of), what: value}), encoding="utf-8"
    )


def as_json(results: dict) -> str:
    parts = [f'"machine": {json.dumps(results["machine"])}']
    for what in ("times", "counters"):
        if what in results:
            head = json.dumps({name: value for name, value in results[what].items() if name != "rows"})
            rows = ",\n".join(json.dumps(row) for row in results[what]["rows"])
            parts.append(f'"{what}": {head[:-1]}, "rows": [\n{rows}\n]}}')
    return "{" + ",\n".join(parts) + "}\n"


if __name__ == "__main__":
    sys.exit(main())
