"""What a distillation does: its configuration and its stages.

Stages follow each other, 100 -> 20 -> 4 -> 2 -> 1 by default; each student is the next teacher and starts from it. With
method "pairs" each starts from the one before too, and the teacher itself teaches all, or a consistency student that comes
first. The guidance weight is folded in at the first stage. Inverse distillation of the 1-step student may end the plan
(docs/method.md, section 7).
"""

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from distillkac.base.ranges import SEEDS, in_ranges
from distillkac.distillation import consistency_options, inverse_options, pairs_options
from distillkac.distillation.consistency_options import ConsistencyConfig
from distillkac.distillation.grids import rho_of, shift_of
from distillkac.distillation.inverse_options import InverseConfig
from distillkac.distillation.pairs_options import KEPT_RESTART, PairsConfig
from distillkac.distillation.reconstruction_options import ReconstructionConfig
from distillkac.flow.methods import METHODS, Method
from distillkac.runs.config import RunConfig, StudentConfig
from distillkac.runs.objectives import RESTART
from distillkac.runs.optim_config import OptimConfig, refuse_measuring
from distillkac.runs.times_config import SHIFTS

if TYPE_CHECKING:
    import torch

    from distillkac.distillation.stored_paths import PathsConfig

# On the command line both "100,20,4,2,1" and "100 20 4 2 1".
StepCounts = Annotated[
    tuple[int, ...],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="N,N,...",
        instance_from_str=lambda words: tuple(int(n) for word in words for n in word.split(",") if n),
        is_instance=lambda value: isinstance(value, tuple) and all(isinstance(n, int) for n in value),
        str_from_instance=lambda value: [",".join(map(str, value))],
    ),
]
StageMethod = Literal["endpoint", "reconstruction", "pairs", "consistency"]


