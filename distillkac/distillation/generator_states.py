"""What the generator of inverse distillation is given: the states that it will meet in sampling.

A generator of up to N steps is sampled in N, N/2, ..., 1 of them. Each row of a batch is one moment of such a sampling: of one
of these numbers M, all alike, and one of the times T_0 = 1 > ... > T_{M-1} of its grid. So times that more samplings pass come
more often, and t = 1, where every one begins, most: with N = 4 in 7 of 12 rows. The state there is the generator's own, reached
by its own steps with fresh noise, as the sampler makes them (backward simulation, Yin et al. 2024), or noised data.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from distillkac.base.random import derive_seed
from distillkac.base.tensors import column, sent
from distillkac.flow.integrators import restarted, time_grid
from distillkac.flow.processes import Process
from distillkac.runs.sampler import halves
from distillkac.training.batches import HOST, Batch
from distillkac.training.compiled import plain_calls

Generate = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(x (B, ...), t (B,), classes (B,)) -> the data that the generator predicts there."""


@dataclass(frozen=True)
class GeneratorStates:
    """Draws a time for each row of a batch and the state there.

    num_steps, rho, shift: N, and exponent and shift of the grids. restart: share of each step that the sampler draws anew.
    backward: fraction of the rows, among those before t = 1, whose state is the generator's own; the others are noised data.
    """

    process: Process
    seed: int
    num_steps: int = 1
    rho: float = 1.0
    restart: float = 1.0
    backward: float = 1.0
    shift: float = 1.0

    def __call__(self, generate: Generate, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """(x (B, ...), t (B,)): pure noise at t = 1, other states at other times."""
        x0, device = batch.x0, batch.x0.device
        noise = self.process.prior(len(x0), tuple(x0.shape[1:]), derive_seed(self.seed, "prior"), batch.first, device)
        if self.num_steps == 1:
            return noise, torch.ones(len(x0), dtype=torch.float32, device=device)
        counts, k = self.moments(batch, "moment")
        starts = self._starts()[counts]
        t = sent(starts.gather(1, k[:, None]).squeeze(1), device)
        x = self.process.bridge(x0, t, derive_seed(self.seed, "state noise"), batch.first)
        own = (batch.uniform(self.seed, "backward", HOST) < self.backward) | (k == 0)
        reached = self._reached(generate, noise, batch, sent(starts, device), k * own)
        return torch.where(column(sent(own, device), x), reached, x), t

    def moments(self, batch: Batch, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """(which of the halves of N (B,), which of its steps (B,)) of every row, on the CPU. name: of the draw."""
        made = halves(self.num_steps)
        cells = torch.tensor([(i, k) for i, count in enumerate(made) for k in range(count)])
        shares = [1 / (len(made) * count) for count in made for _ in range(count)]
        bounds = torch.tensor(shares, dtype=torch.float64).cumsum(0)[:-1]
        drawn = cells[torch.bucketize(batch.stratified(self.seed, name, HOST).double(), bounds, right=True)]
        return drawn[:, 0], drawn[:, 1]

    def on_paths(self, batch: Batch, num_states: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(which state (B,), its time (B,)) of stored paths with this many states after the noise: of moments as above where
        the paths have such a time, else of the noise."""
        index = torch.zeros(len(batch.x0), dtype=torch.int64)
        if self.num_steps > 1 and num_states > 1:
            which, k = self.moments(batch, "moment of a path")
            counts = torch.tensor(halves(self.num_steps))[which]
            index = torch.where(num_states % counts == 0, k * (num_states // counts), index)
        times = self._grid(num_states)[index].float()
        return sent(index, batch.x0.device), sent(times, batch.x0.device)

    def _grid(self, num_steps: int) -> torch.Tensor:
        return time_grid(num_steps, self.rho, self.shift, self.process)

    def _starts(self) -> torch.Tensor:
        """(halves of N, N): where the steps of each grid begin, filled up with ones."""
        grids = [self._grid(count)[:-1] for count in halves(self.num_steps)]
        return torch.stack(
            [nn.functional.pad(grid, (0, self.num_steps - len(grid)), value=1.0) for grid in grids]
        ).float()

    @torch.no_grad()
    def _reached(
        self, generate: Generate, noise: torch.Tensor, batch: Batch, starts: torch.Tensor, k: torch.Tensor
    ) -> torch.Tensor:
        """The state after the first k steps of each row from the noise, as restart_chain makes them. k: (B,) on the CPU."""
        x, seed = noise.clone(), derive_seed(self.seed, "fresh")
        for step in range(self.num_steps - 1):
            t, t_next = starts[:, step], starts[:, step + 1]
            rows, going = (k > step).nonzero().flatten(), sent(k > step, x.device)
            if not len(rows):  # every process asks as often as the others, which sharded weights need
                rows = torch.zeros(1, dtype=torch.int64)
            rows, x_hat = sent(rows, x.device), x.clone()
            with plain_calls():
                x_hat[rows] = generate(x[rows], t[rows], batch.y[rows]).float()
            along = torch.lerp(x_hat, x, column(t_next / t, x))
            x = torch.where(
                column(going, x),
                restarted(self.process, along, x_hat, t_next, self.restart, seed, step, batch.first),
                x,
            )
        return x
