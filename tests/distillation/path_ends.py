"""What the ends of stored paths are compared with: a student's own steps from the same noise."""

from pathlib import Path

import numpy as np
import torch

from distillkac.base.random import derive_seed
from distillkac.flow.guidance import GuidedVelocity
from distillkac.flow.integrators import integrate, time_grid
from distillkac.runs.run import open_run

COUNT = 40


def check_ends(paths: Path, student: Path, num_steps: int) -> None:
    """The first paths in a folder end where so many Euler steps of the student lead."""
    maker = open_run(student, "cpu")
    states = torch.from_numpy(np.load(paths / "states-000000.npy"))[:, :COUNT].float()
    noise = maker.process.prior(COUNT, maker.config.shape, derive_seed(0, "path"))
    with torch.no_grad():
        field, grid = GuidedVelocity(maker.network), time_grid(num_steps, 1.5)
        ends = integrate(field, noise, torch.arange(COUNT) % 10, grid, "euler")
    torch.testing.assert_close(states[-1], ends, rtol=2**-9, atol=2e-3)  # in half precision, in batches of other sizes
