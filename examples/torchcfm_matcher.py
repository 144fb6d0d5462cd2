"""Kac noise in torchcfm: a `ConditionalFlowMatcher` for its training loop, also with minibatch optimal transport.

    pip install --no-deps torchcfm && pip install pot torchdiffeq
    python examples/torchcfm_matcher.py [--process planar] [--coupling independent] [--steps 4000] [--out torchcfm_matcher.png]

Trains a small network on two moons as torchcfm's tutorials do, with `KacFlowMatcher` in place of
`ConditionalFlowMatcher`, carries Kac noise to samples by torchdiffeq, prints how far they are from the data, and draws noise,
two states on the way, samples and data. The two matchers are all that you need to copy.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from plane import Velocity, moons, save_picture, told
from torchcfm import ConditionalFlowMatcher
from torchcfm.conditional_flow_matching import pad_t_like_x
from torchcfm.optimal_transport import OTPlanSampler
from torchdiffeq import odeint

from distillkac.base.commands import command
from distillkac.base.options import parse
from distillkac.flow import NoiseStream, Planar, Process, Telegraph
from distillkac.ops.schedules import f_schedule, g_schedule

Data = Callable[[int, int], torch.Tensor]  # (n, seed) -> (n, 2)


class KacFlowMatcher(ConditionalFlowMatcher):
    """The path x_t = f(1 - t) x1 + K_{g(1 - t)} from noise x0 = K_{g(1)} at t = 0 to data x1 at t = 1.

    process: distillkac's Telegraph or Planar, with its rate, speed and schedules; f = "exp", which leaves data in x0, is a
    ValueError. seed: int. Every call draws new noise; `noise.next_row` says how much was drawn (see NoiseStream).

    distillkac counts time from data to noise. So its time is 1 - t, and the velocity by t is minus its velocity.
    """

    def __init__(self, process: Process, seed: int = 0):
        super().__init__(sigma=0.0)
        self.noise = NoiseStream(process, seed)

    def sample_noise_like(self, x: torch.Tensor) -> torch.Tensor:
        """New x0 in the shape, dtype and device of x: in a training loop or to sample from, like `randn_like`."""
        return self.noise.prior_like(x)

    def sample_location_and_conditional_flow(self, x0, x1, t=None, return_noise=False):
        """(t, xt, ut), and with `return_noise` eps such that xt = compute_mu_t + compute_sigma_t * eps.

        x0: what `sample_noise_like` gave last, or None for new noise. Any other noise (`randn_like`, say) is a ValueError: it
        would not be used, because a Kac path is not a straight line from its end. x1: (B, ...) data, float64 (computed in
        float32), float32, bfloat16 or float16, with an even last dimension for Planar. t: B times in [0, 1], or None for
        uniform ones. Gradients reach x1.
        """
        x0 = self.sample_noise_like(x1) if x0 is None else x0
        t = torch.rand(len(x1)).type_as(x1) if t is None else t
        if not isinstance(t, torch.Tensor) or t.numel() != len(x1):
            raise ValueError(f"KacFlowMatcher: t must be a tensor with a time for each of {len(x1)} rows, got {t!r}")
        if not ((t >= 0) & (t <= 1)).all():
            raise ValueError("KacFlowMatcher: t must be in [0, 1], 0 noise and 1 data")
        xt, u = self.noise.pair(x1, 1 - t.reshape(-1), x0)
        if not return_noise:
            return t, xt, -u
        k, _ = self.noise.pair(torch.zeros_like(x1), 1 - t.reshape(-1), x0)
        sigma = pad_t_like_x(self.compute_sigma_t(t), x1).to(x1)
        return t, xt, -u, torch.where(sigma > 0, k / sigma, 0)  # at t = 1 there is no noise

    def compute_mu_t(self, x0, x1, t):
        """The mean of xt given x1, f(1 - t) x1; x0 has no part in it, because the mean of the noise is 0."""
        del x0
        return pad_t_like_x(f_schedule(1 - torch.as_tensor(t), self.noise.process.f)[0], x1).to(x1) * x1

    def compute_sigma_t(self, t):
        """The standard deviation of a coordinate of xt given x1, in the shape of t."""
        return self.noise.process.std(g_schedule(1 - torch.as_tensor(t), self.noise.process.g)[0])

    def sample_xt(self, x0, x1, t, epsilon):
        raise NotImplementedError("Kac noise is no scaled normal: sample_location_and_conditional_flow draws xt")

    def compute_conditional_flow(self, x0, x1, t, xt):
        raise NotImplementedError("the velocity is known where xt is drawn: sample_location_and_conditional_flow")

    def compute_lambda(self, t):
        raise NotImplementedError("a Kac path is no diffusion and has no score to weight")


class ExactOptimalTransportKacFlowMatcher(KacFlowMatcher):
    """The data of a batch are dealt out to its noise by optimal transport, as ExactOptimalTransportConditionalFlowMatcher does.

    The noise keeps the order of its rows, for it is known by them; x1, and labels y1 with it, change places.
    """

    def __init__(self, process: Process, seed: int = 0):
        super().__init__(process, seed)
        self.ot_sampler = OTPlanSampler(method="exact")

    def sample_location_and_conditional_flow(self, x0, x1, t=None, return_noise=False):
        """As in KacFlowMatcher, of the coupled rows."""
        t, xt, ut, _, _, *noise = self.guided_sample_location_and_conditional_flow(
            x0, x1, t=t, return_noise=return_noise
        )
        return t, xt, ut, *noise

    def guided_sample_location_and_conditional_flow(self, x0, x1, y0=None, y1=None, t=None, return_noise=False):
        """(t, xt, ut, y0, y1), and eps with `return_noise`; y0 (B,) and y1 (B,) go with the noise and with the data."""
        x0 = self.sample_noise_like(x1) if x0 is None else x0
        plan = torch.from_numpy(self.ot_sampler.get_map(x0.float(), x1.float()))
        rows = torch.multinomial(plan, 1).flatten().to(x1.device)
        t, xt, ut, *noise = super().sample_location_and_conditional_flow(x0, x1[rows], t, return_noise)
        return t, xt, ut, y0, None if y1 is None else y1[rows], *noise


def train(matcher: ConditionalFlowMatcher, data: Data, steps: int, seed: int = 0, batch: int = 256) -> Velocity:
    """The training loop of the library's tutorials. Returns the network of theirs, dx/dt by t from noise to data."""
    torch.manual_seed(seed)
    model = Velocity()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        x1 = data(batch, seed + 1 + step).float()
        x0 = matcher.sample_noise_like(x1)  # where the library's tutorials have torch.randn_like(x1)
        t, xt, ut = matcher.sample_location_and_conditional_flow(x0, x1)
        loss = torch.mean((model(xt, t) - ut) ** 2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model


def solve(model: torch.nn.Module, x0: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    """torchdiffeq's solver. Returns the states at the times: (T, B, 2)."""

    with torch.no_grad():
        return odeint(lambda t, x: model(x, t), x0, times, method="midpoint", options={"step_size": 0.02})


@dataclass(frozen=True)
class MatcherArgs:
    """Trains a flow of Kac noise with torchcfm on two moons, and draws it."""

    process: Literal["planar", "telegraph"] = "planar"
    """Whose noise."""
    f: Literal["linear", "cosine"] = "linear"
    """How the data fade."""
    g: Literal["linear", "quadratic"] = "linear"
    """How process time grows."""
    coupling: Literal["independent", "exact"] = "independent"
    """Which data a row of noise gets: any, or by optimal transport in the batch."""
    steps: int = 4000
    """Training steps."""
    num: int = 4000
    """Samples."""
    seed: int = 0
    """Seed of weights, data and noise."""
    out: Path = Path("torchcfm_matcher.png")
    """Where the picture goes."""


@command
def main(argv: list[str] | None = None) -> int:
    args = parse(MatcherArgs, argv, "python examples/torchcfm_matcher.py")
    if min(args.steps, args.num) < 1:
        raise ValueError(f"steps and num must be at least 1, got {args.steps}, {args.num}")
    start = time.perf_counter()
    process = {"planar": Planar, "telegraph": Telegraph}[args.process](f=args.f, g=args.g)
    kind = {"independent": KacFlowMatcher, "exact": ExactOptimalTransportKacFlowMatcher}[args.coupling]
    matcher = kind(process, args.seed)
    model = train(matcher, moons, args.steps, args.seed)
    data = moons(args.num, args.seed)
    times = torch.tensor([0.0, 0.5, 0.8, 1.0])
    states = solve(model, matcher.sample_noise_like(torch.empty(args.num, 2)), times)
    print(f"{args.process}, {args.coupling} coupling: {args.steps} steps, {args.num} samples by torchdiffeq")
    print(told(states[-1], data))
    names = [f"{args.process} noise, t = 0", *(f"t = {t:g}" for t in times[1:-1].tolist()), "samples, t = 1"]
    save_picture(args.out, [*zip(names, states, strict=True), ("data", data)])
    print(f"wrote {args.out} ({time.perf_counter() - start:.0f} s in all)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
