"""Train a flow: `python -m distillkac.train --run runs/demo [--process planar] [--data.path DIR] [--resume]`."""

import dataclasses
import sys
import warnings
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from distillkac.base import paths, processes
from distillkac.base.commands import INTERRUPTED, command, prog
from distillkac.base.optional import Tracker
from distillkac.base.options import parse, peek, with_paths
from distillkac.base.paths import PATH_OR_NAME
from distillkac.base.ranges import in_ranges
from distillkac.flow.network_config import NetworkConfig
from distillkac.runs import shipped
from distillkac.runs.config import RunConfig, load_config
from distillkac.runs.presets import PRESETS

if TYPE_CHECKING:
    from distillkac.evaluation.training_figures import TrainingFigures


@dataclass(frozen=True)
@in_ranges("", processes=processes.SEVERAL)
class TrainArgs:
    """Trains a finite-speed flow on images and saves it in a run folder.

    With no argument it trains on the handwritten digits that come with scikit-learn. Ctrl-C saves; --resume goes on.
    """

    run: Path = Path("runs/demo")
    """Run folder: config, weights, checkpoint, metrics."""
    resume: bool = False
    """Continue the run from its last checkpoint, with its saved options unless given anew; where there is none, begin. May
    change: --steps, --optim.*, --preview, --track, --network.checkpointing, and where the data lie (--data.path, --data.cache).
    What decides what is learned may not: process, network, objective, times, weight, augment, images, label_drop, seed; nor may
    --optim.optimizer, averages and decays."""
    init: str | None = field(default=None, metadata=PATH_OR_NAME)
    """Begin with the weights of another run, a shipped model or a model of diffusers in place of random ones, as far as they
    fit by name and shape; what does not is named. Of a run the options --network.* are taken too, unless given anew."""
    preset: Literal[tuple(PRESETS)] = "digits"  # type: ignore[valid-type]  # names are listed once, where they are defined
    """Where the other options start from."""
    track: tuple[Tracker, ...] = ()
    """Show losses in TensorBoard (from RUN/distillkac) or W&B too; metrics.jsonl is always written."""
    processes: int | Literal["auto"] = 1
    """Processes of this machine that share each batch, on a CPU each with threads of its own, for networks so small that a
    second thread gains nothing. auto: two, where OMP_NUM_THREADS (by default 1) leaves cores for them and there is no GPU."""
    dry_run: bool = False
    """Print what the run would be and cost, and stop."""
    config: Annotated[RunConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=RunConfig)


@command
def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if (code := processes.together("distillkac.train", argv, peek(argv, processes="1").processes)) is not None:
        return code
    saved = _saved(argv)
    args = parse(TrainArgs, argv, prog("train"), _defaults(argv, saved))
    shipped.refuse(args.run, shipped.ELSEWHERE)
    # What trains only now, so that help and mistakes in options come at once; and before the images are read.
    from distillkac import data
    from distillkac.runs.device import device
    from distillkac.runs.run import build_network
    from distillkac.runs.start import started
    from distillkac.training import trackers
    from distillkac.training.cost import cost, described
    from distillkac.training.measuring import check_steps
    from distillkac.training.teacher import fit_teacher, say_what_a_transformer_lacks, with_data

    process = args.config.noise.build()
    if saved is None:
        args.config.noise.refuse_unused()
    check_steps(args.config)
    _refuse_augmented_latents(args)
    _check_init(args, saved)
    if saved is not None:
        _say_if_another_preset(argv, args, saved)
    say_what_a_transformer_lacks(args.config)
    if args.dry_run and _images_are_to_come(args):
        print(f"There is nothing at {args.config.data.path} yet: counted for the shape and classes of the preset.")
        print(described(args.config, cost(args.config, device()), device()))
        return 0
    _check_places(args, saved)
    dataset = data.load_training(args.config.data)
    process.check_shape(dataset.shape)
    config = with_data(args.config, dataset, saved)
    if args.dry_run:
        print(described(config, cost(config, device()), device()))
        return 0
    network = build_network(config)
    if args.init is not None:
        config = started(network, config, args.init, saved)
    fit, accelerator = fit_teacher(
        args.run, config, network, dataset, args.track, args.resume, _figures(args.run, config)
    )
    trackers.finish(accelerator)
    accelerator.end_training()
    return 0 if (fit.finished or fit.ended) and not fit.interrupted else INTERRUPTED


