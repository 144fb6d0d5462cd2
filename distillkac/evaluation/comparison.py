"""What `make compare` compares: processes, distillation methods and the networks to measure, as data."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from distillkac.distillation.consistency_options import ConsistencyConfig
from distillkac.distillation.inverse_options import InverseConfig
from distillkac.distillation.pairs_options import KEPT_RESTART
from distillkac.distillation.recipes import RECIPES
from distillkac.distillation.stages import DistillConfig, stages_of
from distillkac.flow.methods import Method as Integrator
from distillkac.flow.methods import rho_in
from distillkac.runs.objectives import RESTART
from distillkac.runs.process_config import ProcessConfig

Samples = tuple[tuple[Integrator, int], ...]
RESULTS = "results.json"  # of a process and a seed
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

    after: the method whose 1-step student it starts from. before: the method of which this one is the first part, and in whose
    folder its students are. samples: (steps, restart) pairs to measure.
    """

    name: str
    title: str
    config: DistillConfig
    samples: tuple[tuple[int, float], ...]
    after: str | None = None
    before: str | None = None

    @property
    def folder(self) -> str:
        """Of its students, in the folder of the teacher."""
        return self.before or self.name

    def student(self, steps: int) -> tuple[int, str]:
        """(num_steps, method) of the student that is measured at so many steps."""
        if self.config.inverse.steps and steps <= self.config.inverse.num_steps:
            return self.config.inverse.num_steps, "inverse"
        own = (stage.usual_steps for stage in stages_of(self.config) if stage.method == self.config.method)
        return min(number for number in own if number >= steps), self.config.method


@dataclass(frozen=True)
class Plan:
    """A whole comparison. extra: further methods, by the name of the setting. teacher_samples: (integrator, steps)."""

    settings: tuple[Setting, ...]
    everywhere: tuple[Method, ...]
    extra: dict[str, tuple[Method, ...]]
    seeds: tuple[int, ...]
    teacher_steps: int
    teacher_samples: Samples
    num: int

    def described(self) -> dict[str, Any]:
        """What must be the same for results to stand in one table, whatever the seeds: also the grids of the teachers."""
        grids = [rho_in(steps) for _, steps in self.teacher_samples]
        return asdict(replace(self, seeds=())) | {"teacher_rho": grids}

    def methods(self, setting: Setting) -> tuple[Method, ...]:
        """The methods for a setting, each after the one it starts from."""
        return (*self.everywhere, *self.extra.get(setting.name, ()))


SETTINGS = (
    Setting("telegraph", "telegraph (25, 2)", ProcessConfig("telegraph", 25.0, 2.0)),
    Setting("planar", "planar (25, 2)", ProcessConfig("planar", 25.0, 2.0)),
    Setting("gaussian-matched", "Gaussian, σ = .4", ProcessConfig("gaussian", sigma=0.4)),
    Setting("gaussian", "Gaussian, σ = 1", ProcessConfig("gaussian", sigma=1.0)),
    Setting("planar-few-turns", "planar (9, 3)", ProcessConfig("planar", 9.0, 3.0)),
    Setting("telegraph-few-turns", "telegraph (9, 3)", ProcessConfig("telegraph", 9.0, 3.0)),
)


FURTHER = {"quad": Setting("quad", "quad (25, 2√2)", ProcessConfig("quad", 25.0, 2 * 2**0.5))}
"""What can be compared too, but is not unless it is asked for; of the spread that (25, 2) gives the others."""


def settings_of(names: tuple[str, ...]) -> tuple[Setting, ...]:
    """The settings of these names, SETTINGS where none is named. Raises ValueError for an unknown name, or one that is there
    twice."""
    known = {setting.name: setting for setting in SETTINGS} | FURTHER
    if wrong := [name for name in names if name not in known or names.count(name) > 1]:
        raise ValueError(
            f"processes must be some of {', '.join(known)}, each once, got {wrong[0]!r}: omit it, or name another"
        )
    return tuple(known[name] for name in names) or SETTINGS


