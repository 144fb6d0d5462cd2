"""Two processes on one device train as one does: `python -m benchmarks.gpu.two_processes --out DIR`.

NCCL refuses two processes on one GPU, so gloo exchanges the gradients; everything else is the training on several GPUs.
"""

import argparse
import os
import socket
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu.resume import apart, command

STEPS = {"cuda": 50, "cpu": 4}
# Of the weights, after so few steps: gradients are added in another order, and early Muon turns rounding into directions.
LIMIT = 2e-2
ONE = """
import sys, torch
torch.distributed.init_process_group("gloo")
from distillkac.train import main
sys.exit(main(sys.argv[1:]))
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.two_processes")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    steps = STEPS[args.device]
    subprocess.run(command(args.out / "one", steps), check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = command(args.out / "two", steps)[3:]
    both = [subprocess.Popen([sys.executable, "-c", ONE, *words], env=environment(rank, port)) for rank in range(2)]
    if any(process.wait() != 0 for process in both):
        return 1
    distance = apart(args.out / "one", args.out / "two")
    print(f"relative distance of the weights after {steps} steps: {distance:.2e} (at most {LIMIT:g})")
    return int(distance > LIMIT)


def environment(rank: int, port: int) -> dict[str, str]:
    """Both have local rank 0: the same device."""
    words = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return os.environ | {name: str(value) for name, value in words.items()}


if __name__ == "__main__":
    sys.exit(main())
