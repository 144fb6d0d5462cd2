"""What can be asked of a diagnosis. No torch here: these are the options of `python -m distillkac.diagnose`."""

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from distillkac.base.ranges import SEEDS, in_ranges
from distillkac.runs.data_place import DataPlace


@dataclass(frozen=True)
@in_ranges(
    "",
    num="[8, 1e9]",
    reference_num="[8, 1e9]",
    guidance_num="[0, 1e9]",
    energy_num="[0, 1e9]",
    max_speed="(0, 1e12]",
    seed=SEEDS,
    batch_size="[1, 1e9]",
)
class DiagnoseArgs:
    """Measures on a run what the theory of finite-speed flows claims: speeds and their bound, velocities near the data,
    errors of the students on the way, error against steps, guidance, sensitivity, the start, the diffusion limit.

    Prints a summary; writes diagnosis.json and a PNG for each plot. If one of its sections fails, what those before it found is
    in diagnosis-unfinished.json.
    """

    run: tyro.conf.Positional[Path]
    """Run folder of a teacher; its students are measured with it."""
    out: Path | None = None
    """Where the results go; by default RUN/diagnosis."""
    num: int = 256
    """Images per measure; their paths are held in memory, 800 bytes a pixel."""
    reference_num: int | None = None
    """Images of the error against steps, which takes 400 steps as the truth; by default 64, or --num where that is less."""
    guidance_num: int = 1000
    """Images per guidance weight; 0 does not measure guidance."""
    energy_num: int = 1000
    """Images whose kinetic energies are compared with how near the data are and how sure the classifier is; 0 does not."""
    max_speed: float | None = None
    """Speed limit tried with guidance; by default the largest speed of a target (none for gaussian)."""
    seed: int = 0
    """Seed of all noise."""
    batch_size: int = 500
    """Images at a time on a GPU."""
    data: DataPlace = field(default_factory=DataPlace)

    def __post_init__(self):
        if self.guidance_num == 1:
            raise ValueError(f"guidance_num must be 0 or at least 2, got {self.guidance_num}")
        if 0 < self.energy_num < 8:
            raise ValueError(f"energy_num must be 0 or at least 8, got {self.energy_num}")
        if self.reference_num is not None and self.reference_num > self.num:
            raise ValueError(
                f"reference_num {self.reference_num} is more than num {self.num}, the images that there are: raise num"
            )