def equal_compute(config: DistillConfig, teacher_steps: int) -> DistillConfig:
    """One stage from `teacher_steps` to 1 with as many network evaluations as the stages of `config`."""
    total = sum(s.steps * (s.teacher_steps // s.num_steps + EVALUATIONS_PER_UPDATE) for s in stages_of(config))
    steps = max(1, round(total / (teacher_steps + EVALUATIONS_PER_UPDATE)))
    return replace(config, stages=(teacher_steps, 1), steps=(steps,))


GUIDANCE = 3.0
# Of a 1-step student of the chain, without pairs.
INVERSE = InverseConfig(steps=80)


def everywhere(chain: DistillConfig, inverse: InverseConfig) -> tuple[Method, ...]:
    """The methods for every setting."""
    alone = replace(chain, stages=(1,), steps=(), inverse=inverse)
    return (
        Method("endpoint", "endpoint", chain, tuple((m, 0.0) for m in chain.stages[1:])),
        Method("inverse", "endpoint, then inverse", alone, ((1, 0.0),), after="endpoint"),
    )


def by_pairs(pairs: DistillConfig) -> tuple[Method, ...]:
    """A recipe of the teacher's pairs and inverse distillation, measured after either part."""
    samples = tuple((m, 0.0) for m in pairs.stages[1:])
    return (
        Method("pairs", "pairs", replace(pairs, inverse=InverseConfig()), samples, before="pairs-inverse"),
        Method("pairs-inverse", "pairs, then inverse (recipe pairs)", pairs, ((1, 0.0),)),
    )


def at_best(best: DistillConfig) -> tuple[Method, ...]:
    """A recipe of a consistency student, pairs of its own steps and inverse distillation, measured after each part."""
    first = DistillConfig(method="consistency", consistency=best.consistency, optim=best.optim)
    few = ((4, RESTART), (2, RESTART), (1, 0.0))
    one_step = replace(best, inverse=InverseConfig())
    kept, any_steps = (
        replace(one_step, pairs=replace(best.pairs, keep=1.0)),
        ((4, KEPT_RESTART), (2, KEPT_RESTART), (1, 0.0)),
    )
    return (
        Method("consistency", "consistency", first, few, before="best"),
        Method("one-network", "consistency, then pairs of its 2 steps, others kept", kept, any_steps, before="best"),
        Method("one-step", "consistency, then pairs of its 2 steps", one_step, ((1, 0.0),), before="best"),
        Method("best", "these, then inverse (recipe best)", best, ((1, 0.0),)),
    )


def further(chain: DistillConfig) -> tuple[Method, ...]:
    """The methods that are compared on one process only."""
    samples = tuple((m, 0.0) for m in chain.stages[1:])
    reconstruction = replace(chain, method="reconstruction", stages=(20, 4, 1), steps=chain.steps[-2:])
    few = tuple(sample for sample in samples if sample[0] <= 4)
    return (
        Method("backward", "endpoint, own states", replace(chain, backward=1.0), samples),
        Method("20-to-1", "endpoint, 20 to 1 at once", equal_compute(chain, 20), ((1, 0.0),)),
        Method("100-to-1", "endpoint, 100 to 1 at once", equal_compute(chain, 100), ((1, 0.0),)),
        Method(
            "reconstruction",
            "shifted reconstruction",
            reconstruction,
            ((4, 0.0), (4, 0.5), (4, 1.0), (2, 1.0), (1, 0.0)),
        ),
        Method("guided-data", f"w = {GUIDANCE:g}, data states", replace(chain, w=GUIDANCE), few),
        Method("guided-own", f"w = {GUIDANCE:g}, own states", replace(chain, w=GUIDANCE, backward=1.0), few),
    )


def full_plan(seeds: tuple[int, ...], processes: tuple[str, ...] = ()) -> Plan:
    """processes: names of settings; SETTINGS by default."""
    chain = RECIPES["paper"]
    longer = replace(chain, steps=(250, 400, 400, 600), inverse=INVERSE, optim=replace(chain.optim, batch_size=128))
    most = (
        Method("longer", "longer endpoint, then inverse", longer, ((4, 0.0), (1, 0.0))),
        *by_pairs(RECIPES["pairs"]),
        *at_best(RECIPES["best"]),
    )
    extra = {"telegraph": (*most, *further(chain)), "planar": most, **({"quad": most} if "quad" in processes else {})}
    samples: Samples = (("ab2", 20), ("ab2", 10), ("euler", 4), ("euler", 2), ("euler", 1))
    return Plan(settings_of(processes), everywhere(chain, INVERSE), extra, seeds, 3000, samples, 5000)


def quick_plan(seeds: tuple[int, ...], processes: tuple[str, ...] = ()) -> Plan:
    """The same in small: shorter training, fewer images, three processes if none is named."""
    chain = DistillConfig(stages=(20, 4, 1), steps=(100, 150))
    inverse = replace(INVERSE, steps=30)
    best = RECIPES["best"]
    short = replace(
        best,
        steps=(200,),
        pairs=replace(best.pairs, count=8000),
        consistency=ConsistencyConfig(steps=100),
        inverse=replace(best.inverse, steps=20),
    )
    samples: Samples = (("ab2", 20), ("euler", 4), ("euler", 1))
    extra = {"telegraph": at_best(short)}
    settings = settings_of(processes) if processes else SETTINGS[:3]
    return Plan(settings, everywhere(chain, inverse), extra, seeds[:1], 800, samples, 1000)
