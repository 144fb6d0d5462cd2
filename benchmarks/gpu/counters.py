"""What Nsight Compute counted of the float32 kernels, beside what csrc/tools/sass.py counts without a GPU, into the results.

    ncu --clock-control none --csv --kernel-name-base demangled -k 'regex:kac|velocity|guided|endpoint' \\
        --metrics $(python -m benchmarks.gpu.counters) python -m benchmarks.gpu.kernels --once > ncu.csv
    python -m benchmarks.gpu.counters ncu.csv benchmarks/gpu/results/nvidia-h200.json

Of kernels that ran more than once the first counts. The counts beside them are those of the budget at that time.
"""

import argparse
import csv
import json
import math
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from benchmarks.gpu import kernels

EXECUTED = "smsp__inst_executed.sum"
SHARES = {  # percent, by the name of a row
    "issue": "smsp__issue_active.avg.pct_of_peak_sustained_active",
    "warps": "sm__warps_active.avg.pct_of_peak_sustained_active",
    "dram": "dram__throughput.avg.pct_of_peak_sustained_elapsed",
}
REGISTERS = "launch__registers_per_thread"
STALL = "smsp__average_warps_issue_stalled_{}_per_issue_active.ratio"
WAITS = (  # what a warp that cannot issue waits for; one that is merely not chosen waits for nothing
    *("barrier", "branch_resolving", "dispatch_stall", "drain", "imc_miss", "lg_throttle", "long_scoreboard"),
    *("math_pipe_throttle", "mio_throttle", "no_instruction", "short_scoreboard", "wait"),
)
METRICS = (EXECUTED, *SHARES.values(), REGISTERS, *map(STALL.format, WAITS))
LIMITS = {"1": "of coordinates", "2": "of pairs", "4": "of fours"}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.counters")
    parser.add_argument("file", type=Path, nargs="?", help="what ncu wrote; without it the names of the counters")
    parser.add_argument("results", type=Path, nargs="?", help="file of the GPU's results")
    parser.add_argument("--commit", help="that of the kernels, if they are not those that are here")
    parser.add_argument("--date", help="of the measurement, if not today")
    args = parser.parse_args(argv)
    if args.file is None:
        print(",".join(METRICS))
        return 0
    if args.results is None or not args.results.exists():
        parser.error("give the file of this GPU's results, which python -m benchmarks.gpu.kernels --results makes")
    given = {"commit": args.commit, "date": args.date}
    origin = kernels.origin() | {name: value for name, value in given.items() if value is not None}
    of = json.loads(args.results.read_text(encoding="utf-8"))["machine"]
    # Files of before know their GPU by its name alone.
    known = kernels.known_machine(of["gpu"])
    architecture = of.get("architecture", "" if known is None else known.architecture)
    if architecture not in kernels.budget():
        parser.error(
            f"csrc/tools/sass.py counted nothing for {architecture or of['gpu']}, to set the counters beside: let it count for "
            "that too, or measure on a GPU of those in sass_budget.json"
        )
    rows = counted(args.file.read_text(encoding="utf-8").splitlines(), architecture)
    kernels.keep(args.results.parent, of, "counters", origin | {"shape": list(kernels.ONCE), "rows": rows})
    return 0


def counted(lines: Iterable[str], architecture: str) -> list[dict]:
    """A row for each float32 kernel in the CSV of ncu, whose other lines are its messages. architecture: the GPU's, as
    "sm_90"."""
    table = csv.DictReader(line for line in lines if line.startswith('"'))
    launches: dict[str, dict] = {}
    for line in table:
        known = launches.setdefault(line["ID"], {"name": line["Kernel Name"]})
        known[line["Metric Name"]] = line["Metric Value"]
    rows: dict[str, dict] = {}
    for launch in launches.values():
        if (kernel := kernel_of(launch.pop("name"))) is not None and kernel not in rows:
            rows[kernel] = row_of(
                kernel, architecture, {name: float(value.replace(",", "")) for name, value in launch.items()}
            )
    return list(rows.values())


def row_of(kernel: str, architecture: str, values: dict[str, float]) -> dict:
    """Instructions for an element, counted (the longest hot path and a unit's share) and executed; shares in percent."""
    model, name = kernels.cuda_model, f"{kernel} float32"
    expected = kernels.budget()[architecture][name]
    setup = expected["unit"] * model.UNIT / model.unit_of(name, kernels.ONCE)
    waits = {name: values.get(STALL.format(name), 0.0) for name in WAITS}
    longest = max(waits, key=lambda name: waits[name])
    return {
        "kernel": kernel,
        "counted": round(expected["most"] + setup, 1),
        "executed": round(values[EXECUTED] * 32 / math.prod(kernels.ONCE), 1),  # 32 threads of a warp
        "registers": int(values[REGISTERS]),
        **{name: round(values[metric], 1) for name, metric in SHARES.items()},
        "waits_for": longest.replace("_", " "),
        "waiting": round(waits[longest], 1),
    }


def kernel_of(name: str) -> str | None:
    """A float32 kernel as the budget names it, from its C++ name; None of another."""
    found = re.search(r"(\w+)_kernel<float(?:, (\w+))?>", name)
    if found is None:
        return None
    function, argument = found.groups()
    if function.endswith("_velocity") and not function.startswith("guided"):
        return f"kac_velocity {function.removesuffix('_velocity')}"
    if function.startswith("guided"):
        return f"{function} {LIMITS[argument]}"
    if function.startswith("kac"):
        process = next(name for name in kernels.PROCESSES if argument.lower().startswith(name))
        return f"{function.replace('pair_to', 'pair to t_to')} {process}"
    return function


if __name__ == "__main__":
    sys.exit(main())
