"""The tables of docs/speed.md of what GPUs measured, from benchmarks/gpu/results. `python -m benchmarks.gpu.kernel_page`.

`--write` puts them there.
"""

import argparse
import math
import sys
from pathlib import Path

from benchmarks import tables
from benchmarks.gpu import kernels
from distillkac.base import files

ROOT = Path(__file__).resolve().parents[2]
RESULTS, PAGE, MARK = ROOT / "benchmarks" / "gpu" / "results", ROOT / "docs" / "speed.md", "gpu-measured"
TIMES = ["kernel", "µs", "a copy, µs", "share", "predicted", "TB/s", "time over torch.randn's", "small, µs"]
COUNTERS = ["kernel", "counted", "executed", "registers", "warps", "issue", "memory", "waits most for"]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.kernel_page")
    parser.add_argument("--write", action="store_true", help="replace the tables of docs/speed.md")
    text = section(RESULTS)
    print(text)
    if parser.parse_args(argv).write:
        files.into_pages([PAGE], {MARK: text})
    return 0


def section(results: Path) -> str:
    """What stands between the marks: of every GPU whose results are in the folder."""
    return "\n\n".join(of_machine(files.read_json(path)) for path in sorted(results.glob("*.json")))


def of_machine(results: dict) -> str:
    machine, times, counters = (results.get(name) for name in ("machine", "times", "counters"))
    driver = f", driver {machine['driver']}" if "driver" in machine else ""
    beside = f", beside {machine['cpu']}" if "cpu" in machine else ""
    head = f"{machine['gpu']}{driver}{beside}; torch {machine['torch']}, nvcc {machine['nvcc']}"
    parts = [f"{head}, commit {times['commit']}, {times['date']}:", times_table(times["rows"])]
    if counters is not None:
        shape = "×".join(map(str, counters["shape"]))
        parts.append(f"Counters of the float32 kernels at {shape}, commit {counters['commit']}, {counters['date']}:")
        parts.append(counters_table(counters["rows"]))
    return "\n\n".join(parts)


def times_table(rows: list[dict]) -> str:
    """Of the larger shape, and the time at the smaller one."""
    large, small = sorted({tuple(row["shape"]) for row in rows}, key=lambda shape: -math.prod(shape))
    of_small = {(row["kernel"], row["dtype"]): row["us"] for row in rows if tuple(row["shape"]) == small}
    lines = []
    for row in rows:
        if tuple(row["shape"]) == large:
            kernel, dtype, _, *figures = kernels.cells(row, rows)
            lines.append([f"{kernel} {dtype}", *figures, f"{of_small[kernel, dtype]:.1f}"])
    return tables.markdown(TIMES, lines)


def counters_table(rows: list[dict]) -> str:
    lines = [
        [row["kernel"], f"{row['counted']:.1f}", f"{row['executed']:.1f}", str(row["registers"])]
        + [f"{row[name]:.0f}%" for name in ("warps", "issue", "dram")]
        + [f"{row['waits_for']} ({row['waiting']:.1f})"]
        for row in rows
    ]
    return tables.markdown(COUNTERS, lines)


if __name__ == "__main__":
    sys.exit(main())
