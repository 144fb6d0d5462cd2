"""What an option of training costs or gains: seconds a step with it and without, alternating in one process.

python -m benchmarks.training_options "--preset demo --optim.precision bf16" "--optim.compile"

The first words are those of both trainings, the second ones the option's. Processor time of this process, whole steps (batch,
loss, gradient, clipping, optimizer, average), medians; on a GPU the time until it has done them. The first two steps, in which
a compiler works, are no part of them.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from distillkac.base.options import parse
from distillkac.data import load_training
from distillkac.runs.device import device, fast_products
from distillkac.runs.presets import PRESETS
from distillkac.runs.run import build_network
from distillkac.train import TrainArgs
from distillkac.training.fit import accelerator_for
from distillkac.training.loop import Trainer
from distillkac.training.objectives import objective_for, settled
from distillkac.training.teacher import with_data

STEPS = 12


def trainer(words: list[str]) -> Trainer:
    preset = words[words.index("--preset") + 1] if "--preset" in words else "digits"
    config = parse(TrainArgs, words, "training_options", TrainArgs(preset=preset, config=PRESETS[preset])).config
    dataset = load_training(config.data)
    config = with_data(config, dataset)
    network = build_network(config)
    objective, folder = objective_for(settled(config, network), network), Path(tempfile.mkdtemp())
    accelerator = accelerator_for(config.optim)
    return Trainer(network, objective, dataset, folder, config.steps, config.optim, config.seed, accelerator)


def clock() -> float:
    if device().type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def main(argv: list[str] | None = None) -> None:
    common, option = (text.split() for text in (sys.argv[1:] if argv is None else argv))
    made = {name: trainer([*common, *more]) for name, more in (("without", []), ("with", option))}
    batches = {name: each.batches() for name, each in made.items()}
    seconds: dict[str, list[float]] = {name: [] for name in made}
    with fast_products(device()):  # as `train` has it
        for _ in range(STEPS + 2):
            for name, each in made.items():
                start = clock()
                each.advance(batches[name])
                seconds[name].append(clock() - start)
    medians = {name: statistics.median(each[2:]) for name, each in seconds.items()}
    for name, each in seconds.items():
        print(f"{name:8} first step {each[0]:.1f} s, then {medians[name]:.4f} s")
    print(f"ratio    {medians['with'] / medians['without']:.3f}")


if __name__ == "__main__":
    main()
