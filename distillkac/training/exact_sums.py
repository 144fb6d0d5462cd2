"""Gradients whose bits do not depend on how many threads or processes find them.

Floating-point sums depend on their order, and torch's backward passes order theirs by the number of threads; a sum over
processes has an order of its own. Here a batch is cut into parts that are the same for everybody, one thread finds the
gradient of each, and they are added as a binary tree over the parts. A process whose parts are a subtree adds that one alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from torch import distributed, nn
from torch.nn.modules.batchnorm import _NormBase

from distillkac.base.random import derive_seed
from distillkac.training import failure, sharding
from distillkac.training.batches import Batch
from distillkac.training.objective import Objective


@contextmanager
def one_thread():
    """torch computes with one thread inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check(network: nn.Module, processes: int) -> None:
    """Raises ValueError for layers with running statistics on several processes, each of which would have its own."""
    for name, module in network.named_modules():
        if processes > 1 and isinstance(module, _NormBase) and module.running_mean is not None:
            raise ValueError(
                f"optim.exact_parts on {processes} processes: {name} ({type(module).__name__}) keeps statistics of what it "
                "meets, which is other images in each; use one process, or layers without (such as GroupNorm)"
            )


class PairwiseSum:
    """Adds 2^k tensors as a binary tree, in the order they come; k + 1 of them are in memory at most."""

    def __init__(self) -> None:
        self._partial: list[tuple[int, torch.Tensor]] = []  # (number of terms, sum), the numbers falling

    def add(self, term: torch.Tensor) -> None:
        """term is kept, and may be written to."""
        count = 1
        while self._partial and self._partial[-1][0] == count:
            _, before = self._partial.pop()
            term, count = before.add_(term), 2 * count
        self._partial.append((count, term))

    @property
    def total(self) -> torch.Tensor:
        ((_, total),) = self._partial
        return total


def gradient(
    network: nn.Module,
    objective: Objective,
    batches: Iterator[Batch],
    accelerator: Accelerator,
    *,
    seed: int,
    parts: int,
    total: int,
) -> torch.Tensor:
    """The gradient of the next update over all processes, left in the parameters' .grad; returns its loss.

    parts: how many of the `total` parts of a batch this process has, the next ones of `batches`. What is random inside the
    network follows from the seed and the part, not from the process that has it.
    """
    parameters = list(network.parameters())
    first, sums = accelerator.process_index * parts, PairwiseSum()
    for part in range(first, first + parts):
        batch = next(batches)
        torch.manual_seed(derive_seed(seed, "network", batch.step, part))
        loss = failure.check_loss(objective(network, batch))
        accelerator.backward(loss)
        # Which parameters have a gradient is the same for all parts of an update.
        found = [p for p in parameters if p.grad is not None]
        sums.add(
            torch.cat([loss.detach().float().reshape(1), *(p.grad.flatten() for p in found if p.grad is not None)])
        )
        for p in found:
            p.grad = None
    mean = _over_processes(sums.total, accelerator.num_processes) / total
    loss, *values = mean.split([1, *(p.numel() for p in found)])
    for p, value in zip(found, values, strict=True):
        # In the dtype and the order in memory of the weights, which fused optimizers go through as they lie there.
        p.grad = sharding.like(value.view_as(p).to(p.dtype), p)
    return loss[0]


def _over_processes(term: torch.Tensor, processes: int) -> torch.Tensor:
    if processes == 1:
        return term
    terms, sums = [torch.empty_like(term) for _ in range(processes)], PairwiseSum()
    distributed.all_gather(terms, term)
    for each in terms:
        sums.add(each)
    return sums.total
