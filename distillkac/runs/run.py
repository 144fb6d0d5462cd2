"""A run folder and the networks in it: the teacher's, its students', ready to be sampled."""

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from distillkac.base.memory import in_own_memory
from distillkac.base.random import derive_seed
from distillkac.base.tensors import float32_by_default
from distillkac.flow.adopted import AdoptedNet, AdoptedNetwork
from distillkac.flow.fields import guidance_embedding, interval_embedding
from distillkac.flow.networks import NetworkConfig, VelocityNet
from distillkac.flow.processes import Process
from distillkac.flow.velocity_from import VelocityFrom
from distillkac.runs import checkpoints, shipped
from distillkac.runs.config import RunConfig, load_config
from distillkac.runs.device import device as chosen_device
from distillkac.runs.device import gpu_problem, placed
from distillkac.runs.own_network import OwnNetwork, check_attributes, copied
from distillkac.runs.understood import check_answers, check_meaning

__all__ = [
    "Run",
    "build_network",
    "default_network",
    "load_network",
    "network_config",
    "new_network",
    "open_run",
    "say_if_another_teacher",
    "student_folder",
    "students",
]

PREFERRED = ("inverse", "pairs", "endpoint", "reconstruction", "consistency")  # of students with as many steps


@dataclass(frozen=True)
class Run:
    """A trained network ready to sample. config.student is None for what learned from data alone: a teacher, or a network of
    few steps, whose name is its objective."""

    folder: Path
    config: RunConfig
    process: Process
    network: nn.Module
    device: torch.device

    @property
    def name(self) -> str:
        student = self.config.student
        if student is None:
            return "teacher" if self.config.objective == "flow-matching" else self.config.objective
        return student_folder(Path(), student.num_steps, student.method).name


def open_run(
    folder: str | os.PathLike[str], device: torch.device | str | None = None, network: nn.Module | None = None
) -> Run:
    """Loads the averaged network of a run folder; a student has a folder of its own, RUN/student-4. The name of a shipped
    model (shipped/) is its student of most steps.

    device: by default the GPU, if there is one. network: where the run was trained with an own network, a module of that
    class, into a copy of which the weights are loaded; else it is built from the config. Warns if it is of another class.
    Raises ValueError saying what is missing or damaged, that the network is needed, or that it is not what it was: a
    VelocityFrom of another process, prediction or time, or an adopted network that answers otherwise.
    """
    folder = default_network(Path(folder).expanduser())
    device = chosen_device() if device is None else _usable(device)
    config = load_config(folder)
    return Run(folder, config, config.noise.build(), placed(load_network(folder, config, network), device), device)


