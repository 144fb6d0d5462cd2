"""The averaged network measured while it is trained: when, what is kept, and when it is done.

A measurement draws a fixed number of images by the average that a checkpoint would hold, and asks an evaluator for their
figures, which stand in metrics.jsonl: {"step": N, "measured": {...}}. Nothing of it reaches the training, which ends with the
same weights. All that is decided by figures follows from these lines, so that a run that is resumed decides alike.

Time is bounded by the clock: what was spent and what the next measurement will take shall be at most SHARE of the time since
the start. Where they are not, it is put off to the next multiple of optim.measure_every.
"""

import math
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import nn

from distillkac.base.progress import Bar
from distillkac.base.random import derive_seed
from distillkac.runs import checkpoints, kept
from distillkac.runs.class_shares import reference_labels
from distillkac.runs.config import RunConfig
from distillkac.runs.optim_config import OptimConfig
from distillkac.runs.run import Run
from distillkac.runs.sampler import SamplerConfig, Trained
from distillkac.runs.sampling import generate
from distillkac.training import trackers
from distillkac.training.plateau import WINDOW, plateau

SHARE = 0.05
"""Of the time since the start that measuring may take."""
PLANNED = 0.03
"""Of the network evaluations: the rest of SHARE is for the evaluator, and for writing the best checkpoint."""
FIRST = 1.5
"""The first measurement is expected to take so many times as long as its network evaluations; the others, what they took."""
IMAGES = (100, 5000)
TEACHER_STEPS = 10
"""Of AB-2, half of what is usual: twice as many images for the same time tell more about the weights."""
TRAINING_EVALUATIONS = 3
"""Of a training image: backwards costs about two."""
CHANCE = 1e-3
"""Copying: the probability of as many copies if samples were no more often copies than held-out images are."""
PATIENCE = timedelta(days=1)
"""Of the processes that wait for the main one."""
NAMES = {"frechet": "Fréchet", "frechet_train": "(train)", "accuracy": "accuracy", "nn_ratio": "nn ratio"}


class Figures(Protocol):
    """What measures: distillkac.evaluation.training_figures.TrainingFigures, or anything like it."""

    def prepare(self) -> None:
        """Called once before the training, which may train an evaluator: its time does not count."""

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
        """images: (n, C, H, W), not clamped. labels: (n,) the classes asked for. Must hold "frechet", by which the best is
        chosen; "copying_p", the CHANCE of so many copies, if --optim.stop copying is to work."""


def sampler_of(config: RunConfig) -> SamplerConfig:
    """How the images of a measurement are drawn: a network of few steps by its own, a teacher in TEACHER_STEPS."""
    trained = Trained.of(config)
    return trained.sampler() if trained.few_steps else SamplerConfig(TEACHER_STEPS)


def count_of(optim: OptimConfig, steps: int) -> int:
    """Images of a measurement, the same for the whole run: figures of other numbers do not compare. steps: of the sampler."""
    if optim.measure_images is not None:
        return optim.measure_images
    trained = TRAINING_EVALUATIONS * optim.batch_size * optim.measure_every
    return min(max(int(PLANNED * trained / steps), IMAGES[0]), IMAGES[1])


def measuring_for(config: RunConfig, figures: Figures | None, device: torch.device, folder: Path) -> "Measuring | None":
    """What measures a run in training; None if nothing shall. Raises ValueError if there are figures for nothing, or none."""
    if not config.optim.measure_every:
        if figures is not None:
            raise ValueError("measure= is given, but config.optim.measure_every is 0: set it, or omit measure")
        return None
    if figures is None:
        raise ValueError(
            "config.optim.measure_every needs measure=, what measures the images, such as "
            "distillkac.evaluation.training_figures.TrainingFigures(images, held_out)"
        )
    if isinstance(figures, type) or not (callable(figures) and callable(getattr(figures, "prepare", None))):
        raise ValueError(
            "measure must be an object with the methods prepare() and __call__(images, labels), such as "
            f"TrainingFigures(images, held_out), got {figures!r:.80}"
        )
    check_steps(config)
    sampler, process = sampler_of(config), config.noise.build()
    count = count_of(config.optim, sampler.steps)

    def measured(average: nn.Module) -> dict[str, float]:
        run = Run(folder, config, process, average, device)
        # Not the noise of `evaluate`, whose figures would flatter the best.
        samples = generate(run, reference_labels(config, count), sampler, derive_seed(config.seed, "measure"))
        return figures(samples.images, samples.labels)

    return Measuring(config.optim, count, count * sampler.steps, figures.prepare, measured)


