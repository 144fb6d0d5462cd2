"""Kac noise in facebookresearch/flow_matching: a `ProbPath` for its training loop and its `ODESolver`.

    pip install flow_matching
    python examples/flow_matching_path.py [--process planar] [--steps 5000] [--out flow_matching_path.png]

Trains a small network on a checkerboard exactly as the library's own 2-D example does, with `KacProbPath` in place of
`CondOTProbPath`, carries Kac noise to samples by the library's midpoint solver, prints how far they are from the data, and
draws noise, two states on the way, samples and data. `KacProbPath` is all that you need to copy.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from flow_matching.path import PathSample, ProbPath
from flow_matching.solver import ODESolver
from flow_matching.utils import ModelWrapper
from plane import Velocity, save_picture, told
from toy2d import checkerboard

from distillkac.base.commands import command
from distillkac.base.options import parse
from distillkac.flow import NoiseStream, Planar, Process, Telegraph

Data = Callable[[int, int], torch.Tensor]  # (n, seed) -> (n, 2)


class KacProbPath(ProbPath):
    """The path X_t = f(1 - t) X_1 + K_{g(1 - t)} from noise X_0 = K_{g(1)} at t = 0 to data X_1 at t = 1.

    process: distillkac's Telegraph or Planar, with its rate, speed and schedules; f = "exp", which leaves data in X_0, is a
    ValueError. seed: int. Every call draws new noise; `noise.next_row` says how much was drawn (see NoiseStream).

    distillkac counts time from data to noise. So its time is 1 - t, and the velocity by t is minus its velocity.
    """

    def __init__(self, process: Process, seed: int = 0):
        self.noise = NoiseStream(process, seed)

    def source_like(self, x: torch.Tensor) -> torch.Tensor:
        """New X_0 in the shape, dtype and device of x: in a training loop or for `ODESolver.sample`, like `randn_like`."""
        return self.noise.prior_like(x)

    def sample(self, x_0: torch.Tensor | None, x_1: torch.Tensor, t: torch.Tensor) -> PathSample:
        """The library's PathSample, with dx_t the conditional velocity whose mean given x_t is the marginal one.

        x_0: what `source_like` gave last, or None for new noise. Any other noise (`randn_like`, say) is a ValueError: it
        would not be used, because a Kac path is not a straight line from its end. x_1: (B, ...) data, float64 (computed in
        float32), float32, bfloat16 or float16, with an even last dimension for Planar. t: (B,) in [0, 1].
        Gradients reach x_1.
        """
        x_0 = self.source_like(x_1) if x_0 is None else x_0
        self.assert_sample_shape(x_0=x_0, x_1=x_1, t=t)
        if not ((t >= 0) & (t <= 1)).all():
            raise ValueError("KacProbPath: t must be in [0, 1], 0 noise and 1 data")
        x_t, u = self.noise.pair(x_1, 1 - t, x_0)
        return PathSample(x_1=x_1, x_0=x_0, t=t, x_t=x_t, dx_t=-u)


class Wrapped(ModelWrapper):
    """As in the library's examples: what `ODESolver` calls."""

    def forward(self, x: torch.Tensor, t: torch.Tensor, **extras) -> torch.Tensor:
        return self.model(x, t, **extras)


def train(path: KacProbPath, data: Data, steps: int, seed: int = 0, batch: int = 512) -> Velocity:
    """The library's training loop. Returns the network of theirs, dx/dt by t from noise to data."""
    torch.manual_seed(seed)
    network = Velocity()
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    loss_fn = torch.nn.MSELoss()
    for step in range(steps):
        x_1 = data(batch, seed + 1 + step).float()
        x_0 = path.source_like(x_1)  # where the library's example has torch.randn_like(x_1)
        t = torch.rand(batch)
        sample = path.sample(t=t, x_0=x_0, x_1=x_1)
        loss = loss_fn(network(sample.x_t, sample.t), sample.dx_t)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network


def solve(network: torch.nn.Module, x_0: torch.Tensor, times: torch.Tensor, step_size: float = 0.02) -> torch.Tensor:
    """The library's solver. Returns the states at the times: (T, B, 2)."""
    solver = ODESolver(velocity_model=Wrapped(network))
    return solver.sample(x_0, step_size, method="midpoint", time_grid=times, return_intermediates=True)


@dataclass(frozen=True)
class PathArgs:
    """Trains a flow of Kac noise with facebookresearch/flow_matching on a checkerboard, and draws it."""

    process: Literal["planar", "telegraph"] = "planar"
    """Whose noise."""
    f: Literal["linear", "cosine"] = "linear"
    """How the data fade."""
    g: Literal["linear", "quadratic"] = "linear"
    """How process time grows."""
    steps: int = 5000
    """Training steps."""
    num: int = 4000
    """Samples."""
    seed: int = 0
    """Seed of weights, data and noise."""
    out: Path = Path("flow_matching_path.png")
    """Where the picture goes."""


@command
def main(argv: list[str] | None = None) -> int:
    args = parse(PathArgs, argv, "python examples/flow_matching_path.py")
    if min(args.steps, args.num) < 1:
        raise ValueError(f"steps and num must be at least 1, got {args.steps}, {args.num}")
    start = time.perf_counter()
    kind = {"planar": Planar, "telegraph": Telegraph}[args.process]
    path = KacProbPath(kind(f=args.f, g=args.g), args.seed)
    network = train(path, checkerboard, args.steps, args.seed)
    data = checkerboard(args.num, args.seed)
    times = torch.tensor([0.0, 0.5, 0.8, 1.0])
    states = solve(network, path.source_like(torch.empty(args.num, 2)), times)
    print(f"{args.process}: {args.steps} steps, {args.num} samples by ODESolver")
    print(told(states[-1], data))
    names = [f"{args.process} noise, t = 0", *(f"t = {t:g}" for t in times[1:-1].tolist()), "samples, t = 1"]
    save_picture(args.out, [*zip(names, states, strict=True), ("data", data)])
    print(f"wrote {args.out} ({time.perf_counter() - start:.0f} s in all)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
