"""The networks of students: copies of the teacher's, or made by a function of the user's."""

import copy
from collections.abc import Callable

import torch
from torch import nn

from distillkac.base.memory import in_own_memory
from distillkac.base.random import derive_seed
from distillkac.distillation.stages import DistillConfig
from distillkac.flow.fields import guidance_embedding
from distillkac.runs.config import RunConfig
from distillkac.runs.own_network import OwnNetwork, check_network
from distillkac.runs.run import Run, build_network

Maker = Callable[[RunConfig], nn.Module]
"""Makes the network of a student from the config of its run; its weights are set afterwards."""


def maker(run: Run, network: Callable[[], nn.Module] | None, config: DistillConfig) -> Maker:
    """How the students of a run get their networks. Raises ValueError if they cannot."""
    if not isinstance(run.config.network, OwnNetwork):
        if network is not None:
            raise ValueError(f"{run.folder} has a network of distillkac's own, and so have its students: omit network")
        return build_network
    name, weightless = run.config.network.module, next(run.network.parameters(), None) is None
    if weightless and config.inverse.steps:
        raise ValueError(
            f"inverse distillation trains a copy of its teacher, and {name} has no weights: omit inverse.steps"
        )
    if weightless and network is None:
        raise ValueError(
            f"{name} has no weights that a student could begin with: give network=, a function that makes the network of a "
            "student, as in distill(run, dataset, lambda: Net())"
        )
    if network is None:
        if config.w_max is not None:
            raise ValueError(
                f"w_max makes w an input of the students, and {name} takes none: give network=, a function that makes a "
                "network with guidance_embedding = True and forward(x, t, y, w)"
            )
        if config.inverse.steps and config.inverse.start == "random":
            raise ValueError(f'inverse.start "random" needs network=, a function that makes a new {name}')
        return lambda _: in_own_memory(copy.deepcopy(run.network).train().requires_grad_(True))
    tried = made(network, config.seed)
    x, y = torch.zeros(2, *run.config.shape), torch.zeros(2, dtype=torch.int64)
    check_network(tried, x, y, len(run.config.class_names))
    check_start(tried, run.network.state_dict(), config.w_max is not None)
    return lambda student: made(network, student.seed)


def made(network: Callable[[], nn.Module], seed: int) -> nn.Module:
    if isinstance(network, nn.Module) or not callable(network):
        raise ValueError("network must be a function that makes a new module, such as lambda: Net(), not a module")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "weights"))
        made = network()
    if not isinstance(made, nn.Module):
        raise ValueError(f"network must be a function that makes a torch.nn.Module, it made a {type(made).__name__}")
    return made


def check_start(student: nn.Module, weights: dict[str, torch.Tensor], takes_w: bool) -> None:
    """Raises ValueError if the student cannot start from these weights, if there are any, or does not take w where it must."""
    name, mine = type(student).__name__, student.state_dict()
    if guidance_embedding(student) != takes_w:
        raise ValueError(
            f"{name} must have guidance_embedding = {takes_w}: w_max is what makes the weight w an input of the students"
        )
    if not weights:  # of a teacher that is a plain function
        return
    for entry, value in weights.items():
        if entry not in mine or mine[entry].shape != value.shape:
            found = tuple(mine[entry].shape) if entry in mine else "nothing"
            raise ValueError(
                f"{name} cannot start from its teacher: {entry} is {tuple(value.shape)} there, {found} here"
            )
    if not takes_w and (new := [entry for entry in mine if entry not in weights]):
        raise ValueError(f"{name} cannot start from its teacher, which has no {new[0]}")
