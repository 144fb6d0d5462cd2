"""Options of pairs."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from distillkac.base.ranges import in_ranges

# Share of each step that is drawn anew, where nothing is asked for, of a student of any number of steps. At half, as of the
# student that it comes from, digits in 4 steps are too diverse (1.06) and a little further from the data.
KEPT_RESTART = 0.75


@dataclass(frozen=True)
@in_ranges(
    "pairs",
    count="[1, 1e12]",
    huber="[0, 1e6]",
    slopes="[0, 1e6]",
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
    slopes: float = 0.0
    """Weight of a second loss, between the slopes of both ends: the squared differences of neighbouring pixels' errors, across
    and down. It weighs fine detail more, and costs no time."""
    features: float = 0.0
    """Weight of a second loss, between the features that the teacher's blocks have of both ends."""
    by: Literal["teacher", "consistency", "start"] = "teacher"
    """Whose steps the paths are. Consistency: a student of method consistency is made first (consistency.*), and its own steps,
    as many as the first of stages says, are the paths; the other students start from it. Start: those of the student that
    --start names, from which they start."""
    teacher_steps: int | None = None
    """Steps of the teacher's paths for inverse distillation alone with inverse.pairs; elsewhere stages begin with them."""
    keep: float = 0.0
    """With by consistency and stages such as 2,1: weight of a second loss, on noised data, that keeps what the consistency
    student predicts there. The student that learns one step then takes any number of them, as that one does."""

    def __post_init__(self):
        if self.keep and self.by != "consistency":
            raise ValueError(
                f"pairs.keep {self.keep:g} keeps what a consistency student predicts: give pairs.by consistency"
            )


def check_options(config: Any) -> None:
    """Raises ValueError if a stages.DistillConfig has options of pairs where nothing learns from them, or with others that they
    do not go with."""
    pairs, of_pairs = config.pairs, config.method == "pairs"
    if of_pairs and config.backward and config.stages[1:] == (1,):
        raise ValueError(
            f"backward {config.backward:g} is of states after a first step, and the student of these paths makes one: omit it"
        )
    if pairs.by != "teacher" and not of_pairs:
        raise ValueError(f"pairs.by {pairs.by} is of method pairs, got method {config.method}")
    if pairs.by != "teacher" and config.w_max is not None:
        raise ValueError(f"pairs.by {pairs.by} makes students without w as an input: omit w_max")
    if pairs.by == "start" and (config.exact_start or config.integrator != type(config).integrator):
        name = "exact_start" if config.exact_start else "integrator"
        raise ValueError(
            f"{name} {getattr(config, name)} is of the teacher's steps, and with pairs.by start it makes none: omit {name}"
        )
    if pairs.keep and (len(config.stages) != 2 or config.stages[-1] != 1):
        raise ValueError(
            f"pairs.keep makes one student, of one step and more: give stages such as 2,1, got {config.stages}"
        )
    if not of_pairs and not config.inverse.pairs and pairs != PairsConfig():
        raise ValueError(
            f"pairs.* are options of method pairs and of inverse.pairs, got method {config.method} without inverse.pairs"
        )


def deciding(pairs: PairsConfig) -> dict[str, float | str]:
    """The options that decide weights, by their names."""
    values = {name: value for name, value in asdict(pairs).items() if value is not None}
    # So that students made before there was a choice can be resumed.
    if pairs.by == "teacher":
        del values["by"], values["keep"]
    if not pairs.slopes:
        del values["slopes"]
    return {f"pairs.{name}": value for name, value in values.items()}
