"""Points and processes for tests of the exact flow, and its example."""

import math

import pytest
import torch

from distillkac.base.random import generator
from distillkac.flow.processes import Gaussian, Planar, Telegraph
from distillkac.ops import reference
from tests.places import ROOT, script

toy2d = script(ROOT / "examples" / "toy2d.py")

PROCESSES = [Telegraph(a=25, c=2), Planar(a=25, c=2), Gaussian(sigma=1.0)]
FEW_TURNS = [Telegraph(a=1.5, c=1), Planar(a=1.5, c=1), Gaussian(sigma=0.5)]
POINTS = torch.tensor([[-0.9, 0.1], [-0.2, -0.4], [0.1, 0.7], [0.8, 0.2], [0.3, 0.25]], dtype=torch.float64)
by_name = pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.name)


def pairs(process, n=20_000):
    """n drawn (x_t, u, t) with data POINTS, from the reference sampler, atoms included."""
    source = generator(0, "pairs")
    x0 = POINTS[torch.randint(len(POINTS), (n,), generator=source)]
    t = 0.02 + 0.98 * torch.rand(n, dtype=torch.float64, generator=source)
    if isinstance(process, Gaussian):
        return *process.pair(x0, t, 1), t
    # Row by row is what the reference is for; a few rows of many pairs are faster.
    rows, time = x0.view(20, -1), t.view(20, -1)[:, 0]
    x, u = reference.kac_pair(rows, time, process.name, process.a, process.c, seed=1)
    return x.view(-1, 2), u.view(-1, 2), time.repeat_interleave(n // 20)


def expectation_z(flow, process):
    """z scores of E[(u - u_exact) phi] = 0 for several phi(t, x): what a conditional expectation is."""
    x, u, t = pairs(process)
    exact = flow(x, t)
    tests = torch.stack([exact, x, torch.ones_like(x), torch.sign(x), exact * x.abs()])
    products = ((u - exact) * tests).sum(-1)
    return products.mean(1) / products.std(1) * math.sqrt(len(x))
