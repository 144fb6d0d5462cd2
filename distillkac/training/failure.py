"""When a loss or a gradient is not finite: the state before that step is kept, so that it can be looked at again.

Losses are looked at when they are logged, since asking a GPU at every step would make it wait; by then the weights are
spoilt. But every step follows from the state before it and the seed, so the loop goes back to its last checkpoint and
runs up to the step again: on one CPU to the bit, on a GPU up to rounding.
"""

import json
from pathlib import Path

import torch
from torch import nn

from distillkac.base import files
from distillkac.data import Dataset, read
from distillkac.runs import checkpoints
from distillkac.training import sharding

FOLDER, REPORT = "failure", "failure.json"


def write(
    folder: Path, step: int, update: int, loss: float, norm: float, seed: int, indices: list[int], reproduced: bool
) -> None:
    """Writes what is known of a failed step beside its checkpoint in RUN/failure: the run's config, and failure.json.

    step: counted from 1. update: of the optimizer, from 0. loss, norm: of the update and of its gradient. indices: of the
    images it met. reproduced: whether it failed again from the state that is kept.
    """
    config = folder.parent / checkpoints.CONFIG
    if config.exists():
        files.write_atomic(folder / checkpoints.CONFIG, config.read_bytes())
    report = {
        "step": step,
        "update": update,
        "loss": str(loss),
        "grad_norm": str(norm),
        "seed": seed,
        "indices": indices,
        "reproduced": reproduced,
        "how": f"copy the run folder, replace its state/ by that of {FOLDER}/, and go on with --resume",
    }
    files.write_atomic(folder / REPORT, (json.dumps(report, indent=1) + "\n").encode())


def rows_not_finite(dataset: Dataset, indices: list[int]) -> list[int]:
    """Which of these rows of the data hold NaN or infinity: no learning rate helps against them."""
    if not indices:
        return []
    finite = read(dataset, indices)[0].flatten(1).isfinite().all(1).tolist()
    return sorted({row for row, whole in zip(indices, finite, strict=True) if not whole})


def check_loss(loss: torch.Tensor) -> torch.Tensor:
    """Raises ValueError if the loss of an objective is not one number."""
    if not isinstance(loss, torch.Tensor) or loss.dim() != 0:
        found = f"of shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else repr(loss)[:80]
        raise ValueError(f"the objective must return one number, a tensor of shape (), such as a mean, got {found}")
    return loss


def finite(network: nn.Module) -> bool:
    """Whether all numbers of a network are, of a sharded one this process's own."""
    values = (sharding.local(value) for value in network.state_dict().values())
    return all(bool(torch.isfinite(value).all()) for value in values if value.is_floating_point())


def unlike(run: Path, step: int, loss: float, norm: float) -> str:
    """The message where the steps before the failed one, computed again, have failed too: there is no state to keep."""
    return (
        f"{run}: the loss was {loss} and its gradient's norm {norm} in step {step}, and an earlier step failed when all were "
        "computed again, so the numbers do not follow from the state alone (memory, or a processor that errs): the last "
        "checkpoint is kept, --resume goes on from there or begins anew"
    )


def sentence(folder: Path, step: int, loss: float, norm: float, rows: list[int]) -> str:
    """The message of the FloatingPointError that ends the run. rows: of the data, which are to blame."""
    shown = ", ".join(map(str, rows[:8])) + (", ..." if len(rows) > 8 else "")
    mend = f"The data are not finite in row {shown}: mend or remove what is there" if rows else "Lower --optim.lr"
    return (
        f"{folder.parent}: the loss is {loss} and its gradient's norm {norm} in step {step}; the last checkpoint is "
        f"kept. {folder} has the state before that step, and {REPORT} there its images. {mend}"
    )