@dataclass(frozen=True)
@in_ranges(
    "",
    stages="[1, 1e6]",
    steps="[1, 1e12]",
    backward="[0, 1]",
    rho="(0, 100]",
    shift=SHIFTS,
    w="[0, 1e4]",
    w_max="(0, 1e4]",
    seed=SEEDS,
)
class DistillConfig:
    """How a teacher is distilled."""

    stages: StepCounts = (100, 20, 4, 2, 1)
    """Step counts, the teacher's grid first; each must be a multiple of the next. A lone 1 (inverse.num_steps) is inverse
    distillation alone, which starts from what inverse.start says."""
    steps: StepCounts = (150, 200, 200, 300)
    """Optimizer steps of each stage."""
    method: StageMethod = "endpoint"
    """What the stages learn: where the teacher's steps end, its repair of their own prediction, or its paths from pure noise,
    stored once (every student is then a student of the teacher itself). Consistency: one student for any number of steps,
    made in one stage, see consistency.*."""
    backward: float = 0.0
    """Fraction of training states from the student's own steps from noise; the others are noised data, or of stored paths."""
    exact_start: bool = False
    """The teacher's first step from pure noise uses the known velocity there (noise correction)."""
    integrator: Method = "ab2"
    """The teacher's integrator in the first stage, and of stored paths: euler, heun or ab2. Other teachers are students:
    Euler."""
    rho: float | None = None
    """Exponent of the time grid (1 - i/N)^rho. By default 1.5 for images of up to 16 pixels a side (2 for pairs of the
    teacher's paths, as it is sampled), 1 for larger ones and where times are shifted."""
    shift: float | None = None
    """Moves the times of the grid to where the noise is so many times as large beside the data; 1 for none. By default as in
    the teacher's training (--times.shift)."""
    w: float = 0.0
    """Guidance weight folded in at the first stage; 0 = none (diffusers' guidance_scale is 1 + w)."""
    w_max: float | None = None
    """If set, w becomes an input of the students, trained on [0, w_max] instead of one fixed w."""
    reconstruction: ReconstructionConfig = field(default_factory=ReconstructionConfig)
    pairs: PairsConfig = field(default_factory=PairsConfig)
    consistency: ConsistencyConfig = field(default_factory=ConsistencyConfig)
    inverse: InverseConfig = field(default_factory=InverseConfig)
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            batch_size=64, lr=1e-3, warmup=20, weight_decay=0.0, ema=0.99, save_every=200
        )
    )
    seed: int = 0
    """Seed of everything random."""

    def __post_init__(self):
        refuse_measuring(self.optim)
        consistency_options.check_options(self)
        alone = self.stages == (self.inverse.num_steps,) and self.inverse.steps > 0
        if not alone and len(self.stages) == 1 and self.inverse.steps > 0:
            raise ValueError(
                f"stages {self.stages[0]} alone is inverse distillation of as many steps, and inverse.num_steps is "
                f"{self.inverse.num_steps}: give both the same number"
            )
        if not alone and len(self.stages) < 2:
            raise ValueError(f"stages needs at least two step counts of at least 1, got {self.stages}")
        for coarse, fine in zip(self.stages[1:], self.stages[:-1], strict=True):
            if fine % coarse or fine == coarse:
                raise ValueError(f"stages: each step count must divide the one before it, got {fine} then {coarse}")
        if not alone and len(self.steps) != len(self.stages) - 1:
            raise ValueError(
                f"steps needs one positive number for each of the {len(self.stages) - 1} stages of {self.stages}, such as "
                f"--steps{' 500' * (len(self.stages) - 1)}, got {self.steps}"
            )
        if self.integrator not in METHODS:
            raise ValueError(f"integrator must be one of {', '.join(METHODS)}, got {self.integrator!r}")
        if self.w_max is not None and self.w:
            raise ValueError(f"w_max excludes a fixed w, got w_max {self.w_max}, w {self.w}")
        if self.method != "reconstruction" and self.reconstruction != ReconstructionConfig():
            raise ValueError(f"reconstruction.* are options of method reconstruction, got method {self.method}")
        if self.method == "reconstruction" and self.exact_start and not self.inverse.pairs:
            raise ValueError("method reconstruction never asks the teacher at pure noise: omit exact_start")
        pairs_options.check_options(self)
        inverse_options.check_options(self)


@dataclass(frozen=True)
class Stage:
    """One link of the chain: a teacher on a grid of `teacher_steps`, a student on `num_steps`.

    first: whether no stage of this method comes before. by_teacher: whether the teacher itself teaches, not a student.
    any_steps: if set, the student takes any number of steps, and so many where none is asked for.
    """

    method: StageMethod
    teacher_steps: int
    num_steps: int
    steps: int
    first: bool
    by_teacher: bool
    any_steps: int | None = None

    @property
    def usual_steps(self) -> int:
        """What the student takes where nothing is asked for, which its folder is named by."""
        return self.any_steps or self.num_steps

    @property
    def title(self) -> str:
        """Such as 20 -> 4; of students of any number of steps 2 -> 1 to 4, or 1 to 4 where there is no other grid."""
        made = str(self.num_steps) if self.any_steps is None else f"1 to {self.any_steps}"
        return f"{self.teacher_steps} -> {made}" if self.teacher_steps > self.num_steps else made


def stages_of(config: DistillConfig) -> list[Stage]:
    """The stages in order."""
    most, by_teacher = config.consistency.num_steps, config.pairs.by == "teacher"
    consistency = [Stage("consistency", most, most, config.consistency.steps, True, True, most)]
    if config.method == "consistency":
        return consistency
    pairs, links = config.method == "pairs", zip(config.stages[:-1], config.stages[1:], config.steps, strict=False)
    made = [
        Stage(
            config.method, config.stages[0] if pairs else fine, coarse, steps, i == 0, by_teacher and (pairs or i == 0)
        )
        for i, (fine, coarse, steps) in enumerate(links)
    ]
    if config.pairs.keep:
        made = [replace(stage, any_steps=most) for stage in made]
    return consistency + made if config.pairs.by == "consistency" else made


