"""What a network and a velocity field are: all that guidance, integrators and objectives ask of them."""

from typing import Any, Literal, Protocol

import torch

__all__ = [
    "SPEED_NORMS",
    "Field",
    "Network",
    "SpeedNorm",
    "Weight",
    "guidance_embedding",
    "interval_embedding",
    "null_class",
]

SpeedNorm = Literal["telegraph", "planar", "quad"]
"""What a speed limit limits: each coordinate, or the length of each pair of neighbouring elements of the last axis, or that of
each 2x2 patch of an image (four neighbours of a row of numbers)."""
SPEED_NORMS: tuple[SpeedNorm, ...] = ("telegraph", "planar", "quad")

Weight = float | torch.Tensor
"""A guidance weight w >= 0: one for all rows, or (B,)."""


class Network(Protocol):
    """Anything that is called with (x, t, y) and returns the velocity like x; an nn.Module with such a forward is one.

    x: (B, ...). t: (B,) float32 in [0, 1], 1 = noise. y: (B,) class labels, or whatever else the field was called with.
    Three attributes are optional. `null_class`: the label that means "no class", which guidance needs. `guidance_embedding`:
    True if the network takes w (B,) as a fourth argument and answers with the guided velocity. `interval_embedding`: True if
    it takes r (B,) as its last argument, of that name, and answers with the average velocity over [r, t], so that one step
    x - (t - r) u leads from t to r; with r = t that is the velocity. They are asked for by the functions of these names alone.
    """

    def __call__(self, x: torch.Tensor, t: torch.Tensor, y: Any, /) -> torch.Tensor: ...


def guidance_embedding(network: object) -> bool:
    """Whether the network takes the guidance weight as a fourth argument; False where it does not say. Raises ValueError if it
    says something else, such as a layer of that name."""
    return _says(network, "guidance_embedding", "the guidance weight w")


def interval_embedding(network: object) -> bool:
    """Whether the network takes the time r that a step leads to, its keyword r; False where it does not say. Raises ValueError
    as `guidance_embedding` does."""
    return _says(network, "interval_embedding", "the end r of a step")


def _says(network: object, name: str, taken: str) -> bool:
    said = getattr(network, name, False)
    if not isinstance(said, bool):
        raise ValueError(
            f"{type(network).__name__}.{name} says whether forward takes {taken}: it must be True or False, got {said!r:.80}"
        )
    return said


def null_class(network: object) -> int:
    """The label that means "no class". Raises ValueError if the network has none, for then it cannot be guided."""
    label = getattr(network, "null_class", None)
    if not isinstance(label, int):
        raise ValueError(
            f"guidance needs the network's null_class, the label that means no class, got {label!r} of "
            f"{type(network).__name__}: train it with some classes dropped and set it, or use w = 0"
        )
    return label


class Field(Protocol):
    """What an integrator needs: the two parts of a guided velocity and its limit, so that guidance and step are one pass.

    max_speed: bound of the velocity, or None. speed_norm: what it bounds. One whose attribute `takes_end` is True answers with
    average velocities: `evaluate` and the call take a last argument r, the time that the step leads to, a float or (B,).
    """

    @property
    def max_speed(self) -> float | None: ...

    @property
    def speed_norm(self) -> SpeedNorm: ...

    def evaluate(
        self, x: torch.Tensor, t: float | torch.Tensor, y: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None, Weight]:
        """(u_cond, u_uncond or None, w) at (x, t): the velocity is u_cond + w (u_cond - u_uncond), not limited yet.

        x: (B, ...). t: common to all rows, or (B,). y: (B,) class labels, None where the field knows no classes.
        """
        ...

    def __call__(self, x: torch.Tensor, t: float | torch.Tensor, y: torch.Tensor | None) -> torch.Tensor:
        """The velocity itself, guided and limited: like x."""
        ...
