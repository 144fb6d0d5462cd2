"""The one way to train a run, which `train` and `distill` share: its folder, its accelerator, its pictures."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import GradientAccumulationPlugin, TorchDynamoPlugin

from distillkac.base import launch_settings, optional, processes
from distillkac.base.optional import Tracker
from distillkac.data import Dataset, vae
from distillkac.runs import checkpoints, kept, pictures, plots, shipped
from distillkac.runs.config import RunConfig, save_config
from distillkac.runs.device import device, fast_products
from distillkac.runs.lock import run_lock
from distillkac.runs.optim_config import OptimConfig
from distillkac.runs.run import Run
from distillkac.runs.sampler import Trained
from distillkac.runs.sampling import class_labels, generate
from distillkac.training import averages, exact_sums, resume
from distillkac.training.consistency import Schedule
from distillkac.training.learning_rate import learning_rate
from distillkac.training.loop import Fit, Trainer
from distillkac.training.measuring import Figures, Measuring, measuring_for
from distillkac.training.objective import Objective


def refuse_inference_mode() -> None:
    """Raises ValueError inside torch.inference_mode, whose tensors never have gradients."""
    if torch.is_inference_mode_enabled():
        raise ValueError("nothing can be trained under torch.inference_mode(): train outside of it")


def refuse_shipped(folder: Path) -> None:
    """Raises ValueError if a run would have the name, or the folder, of a model that comes with distillkac."""
    shipped.refuse(folder, shipped.ELSEWHERE)


@contextlib.contextmanager
def own_accelerate() -> Iterator[None]:
    """Inside, accelerate begins as in a new program; after it, it is as it was for the training loop of the caller.

    accelerate keeps precision and accumulation for all accelerators of a program, in dicts that these share: they are filled
    anew, not replaced. What it knows of the processes stays.
    """
    shared = [state._shared_state for state in (AcceleratorState, GradientState)]
    before = [dict(values) for values in shared]
    for values in shared:
        values.clear()
    try:
        yield
    finally:
        for values, was in zip(shared, before, strict=True):
            values.clear()
            values.update(was)


def accelerator_for(
    optim: OptimConfig, alternating: bool = False, trackers: tuple[Tracker, ...] = (), folder: Path | None = None
) -> Accelerator:
    """alternating: two networks are trained in turn, so every update leaves some weights without a gradient.

    trackers: where losses are shown besides metrics.jsonl; TensorBoard writes to `folder`. Raises ValueError if a
    tracker's package is not installed, or if a variable of the environment asks for another training (launch_settings.py).
    """
    for name in trackers:
        optional.load(name, f"--track {name}")
    launch_settings.check(optim, device())
    processes.part_at_exit()
    # Trainings of one program, in a notebook say, may have different precisions, which accelerate keeps for all of them.
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != optim.precision:
        AcceleratorState._reset_state()
    accelerator = Accelerator(
        cpu=device().type == "cpu",  # else several processes on a CPU would not find each other
        mixed_precision=optim.precision,
        # A plugin, because a variable would override gradient_accumulation_steps; the same for the compiler.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=optim.accumulate),
        dynamo_plugin=TorchDynamoPlugin(
            backend="no", mode="default", fullgraph=False, dynamic=False, use_regional_compilation=False
        ),
        log_with=list(trackers) or None,
        project_dir=folder,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)] if alternating else None,
    )
    if len(accelerator.log_with) < len(trackers):
        raise ValueError(f"--track {' '.join(trackers)}: accelerate does not find all of them; pip install them anew")
    return accelerator


def fit_run(
    folder: str | os.PathLike[str],
    config: RunConfig,
    network: torch.nn.Module,
    objective: Objective,
    dataset: Dataset,
    accelerator: Accelerator,
    title: str,
    go_on: bool,
    measure: Figures | None = None,
) -> Fit:
    """Saves the config, trains to config.steps, draws curves and samples. The one way teachers and students are made.

    With `go_on` a checkpoint in the folder is continued; without, it is an error (ValueError), and so is another run
    that trains in the folder now. A checkpoint that cannot be continued is refused before anything is written. measure: what
    measures the average during the training, where config.optim.measure_every asks for it.
    """
    folder = _place(folder, config)
    measuring = measuring_for(config, measure, accelerator.device, folder)

    def saved(average: torch.nn.Module, step: int) -> None:
        kept.keep(folder, step, config.optim.keep)
        draw(Run(folder, config, config.noise.build(), average, accelerator.device), step)

    # Gradients: the caller may have them off.
    with run_lock(folder, accelerator), torch.enable_grad(), fast_products(accelerator.device):
        before, config = _looked_at(folder, config, network, accelerator, go_on)
        trainer = Trainer(
            *(network, objective, dataset, folder, config.steps, config.optim, config.seed, accelerator, title),
            saved,
            measuring,
        )
        if trainer.step > config.steps:
            raise ValueError(f"{folder} has made {trainer.step} steps already, more than --steps {config.steps}")
        made = trainer.step
        if accelerator.is_main_process:
            begin(folder, config, before, made, measuring, getattr(objective, "schedule", None))
        fit = trainer.fit()
        if accelerator.is_main_process and made == config.steps and not are_drawn(folder, config):
            saved(fit.network, made)
    # Trainer, network and optimizer refer to each other in circles, which Python may not look for during hours of further
    # stages; accelerate keeps a list of them besides.
    del trainer
    accelerator.free_memory()
    if accelerator.is_main_process:
        say_how_it_ended(folder, fit, config.steps)
    return fit


def _place(folder: str | os.PathLike[str], config: RunConfig) -> Path:
    """The folder of a run that may begin here. Raises ValueError if it may not."""
    folder = Path(folder).expanduser()
    refuse_shipped(folder)
    refuse_inference_mode()
    if config.latent and config.preview:
        vae.check_place(config.latent)
    return folder


def _looked_at(
    folder: Path, config: RunConfig, network: torch.nn.Module, accelerator: Accelerator, go_on: bool
) -> tuple[RunConfig | None, RunConfig]:
    """The saved config of the run that is continued, see resume.check, and that of this one. Raises ValueError as that does."""
    before = resume.check(folder, config, go_on)
    if config.optim.exact_parts is not None:
        exact_sums.check(network, accelerator.num_processes)
    if before is not None and config.began_with is None:  # a config that was given does not know
        config = dataclasses.replace(config, began_with=before.began_with)
    return before, config


def say_how_it_ended(folder: Path, fit: Fit, steps: int) -> None:
    """Nothing of a training that made all its steps, unless somebody stopped it in the last."""
    if fit.ended is not None and not fit.interrupted:
        rest = "" if fit.finished else "; --resume --optim.stop none goes on"
        print(f"ended at step {fit.step} of {steps}: {fit.ended}. Saved in {folder}{rest}", flush=True)
    elif fit.interrupted or not fit.finished:
        rest = "which is all of them" if fit.finished else "--resume continues"
        print(f"stopped: saved at step {fit.step} of {steps} in {folder}; {rest}", flush=True)


def begin(
    folder: Path,
    config: RunConfig,
    before: RunConfig | None,
    step: int,
    measuring: Measuring | None,
    schedule: Schedule | None,
) -> None:
    """Makes the folder that of `config`, of which `before` has made `step` steps; says what changes, if anything does.
    schedule: of consistency, if that is the objective."""
    kept.clean(folder)
    averages.drop_later(folder, step)
    if later := kept.drop_later(folder, step):
        print(f"{folder} goes on from step {step}: removed {', '.join(later)}, which it had made before", flush=True)
    if before is not None and step == config.steps:
        config = finished(folder, before, config)
    save_config(folder, config)
    if before is not None:
        kept.keep(folder, step, config.optim.keep)  # if it died before it could
        if sentence := new_schedule(before, config, step):
            print(f"{folder} {sentence}", flush=True)
        if sentence := new_phase(schedule, before.steps, step):
            print(f"{folder} {sentence}", flush=True)
    if measuring is not None and step == config.steps:  # else as the training begins
        measuring.take_up(folder, step)


def draw(run: Run, step: int) -> None:
    """The pictures of a checkpoint: curves.png, and samples of the averaged network where they can be shown."""
    config = run.config
    plots.save_curves(run.folder / checkpoints.METRICS, run.folder / kept.CURVES)
    if _can_be_shown(config):
        images = generate(run, class_labels(config, config.preview), Trained.of(config).sampler()).images
        pictures.save_grid(images, _picture(run.folder, step))


def are_drawn(folder: Path, config: RunConfig) -> bool:
    """Whether a run that has made all its steps has its pictures: it may have ended between its last checkpoint and these."""
    metrics, curves = folder / checkpoints.METRICS, folder / kept.CURVES
    drawn = not metrics.exists() or (curves.exists() and curves.stat().st_mtime >= metrics.stat().st_mtime)
    return drawn and (not _can_be_shown(config) or _picture(folder, config.steps).exists())


def _can_be_shown(config: RunConfig) -> bool:
    return config.preview > 0 and (config.shape[0] in (1, 3) or config.latent is not None)


def _picture(folder: Path, step: int) -> Path:
    return folder / kept.SAMPLES / f"step-{step:06d}.png"


def finished(folder: Path, before: RunConfig, config: RunConfig) -> RunConfig:
    """The config of a run without steps left to make: its optimizer is what it was. Says so, and names options for another."""
    optim = dataclasses.replace(before.optim, keep=config.optim.keep)
    words = " and ".join(now for _, now in resume.changes(optim, config.optim, "--optim"))
    rest = f", where {words} can change nothing" if words else ": nothing is left to train"
    print(f"{folder} has made its {config.steps} steps{rest}", flush=True)
    return dataclasses.replace(config, optim=optim)


def new_phase(schedule: Schedule | None, before: int, step: int) -> str | None:
    """What becomes of the phase of consistency at a step, where all steps were `before`; None if nothing does. schedule: of the
    objective, None of others."""
    if schedule is None or not 0 < step < schedule.steps:
        return None
    was, now = (each.phase(step) + 1 for each in (dataclasses.replace(schedule, steps=before), schedule))
    if was == now:
        return None
    return (
        f"goes on in phase {now} of {schedule.phases} of consistency (before: {was}), which are spread over all "
        f"{schedule.steps} steps: it ends otherwise than a run that was asked for them at first"
    )


def new_schedule(before: RunConfig, config: RunConfig, step: int) -> str | None:
    """What becomes of the learning rate of a run that goes on at `step` with other options; None if nothing does."""
    if not 0 < step < config.steps:
        return None
    was = learning_rate(step, before.steps, before.optim) if step < before.steps else None
    last, now = learning_rate(step - 1, before.steps, before.optim), learning_rate(step, config.steps, config.optim)
    if was == now:
        return None
    way = f"on the way down from {config.optim.lr:g} over all {config.steps} steps"
    if config.optim.schedule == "wsd":
        falls = config.steps - config.optim.decay * config.steps
        way = f"which falls from step {falls:.0f} on" if step < falls else f"falling since step {falls:.0f}"
    return (
        f"goes on at step {step} of {config.steps} (before: of {before.steps}): its learning rate was {last:.3g} and begins "
        f"anew at {now:.3g}, {way}"
    )