def paths_config(
    teacher: RunConfig, digest: str, config: DistillConfig, means: "torch.Tensor | None"
) -> "PathsConfig | None":
    """The paths that the plan stores; None if nothing learns from them. digest: of the weights that make them."""
    from distillkac.distillation.stored_paths import PathsConfig, digest_of_means  # torch only now

    if config.method != "pairs" and not (config.inverse.steps and config.inverse.pairs):
        return None
    return PathsConfig(
        digest,
        teacher.noise.build().to_dict(),
        teacher.shape,
        len(teacher.class_names),
        config.pairs.teacher_steps or config.stages[0],
        # At the times of the first student that learns from them.
        config.inverse.num_steps if len(config.stages) == 1 else config.stages[1] if config.method == "pairs" else 1,
        rho_of(config, teacher),
        config.integrator if config.pairs.by == "teacher" else "euler",
        config.w,
        config.w_max,
        digest_of_means(means),
        config.seed,
        shift_of(config, teacher),
        config.optim.precision,
    )


def student_config(teacher: RunConfig, stage: Stage, config: DistillConfig) -> RunConfig:
    """The config.json of the student of one stage."""
    network = replace(teacher.network, guidance_embedding=config.w_max is not None)
    student = StudentConfig(
        stage.teacher_steps,
        stage.usual_steps,
        rho_of(config, teacher),
        config.w,
        config.w_max,
        stage.method,
        deciding(config, stage),
        restart=None if stage.any_steps is None else KEPT_RESTART if stage.method == "pairs" else RESTART,
        shift=shift_of(config, teacher),
    )
    own = replace(teacher, network=network, optim=config.optim, steps=stage.steps, seed=config.seed)
    return replace(own, student=student, began_with=None)


def inverse_config(teacher: RunConfig, config: DistillConfig) -> RunConfig:
    """The config.json of the generator of inverse distillation."""
    inverse = config.inverse
    optim = replace(config.optim, lr=inverse.lr, warmup=inverse.warmup, weight_decay=0.0, ema=inverse.ema)
    optim = replace(optim, beta1=0.0, beta2=inverse.beta2)
    student = StudentConfig(
        config.stages[0],
        inverse.num_steps,
        rho_of(config, teacher),
        config.w,
        method="inverse",
        options=deciding(config, None),
        restart=None if inverse.num_steps == 1 else inverse.restart,
        shift=shift_of(config, teacher),
    )
    own = replace(teacher, optim=optim, steps=inverse.steps, seed=config.seed)
    return replace(own, student=student, began_with=None)


def deciding(config: DistillConfig, stage: Stage | None) -> tuple[str, ...]:
    """The options that decide the weights of a student and stand nowhere else in its config, as words of the command line.

    stage: None for inverse distillation. Not how long and how fast it learns: --resume may change that.
    """
    if stage is None:
        values = inverse_options.deciding(config.inverse)
        if config.inverse.pairs:
            values |= pairs_options.deciding(config.pairs)
            values |= {"inverse.pairs": config.inverse.pairs}
            if config.pairs.by == "teacher":
                values |= {"integrator": config.integrator, "exact_start": config.exact_start}
    else:
        values = {"backward": config.backward}
        if stage.method == "reconstruction":
            values |= {f"reconstruction.{name}": value for name, value in asdict(config.reconstruction).items()}
        if stage.method == "pairs":
            values |= pairs_options.deciding(config.pairs)
        if stage.method == "consistency":
            own, (gap, phases) = config.consistency, config.consistency.schedule
            values = {"teacher-steps": own.teacher_steps, "gap": gap, "phases": phases, "at-one": own.at_one}
            values = {f"consistency.{name}": value for name, value in values.items()}
        if stage.by_teacher or stage.method == "reconstruction":
            values |= {"integrator": config.integrator, "exact_start": config.exact_start}
    return tuple(f"--{name.replace('_', '-')} {value}" for name, value in values.items())
