"""What a network is trained for from data alone, as options of a run: its objective, and the section of each."""

from dataclasses import dataclass
from typing import Any, Literal

from distillkac.base.ranges import in_ranges

Objective = Literal["flow-matching", "consistency", "average-velocity"]
FEW_STEPS = 4
"""Steps that a network of few steps takes where none is asked for."""
RESTART = 0.5
"""Share of each step of a consistency network that is drawn anew where nothing is asked for. Without any, images of the digits
in 4 steps of a distilled one are too diverse (1.11)."""


@dataclass(frozen=True)
@in_ranges(
    "consistency",
    gap="(0, 1]",
    phases="[1, 1e6]",
    at_one="[0, 1]",
)
class ConsistencyTraining:
    """Consistency from data alone, where it is the objective."""

    gap: float = 0.5
    """Of r = t (1 - gap^(k + 1))."""
    phases: int = 6
    """How many k there are, 0, 1, ..., for an equal share of the steps each: far pairs first, near ones at the end."""
    at_one: float = 0.25
    """Share of the training states at t = 1, where every sampling begins; the others have any time."""


@dataclass(frozen=True)
@in_ranges(
    "average_velocity",
    step="(0, 0.5]",
    velocity="[0, 1]",
    at_one="[0, 1]",
    mean="[-10, 10]",
    deviation="(0, 10]",
    power="[0, 2]",
)
class AverageVelocityConfig:
    """Average velocities, where they are the objective."""

    derivative: Literal["auto", "forward", "difference"] = "auto"
    """How the change of the network along a path is found. Forward: by forward-mode differentiation, exact. Difference: of two
    points of the same path, at one evaluation more. Auto: forward where the network allows it; the run keeps what was taken."""
    step: float = 0.005
    """Length of time between the two points of a difference."""
    velocity: float = 0.5
    """Share of the rows with r = t, which learn the velocity itself."""
    at_one: float = 0.0
    """Share of the rows with t = 1, where every sampling begins."""
    times: Literal["uniform", "logit-normal"] = "uniform"
    """Law of the two times, of which t is the later."""
    mean: float = -0.4
    """Of the logit of a logit-normal time."""
    deviation: float = 1.0
    """Its standard deviation."""
    power: float = 1.0
    """p of the weight 1 / (e^2 + 0.001)^p of a row whose mean square error is e^2; 0 weighs all alike."""


def check_objective(config: Any) -> None:
    """Raises ValueError if a RunConfig has options of an objective that is not its own, or that do not go together."""
    for name, kind in (("consistency", ConsistencyTraining), ("average_velocity", AverageVelocityConfig)):
        own = name.replace("_", "-")
        if config.objective != own and getattr(config, name) != kind():
            raise ValueError(f"{name}.* are options of the objective {own}, got objective {config.objective}")
    averages = config.objective == "average-velocity"
    if config.network.interval_embedding and not averages:
        raise ValueError(
            "network.interval_embedding, the end of the step as an input, is of the objective average-velocity alone, got "
            f"objective {config.objective}"
        )
    if averages and config.optim.precision != "no" and config.average_velocity.derivative == "difference":
        raise ValueError(
            f"average_velocity.derivative difference needs the digits that {config.optim.precision} does not have: omit "
            "optim.precision, or take derivative forward if the network has one"
        )
    if averages and config.optim.shard and config.average_velocity.derivative == "forward":
        raise ValueError(
            "average_velocity.derivative forward cannot differentiate weights that are spread over processes: omit "
            "optim.shard, or take derivative difference"
        )
