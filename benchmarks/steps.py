"""Whole steps around a network, with our ops or with what they replace; for test_end_to_end.py.

As a program: `python -m benchmarks.steps digits ours` prints the peak memory of training steps in this process, in MB.
"""

import copy
import re
import resource
import sys
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from benchmarks import baselines
from benchmarks.problems import RATES, W, public_table
from distillkac import ops
from distillkac.distillation import objectives, stages
from distillkac.flow.guidance import GuidedVelocity
from distillkac.flow.integrators import integrate, time_grid
from distillkac.flow.networks import NetworkConfig, VelocityNet
from distillkac.flow.processes import Telegraph
from distillkac.training.batches import Batch
from distillkac.training.objective import Objective

A, C = RATES[1]
CLASSES = 10
TEACHER_STEPS = 100


@dataclass(frozen=True)
class Model:
    """A network and its images. batch: rows on a CPU; a GPU takes 128."""

    name: str
    network: NetworkConfig
    shape: tuple[int, int, int]
    batch: int

    def build(self, device) -> VelocityNet:
        torch.manual_seed(0)
        return VelocityNet(self.network, self.shape, CLASSES).to(device)

    def rows(self, device) -> int:
        return 128 if device.type == "cuda" else self.batch


DIGITS = Model("digits", NetworkConfig(), (1, 8, 8), 128)
# The paper's CIFAR-10 network: 256 channels times 1, 2, 2, 3, three blocks a level, attention at 16, 8 and 4.
PAPER = NetworkConfig(channels=(256, 512, 512, 768), layers=3, attention=(1, 2, 3), head_dim=64)
CIFAR = Model("CIFAR-10", PAPER, (3, 32, 32), 1)
MODELS = {model.name: model for model in (DIGITS, CIFAR)}


@dataclass
class Steps:
    """The steps of one model on one device; every method is one step, to be timed."""

    model: Model
    device: torch.device
    network: VelocityNet = field(init=False)

    def __post_init__(self):
        self.network = self.model.build(self.device)
        n = self.model.rows(self.device)
        generator = torch.Generator().manual_seed(1)
        self.x0 = (2 * torch.rand(n, *self.model.shape, generator=generator) - 1).to(self.device)
        self.t = torch.rand(n, generator=generator).clamp(min=1e-3).to(self.device)
        self.y = torch.randint(CLASSES, (n,), generator=generator).to(self.device)
        self.u_prev = torch.zeros_like(self.x0)

    def start_training(self) -> None:
        """The optimizer and the moving average, which only training needs."""
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-5, fused=True)
        self.average = copy.deepcopy(self.network).requires_grad_(False)

    # The parts that the ops replace.

    def pair(self):
        return ops.kac_pair(self.x0, self.t, "telegraph", A, C, seed=1)

    def public_pair(self):
        return baselines.public_pair(public_table(A, C, self.device), self.x0, self.t)

    def advance(self, x, u_cond, u_uncond):
        return ops.guided_step(x, u_cond, u_uncond, self.u_prev, W, 0.05, 0.05)

    def eager_advance(self, x, u_cond, u_uncond):
        return baselines.guided_step(x, u_cond, u_uncond, self.u_prev, W, 0.05, 0.05)

    # Steps.

    def training(self, pair) -> None:
        """A teacher's optimizer step; pair() gives x_t and the target."""
        x_t, u = pair()
        nn.functional.mse_loss(self.network(x_t, self.t, self.y), u).backward()
        self.update()

    def update(self) -> None:
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 0.001)

    @torch.no_grad()
    def sampling(self, advance) -> None:
        """A guided sampling step; advance(x, u_cond, u_uncond) moves x."""
        u_cond, u_uncond, _ = GuidedVelocity(self.network, W).evaluate(self.x0, 0.5, self.y)
        advance(self.x0, u_cond, u_uncond)

    def distilling(self, objective) -> None:
        """An iteration of the first stage of distillation: the teacher's steps, the student's, the loss, the update."""
        objective(self.network, Batch(self.x0, self.y, 0, 0, len(self.x0))).backward()
        self.update()

    def distillation(self) -> Objective:
        config = stages.DistillConfig(stages=(TEACHER_STEPS, 20), steps=(1,), rho=1.5)
        return objectives.objective(self.average, self.average, Telegraph(A, C), stages.stages_of(config)[0], config)

    @torch.no_grad()
    def images(self, num_steps: int) -> torch.Tensor:
        """Prior noise and num_steps steps, Euler up to 4 as students take them, then Adams-Bashforth 2."""
        x = Telegraph(A, C).prior(len(self.y), self.model.shape, 1, device=self.device)
        method = "euler" if num_steps <= 4 else "ab2"
        return integrate(GuidedVelocity(self.network), x, self.y, time_grid(num_steps), method)

    @torch.no_grad()
    def eager_images(self, num_steps: int) -> torch.Tensor:
        """The same with torch.randn and eager steps."""
        x, u_prev, h_prev = torch.randn_like(self.x0), None, None
        for t, t_next in pairwise(time_grid(num_steps).tolist()):
            h, u = t - t_next, self.network(x, torch.full_like(self.t, t), self.y)
            if u_prev is None or num_steps <= 4:
                x = x - h * u
            else:
                r = h / (2 * h_prev)
                x = x - h * ((1 + r) * u - r * u_prev)
            u_prev, h_prev = u, h
        return x


def peak_memory(model: Model, device: torch.device, ours: bool) -> float:
    """MB at the peak of two training steps: of the process on a CPU, of the tensors that they bring on a GPU."""
    if device.type == "cuda":
        public_table.cache_clear()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()  # of networks that are still in memory
        torch.cuda.reset_peak_memory_stats()
    steps = Steps(model, device)
    steps.start_training()
    for _ in range(2):
        steps.training(steps.pair if ours else steps.public_pair)
    if device.type == "cuda":
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    if sys.platform == "linux":  # ru_maxrss there starts at the size of the process that started this one
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
        return int(peak[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


if __name__ == "__main__":
    print(peak_memory(MODELS[sys.argv[1]], torch.device("cpu"), sys.argv[2] == "ours"))
