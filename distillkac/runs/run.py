"""A run folder and the networks in it: the teacher's, its students', ready to be sampled."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from distillkac.base.memory import in_own_memory
from distillkac.base.random import derive_seed
from distillkac.flow.networks import VelocityNet
from distillkac.flow.processes import Process
from distillkac.runs import checkpoints
from distillkac.runs.config import RunConfig, load_config

__all__ = [
    "Run",
    "build_network",
    "load_network",
    "open_run",
    "say_if_another_teacher",
    "student_folder",
    "students",
]

PREFERRED = ("inverse", "endpoint", "reconstruction")  # of students with as many steps


@dataclass(frozen=True)
class Run:
    """A trained network ready to sample. config.student is None for a teacher."""

    folder: Path
    config: RunConfig
    process: Process
    network: nn.Module
    device: torch.device

    @property
    def name(self) -> str:
        student = self.config.student
        return "teacher" if student is None else student_folder(Path(), student.num_steps, student.method).name


def open_run(folder: Path, device: torch.device) -> Run:
    """Loads the averaged network of a run folder. Raises ValueError saying what is missing or damaged."""
    config = load_config(folder)
    return Run(folder, config, config.noise.build(), load_network(folder, config).to(device), device)


def build_network(config: RunConfig) -> VelocityNet:
    """A freshly initialised network; its weights depend on config.seed only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "weights"))
        return VelocityNet(config.network, config.shape, len(config.class_names))


def load_network(folder: Path, config: RunConfig) -> VelocityNet:
    """The averaged network of a run folder, in eval mode. Raises ValueError if there is none or it does not fit."""
    with torch.device(
        "meta"
    ):  # no memory yet: a config may ask for a network of any size, and the file is checked first
        expected = build_network(config).state_dict()
    weights, _ = checkpoints.load_weights(folder, expected=expected)
    network = build_network(config)
    network.load_state_dict(weights)
    return in_own_memory(network.eval().requires_grad_(False))


def student_folder(run: Path, num_steps: int, method: str = "endpoint") -> Path:
    """Where a student of a run lives: student-4, student-4-reconstruction, student-1-inverse."""
    return run / (f"student-{num_steps}" + ("" if method == "endpoint" else f"-{method}"))


def students(folder: Path) -> list[Path]:
    """Folders of the students of a run that have a checkpoint: most steps first, and of as many the preferred first."""
    found = []
    for weights in folder.glob(f"student-*/{checkpoints.EMA}"):
        _, steps, *rest = weights.parent.name.split("-")
        method = rest[0] if rest else "endpoint"
        if steps.isdigit() and method in PREFERRED:
            found.append((-int(steps), PREFERRED.index(method), weights.parent))
    return [path for _, _, path in sorted(found)]


def say_if_another_teacher(folder: Path) -> None:
    """Warns if a student lies in a run of other weights than it was distilled from."""
    if not all((place / checkpoints.CONFIG).exists() for place in (folder, folder.parent)):
        return
    student, there = load_config(folder).student, checkpoints.described(folder.parent)
    if student is not None and student.teacher is not None and there is not None and student.teacher != there[1]:
        warnings.warn(
            f"{folder} was distilled from other weights than those that {folder.parent} has now, which was trained on since: "
            "it does not follow the teacher as it is now; remove it and distil again",
            stacklevel=2,
        )
