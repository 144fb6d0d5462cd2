"""Which noise a run has: options of commands, and its name for people."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import tyro

from distillkac.base.ranges import in_ranges

if TYPE_CHECKING:
    from distillkac.flow import processes

ADOPTED = {"sigma": "(0, 1e6]", "max_ratio": "(0, 1e12]"}
"""Ranges of what a model of diffusers is adopted with."""


@dataclass(frozen=True)
@in_ranges(
    "",
    a="(0, 1e9]",
    c="(0, 1e9]",
    sigma="(0, 1e9]",
    tau_max="(0, 1]",
)
class ProcessConfig:
    """The noise process and its schedules."""

    process: Literal["telegraph", "planar", "quad", "gaussian"] = "telegraph"
    """Telegraph: each pixel runs and turns alone. Planar: pairs of pixels in the plane. Quad: patches of 2x2 pixels in four
    dimensions. Gaussian: the baseline."""
    a: float = 25.0
    """Rate of turns (telegraph, planar, quad)."""
    c: float = 2.0
    """Speed (telegraph, planar, quad). Quad has the spread of the others at 1.41 times their speed."""
    sigma: float = 1.0
    """Standard deviation of the noise (gaussian)."""
    f: Literal["linear", "cosine"] = "linear"
    """How the data fades: 1 - t or cos(pi t / 2)."""
    g: Literal["linear", "quadratic"] = "linear"
    """How the noise ages: t or t^2."""
    tau_max: tyro.conf.Suppress[float] = 1.0
    """How far towards pure noise it reaches (gaussian), where an adopted model's schedule ends before it."""
    path: str | None = None
    """In place of f and g (gaussian), x_t = alpha x_0 + sigma z by name: vp, cosine, sub-vp, edm (docs/method.md), or what
    distillkac.flow.add_path was given in Python."""

    def __post_init__(self):
        if callable(self.path):
            raise ValueError(
                "path: a config keeps names: give the function one with distillkac.flow.add_path, and say that"
            )

    @classmethod
    def of(cls, process: "processes.Process") -> "ProcessConfig":
        """The config whose `build` is this process. Raises ValueError if its path is a function, which has no name, or its
        kappa is not the one that runs have."""
        values = process.to_dict()
        if process.f == "exp" and process.kappa != (kappa := type(process).kappa):
            raise ValueError(f"runs of f exp have kappa {kappa:g}, got a process of kappa {process.kappa:g}")
        known = {name: values[name] for name in values.keys() & cls.__annotations__.keys()}
        return cls(process.name, **known)  # type: ignore[arg-type]  # one of the four names

    @property
    def straight(self) -> bool:
        """Whether x - t u may stand for the data where u is the velocity of the process: with linear f and g, on no path by
        name."""
        return self.path is None and (self.f, self.g) == ("linear", "linear")

    def unused(self) -> str | None:
        """What a sentence says of a number of another process, which means nothing here; None if there is none."""
        kac = ("telegraph", "planar", "quad")
        for name, owners in (("a", kac), ("c", kac), ("sigma", ("gaussian",)), ("tau_max", ("gaussian",))):
            if self.process not in owners and (value := getattr(self, name)) != getattr(ProcessConfig, name):
                return f"{name} {value:g} is of process {' or '.join(owners)}, got {self.process}"
        return None

    def refuse_unused(self) -> None:
        """Raises ValueError for a number of another process. For new runs: those of earlier versions may have one."""
        if said := self.unused():
            raise ValueError(f"{said}: omit {said.split()[0]}, or choose another process")

    def build(self) -> "processes.Process":
        """Raises ValueError on an unknown process or a parameter out of range."""
        from distillkac.flow import processes  # torch only now: these are options of commands

        if self.process == "gaussian":
            return processes.Gaussian(sigma=self.sigma, f=self.f, g=self.g, tau_max=self.tau_max, path=self.path)
        if self.path is not None:
            raise ValueError(f"path {self.path!r:.80} is of process gaussian, got {self.process}; images are data.path")
        if self.process == "planar":
            return processes.Planar(a=self.a, c=self.c, f=self.f, g=self.g)
        if self.process == "quad":
            return processes.Quad(a=self.a, c=self.c, f=self.f, g=self.g)
        if self.process == "telegraph":
            return processes.Telegraph(a=self.a, c=self.c, f=self.f, g=self.g)
        raise ValueError(f"process must be telegraph, planar, quad or gaussian, got {self.process!r:.80}")


def law(noise) -> str:
    """The law of a process for people: telegraph (a 25, c 2). noise: a ProcessConfig, or the config of a KacScheduler."""
    if noise.process != "gaussian":
        return f"{noise.process} (a {noise.a:g}, c {noise.c:g})"
    return f"gaussian ({'' if noise.path is None else f'{noise.path}, '}sigma {noise.sigma:g})"
