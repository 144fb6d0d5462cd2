"""Options of shifted reconstruction."""

from dataclasses import dataclass
from typing import Literal

from distillkac.base.ranges import in_ranges


@dataclass(frozen=True)
@in_ranges(
    "reconstruction",
    scale="(0, 1)",
    power="[1, 100]",
    steps="[1, 1e6]",
)
class ReconstructionConfig:
    """Shifted reconstruction, where it is the method."""

    scale: float = 0.95
    """The prediction is noised to scale * t^power; below 1, since no data is left at t = 1. The lower, the more the
    student believes itself: at .8 images of the digits become too diverse."""
    power: float = 1.0
    """See scale; above 1 the teacher repairs more detail, less structure."""
    noise: Literal["own", "fresh"] = "own"
    """The noise that is added: what the student took for noise, or new noise, which costs diversity."""
    steps: int = 10
    """Steps of the teacher from there to the data."""
