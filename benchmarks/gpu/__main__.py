"""What a GPU gives, in one command: `make gpu`, or `python -m benchmarks.gpu --out runs/gpu`.

Agreement with the CPU, the time of every kernel, tests, compute-sanitizer, op benchmarks, and the product: training, resuming,
two processes, every method of distillation, every sampler, the paper's network. Each part is timed and keeps its output in
OUT/NAME.txt; OUT/summary.md is written anew after each. The same command goes on where it was stopped: parts that passed are
not run again. With `--device cpu` the same script runs in small, to show that it works.

Needs torch, numpy and pytest; what else a part needs is named where it is missing, and the others run all the same.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.gpu import parts, summary

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    if (problem := parts.device_problem(args.device)) is not None:
        sys.exit(f"error: {problem}")
    args.out.mkdir(parents=True, exist_ok=True)
    chosen = [part for part in parts.all_parts(args.device, args.out) if part.name in args.only or not args.only]
    began, missing = time.monotonic(), set[str]()
    for part in chosen:
        before = read(args.out, part)
        if before.get("status") == PASSED and not args.again:
            print(f"{part.name}: passed before", flush=True)
            continue
        if args.minutes is not None and time.monotonic() - began > 60 * args.minutes:
            print(f"{part.name}: not begun, {args.minutes:g} minutes are over", flush=True)
            continue
        result = run(part, args.out, missing)
        (args.out / f"{part.name}.json").write_text(json.dumps(result), encoding="utf-8")
        print(f"{part.name}: {told(result)}", flush=True)
        (args.out / "summary.md").write_text(summary.text(args.device, args.out), encoding="utf-8")
    found = {part.name: read(args.out, part).get("status") for part in chosen}
    print(f"{args.out / 'summary.md'}: {summary.counted(found.values())}", flush=True)
    return int(FAILED in found.values())


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="Everything that a GPU has to show.")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder of results (default: %(default)s)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: the same script in small")
    parser.add_argument(
        "--only", nargs="+", metavar="PART", default=[], help="these parts alone: " + " ".join(parts.NAMES)
    )
    parser.add_argument("--again", action="store_true", help="also parts that have passed")
    parser.add_argument("--minutes", type=float, help="begin no part after so many minutes")
    args = parser.parse_args(argv)
    if unknown := set(args.only) - set(parts.NAMES):
        parser.error(f"--only {' '.join(sorted(unknown))}: parts are {' '.join(parts.NAMES)}")
    return args


def run(part: parts.Part, out: Path, missing: set[str]) -> dict:
    """Runs the commands of a part, up to the first that fails or, of a whole one, all. missing: modules that were named."""
    for name in sorted(set(part.lacking()) - missing):
        print(f"{name} is not installed: parts that need it are skipped", flush=True)
    missing |= set(part.lacking())
    if (reason := part.reason_to_skip()) is not None:
        return {"status": SKIPPED, "reason": reason}
    for folder in part.fresh:
        shutil.rmtree(folder, ignore_errors=True)  # what a run that failed has left
    print(f"{part.name}: {part.title} ...", flush=True)
    began = time.monotonic()
    with (out / f"{part.name}.txt").open("w", encoding="utf-8") as log:
        code = 0
        for command in part.commands:
            if code != 0 and not part.whole:
                break
            log.write(f"$ {' '.join(command)}\n")
            log.flush()
            done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, cwd=parts.ROOT, env=part.environment())
            code = code or done.returncode
    if code != 0:
        return {"status": FAILED, "reason": f"exit status {code}", **spent(began)}
    return {"status": PASSED, **spent(began)}


def spent(began: float) -> dict:
    return {"seconds": round(time.monotonic() - began, 1)}


def read(out: Path, part: parts.Part) -> dict:
    path = out / f"{part.name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def told(result: dict) -> str:
    return ", ".join(
        [result["status"], *([result["reason"]] if "reason" in result else [])]
        + ([f"{result['seconds']:.0f} s"] if "seconds" in result else [])
    )


if __name__ == "__main__":
    sys.exit(main())
