"""Options of inverse distillation, and what they need of the plan that it ends."""

from dataclasses import dataclass, fields
from typing import Any, Literal

from distillkac.base.ranges import in_ranges
from distillkac.runs.objectives import RESTART


@dataclass(frozen=True)
@in_ranges(
    "inverse",
    steps="[0, 1e12]",
    num_steps="[1, 1e6]",
    backward="[0, 1]",
    restart="[0, 1]",
    alpha="(0, 1]",
    beta="(0, 1]",
    fake_updates="[1, 1e6]",
    lr="(0, 100]",
    fake_lr="(0, 100]",
    warmup="[0, 1e12]",
    beta2="[0, 1)",
    ema="[0, 1]",
    pairs="[0, 1e6]",
    adversarial="[0, 1e6]",
)
class InverseConfig:
    """Fine-tunes the last student by inverse distillation."""

    steps: int = 0
    """Updates of the generator; 0: no inverse distillation."""
    num_steps: int = 1
    """Steps of the generator. Above 1 it is one network for so many steps, half of them and so on down to one, with fresh noise
    in between, as a consistency student."""
    backward: float = 0.5
    """With num_steps above 1: fraction of the states after the first step that the generator itself has reached; the others are
    noised data."""
    restart: float = RESTART
    """With num_steps above 1: share of each step that is drawn anew, on the way to these states, and in sampling where nothing
    else is asked for."""
    alpha: float = 0.98
    """Weight of generated against real images in the fake model's loss; 1 with beta = 1 uses no data."""
    beta: float = 0.94
    """How much of the target the generated images carry; 1 where alpha is 1."""
    fake_updates: int = 3
    """Updates of the fake model before each one of the generator."""
    lr: float = 3e-5
    """Learning rate of the generator; without pairs diversity goes at 1e-4 before quality comes, and 2e-4 may diverge."""
    fake_lr: float = 3e-4
    """Learning rate of the fake model."""
    warmup: int = 1
    """Updates of the generator in which both rates rise to these."""
    beta2: float = 0.99
    """AdamW's decay of the gradients' squares; that of their mean is 0."""
    ema: float = 0.99
    """Decay of the average of the generator."""
    pairs: float = 0.0
    """Weight of a second loss of the generator, to the ends of the teacher's stored paths (the options of pairs); 0: none."""
    adversarial: float = 0.0
    """Weight of a third loss of the generator: that heads on the fake model's blocks take its images for real; 0: no heads."""
    start: Literal["student", "teacher", "random"] = "student"
    """Weights the generator starts from: the last student (of several steps, one that takes any number), the teacher, or
    none."""
    fake: Literal["teacher", "start"] = "teacher"
    """Weights the fake model starts from. Start, for a second phase: those of the fake model of the inverse student that
    --start names, whose generator goes on too."""

    def __post_init__(self):
        for name in ("backward", "restart"):
            value = getattr(self, name)
            if self.num_steps == 1 and value != getattr(InverseConfig, name):
                raise ValueError(
                    f"inverse.{name} {value:g} is of what comes after a first step, and inverse.num_steps is 1: raise that"
                )
        if self.beta < self.alpha == 1:
            raise ValueError(f"inverse: beta must be 1 where alpha is, got {self.alpha} and {self.beta}")
        if self.adversarial and self.alpha == 1:
            raise ValueError(
                "inverse.adversarial needs real images, which inverse.alpha 1 does without: take a smaller one"
            )
        if self.fake == "start" and self.start != "student":
            raise ValueError(f"inverse.fake start goes on with an inverse student, and inverse.start is {self.start}")
        if not self.steps and (given := changed(self, InverseConfig)):
            raise ValueError(
                f"inverse.{given[0]} {getattr(self, given[0])} is of inverse distillation, and inverse.steps is 0: give "
                f"inverse.steps, or omit inverse.{given[0]}"
            )


def changed(config: Any, usual: Any) -> list[str]:
    """The names of the fields in which a dataclass differs from another of its kind, or from its class: from the defaults."""
    return [f.name for f in fields(config) if getattr(config, f.name) != getattr(usual, f.name)]


def deciding(inverse: InverseConfig) -> dict[str, float | str | bool]:
    """The options that decide weights, but for those of pairs; what earlier versions did not have stands there where it is
    used, so that their generators can be resumed."""
    names = ["alpha", "beta", "fake_updates", "start"]
    names += ["backward", "restart"] * (inverse.num_steps > 1) + ["fake"] * (inverse.fake != "teacher")
    names += ["adversarial"] * (inverse.adversarial > 0)
    return {f"inverse.{name}": getattr(inverse, name) for name in names}


