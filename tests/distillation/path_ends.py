"""What the ends of stored paths are compared with: a network's own steps from the same noise."""

from pathlib import Path

import numpy as np
import torch

from distillkac.base.random import derive_seed
from distillkac.flow.guidance import GuidedVelocity
from distillkac.flow.integrators import integrate, time_grid
from distillkac.runs import checkpoints
from distillkac.runs.run import open_run

COUNT = 40


def stir(folder: Path) -> Path:
    """Gives the network of a run weights that look at everything: after a few steps of training its images hardly move."""
    saved, step = checkpoints.load_weights(folder)
    source = torch.Generator().manual_seed(0)
    stirred = {name: value + 0.1 * torch.randn(value.shape, generator=source) for name, value in saved.items()}
    checkpoints.export(folder, step, stirred, stirred)
    return folder


def check_ends(paths: Path, run: Path, num_steps: int) -> None:
    """The first paths in a folder end where so many Euler steps of a run's network lead."""
    maker = open_run(run, "cpu")
    states = torch.from_numpy(np.load(paths / "states-000000.npy"))[:, :COUNT].float()
    noise = maker.process.prior(COUNT, maker.config.shape, derive_seed(0, "path"))
    with torch.no_grad():
        field, grid = GuidedVelocity(maker.network), time_grid(num_steps, 1.5)
        ends = integrate(field, noise, torch.arange(COUNT) % 10, grid, "euler")
    torch.testing.assert_close(states[-1], ends, rtol=2**-9, atol=2e-3)  # in half precision, in batches of other sizes
