"""The batches of a run: which samples a step meets, which of them this process, and their random draws.

Every random draw is a function of (seed, step, global sample index), see random.py.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from distillkac.base.random import generator
from distillkac.base.tensors import sent
from distillkac.data import Dataset, to_unit
from distillkac.data.ahead import read_ahead

HOST = torch.device("cpu")
BELOW_ONE = 1 - 2**-24  # the largest number of float32 below 1


@dataclass(frozen=True)
class Batch:
    """Rows of one optimizer step that this process handles at once.

    x0: (B, C, H, W) in [-1, 1]. y: (B,) int64. step: optimizer update. row: where the rows start among the `total` rows
    of the step, over all processes and micro-batches.
    """

    x0: torch.Tensor
    y: torch.Tensor
    step: int
    row: int
    total: int

    @property
    def first(self) -> int:
        """Global sample index of the first row: no two rows of a run share one."""
        return self.step * self.total + self.row

    def uniform(self, seed: int, name: str, device: torch.device | None = None) -> torch.Tensor:
        """(B,) draws in [0, 1), independent of each other. device: where they lie, by default with x0; what the program itself
        must read, such as a number of rows, it reads on the CPU, where no GPU is waited for."""
        return self._mine(
            torch.rand(self.total, dtype=torch.float32, generator=generator(seed, name, self.step)), device
        )

    def stratified(
        self,
        seed: int,
        name: str,
        device: torch.device | None = None,
        law: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """(B,) draws in [0, 1), one in each of `total` equal cells over the step: each uniform, less noise together.

        law: what is made of each draw, a function (n,) -> (n,) float32 that is given them on the CPU, so that what it takes
        many small steps for keeps no GPU.
        """
        source = generator(seed, name, self.step)
        cells = torch.randperm(self.total, generator=source)
        # The clamp keeps float32 rounding from reaching 1 in the last cell.
        draws = (cells + torch.rand(self.total, dtype=torch.float32, generator=source)) / self.total
        return self._mine(draws.clamp(max=BELOW_ONE), device, law)

    def _mine(
        self,
        draws: torch.Tensor,
        device: torch.device | None,
        law: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> torch.Tensor:
        mine = draws[self.row : self.row + len(self.x0)]
        return sent(mine if law is None else law(mine), self.x0.device if device is None else device)


def read_batches(
    dataset: Dataset,
    seed: int,
    updates: range,
    total: int,
    parts: list[range],
    device: torch.device,
    workers: int | None,
) -> Iterator[Batch]:
    """The batches of optimizer updates of `total` rows each: of every update these parts, read ahead by `workers` threads.

    workers: None for as many as suit the data set.
    """
    order = dataset.order(seed)
    # Drawn one by one: lists of all steps would grow with the run.
    indices = (order(k * total + part.start, k * total + part.stop).tolist() for k in updates for part in parts)
    places = ((k, part.start) for k in updates for part in parts)

    def read(rows: list[int]) -> tuple[torch.Tensor, ...]:
        batch = dataset.__getitems__(rows)
        return tuple(part.pin_memory() for part in batch) if device.type == "cuda" else batch

    workers = dataset.readers if workers is None else workers
    if dataset.most_readers is not None:  # readers that overtake each other read a stream again
        workers = min(workers, dataset.most_readers)
    batches = read_ahead(read, indices, workers, dataset.stop)
    for (update, row), batch in zip(places, batches, strict=True):
        x0, y = (part.to(device, non_blocking=True) for part in batch)
        yield Batch(to_unit(x0), y, update, row, total)
