"""Which times a run of flow matching learns at, and how much each counts, as options."""

from dataclasses import dataclass
from typing import Any, Literal

from distillkac.base.ranges import in_ranges

Weight = Literal["uniform", "min-snr", "learned"]
SHIFTS = "[1/64, 64]"
"""By how much times can be shifted; 1 for not at all."""
REFERENCE_SIDE = 32
"""Of images whose times are not shifted by --times.shift auto: the size at which flow matching is usual with uniform times."""


@dataclass(frozen=True)
@in_ranges(
    "times",
    mean="[-10, 10]",
    std="(0, 10]",
    shift=SHIFTS,
)
class TimesConfig:
    """At which times the network learns. 0 is the data, 1 is noise."""

    draw: Literal["uniform", "logit-normal"] = "uniform"
    """Law of the times."""
    mean: float = 0.0
    """Of log(t / (1 - t)), of logit-normal times: below 0 nearer to the data."""
    std: float = 1.0
    """Its standard deviation."""
    shift: float | Literal["auto"] = 1.0
    """Moves times, those of training and by default the sampler's too, to where the noise is so many times as large beside the
    data: above 1 for large images, over which noise averages out. Auto: the longer side / 32."""

    def __post_init__(self):
        if self.draw == "uniform" and (self.mean, self.std) != (TimesConfig.mean, TimesConfig.std):
            raise ValueError(
                "times.mean and times.std are of logit-normal times: omit them, or give times.draw logit-normal"
            )

    def factor(self, shape: tuple[int, ...]) -> float:
        """The shift for images of this shape (C, H, W)."""
        return max(shape[1:]) / REFERENCE_SIDE if self.shift == "auto" else float(self.shift)


def check_times(config: Any) -> None:
    """Raises ValueError if a RunConfig has options of times or weights that its objective does not look at."""
    if config.objective == "flow-matching":
        return
    usual = TimesConfig()
    for name in ("draw", "shift"):
        if getattr(config.times, name) != getattr(usual, name):
            own = ", which has its own: average_velocity.times" if config.objective == "average-velocity" else ""
            raise ValueError(
                f"times.{name} is of the objective flow-matching, got objective {config.objective}{own}: omit it"
            )
    if config.weight != "uniform":
        raise ValueError(
            f"weight {config.weight} is of the objective flow-matching, got objective {config.objective}: omit it"
        )


def learned_at(config: Any) -> str:
    """For people: at which times a run of flow matching learned, and how much each counted. config: its RunConfig."""
    times, shift = config.times, config.times.factor(config.shape)
    law = "uniform" if times.draw == "uniform" else f"logit-normal ({times.mean:g}, {times.std:g})"
    return f"times {law}{'' if shift == 1 else f', shifted by {shift:g}'}; weight {config.weight}"