def check_steps(config: RunConfig) -> None:
    """Raises ValueError if the run has not the steps for what it asks for, which would then be ignored."""
    if not config.optim.measure_every:
        return
    every, most = config.optim.measure_every, config.steps // config.optim.measure_every
    if most < 1:
        raise ValueError(
            f"optim.measure_every {every} is more than the {config.steps} steps of the run, which would never be measured: "
            "give fewer, or omit it"
        )
    if config.optim.stop == "plateau" and most < 2 * WINDOW:
        raise ValueError(
            f"optim.stop plateau compares {2 * WINDOW} measurements, and {config.steps} steps have {most} with "
            f"optim.measure_every {every}: measure more often, or omit optim.stop"
        )


def _numbers(figures: object) -> dict[str, float]:
    """Figures as plain numbers, also of torch and numpy. Raises ValueError if they are none, or do not tell the best."""
    try:
        items = figures.items()  # type: ignore[attr-defined]  # whether it is a dict is what is tried here
        found = {name: float(value) for name, value in items}
    except (AttributeError, TypeError, ValueError, RuntimeError):
        raise ValueError(f"what measures must return a dict of numbers, by name, got {figures!r:.200}") from None
    if not math.isfinite(found.get("frechet", math.nan)):
        raise ValueError(f'what measures must return a finite "frechet", by which the best is chosen, got {figures}')
    return found


