"""When a loss or a gradient is not finite: the state before that step is kept, so that it can be looked at again.

Losses are looked at when they are logged, since asking a GPU at every step would make it wait; by then the weights are
spoilt. But every step follows from the state before it and the seed, so the trainer goes back to its last checkpoint and
runs up to the step again: on one CPU to the bit, on a GPU up to rounding.
"""

import json
from typing import TYPE_CHECKING

from distillkac.base import files
from distillkac.runs import checkpoints

if TYPE_CHECKING:
    from distillkac.training import Trainer

FOLDER, REPORT = "failure", "failure.json"


def recorded(trainer: "Trainer", update: int, loss: float, norm: float) -> FloatingPointError:
    """Writes RUN/failure: config, checkpoint before the step of optimizer update `update`, and failure.json.

    loss, norm: of that update on this process. All processes must call it. Returns the error to raise.
    """
    folder, step = trainer.folder / FOLDER, update // trainer.updates
    trainer.rewind()
    batches = trainer.batches()
    while trainer.step < step:
        trainer.advance(batches)
    trainer.save(folder)
    again = trainer.failed(trainer.advance(batches))
    if trainer.accelerator.is_main_process:
        config = trainer.folder / checkpoints.CONFIG
        if config.exists():
            files.write_atomic(folder / checkpoints.CONFIG, config.read_bytes())
        report = {
            "step": step + 1,
            "update": update,
            "loss": str(loss),
            "grad_norm": str(norm),
            "seed": trainer.seed,
            "indices": trainer.indices(update),
            "reproduced": any(again),
            "how": f"copy the run folder, replace its state/ by that of {FOLDER}/, and go on with --resume",
        }
        files.write_atomic(folder / REPORT, (json.dumps(report, indent=1) + "\n").encode())
    return FloatingPointError(
        f"{trainer.folder}: the loss is {loss} and its gradient's norm {norm} in step {step + 1}; the last checkpoint is "
        f"kept. {folder} has the state before that step, and {REPORT} there its images. Lower --optim.lr"
    )
