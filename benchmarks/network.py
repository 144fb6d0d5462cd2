"""What channels last in memory and our group norm give a network on a CPU, beside torch's norm and diffusers' own blocks.

python -m benchmarks.network [--rounds 15] [--threads 1]

Contests are interleaved; a figure is the ratio of medians, how many times as long the other one takes. Freed memory is kept
for both, as in every command (distillkac/base/commands.py).
"""

import contextlib
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

from benchmarks.race import Rival, Watch
from distillkac.base.commands import command
from distillkac.base.options import parse
from distillkac.flow import channels_last, unet_blocks
from distillkac.flow.channels_last import group_norm
from distillkac.flow.networks import VelocityNet
from distillkac.runs.presets import PRESETS

SHAPES = ((64, 32, 8, 8, 8), (64, 48, 14, 14, 8), (64, 96, 7, 7, 8), (32, 128, 32, 32, 32))
NETWORKS = {"demo": (1, 8, 8), "patches": (3, 32, 32), "fashion": (1, 28, 28)}
CLASSES = 10
BATCH = 64
ENOUGH = 600.0  # seconds for each contender: all its rounds


@dataclass
class NetworkArgs:
    """rounds: of each contest. threads: of torch."""

    rounds: int = 15
    threads: int = 1


def medians(contests: list[Callable[[], object]], rounds: int) -> list[float]:
    """Seconds of each, taken in turns."""
    watches = [Watch(Rival(contest), cuda=False, rounds=rounds, seconds=ENOUGH) for contest in contests]
    for _ in range(rounds):
        for watch in watches:
            watch.time()
    return [statistics.median(watch.times) for watch in watches]


def norms(shape: tuple[int, ...], dtype: torch.dtype, rounds: int) -> tuple[float, float]:
    """silu(norm(x)) and its gradient: how much longer torch takes, with rows and with channels last in memory."""
    *size, groups = shape
    norm, x = torch.nn.GroupNorm(groups, size[1]), torch.randn(size, dtype=dtype)

    def contest(layer: Callable[[torch.Tensor], torch.Tensor], order: torch.memory_format) -> Callable[[], object]:
        given, cotangent = x.to(memory_format=order).requires_grad_(), x.to(memory_format=order)
        return lambda: torch.autograd.grad(layer(given), [given, *norm.parameters()], cotangent)

    def by_torch(x: torch.Tensor) -> torch.Tensor:
        return functional.silu(norm(x))

    last = torch.channels_last
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        ours, rows, same = medians(
            [
                contest(lambda x: group_norm(norm, x, silu=True), last),
                contest(by_torch, torch.contiguous_format),
                contest(by_torch, last),
            ],
            rounds,
        )
    return rows / ours, same / ours


def _nothing(*_: object) -> bool:
    return False


@contextlib.contextmanager
def diffusers_blocks():
    """Within the time that is measured: so nothing but four assignments."""
    before = channels_last.served, unet_blocks.served
    channels_last.served = unet_blocks.served = _nothing
    try:
        yield
    finally:
        channels_last.served, unet_blocks.served = before


def works(name: str, dtype: torch.dtype) -> list[Callable[[], object]]:
    """Of a preset's network: an evaluation, as in sampling, and an evaluation with its gradient, as in training."""
    network, source = VelocityNet(PRESETS[name].network, NETWORKS[name], CLASSES), torch.Generator().manual_seed(0)
    x, t = torch.randn(BATCH, *network.shape, generator=source), torch.rand(BATCH, generator=source)
    y = torch.randint(0, CLASSES, (BATCH,), generator=source)

    def sampled() -> None:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            network(x, t, y)

    def trained() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            u = network(x, t, y)
        (u.float() - x).square().mean().backward()

    return [sampled, trained]


def theirs(work: Callable[[], object]) -> Callable[[], object]:
    def run() -> None:
        with diffusers_blocks():
            work()

    return run


@command
def main(argv: list[str] | None = None) -> int:
    args = parse(NetworkArgs, sys.argv[1:] if argv is None else argv, "python -m benchmarks.network")
    torch.set_num_threads(args.threads)
    print("| silu(norm(x)) and gradient | type | torch, rows last | torch, channels last |\n|---|---|---|---|")
    for shape in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            ratios = norms(shape, dtype, args.rounds)
            size = "x".join(map(str, shape[:4]))
            print(f"| {size} | {str(dtype)[6:]} | {ratios[0]:.1f} | {ratios[1]:.1f} |", flush=True)
    print("\n| network | type | sampling | training |\n|---|---|---|---|")
    for name in NETWORKS:
        for dtype in (torch.float32, torch.bfloat16):
            sampled, trained = works(name, dtype)
            times = medians([sampled, theirs(sampled), trained, theirs(trained)], args.rounds)
            ratios = (times[1] / times[0], times[3] / times[2])
            print(f"| {name} | {str(dtype)[6:]} | {ratios[0]:.2f} | {ratios[1]:.2f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
