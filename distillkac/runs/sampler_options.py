"""How samples are drawn, whatever the number of steps: the options that `sample` and `evaluate` share."""

from dataclasses import dataclass, fields
from typing import Any, Literal

from distillkac.base.ranges import in_ranges
from distillkac.flow.shaping import Shaping
from distillkac.runs.times_config import SHIFTS

__all__ = ["SamplerOptions"]


@dataclass(frozen=True)
@in_ranges(
    "",
    w="[0, 1e4]",
    interval="[0, 1]",
    max_speed="(0, 1e12]",
    rho="(0, 100]",
    shift=SHIFTS,
    restart="[0, 1]",
    gamma="[0, 1]",
    launch="[0, 1]",
    landing="[0, 1]",
)
class SamplerOptions:
    """What is left open (None) is chosen by the network: a student knows its grid and its weight w."""

    integrator: Literal["euler", "heun", "ab2"] | None = None
    """Euler for students, ab2 for the teacher, unless given."""
    w: float | None = None
    """Guidance weight, 0 = none (diffusers' guidance_scale is 1 + w). By default 0, and what a student was made for."""
    interval: tuple[float, float] = (0.0, 1.0)
    """Guidance acts at times in this interval; 0 = data, 1 = noise."""
    max_speed: float | None = None
    """Limit on the guided velocity of each pixel (telegraph), pair (planar) or 2x2 patch (quad)."""
    rho: float | None = None
    """Exponent of the time grid (1 - i/N)^rho. By default a student's own; of teachers of small images (up to 16 pixels a side)
    2, but in up to 6 steps 1; of other teachers, and where times are shifted, 1."""
    shift: float | None = None
    """Moves the times of the grid to where the noise is so many times as large beside the data; 1 for none. By default as in
    the training (--times.shift), and a student's own."""
    restart: float | None = None
    """Share of each step that is drawn anew with fresh noise: 0 follows the flow, 1 is consistency sampling. With it a
    student (give its own folder) can take any number of steps. By default 0, and a consistency student's own."""
    gamma: float | None = None
    """Trajectory-consistency sampling, in place of --restart: from the data predicted in one step the noise goes back to (1 -
    gamma) times the next time, and from there onward as the process moves. 0 draws nothing, 1 is all fresh noise."""
    launch: float = 0.0
    """Kinetic shaping of a teacher: the velocity is this share larger at first, and less so until 60% of the way; in [0, 1]."""
    landing: float = 0.0
    """And after that smaller: by up to 19.1 times this, in [0, 0.0523]. A --max-speed holds for what comes of both."""

    def __post_init__(self) -> None:
        if self.restart and self.integrator not in (None, "euler"):
            raise ValueError(f"restarts take Euler steps; omit integrator {self.integrator!r}")
        self._check_fresh()

    def _check_fresh(self) -> None:
        """Raises ValueError if gamma, launch and landing are out of range, or do not go with the rest."""
        if self.gamma is not None and self.restart is not None:
            raise ValueError("restart and gamma are two ways to draw a share of a step anew: give one of them")
        if self.gamma is not None and self.integrator not in (None, "euler"):
            raise ValueError(f"steps by gamma are no steps of an integrator; omit integrator {self.integrator!r}")
        Shaping(self.launch, self.landing)  # its own ranges
        if self.shaped and (self.restart or self.gamma is not None):
            raise ValueError(
                "launch and landing shape the velocity, from which restart and gamma predict the data: omit one or the other"
            )

    @property
    def shaped(self) -> bool:
        """Whether the velocity is to be shaped."""
        return self.launch > 0 or self.landing > 0

    def asked(self) -> dict[str, Any]:
        """Those of these options that are not left as they are by default, by name."""
        known = ((f.name, getattr(self, f.name), f.default) for f in fields(SamplerOptions))
        return {name: value for name, value, default in known if value != default}
