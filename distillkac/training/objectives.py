"""What a run learns from data alone: the one place that makes its objective from its config."""

import dataclasses
from typing import Literal

import torch
from torch import nn

from distillkac.flow.fields import guidance_embedding, interval_embedding
from distillkac.runs.config import RunConfig
from distillkac.runs.objectives import AverageVelocityConfig
from distillkac.runs.own_network import copied
from distillkac.training.augmentation import Augmentation
from distillkac.training.average_velocity import AverageVelocity, forward_derivative
from distillkac.training.consistency import Consistency, Schedule
from distillkac.training.objective import FlowMatching, Objective
from distillkac.training.times import MinSNR, WithUncertainty, law_of


def objective_for(config: RunConfig, network: nn.Module) -> Objective:
    """config: settled, see `settled`. Raises ValueError if the network cannot learn it."""
    if guidance_embedding(network):
        raise ValueError(
            "network.guidance_embedding makes the guidance weight an input, which students have and teachers have not: omit "
            "it, and distil with --w-max"
        )
    takes_end = interval_embedding(network)
    if takes_end != (config.objective == "average-velocity"):
        name = type(network).__name__
        problem = (
            f"{name} takes the end r of a step (interval_embedding), which objective {config.objective} does not give: train "
            "it with objective average-velocity"
        )
        if not takes_end:
            problem = (
                f"objective average-velocity needs a network that takes the end of a step: give {name}.forward a last "
                "argument r (B,), and set interval_embedding = True"
            )
        raise ValueError(problem)
    common = config.noise.build(), getattr(network, "null_class", None), config.label_drop, config.seed
    if config.objective == "consistency":
        own = config.consistency
        return Consistency(*common, Schedule(own.gap, own.phases, own.at_one, config.steps))
    if config.objective == "average-velocity":
        return AverageVelocity(*common, config.average_velocity)
    law = law_of(config.times, common[0], config.shape)
    weight = MinSNR(common[0]) if config.weight == "min-snr" else None
    augment = Augmentation(config.augment, config.augmentation, config.seed) if config.augment else None
    return FlowMatching(*common, law, weight, config.weight == "learned", augment)


def trained(config: RunConfig, network: nn.Module) -> nn.Module:
    """What the objective is trained with: the network, or it beside what it learns besides."""
    return WithUncertainty(network) if config.weight == "learned" else network


def settled(config: RunConfig, network: nn.Module) -> RunConfig:
    """The config with nothing left open that the network decides: how the derivative of average velocities is found. Raises
    ValueError if it has options that nothing would look at then."""
    own = config.average_velocity
    if config.objective != "average-velocity":
        return config
    taken: Literal["auto", "forward", "difference"] = own.derivative
    if taken == "auto":
        taken = "forward" if not config.optim.shard and has_forward_mode(network, config.shape) else "difference"
    usual = AverageVelocityConfig()
    if taken == "forward" and own.step != usual.step:
        raise ValueError(
            f"average_velocity.step {own.step:g} is of the derivative difference, and the one here is forward: omit it, or "
            "give average_velocity.derivative difference"
        )
    if own.times == "uniform" and (own.mean, own.deviation) != (usual.mean, usual.deviation):
        raise ValueError(
            "average_velocity.mean and deviation are of logit-normal times, and the times are uniform: omit them, or give "
            "average_velocity.times logit-normal"
        )
    return dataclasses.replace(config, average_velocity=dataclasses.replace(own, derivative=taken))


def has_forward_mode(network: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether torch can differentiate the network forward, tried by a copy on two images of zeros."""
    network, device = copied(network), next(network.parameters()).device
    x, t, y = (
        torch.zeros(2, *shape, dtype=torch.float32, device=device),
        torch.full((2,), 0.5, dtype=torch.float32, device=device),
        torch.zeros(2).long(),
    )

    def answer(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return network(x, t, y.to(device), r=t / 2)

    try:
        with torch.random.fork_rng(), torch.no_grad():
            forward_derivative(answer, x, t, x)
    except (RuntimeError, NotImplementedError):
        return False
    return True
