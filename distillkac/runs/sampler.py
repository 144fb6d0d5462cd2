"""What may be asked of a network: one rule for the command line, the pipeline, the demo page and exports."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from distillkac.base.ranges import in_ranges
from distillkac.flow.methods import USUAL_RHO, rho_in
from distillkac.runs.objectives import FEW_STEPS, RESTART, Objective
from distillkac.runs.sampler_options import SamplerOptions
from distillkac.runs.times_config import SHIFTS

if TYPE_CHECKING:  # the options of a command are told without torch
    from distillkac.flow.methods import Method
    from distillkac.runs.config import RunConfig

__all__ = ["SamplerConfig", "SamplerOptions", "Settled", "Trained", "halves", "refuse_fresh", "usual_rho"]

SMALL = 16
"""Pixels of the longer side up to which images are small, see usual_rho."""


@dataclass(frozen=True)
@in_ranges("", steps="[1, 1e6]")
class _Steps:
    """Before the options, so that it is the first of all."""

    steps: int = 20
    """Integration steps; a student of that many is used if the run has one, one of inverse distillation before others."""

    def __post_init__(self) -> None:
        if not isinstance(self.steps, int):
            raise ValueError(f"steps must be a whole number, got {self.steps}")


@dataclass(frozen=True)
class SamplerConfig(SamplerOptions, _Steps):
    """How samples are drawn. An option that is None is chosen by the network: a student knows its grid and its weight w."""

    model: Literal["auto", "teacher", "student"] = "auto"
    """Which network. Auto: a student of that many steps if there is one that can do all that is asked (w, integrator, rho),
    else the teacher; a warning says so where the run has students of as many steps or more."""

    def __post_init__(self) -> None:
        _Steps.__post_init__(self)
        SamplerOptions.__post_init__(self)


def usual_rho(shape: tuple[int, ...], student: bool = False) -> float:
    """The exponent of the time grid for images of this shape (C, H, W): of a teacher sampled as it is in many steps (in few it
    is that of methods.rho_in), or of distillation, where times are not shifted; shifted ones are where they shall be already.

    Fine detail is decided near t = 0, where an exponent above 1 puts the steps of a grid. But independent noise averages out
    over the pixels of a larger image, whose composition is decided near t = 1 (docs/scaling.md). Such a grid takes that in one
    step, and the images are less diverse.
    """
    small = max(shape[1:]) <= SMALL
    return (1.5 if student else USUAL_RHO) if small else 1.0


def halves(most: int) -> tuple[int, ...]:
    """Such as 4, 2, 1: the numbers of steps in which a student of up to `most` is measured."""
    return tuple(most >> k for k in range(most.bit_length()))


def refuse_fresh(name: str, predicts_data: bool, restart: float, gamma: float | None) -> None:
    """Raises ValueError if steps are drawn anew from x - t u, by what is neither straight (see Trained) nor a student of any
    number of steps."""
    if restart > 0 or (gamma is not None and predicts_data):
        instead = "omit restart and gamma" if predicts_data else "give gamma in place of restart"
        raise ValueError(
            f"{name} has a path or schedules (f, g) with which one step of its velocity does not lead to the data, where a "
            f"step drawn anew begins: {instead}, or distil by method consistency"
        )


class Settled(NamedTuple):
    """What a sampler means for one network, with nothing left open.

    w: the weight that the field is given, 0 where guidance is folded in. rho, shift, integrator: of the steps. guidance: the
    weight that the images have, whether folded in or not. restart: the share of each step that is drawn anew. gamma: the share
    in trajectory-consistency sampling, None where steps are not by that.
    """

    w: float
    rho: float
    integrator: "Method"
    guidance: float
    restart: float = 0.0
    shift: float = 1.0
    gamma: float | None = None


@dataclass(frozen=True)
@in_ranges(
    "trained",
    label_drop="[0, 1)",
    num_steps="[1, 1e6]",
    rho="(0, 100]",
    w="[0, 1e4]",
    w_max="(0, 1e4]",
    restart="[0, 1]",
    shift=SHIFTS,
)
class Trained:
    """What a network was trained for, as far as sampling is concerned. Saved with every pipeline.

    num_steps: None for a teacher, else the steps of a student. rho: exponent of the student's grid, or of the teacher's
    usual one in many steps. w: guidance folded into it; w_max: if set, it takes any w up to that as an input. label_drop: of
    its teacher, above 0 if that can be guided. restart: if set, a student takes any number of steps, num_steps where none is
    asked for, and draws this share of each anew. objective: of its run; those but flow matching make networks of few steps
    from data alone, which take any number like such students, and w like a teacher. straight: whether x - t u may stand for
    the data where u is the velocity of the process itself: with linear f and g, and on no path by name; of a Kac process it
    leaves some noise in. shift: of the
    student's grid, or of the times that a teacher was trained at; rho of a teacher is for times that are not shifted.
    """

    label_drop: float
    num_steps: int | None = None
    rho: float = USUAL_RHO
    w: float = 0.0
    w_max: float | None = None
    restart: float | None = None
    objective: Objective = "flow-matching"
    straight: bool = True
    shift: float = 1.0

    @classmethod
    def of(cls, config: "RunConfig") -> "Trained":
        student = config.student
        if config.objective != "flow-matching":
            rho, restart = usual_rho(config.shape, student=True), RESTART if config.objective == "consistency" else 0.0
            return cls(config.label_drop, FEW_STEPS, rho, restart=restart, objective=config.objective)
        if student is None:
            shift = config.times.factor(config.shape)
            return cls(config.label_drop, rho=usual_rho(config.shape), straight=config.noise.straight, shift=shift)
        own = (student.num_steps, student.rho, student.w, student.w_max, student.restart)
        return cls(config.label_drop, *own, straight=config.noise.straight, shift=student.shift)

    @property
    def takes_w(self) -> bool:
        """Whether a weight may be chosen: of what learned from data alone, and of a student that has it as an input."""
        return self.num_steps is None or self.w_max is not None or self.few_steps

    @property
    def few_steps(self) -> bool:
        """Whether it makes images in a few steps without having been distilled."""
        return self.objective != "flow-matching"

    @property
    def predicts_data(self) -> bool:
        """Whether x - t u is its picture of the data; of a teacher u is the velocity of the process."""
        return self.num_steps is not None

    def serves(self, steps: int) -> bool:
        """Whether it was made for so many steps: a teacher for any number, a student of any number for at most its own."""
        return self.num_steps in (None, steps) or (self.restart is not None and steps <= (self.num_steps or 0))

    def sampler(self) -> SamplerConfig:
        """How it is sampled where nothing is asked: a student in its own number of steps."""
        return SamplerConfig() if self.num_steps is None else SamplerConfig(self.num_steps)

    def measured_steps(self) -> tuple[int, ...]:
        """The numbers of steps that it is judged by, most first: its own, and for a student of any number the halves of it."""
        most = self.sampler().steps
        return (most,) if self.restart is None else halves(most)

    def settle(self, sampler: SamplerConfig, name: str) -> Settled:
        """What a sampler's None mean: the one place that decides it.

        name: of the run or pipeline, for the sentence. Raises ValueError where the network cannot do what is asked.
        """
        rule = self._few_steps if self.few_steps else self._teacher if self.num_steps is None else self._student
        settled = rule(sampler, name)
        if sampler.gamma is not None:
            settled = settled._replace(restart=0.0, gamma=sampler.gamma)
        if sampler.shaped and self.predicts_data:
            raise ValueError(
                f"{name} makes images in few steps, which are displacements and no velocities: launch and landing are for a "
                "teacher (--model teacher)"
            )
        if settled.w == 0 and tuple(sampler.interval) != (0.0, 1.0):
            raise ValueError(f"interval {sampler.interval} says when guidance acts, and there is none to act: omit it")
        if not self.straight and self.restart is None:
            refuse_fresh(name, self.predicts_data, settled.restart, settled.gamma)
        return settled

    def _any_w(self, sampler: SamplerConfig, name: str) -> float:
        w = sampler.w or 0.0
        if w > 0 and self.label_drop == 0:
            raise ValueError(
                f"{name} was trained with label_drop 0 and cannot be guided; use w = 0 (guidance_scale = 1)"
            )
        return w

    def _few_steps(self, sampler: SamplerConfig, name: str) -> Settled:
        w, share = self._any_w(sampler, name), self.restart if sampler.restart is None else sampler.restart
        if sampler.integrator not in (None, "euler"):
            raise ValueError(
                f"{name} was trained for {self.objective}, whose steps are Euler steps: omit integrator "
                f"{sampler.integrator!r}, or train with objective flow-matching"
            )
        return Settled(w, self._rho(sampler), "euler", w, share or 0.0, self._shift(sampler))

    def _teacher(self, sampler: SamplerConfig, name: str) -> Settled:
        w, share = self._any_w(sampler, name), sampler.restart or 0.0
        method: Method = "euler" if share > 0 else sampler.integrator or "ab2"
        return Settled(w, self._rho(sampler), method, w, share, self._shift(sampler))

    def _shift(self, sampler: SamplerConfig) -> float:
        return self.shift if sampler.shift is None else sampler.shift

    def _rho(self, sampler: SamplerConfig) -> float:
        """Of what is no student: of a teacher by the number of steps."""
        usual = self.rho if self.few_steps else rho_in(sampler.steps, self.rho)
        return sampler.rho or (usual if self._shift(sampler) == 1 else 1.0)

    def _student(self, sampler: SamplerConfig, name: str) -> Settled:
        other_rho = sampler.rho is not None and not math.isclose(sampler.rho, self.rho)
        other_shift = not math.isclose(self._shift(sampler), self.shift)
        share = (self.restart or 0.0) if sampler.restart is None else sampler.restart
        steady = share == 0 and sampler.gamma is None
        if self.restart is None and steady and (sampler.steps != self.num_steps or other_rho or other_shift):
            asked = f"rho = {sampler.rho:g}" if other_rho else f"{sampler.steps}"
            asked = f"shift = {sampler.shift:g}" if other_shift else asked
            raise ValueError(
                f"{name} is a student of {self.num_steps} Euler steps on its own grid, got {asked}; choose the teacher or "
                "another student, or let it draw a share of each step anew (sample --restart), which takes any number"
            )
        if sampler.integrator not in (None, "euler"):
            raise ValueError(f"{name} is a student, which takes Euler steps: omit integrator {sampler.integrator!r}")
        w, rho, shift = sampler.w, sampler.rho or self.rho, self._shift(sampler)
        if self.w_max is not None:
            w = w or 0.0
            if w > self.w_max + 1e-6:
                raise ValueError(
                    f"{name} was distilled for w up to {self.w_max} (guidance_scale {1 + self.w_max:g}), got {w:g}"
                )
            return Settled(w, rho, "euler", w, share, shift)
        if w is not None and not math.isclose(w, self.w, abs_tol=1e-6):
            raise ValueError(
                f"{name} was distilled with w = {self.w} folded in (guidance_scale {1 + self.w:g}), which w = {w:g} "
                "cannot change; omit it, choose the teacher (--model teacher), or distil with that w"
            )
        return Settled(0.0, rho, "euler", self.w, share, shift)
