"""What `make compare` compares: processes, distillation methods and the networks to measure, as data."""

from dataclasses import dataclass, field, replace

from distillkac.config import ProcessConfig
from distillkac.distillation import RECIPES, DistillConfig, stages

EVALUATIONS_PER_UPDATE = 3  # forward and backward of the student, in forward passes


@dataclass(frozen=True)
class Setting:
    """A process to train a teacher with."""

    name: str
    title: str
    noise: ProcessConfig


@dataclass(frozen=True)
class Method:
    """One distillation of a teacher, in a folder of its own.

    after: the method whose 1-step student it starts from. samples: (steps, restart) pairs to measure.
    """

    name: str
    title: str
    config: DistillConfig
    samples: tuple[tuple[int, float], ...]
    after: str | None = None


@dataclass(frozen=True)
class Plan:
    """A whole comparison. teacher_samples: (integrator, steps). guided_w: None leaves guidance out."""

    settings: tuple[Setting, ...]
    everywhere: tuple[Method, ...]
    on_first_setting: tuple[Method, ...]
    seeds: tuple[int, ...]
    teacher_steps: int
    teacher_samples: tuple[tuple[str, int], ...]
    num: int
    guided_w: float | None = None
    guided: tuple[Method, ...] = field(default=())

    def methods(self, setting: Setting) -> tuple[Method, ...]:
        """The methods for a setting, each after the one it starts from."""
        first = setting == self.settings[0]
        return (*self.everywhere, *(self.on_first_setting if first else ()), *(self.guided if first else ()))


SETTINGS = (
    Setting("telegraph", "telegraph (25, 2)", ProcessConfig("telegraph", 25.0, 2.0)),
    Setting("planar", "planar (25, 2)", ProcessConfig("planar", 25.0, 2.0)),
    Setting("gaussian-matched", "Gaussian, σ = .4", ProcessConfig("gaussian", sigma=0.4)),
    Setting("gaussian", "Gaussian, σ = 1", ProcessConfig("gaussian", sigma=1.0)),
    Setting("planar-few-turns", "planar (9, 3)", ProcessConfig("planar", 9.0, 3.0)),
    Setting("telegraph-few-turns", "telegraph (9, 3)", ProcessConfig("telegraph", 9.0, 3.0)),
)


def equal_compute(config: DistillConfig, teacher_steps: int) -> DistillConfig:
    """One stage from `teacher_steps` to 1 with as many network evaluations as the stages of `config`."""
    total = sum(s.steps * (s.teacher_steps // s.num_steps + EVALUATIONS_PER_UPDATE) for s in stages(config))
    steps = max(1, round(total / (teacher_steps + EVALUATIONS_PER_UPDATE)))
    return replace(config, stages=(teacher_steps, 1), steps=(steps,))


def methods(chain: DistillConfig, inverse_steps: int) -> tuple[tuple[Method, ...], tuple[Method, ...]]:
    """(for every setting, for the first alone)."""
    chain_samples = tuple((m, 0.0) for m in chain.stages[1:])
    inverse = RECIPES["best"].inverse
    reconstruction = replace(chain, method="reconstruction", stages=(20, 4, 1), steps=chain.steps[-2:])
    inverse = replace(inverse, steps=inverse_steps)
    real = replace(chain, stages=(1,), steps=(), inverse=inverse)
    free = replace(real, inverse=replace(inverse, alpha=1.0, beta=1.0))
    everywhere = (
        Method("endpoint", "endpoint", chain, chain_samples),
        Method("inverse", "endpoint, then inverse", real, ((1, 0.0),), after="endpoint"),
    )
    first = (
        Method("inverse-free", "endpoint, then inverse without data", free, ((1, 0.0),), after="endpoint"),
        Method("backward", "endpoint, own states", replace(chain, backward=1.0), chain_samples),
        Method("exact-start", "endpoint, exact start", replace(chain, exact_start=True), chain_samples),
        Method("20-to-1", "endpoint, 20 to 1 at once", equal_compute(chain, 20), ((1, 0.0),)),
        Method("100-to-1", "endpoint, 100 to 1 at once", equal_compute(chain, 100), ((1, 0.0),)),
        Method(
            "reconstruction",
            "shifted reconstruction",
            reconstruction,
            ((4, 0.0), (4, 0.5), (4, 1.0), (2, 1.0), (1, 0.0)),
        ),
    )
    return everywhere, first


def guided_methods(chain: DistillConfig, w: float) -> tuple[Method, ...]:
    """With the guidance weight w folded in: states from data, from the student itself, half of each."""
    samples = tuple((m, 0.0) for m in chain.stages[1:] if m <= 4)
    return tuple(
        Method(f"guided-{name}", f"w = {w:g}, {title}", replace(chain, w=w, backward=share), samples)
        for name, title, share in (("data", "data states", 0.0), ("own", "own states", 1.0), ("mixed", "mixed", 0.5))
    )


def full_plan(seeds: tuple[int, ...]) -> Plan:
    chain = RECIPES["paper"]
    everywhere, first = methods(chain, RECIPES["best"].inverse.steps)
    samples = (("ab2", 20), ("ab2", 10), ("euler", 4), ("euler", 2), ("euler", 1))
    return Plan(SETTINGS, everywhere, first, seeds, 3000, samples, 5000, 3.0, guided_methods(chain, 3.0))


def quick_plan(seeds: tuple[int, ...]) -> Plan:
    """The same in small: shorter training, fewer images, three processes."""
    chain = DistillConfig(stages=(20, 4, 1), steps=(100, 150))
    everywhere, _ = methods(chain, 30)
    samples = (("ab2", 20), ("euler", 4), ("euler", 1))
    return Plan(SETTINGS[:3], everywhere, (), seeds[:1], 800, samples, 1000)
