"""What a network is trained for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import nn

from distillkac.base.random import derive_seed
from distillkac.flow.processes import Process
from distillkac.training.batches import Batch


class Objective(Protocol):
    """What a network is fitted to: (network, batch) -> scalar loss, of rows of `batch.x0` that this process handles at once.

    Everything random in it must follow from `batch` (`batch.uniform`, `batch.stratified`, `batch.first`) and a seed of its
    own, so that a run can be resumed. An objective with an attribute `updates` makes that many optimizer updates a step, each
    on a batch of its own; batch.step counts updates. A network with `param_groups()` has groups whose learning rates are
    `lr_scale` times the schedule's, one with `averaged` a part that the moving average follows (see inverse.py), one with
    `compiled_parts()` lists the networks inside that are compiled (compiled.py), one with `outer_layers()` says which layers
    Muon leaves to AdamW (optimizer.py). An objective whose class has `one_call = True` calls the network once each time, and
    keeps nothing of its answer; of one that is derived from it the class must say so again.
    """

    def __call__(self, network: nn.Module, batch: Batch, /) -> torch.Tensor: ...


def updates_of(objective: Objective) -> int:
    """Optimizer updates a step: one, unless the objective has another number of `updates`."""
    return getattr(objective, "updates", 1)


def evaluations_of(objective: Objective) -> int:
    """Evaluations of the network in a step besides the one that learns: none, unless the objective has `evaluations`."""
    return getattr(objective, "evaluations", 0)


def one_call(objective: Objective) -> bool:
    """Whether it says that it calls the network once. What is derived from it may do more, so that its own class counts."""
    return bool(vars(type(objective)).get("one_call", False))


@dataclass(frozen=True)
class FromData:
    """What objectives that learn from data alone have in common.

    null_class: the label of no class; None for a network without one, where label_drop must be 0.
    """

    process: Process
    null_class: int | None
    label_drop: float
    seed: int

    def __post_init__(self) -> None:
        if self.null_class is None and self.label_drop > 0:
            raise ValueError(
                f"label_drop {self.label_drop} needs a network with null_class, the label that means no class"
            )

    def labels(self, batch: Batch) -> torch.Tensor:
        """(B,) classes of the rows, some of them dropped."""
        if self.null_class is None or self.label_drop == 0:
            return batch.y
        return torch.where(batch.uniform(self.seed, "label") < self.label_drop, self.null_class, batch.y)


@dataclass(frozen=True)
class FlowMatching(FromData):
    """The teacher's objective: E || u(x_t, t, y) - (f' x_0 + g' v(g, K)) ||^2 / D over uniform t, classes dropped.

    law: what makes times of uniform draws; None for uniform times. weight: of a time, (B,) -> (B,). learned: whether the
    network is a times.WithUncertainty, which weighs by what it learns of its loss. augment: what changes the images of a
    batch, and says how, see augmentation.py. Raises ValueError if the network answers
    with another shape than x has.
    """

    law: Callable[[torch.Tensor], torch.Tensor] | None = None
    weight: Callable[[torch.Tensor], torch.Tensor] | None = None
    learned: bool = False
    augment: Callable[[Batch], tuple[torch.Tensor, torch.Tensor]] | None = None
    one_call: ClassVar[bool] = True

    def __call__(self, network: nn.Module, batch: Batch) -> torch.Tensor:
        t, x0, told = batch.stratified(self.seed, "time", law=self.law), batch.x0, {}
        if self.augment is not None:
            x0, told["augment"] = self.augment(batch)
        x_t, u = self.process.pair(x0, t, derive_seed(self.seed, "noise"), batch.first)
        answer = network(x_t, t, self.labels(batch), **told)
        if self.learned:
            answer, log_loss = answer
            return (_mean_squares(like(x_t, answer), u) / log_loss.exp() + log_loss).mean()
        if self.weight is not None:
            return (self.weight(t) * _mean_squares(like(x_t, answer), u)).mean()
        return nn.functional.mse_loss(like(x_t, answer), u)


def _mean_squares(answer: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """(B,) float32 mean square errors of the rows."""
    return (answer.float() - u).square().flatten(1).mean(1)


def like(x: torch.Tensor, answer: torch.Tensor) -> torch.Tensor:
    """The network's answer at x. Raises ValueError if it has another shape."""
    if answer.shape != x.shape:  # which torch would stretch, with a warning
        raise ValueError(
            f"the network must return a velocity like x, {tuple(x.shape)}, got {tuple(answer.shape)} in train mode"
        )
    return answer
