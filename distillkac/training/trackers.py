"""TensorBoard and W&B, which show the losses of a training beside metrics.jsonl: they may fail, and the training goes on."""

from accelerate import Accelerator

from distillkac.base.progress import Bar


def show(accelerator: Accelerator, values: dict[str, float], step: int) -> None:
    """Shows the values of a step in every tracker. One that fails (a full disk, a network that is gone) is told in a sentence
    and not asked again."""
    if accelerator.is_main_process:
        for tracker in list(accelerator.trackers):
            try:
                tracker.log(values, step=step)
            except Exception as error:  # whatever a tracker raises
                accelerator.trackers.remove(tracker)
                Bar.write(f"step {step}: --track {tracker.name} failed, the training goes on without it: {_of(error)}")


def finish(accelerator: Accelerator) -> None:
    """Closes every tracker, of which there are none afterwards; one that fails is told in a sentence."""
    for tracker in accelerator.trackers:
        try:
            tracker.finish()
        except Exception as error:
            Bar.write(f"--track {tracker.name} could not be closed: {_of(error)}")
    accelerator.trackers.clear()


def _of(error: Exception) -> str:
    """Its first line."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