def _usable(device: torch.device | str) -> torch.device:
    """The device that was asked for. Raises ValueError if it is none, or cannot be used here."""
    if not isinstance(device, torch.device | str):
        raise ValueError(
            f'device must be such as "cpu" or "cuda", got a {type(device).__name__}: say network=... for that'
        )
    try:
        torch.empty(0, device=device)
        device = torch.device(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(f'device {str(device)!r} cannot be used here, choose "cpu" or omit it: {reason}') from None
    if device.type == "cuda" and (problem := gpu_problem(device)):
        raise ValueError(f'device {str(device)!r} cannot be used here, choose "cpu" or omit it: {problem}')
    return device


def network_config(folder: Path, config: RunConfig) -> NetworkConfig | AdoptedNetwork:
    """What the network is built from. Raises ValueError if it was given in Python and cannot be built."""
    if isinstance(config.network, OwnNetwork):
        raise ValueError(config.network.refusal(folder))
    return config.network


def build_network(config: RunConfig) -> VelocityNet | AdoptedNet:
    """A freshly initialised network of config.network, float32; its weights depend on config.seed only. Raises ValueError if
    that was given in Python."""
    if isinstance(config.network, OwnNetwork):
        raise ValueError(f"config.network is {config.network.module}, given in Python: give the network itself")
    with torch.random.fork_rng(devices=[]), float32_by_default():
        torch.manual_seed(derive_seed(config.seed, "weights"))
        return new_network(config.network, config.shape, len(config.class_names))


def new_network(
    config: NetworkConfig | AdoptedNetwork, shape: tuple[int, int, int], num_classes: int
) -> VelocityNet | AdoptedNet:
    """A new network of this config. Raises ValueError if it does not fit (C, H, W) and the number of classes."""
    kind = AdoptedNet if isinstance(config, AdoptedNetwork) else VelocityNet
    return kind(config, shape, num_classes)  # type: ignore[arg-type]  # each takes its own


def load_network(folder: Path, config: RunConfig, network: nn.Module | None = None) -> nn.Module:
    """The averaged network of a run folder, in eval mode. network: see `open_run`.

    A module that was given stays as it is. Raises ValueError if there is none or it does not fit.
    """
    if network is None:
        network_config(folder, config)
        # No memory yet: a config may ask for a network of any size, and the file is checked first.
        with torch.device("meta"), _Unfilled():
            expected = build_network(config).state_dict()
    elif not isinstance(config.network, OwnNetwork):
        raise ValueError(f"{folder} has a network of distillkac's own, which is built from its config: omit network")
    else:
        check_attributes(network, len(config.class_names))
        if interval_embedding(network) != (was := config.network.interval_embedding):
            raise ValueError(
                f"{folder} was trained with interval_embedding = {was}, whether the network takes the end r of a step, and "
                f"this {type(network).__name__} says the opposite"
            )
        if guidance_embedding(network) != (was := config.network.guidance_embedding):
            raise ValueError(
                f"{folder} was trained with guidance_embedding = {was}, whether the network takes a weight w, and this "
                f"{type(network).__name__} says the opposite"
            )
        _check_same(folder, config, network)
        expected = network.state_dict()
    weights, _ = checkpoints.load_weights(folder, expected=expected)
    network = build_network(config) if network is None else copied(network)
    network.load_state_dict(weights)
    if isinstance(config.network, OwnNetwork):
        check_answers(folder, config.network.answers, network.eval(), config.shape, len(config.class_names))
    return in_own_memory(network.eval().requires_grad_(False))


class _Unfilled(TorchFunctionMode):
    """Inside torch.device("meta"): random weights, which have no memory there, are not drawn. torch would import its compiler
    for that, which takes longer than sampling."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (torch.Tensor.normal_, torch.Tensor.uniform_) or getattr(func, "__module__", "") == nn.init.__name__:
            return (*args, *kwargs.values())[0]
        return func(*args, **kwargs)


def _check_same(folder: Path, config: RunConfig, network: nn.Module) -> None:
    """Warns if the module that was given is of another class than the one that was trained. Raises ValueError if it predicts
    something else, or of another process, or is told another time."""
    saved, own = config.network, OwnNetwork.of(network)
    assert isinstance(saved, OwnNetwork), "see load_network"
    if own.prediction != saved.prediction:
        raise ValueError(
            f"{folder} has a network that predicts {saved.prediction or 'the velocity, by itself'}, and this one "
            f"{own.prediction or 'is no VelocityFrom'}: {saved.refusal(folder).rpartition(': ')[2]}"
        )
    if isinstance(network, VelocityFrom) and network.process != (process := config.noise.build()):
        raise ValueError(
            f"{folder} has the process {process}, and this network another, {network.process}: give it that one"
        )
    check_meaning(folder, saved.meaning, own.meaning)
    given = own.module
    # A script's own classes are in "__main__", and elsewhere when they are imported.
    same_name = given.rpartition(".")[2] == saved.module.rpartition(".")[2]
    if given != saved.module and not (same_name and "__main__" in (given.split(".")[0], saved.module.split(".")[0])):
        warnings.warn(
            f"{folder} was trained with {saved.module}, and this is a {given}: its weights are loaded where "
            "names and shapes are equal, and what it computes may be something else",
            stacklevel=4,
        )


def student_folder(run: Path, num_steps: int, method: str = "endpoint") -> Path:
    """Where a student of a run lives: student-4, student-4-reconstruction, student-1-inverse.

    num_steps: of a student that takes any number of steps, what it takes where none is asked for.
    """
    return run / (f"student-{num_steps}" + ("" if method == "endpoint" else f"-{method}"))


def students(folder: Path) -> list[Path]:
    """Folders of the students of a run that have a checkpoint: most steps first, and of as many the preferred first."""
    found = []
    for weights in folder.glob(f"student-*/{checkpoints.EMA}"):
        _, steps, *rest = weights.parent.name.split("-")
        method = "-".join(rest) if rest else "endpoint"  # a copy by another name is no student of the run
        if steps.isdigit() and method in PREFERRED:
            found.append((-int(steps), PREFERRED.index(method), weights.parent))
    return [path for _, _, path in sorted(found)]


def default_network(folder: Path) -> Path:
    """The folder whose network a run is where nothing is said: of a shipped model its student of most steps, as it has no
    teacher. Raises ValueError if files of a shipped model are missing or damaged."""
    folder = shipped.folder_of(folder)
    return students(folder)[0] if shipped.is_model(folder) else folder


def say_if_another_teacher(folder: Path) -> None:
    """Warns if a student lies in a run of other weights than it was distilled from."""
    if not all((place / checkpoints.CONFIG).exists() for place in (folder, folder.parent)):
        return
    student, there = load_config(folder).student, checkpoints.described(folder.parent)
    if student is not None and student.teacher is not None and there is not None and student.teacher != there[1]:
        warnings.warn(
            f"{folder} was distilled from other weights than those that {folder.parent} has now, which was trained on since, "
            "or had its average chosen since (evaluate --keep-best): it does not follow the teacher as it is now; remove it "
            "and distil again",
            stacklevel=2,
        )
