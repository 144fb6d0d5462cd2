"""The option of every command that reads the images of a run."""

from dataclasses import dataclass, field

from distillkac.base.paths import PATH


@dataclass(frozen=True)
class DataPlace:
    """Where the images of a run are."""

    path: str | None = field(default=None, metadata=PATH)
    """Where the run's images are now, if they were moved since it was trained."""