def check_options(config: Any) -> None:
    """Raises ValueError if a stages.DistillConfig has options of inverse distillation that it cannot use, or lacks what they
    need."""
    inverse = config.inverse
    lone = len(config.stages) == 1
    if config.pairs.teacher_steps is not None and not (lone and inverse.pairs):
        raise ValueError(
            f"pairs.teacher_steps {config.pairs.teacher_steps} is of inverse distillation alone with inverse.pairs; elsewhere "
            "stages begin with that number: omit it"
        )
    if not inverse.steps:
        return
    if config.w_max is not None:
        raise ValueError("inverse distillation makes a generator without w as an input; omit w_max")
    if lone:
        if config.method != "endpoint":
            raise ValueError(
                f"stages {inverse.num_steps} is inverse distillation alone: omit method {config.method} and a recipe of it"
            )
        if inverse.pairs:
            _check_paths_alone(config)
        _check_alone(config)
        return
    if inverse.fake == "start":
        raise ValueError(
            f"inverse.fake start goes on with an inverse student: give stages {inverse.num_steps} alone and its folder as "
            f"start, got stages {config.stages}"
        )
    if inverse.start != "student":
        return
    if inverse.num_steps == 1 and config.stages[-1] != 1:
        raise ValueError(f"inverse distillation fine-tunes a 1-step student; end stages with 1, got {config.stages}")
    if inverse.num_steps > 1 and not config.pairs.keep:
        raise ValueError(
            f"inverse.num_steps {inverse.num_steps} starts from a student of any number of steps, which these stages do not "
            f"make: give pairs.keep, or stages {inverse.num_steps} alone and start, the folder of a consistency student"
        )
    if inverse.num_steps > 1 and inverse.num_steps != config.consistency.num_steps:
        raise ValueError(
            f"inverse.num_steps {inverse.num_steps} starts from a student of up to {config.consistency.num_steps} steps: give "
            "both the same number (consistency.num_steps)"
        )


def _check_paths_alone(config: Any) -> None:
    """Raises ValueError if inverse distillation alone that learns paths does not say which, or has no states of them."""
    inverse, steps = config.inverse, config.pairs.teacher_steps
    if steps is None:
        raise ValueError(
            "inverse.pairs learns the ends of the teacher's paths, and no stage says of how many steps: give "
            "pairs.teacher_steps, such as 20"
        )
    if steps % inverse.num_steps:
        fewer = steps // inverse.num_steps * inverse.num_steps
        raise ValueError(
            f"pairs.teacher_steps {steps} do not come by the times of inverse.num_steps {inverse.num_steps}, where the paths "
            f"are learnt: give a multiple, such as {fewer or inverse.num_steps}"
        )


def _check_alone(config: Any) -> None:
    """Raises ValueError if inverse distillation alone has options of stages, or of the teacher's steps without paths."""
    usual, inverse = type(config), config.inverse
    if config.backward:
        raise ValueError(
            f"backward {config.backward:g} is of stages, and stages {inverse.num_steps} is inverse distillation alone: omit it"
            + " (inverse.backward is the share here)" * (inverse.num_steps > 1)
        )
    unasked = {"exact_start": config.exact_start, "integrator": config.integrator != usual.integrator}
    if not inverse.pairs and (used := [name for name, given in unasked.items() if given]):
        raise ValueError(
            f"{used[0]} {getattr(config, used[0])} is of the teacher's steps, and inverse distillation alone makes none "
            f"without inverse.pairs: omit {used[0]}"
        )


INSTEAD = {
    "lr": "inverse.lr and inverse.fake_lr",
    "warmup": "inverse.warmup",
    "weight_decay": None,
    "ema": "inverse.ema",
    "beta1": None,
    "beta2": "inverse.beta2",
}
"""Options of optim that inverse distillation does not look at, and its own; None: it has none."""


def refuse_unused(config: Any, usual: Any) -> None:
    """Raises ValueError if options were given to inverse distillation alone that it does not look at. config: a
    stages.DistillConfig as the command line says. usual: what it would be without, as of its recipe."""
    inverse = config.inverse
    if not (inverse.steps and len(config.stages) == 1):
        return
    alone = f"stages {inverse.num_steps} is inverse distillation alone"
    given = changed(config, usual)
    if "steps" in given and config.steps:
        raise ValueError(f"steps are of stages, and {alone}: omit them, and give inverse.steps")
    for name in ("rho", "shift"):
        if name in given and inverse.num_steps == 1 and not inverse.pairs:
            raise ValueError(f"{name} is of a grid of times, and {alone}, whose one step has none: omit {name}")
    for name in changed(config.optim, usual.optim):
        if name in INSTEAD:
            own = INSTEAD[name]
            raise ValueError(
                f"optim.{name} is of stages, and {alone}, "
                + (f"which has {own}: give that instead" if own else f"which has a fixed one: omit optim.{name}")
            )
