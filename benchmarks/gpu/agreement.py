"""Every op on a GPU beside the CPU: the largest distance in units of the last place. `python -m benchmarks.gpu.agreement`.

On a CPU the highest SIMD level is compared with the portable one, where nothing may differ. Fails above LIMIT.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from distillkac import ops
from distillkac._kernels import native

SHAPES = ((7, 34), (5, 3, 32, 32), (2, 3, 256, 256), (64, 2))
RATES = ((9.0, 3.0), (25.0, 2.0), (100.0, 10.0))
PROCESSES = ("telegraph", "planar", "quad")
LIMIT = {"cuda": 2, "cpu": 0}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.agreement")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    rows, limit = measured(args.device), LIMIT[args.device]
    for op, largest, share in rows:
        print(f"{op:36}{largest:>8}{share:>12.2e}")
    if args.out:
        table = [[op, str(largest), f"{share:.1e}"] for op, largest, share in rows]
        columns = ["op", "largest distance, ulp", "share of elements that differ"]
        title = f"Agreement of {args.device} with the CPU, {len(SHAPES)} shapes, {len(RATES)} rates (float32)"
        args.out.write_text(json.dumps({"title": title, "columns": columns, "rows": table}), encoding="utf-8")
    wrong = [op for op, largest, _ in rows if largest > limit]
    if wrong:
        print(f"more than {limit} units of the last place apart: {', '.join(wrong)}")
    return int(bool(wrong))


def measured(device: str) -> list[tuple[str, int, float]]:
    """(op, largest distance, share of elements that differ) of all ops."""
    found: dict[str, tuple[int, int, int]] = {}
    for shape in SHAPES:
        for op, ours, exact in pairs(device, shape):
            apart = distance(ours, exact)
            largest, differ, count = found.get(op, (0, 0, 0))
            found[op] = (max(largest, int(apart.max())), differ + int((apart > 0).sum()), count + apart.numel())
    return [(op, largest, differ / count) for op, (largest, differ, count) in found.items()]


def pairs(device: str, shape: tuple[int, ...]) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """(op, its result on the device, the CPU's)."""
    for process in PROCESSES:
        if process == "quad" and shape[-1] % 4:  # fours of neighbours
            continue
        for a, c in RATES:
            for op, call in calls(shape, process, a, c).items():
                with level(device):
                    ours = call(device)
                with level("portable"):
                    exact = call("cpu")
                for number, (one, two) in enumerate(zip(ours, exact, strict=True)):
                    yield f"{op} {process}" + (f", result {number + 1}" if len(ours) > 1 else ""), one, two


def calls(shape: tuple[int, ...], process, a: float, c: float):
    """{op: a call of it on a device, whose results are a tuple}."""
    generator = torch.Generator().manual_seed(1)
    t = torch.rand(shape[0], generator=generator).clamp(min=1e-4)
    x, u, other, before = (torch.randn(shape, generator=generator) for _ in range(4))
    k = ops.kac_noise(t, shape[1:], process, a, c, 1)
    return {
        "kac_noise": lambda device: (ops.kac_noise(t.to(device), shape[1:], process, a, c, 5),),
        "kac_velocity": lambda device: (ops.kac_velocity(k.to(device), t.to(device), process, a, c),),
        "kac_pair": lambda device: ops.kac_pair(x.to(device), t.to(device), process, a, c, seed=5),
        "guided_step": lambda device: ops.guided_step(
            *(tensor.to(device) for tensor in (x, u, other, before)), 1.5, 0.05, 0.06, 2.0, process
        ),
        "endpoint_loss, gradient of": lambda device: (
            _gradient(*(tensor.to(device) for tensor in (x, u, other, t + 0.1))),
        ),
    }


def _gradient(x: torch.Tensor, u: torch.Tensor, end: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    """Of the loss with respect to u; the loss itself is a sum, whose order a GPU chooses (tests/gpu compares it)."""
    ops.endpoint_loss(x, u, end, delta, out=(gradient := torch.empty_like(u)))
    return gradient


@contextmanager
def level(name: str) -> Iterator[None]:
    """Inside, CPU kernels run at the portable level, or at the highest ("cpu"); a GPU has no level."""
    before = native.simd_level()
    native.set_simd_level("portable" if name == "portable" else native.simd_levels()[-1])
    try:
        yield
    finally:
        native.set_simd_level(before)


def distance(one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
    """How many float32 numbers lie between the elements of two tensors; NaN beside NaN is 0."""

    def ordered(x: torch.Tensor) -> torch.Tensor:
        bits = x.cpu().float().contiguous().view(torch.int32).long()
        return torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits)

    apart = (ordered(one) - ordered(two)).abs()
    return torch.where(one.cpu().isnan() & two.cpu().isnan(), 0, apart)


if __name__ == "__main__":
    sys.exit(main())
