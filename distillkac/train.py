"""Train a flow: `python -m distillkac.train --run runs/demo [--process planar] [--data.path DIR] [--resume]`."""

import argparse
import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from distillkac import data
from distillkac.commands import INTERRUPTED, accelerator_for, command, fit_run
from distillkac.config import RunConfig, load_config
from distillkac.training import FlowMatching, build_network

PROG = "python -m distillkac.train"


@dataclass(frozen=True)
class TrainArgs:
    """Trains a finite-speed flow on images and saves it in a run folder.

    With no argument it trains on the handwritten digits that come with scikit-learn. Ctrl-C saves; --resume goes on.
    """

    run: Path = Path("runs/demo")
    """Run folder: config, weights, checkpoint, metrics."""
    resume: bool = False
    """Continue the run from its last checkpoint, with its saved options unless given anew."""
    config: Annotated[RunConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=RunConfig)


@command
def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    saved = _saved_config(argv)
    args = tyro.cli(TrainArgs, args=argv, prog=PROG, default=TrainArgs(config=saved) if saved else None)
    process = args.config.noise.build()
    dataset = data.load(args.config.data, "train")
    process.check_shape(dataset.shape)
    config = dataclasses.replace(
        args.config, shape=tuple(dataset.shape), class_names=tuple(dataset.class_names), student=None
    )
    network = build_network(config)
    objective = FlowMatching(process, network.null_class, config.label_drop, config.seed)
    accelerator = accelerator_for(config.optim)
    fit = fit_run(args.run, config, network, objective, dataset, accelerator, "train", args.resume)
    return 0 if fit.finished else INTERRUPTED


def _saved_config(argv: list[str]) -> RunConfig | None:
    """With --resume, options not given are those of the saved run: they become the defaults of the real parser."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--run", type=Path, default=TrainArgs.run)
    parser.add_argument("--resume", action="store_true")
    early, _ = parser.parse_known_args([word for word in argv if word != "--run"] if argv[-1:] == ["--run"] else argv)
    return load_config(early.run) if early.resume else None


if __name__ == "__main__":
    sys.exit(main())