class Measuring:
    """Of one training. evaluations: of the network, for the `count` images of a measurement.

    measured: the figures of an averaged network. Both it and `prepare` are called on the main process alone.
    """

    def __init__(
        self,
        optim: OptimConfig,
        count: int,
        evaluations: int,
        prepare: Callable[[], None],
        measured: Callable[[nn.Module], dict[str, float]],
    ):
        self.optim, self.count, self.evaluations = optim, count, evaluations
        self.prepare, self.measured = prepare, measured
        self.lines: list[dict[str, Any]] = []
        self.told = False
        self.group: torch.distributed.ProcessGroup | None = None

    def begin(self, folder: Path, step: int, accelerator: Accelerator, bar: Bar) -> None:
        """Takes up what was measured before, and prepares. bar: of the training, which shows the figures."""
        self.folder, self.accelerator, self.bar = folder, accelerator, bar
        if accelerator.num_processes > 1:
            # NCCL's own patience is ten minutes, and an evaluator of many images takes longer.
            self.group = torch.distributed.new_group(backend="gloo", timeout=PATIENCE)
        if accelerator.is_main_process:
            self.take_up(folder, step)
            if self.lines and (before := self.lines[-1]["measured"]["images"]) != self.count:
                Bar.write(
                    f"{folder} was measured by {before} images, which does not compare with {self.count}: {kept.BEST} is "
                    f"chosen anew from now on; --optim.measure-images {before} goes on as before"
                )
            self.prepare()
        self.wait()
        last = self.lines[-1]["measured"] if self.lines else {"elapsed": 0.0, "spent": 0.0}
        self.spent, self.first_step = last["spent"], step
        self.started = time.perf_counter() - last["elapsed"]
        self.before = last["elapsed"]

    def take_up(self, folder: Path, step: int) -> None:
        """Reads what was measured up to `step`, of which the folder holds the checkpoint, and keeps that as the best one if it
        is, and a crash prevented it. On the main process."""
        found = checkpoints.MetricsLog.read(folder) if step else []
        self.lines = [line for line in found if "measured" in line and line["step"] <= step]
        if self.lines and self.lines[-1]["step"] == step and self.improved() and kept.best_step(folder) != step:
            kept.keep_best(folder)

    def may_fall_on(self, step: int) -> bool:
        return step % self.optim.measure_every == 0

    def after(
        self,
        step: int,
        average: Callable[[], nn.Module],
        checkpoint: Callable[[], None],
        agreed: Callable[[bool], bool],
        log: checkpoints.MetricsLog | None,
    ) -> str | None:
        """Measures after `step`, unless that is put off, and keeps the checkpoint as RUN/best if it is the best.

        Returns why the training ends now, None if it goes on. All processes must call it: the main one measures, the others
        wait. average: gives the averaged network; checkpoint: saves the run, which is also done before a measurement's own
        error leaves; agreed: whether any process says so.
        """
        main = log is not None
        if not agreed(main and self.is_time(step)):
            return None
        start, network, reason, best = time.perf_counter(), average(), None, False
        failure: Exception | None = None
        if log is not None:
            try:
                self.note(step, _numbers(self.measured(network)), start, log)
                best, reason = self.improved(), self.reason()
            except Exception as error:  # whatever an evaluator or the disk raises
                failure = error
        self.wait()
        if agreed(failure is not None):
            checkpoint()  # what was trained is not to be lost with it
            raise failure or ValueError(f"the measurement after step {step} failed on the main process, which says why")
        if agreed(best):
            # Saved before it is copied: a run that is resumed is never behind its best checkpoint.
            checkpoint()
            if main:
                kept.keep_best(self.folder)
        self.spent += time.perf_counter() - start
        return (reason or "stopped") if agreed(reason is not None) else None

    def wait(self) -> None:
        """Until all processes are here."""
        if self.group is not None:
            torch.distributed.barrier(group=self.group)

    def is_time(self, step: int) -> bool:
        """Whether there is time for a measurement; says so once where there is none."""
        elapsed = time.perf_counter() - self.started
        if self.lines:
            expected = self.spent / len(self.lines)
        else:
            steps = max(step - self.first_step, 1)
            each = (elapsed - self.before) / (steps * TRAINING_EVALUATIONS * self.optim.batch_size)
            expected = FIRST * self.evaluations * each
        if self.spent + expected <= SHARE * elapsed:
            return True
        if not self.told:
            self.told = True
            Bar.write(
                f"step {step}: measuring {self.count} images takes about {expected:.2g} s, more than is left of {SHARE:.0%} of "
                f"the time since the start: put off to step {step + self.optim.measure_every}. (Later ones that do not "
                "fit are left out without a word; fewer --optim.measure-images take less.)"
            )
        return False

    def note(self, step: int, figures: dict[str, float], start: float, log: checkpoints.MetricsLog) -> None:
        """Writes the line of a measurement that began at `start`, to the trackers too."""
        trackers.show(self.accelerator, figures, step)
        now = time.perf_counter()
        seconds, elapsed = now - start, now - self.started
        clock = {"seconds": round(seconds, 3), "spent": round(self.spent + seconds, 3), "elapsed": round(elapsed, 3)}
        self.lines.append({"step": step, "measured": {"images": self.count, **figures, **clock}})
        log.append(self.lines[-1], durable=True)
        self.bar.note(**self.shown())

    def values(self) -> list[float]:
        """The Fréchet distances so far that compare: those of as many images."""
        return [line["measured"]["frechet"] for line in self.lines if line["measured"]["images"] == self.count]

    def improved(self) -> bool:
        """Whether the last measurement is the best so far."""
        values = self.values()
        return (
            bool(values)
            and self.lines[-1]["measured"]["images"] == self.count
            and values[-1] < min([*values[:-1], math.inf])
        )

    def reason(self) -> str | None:
        """Why the training is over, by --optim.stop; None if it is not."""
        if self.optim.stop == "plateau" and plateau(values := self.values()):
            now, before = (sum(part) / WINDOW for part in (values[-WINDOW:], values[-2 * WINDOW : -WINDOW]))
            return f"the Fréchet distance has stopped falling: {before:.4g} over {WINDOW} measurements, then {now:.4g}"
        last = self.lines[-1]["measured"]
        if self.optim.stop == "copying" and last.get("copying_p", 1.0) < CHANCE:
            return (
                f"it begins to copy: {last['copying']:.1%} of the samples are copies of training images, of the held-out "
                f"images {last['copying_held_out']:.1%}"
            )
        return None

    def shown(self) -> dict[str, str]:
        """The last figures, for the progress bar."""
        last = self.lines[-1]["measured"] if self.lines else {}
        return {title: f"{last[name]:.3g}" for name, title in NAMES.items() if name in last}