def _figures(run: Path, config: RunConfig) -> "TrainingFigures | None":
    """What measures the run while it is trained; None if nothing shall."""
    if not config.optim.measure_every:
        return None
    from distillkac.evaluation.training_figures import TrainingFigures
    from distillkac.runs.run_data import RunData

    images = RunData(run, config)
    return TrainingFigures(partial(images.load_pixels, "train"), partial(images.load_pixels, "test"), run)


def _images_are_to_come(args: TrainArgs) -> bool:
    """A preset as it is, whose images have not been fetched. Not a path that was given: there, nothing is a mistake."""
    return _has_data_of_preset(args) and (path := args.config.data.path) is not None and not Path(path).exists()


def _has_data_of_preset(args: TrainArgs) -> bool:
    return args.config.data == with_paths(PRESETS[args.preset].data)


def _refuse_augmented_latents(args: TrainArgs) -> None:
    """Raises ValueError, whether its data are there or not, if a preset of latents is to be augmented: whoever reads these
    would say so, long after --dry-run. Files of images have one channel or three."""
    if args.config.augment and _has_data_of_preset(args) and args.config.shape[0] not in (0, 1, 3):
        raise ValueError(f"augment turns and scales images, and those of preset {args.preset} are latents: omit it")


def _check_places(args: TrainArgs, saved: RunConfig | None) -> None:
    """Raises ValueError if the run may not be trained in its folder, or its images are not where they should be."""
    from distillkac.runs.run_data import check_place, located
    from distillkac.training.resume import goes_on

    if not args.dry_run:
        goes_on(args.run, args.resume)
    if saved is not None:
        located(args.run, args.config.data)
    else:
        check_place(args.run, args.config.data.path)


def _check_init(args: TrainArgs, saved: RunConfig | None) -> None:
    """Raises ValueError if --init names nothing to begin with, or is missing where a run began so and has no checkpoint."""
    from distillkac.runs.start import check_source, refuse_lost

    if args.init is not None:
        check_source(args.init)
    else:
        refuse_lost(args.run, saved)


def _say_if_another_preset(argv: list[str], args: TrainArgs, saved: RunConfig) -> None:
    """Warns if a preset is named that a run cannot have begun with: its options are those of the run, not of the preset."""
    if not any(word.split("=")[0] == "--preset" for word in argv):
        return
    from distillkac.training import resume

    named = parse(TrainArgs, argv, prog("train"), TrainArgs(preset=args.preset, config=PRESETS[args.preset])).config
    if words := [f"{before}, not {now}" for before, now in resume.all_changes(saved, named)]:
        warnings.warn(
            f"--preset {args.preset} decides nothing of a run that is resumed, whose saved options stay: {'; '.join(words)}",
            stacklevel=3,
        )


def _saved(argv: list[str]) -> RunConfig | None:
    """The config of the run that is to be resumed, None if there is none."""
    early = peek(argv, run=TrainArgs.run, resume=False)
    if not early.resume:
        return None
    from distillkac.runs import checkpoints
    from distillkac.runs.run import network_config
    from distillkac.runs.run_data import in_current_folder, refuse_given

    run = paths.expanded("--run", early.run)
    if not checkpoints.begun(run):
        return None
    config = load_config(run)
    if not isinstance(network_config(run, config), NetworkConfig):
        raise ValueError(f"{run} was adopted from diffusers: it can be distilled, and has no training to go on from")
    refuse_given(run, config.data)
    if config.data.path is None:
        return config
    # Runs of earlier versions kept the path as it was typed.
    return dataclasses.replace(config, data=in_current_folder(run, config.data))


def _defaults(argv: list[str], saved: RunConfig | None) -> TrainArgs | None:
    """What options not given are: those of the saved run or else of the preset. None: the parser's own."""
    if saved is not None:
        return TrainArgs(config=saved)
    early = peek(argv, preset=TrainArgs.preset, init="")
    if early.preset not in PRESETS:
        return None
    config, other = PRESETS[early.preset], None
    if early.init:
        from distillkac.runs.start import network_of

        other = network_of(early.init)
    return TrainArgs(
        preset=early.preset, config=config if other is None else dataclasses.replace(config, network=other)
    )


if __name__ == "__main__":
    sys.exit(main())
