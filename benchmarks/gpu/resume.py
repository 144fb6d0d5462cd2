"""A training that Ctrl-C stops, and that goes on, beside one that nothing stopped: `python -m benchmarks.gpu.resume --out DIR`.

On a CPU the weights are the same to the bit. On a GPU sums of convolutions may be added in another order each time, so the
distance of two trainings that nothing stopped is measured as well, and that of the resumed one may be TIMES as large.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

STEPS, STOP = {"cuda": 400, "cpu": 8}, {"cuda": 100, "cpu": 3}
TIMES = 10
WAIT = 600  # seconds until the step must have come


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.resume")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    steps = STEPS[args.device]
    for name in ("one", "two"):
        subprocess.run(command(args.out / name, steps), check=True)
    at = stopped(args.out / "resumed", steps, STOP[args.device])
    subprocess.run([*command(args.out / "resumed", steps), "--resume"], check=True)
    again, resumed = (apart(args.out / "one", args.out / name) for name in ("two", "resumed"))
    print(
        f"stopped after step {at} of {steps}; relative distance of the weights: {resumed:.2e}, of two runs: {again:.2e}"
    )
    return int(resumed > TIMES * again)


def command(run: Path, steps: int) -> list[str]:
    words = ["--preset", "demo", "--run", str(run), "--steps", str(steps), "--preview", "0", "--optim.log-every", "1"]
    return [sys.executable, "-m", "distillkac.train", *words]


def stopped(run: Path, steps: int, at: int) -> int:
    """Trains until step `at` is logged, sends Ctrl-C; the step at which it was saved."""
    process = subprocess.Popen(command(run, steps))
    log, end = run / "metrics.jsonl", time.monotonic() + WAIT
    while process.poll() is None and time.monotonic() < end:
        if log.exists() and len(log.read_text(encoding="utf-8").splitlines()) >= at:
            process.send_signal(signal.SIGINT)
            break
        time.sleep(0.01)
    process.wait(WAIT)
    last = int(json.loads(log.read_text(encoding="utf-8").splitlines()[-1])["step"])
    if not at <= last < steps:
        raise SystemExit(f"error: the training was to be stopped between steps {at} and {steps}, and ended at {last}")
    return last


def apart(one: Path, two: Path) -> float:
    """Largest distance of the averaged weights, as a share of the largest weight."""
    first, second = load_file(one / "ema.safetensors"), load_file(two / "ema.safetensors")
    largest = max(float(value.abs().max()) for value in first.values())
    return max(float(torch.max(torch.abs(first[name] - second[name]))) for name in first) / largest


if __name__ == "__main__":
    sys.exit(main())
