"""Small stand-ins for data and networks, shared by the tests of the training side."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from distillkac.base.random import generator
from distillkac.data import Dataset
from distillkac.flow.networks import NetworkConfig
from distillkac.runs.config import RunConfig
from distillkac.runs.optim_config import OptimConfig
from distillkac.runs.run import build_network
from distillkac.training.loop import Trainer
from distillkac.training.objective import FlowMatching

SHAPE = (1, 4, 4)
TINY = NetworkConfig(channels=(8,), head_dim=8, middle_attention=False)
TINY_OPTIONS = ["--network.channels", "8", "--network.head-dim", "8"]
"""The least network that the commands make; test_conditioning.py proves that it listens to time, class and w."""


@dataclass
class ToyData(Dataset):
    """`count` images of two classes: all bright or all dark, plus a little noise."""

    count: int = 40
    shape: tuple[int, int, int] = SHAPE
    class_names: tuple[str, ...] = ("dark", "bright")
    x: torch.Tensor = field(init=False)
    y: torch.Tensor = field(init=False)

    def __post_init__(self):
        self.y = torch.arange(self.count) % 2
        noise = torch.rand(self.count, *self.shape, generator=generator(0, "toy"))
        self.x = (self.y.view(-1, 1, 1, 1) * 1.6 - 0.8) + 0.2 * (noise - 0.5)

    def __len__(self):
        return self.count

    def __getitems__(self, indices):
        return self.x[indices], self.y[indices]


def run_config(**changes) -> RunConfig:
    return RunConfig(**{"network": TINY, "shape": SHAPE, "class_names": ("dark", "bright"), "steps": 12} | changes)


def optim(**changes) -> OptimConfig:
    return OptimConfig(**{"batch_size": 12, "lr": 5e-3, "warmup": 2, "log_every": 4, "save_every": 100} | changes)


def trainer(folder: Path, config: RunConfig, objective=None, data=None, cpu=True) -> Trainer:
    """A Trainer for the teacher's objective, unless another is given."""
    network = build_network(config)
    objective = objective or FlowMatching(config.noise.build(), network.null_class, config.label_drop, config.seed)
    accelerator = Accelerator(
        mixed_precision=config.optim.precision, gradient_accumulation_steps=config.optim.accumulate, cpu=cpu
    )
    return Trainer(network, objective, data or ToyData(), folder, config.steps, config.optim, config.seed, accelerator)


def refusal(module, argv: list[str], capsys) -> str:
    """What a command says of a mistake, on one line; it must fail, and without a traceback."""
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        code = module.main(argv)
    except SystemExit as stop:  # tyro's own way to refuse an option
        code = stop.code
    streams = capsys.readouterr()
    assert code not in (0, None)
    text = " ".join(re.sub("[│╭╮╰╯─]", " ", streams.err + streams.out).split())
    assert "Traceback" not in text
    return text


def refused(module, argv, capsys) -> str:
    """What a command says of a mistake, which must be one line."""
    assert module.main([str(word) for word in argv]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1, error
    return error
