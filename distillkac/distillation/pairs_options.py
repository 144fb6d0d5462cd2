"""Options of pairs."""

from dataclasses import dataclass
from typing import Literal

from distillkac.base.ranges import in_ranges

# Share of each step that is drawn anew, where nothing is asked for, of a student of any number of steps. At half, as of the
# student that it comes from, digits in 4 steps are too diverse (1.06) and a little further from the data.
KEPT_RESTART = 0.75


@dataclass(frozen=True)
@in_ranges(
    "pairs",
    count="[1, 1e12]",
    huber="[0, 1e6]",
    features="[0, 1e6]",
    teacher_steps="[1, 1e6]",
    keep="[0, 1e6]",
)
class PairsConfig:
    """The stored paths of the teacher, where pairs are learnt."""

    count: int = 8000
    """How many paths; more cost the teacher's time and make better students."""
    huber: float = 0.0
    """If above 0, the pseudo-Huber loss sqrt(e^2 + huber^2) - huber of the error e of an image, the root mean square of its
    velocity's, which large errors pull at less; 0 for the squared loss."""
    features: float = 0.0
    """Weight of a second loss, between the features that the teacher's blocks have of both ends."""
    by: Literal["teacher", "consistency"] = "teacher"
    """Whose steps the paths are. Consistency: a student of method consistency is made first (consistency.*), and its own steps,
    as many as the first of stages says, are the paths; the other students start from it."""
    teacher_steps: int | None = None
    """Steps of the teacher's paths for inverse distillation alone with inverse.pairs; elsewhere stages begin with them."""
    keep: float = 0.0
    """With by consistency and stages such as 2,1: weight of a second loss, on noised data, that keeps what the consistency
    student predicts there. The student that learns one step then takes any number of them, as that one does."""

    def __post_init__(self):
        if self.keep and self.by == "teacher":
            raise ValueError(
                f"pairs.keep {self.keep:g} keeps what a consistency student predicts: give pairs.by consistency"
            )
