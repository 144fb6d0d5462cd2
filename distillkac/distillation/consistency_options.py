"""Options of consistency distillation, and what they need of the plan that they are part of."""

from dataclasses import dataclass
from typing import Any

from distillkac.base.ranges import in_ranges


@dataclass(frozen=True)
@in_ranges(
    "consistency",
    steps="[1, 1e12]",
    num_steps="[1, 1e6]",
    teacher_steps="[0, 1e6]",
    gap="(0, 1]",
    phases="[1, 1e6]",
    at_one="[0, 1]",
)
class ConsistencyConfig:
    """Consistency distillation, where it is the method: its one student."""

    steps: int = 500
    """Optimizer steps."""
    num_steps: int = 4
    """Steps that the student takes where none is asked for, and the most that it is chosen for."""
    teacher_steps: int = 6
    """The teacher's steps from x_t to x_r; 0: none, both are on one path of the process, and no guidance can be folded in."""
    gap: float | None = None
    """Of r = t (1 - gap^(k + 1)). By default 0.75 with the teacher's steps, 0.5 without."""
    phases: int | None = None
    """How many k there are, 0, 1, ..., for an equal share of the steps each. By default 1 with the teacher's steps, 6 without:
    far targets of the coupled path are right in the mean only."""
    at_one: float = 0.25
    """Share of the training states at t = 1, where every sampling begins; the others have any time."""

    @property
    def schedule(self) -> tuple[float, int]:
        """(gap, phases), with nothing left open."""
        gap, phases = (0.75, 1) if self.teacher_steps else (0.5, 6)
        return gap if self.gap is None else self.gap, phases if self.phases is None else self.phases


def check_options(config: Any) -> None:
    """Raises ValueError if a stages.DistillConfig has consistency options where no such student is made, or with options that
    it does not use."""
    own, defaults = config.consistency, type(config)
    before_pairs = config.method == "pairs" and config.pairs.by == "consistency"
    if config.method != "consistency" and not before_pairs:
        if own != ConsistencyConfig():
            raise ValueError(
                f"consistency.* are options of method consistency and of pairs.by consistency, got method {config.method}"
            )
        return
    if not before_pairs:
        _check_alone(config)
    if own.teacher_steps == 0:
        asked = {"w": config.w, "w_max": config.w_max, "exact_start": config.exact_start}
        asked["integrator"] = config.integrator if config.integrator != defaults.integrator else None
        if used := [name for name, value in asked.items() if value]:
            raise ValueError(
                f"{used[0]} {asked[used[0]]} is of the teacher's steps, and consistency.teacher_steps is 0: raise that, or "
                f"omit {used[0]}"
            )


def _check_alone(config: Any) -> None:
    """Raises ValueError if a plan of the one stage has options of other stages."""
    defaults = type(config)
    if (config.stages, config.steps) != (defaults.stages, defaults.steps):
        raise ValueError(
            "method consistency makes one student in one stage: omit stages and steps, and give consistency.steps and "
            "consistency.num_steps"
        )
    if config.inverse.steps:
        raise ValueError(
            "method consistency and inverse distillation are two commands: omit inverse.steps, then distil with stages "
            f"{config.inverse.num_steps}, inverse.steps and start, the folder of the consistency student"
        )
    if config.backward:
        raise ValueError(f"method consistency takes noised data, not own states: omit backward {config.backward:g}")
