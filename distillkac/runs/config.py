"""What a run is: frozen dataclasses that are the command line (tyro), config.json and the arguments of the code."""

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import tyro

from distillkac.base import files
from distillkac.base.ranges import SEEDS, in_ranges
from distillkac.data.config import DataConfig, Fingerprint, LatentSpace
from distillkac.flow import network_config
from distillkac.flow.network_config import NetworkConfig
from distillkac.runs.augmentation_config import AugmentationConfig, check_augmentation
from distillkac.runs.built import Others, build
from distillkac.runs.objectives import AverageVelocityConfig, ConsistencyTraining, Objective, check_objective
from distillkac.runs.optim_config import OptimConfig
from distillkac.runs.process_config import ProcessConfig
from distillkac.runs.times_config import SHIFTS, TimesConfig, Weight, check_times

if TYPE_CHECKING:
    from distillkac.flow.adopted import AdoptedNetwork
    from distillkac.runs.own_network import OwnNetwork

    Network = NetworkConfig | OwnNetwork | AdoptedNetwork
else:  # what a command has options for; the others, of files and of Python, need torch
    Network = NetworkConfig

Config = TypeVar("Config")
OTHER_NETWORKS = Others(("distillkac.runs.own_network", "OwnNetwork"), ("distillkac.flow.adopted", "AdoptedNetwork"))
ALWAYS = ("network", "shape", "class_names")  # of a config.json, whatever its format
MAX_SIZE = 2**16  # of an image: larger ones are a mistake, or meant to fill the memory


@dataclass(frozen=True)
@in_ranges(
    "student",
    teacher_steps="[1, 1e6]",
    num_steps="[1, 1e6]",
    rho="(0, 100]",
    w="[0, 1e4]",
    w_max="(0, 1e4]",
    restart="[0, 1]",
    shift=SHIFTS,
)
class StudentConfig:
    """What a student of distillation is: one Euler step for each of its intervals (docs/method.md, section 7)."""

    teacher_steps: int
    """Steps of the teacher's grid; of a student of any number of steps its own."""
    num_steps: int
    """Intervals of the student; of one of any number of steps what it takes where none is asked for."""
    rho: float
    """The grid's exponent."""
    w: float
    """Guidance weight folded in."""
    w_max: float | None = None
    """If set, w is an input of the student, trained on [0, w_max]."""
    method: Literal["endpoint", "reconstruction", "pairs", "inverse", "consistency"] = "endpoint"
    """The distillation method that made it."""
    options: tuple[str, ...] = ()
    """The other options of the distillation that decide its weights, as on the command line."""
    teacher: str | None = None
    """Digest of the teacher's averaged weights."""
    before: str | None = None
    """Digest of those it was distilled from or starts from: of the student of the stage before, or the teacher's."""
    restart: float | None = None
    """If set, it takes any number of steps, and draws this share of each anew unless another is asked for."""
    shift: float = 1.0
    """Of the grid's times, see SamplerConfig."""


@dataclass(frozen=True)
@in_ranges(
    "",
    steps="[1, 1e12]",
    augment="[0, 1]",
    label_drop="[0, 1)",
    seed=SEEDS,
    preview="[0, 1e6]",
    shape="[0, 65536]",
)
class RunConfig:
    """Everything that decides a run's weights; saved as config.json."""

    data: DataConfig = field(default_factory=DataConfig)
    noise: Annotated[ProcessConfig, tyro.conf.arg(name="")] = field(default_factory=ProcessConfig)
    network: Annotated[Network, tyro.conf.arg(constructor=NetworkConfig), OTHER_NETWORKS] = field(
        default_factory=NetworkConfig
    )
    optim: OptimConfig = field(default_factory=OptimConfig)
    objective: Objective = "flow-matching"
    """What the network learns from the data. Flow matching: velocities, to be integrated, or distilled. Consistency and average
    velocity: to make images in a few steps by itself, with no teacher (docs/method.md, section 8)."""
    consistency: ConsistencyTraining = field(default_factory=ConsistencyTraining)
    average_velocity: AverageVelocityConfig = field(default_factory=AverageVelocityConfig)
    times: TimesConfig = field(default_factory=TimesConfig)
    weight: Weight = "uniform"
    """How much a time counts in flow matching. Min-snr: less where there is little noise. Learned: all times alike, by dividing
    the loss by a curve of time that learns it."""
    steps: int = 3000
    """Optimizer steps."""
    augment: float = 0.0
    """Probability of each change of an image before it is learned, for small sets: mirrored, turned, scaled, stretched, moved.
    The network is told what was done, so samples show nothing of it."""
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    label_drop: float = 0.1
    """Fraction of samples trained without their class, for guidance."""
    seed: int = 0
    """Seed of everything random."""
    preview: int = 40
    """Images in samples/step-N.png, drawn with every checkpoint by the averaged weights; 0 draws none."""
    shape: tyro.conf.Suppress[tuple[int, int, int]] = (0, 0, 0)
    """(C, H, W) of the images, found in the data."""
    class_names: tyro.conf.Suppress[tuple[str, ...]] = ()
    """Names of the classes, found in the data."""
    fingerprint: tyro.conf.Suppress[Fingerprint | None] = None
    """Fingerprint of the images, by which --resume knows them again; found in the data."""
    latent: tyro.conf.Suppress[LatentSpace | None] = None
    """How samples become images, where the data are latents; found in the data."""
    student: tyro.conf.Suppress[StudentConfig | None] = None
    """Set for the students of distillation."""
    began_with: tyro.conf.Suppress[str | None] = None
    """Digest of its first weights, where they came from another run or model (--init)."""

    def __post_init__(self):
        if any(self.shape) and not all(1 <= size <= MAX_SIZE for size in self.shape):
            raise ValueError(f"shape must be three numbers from 1 to {MAX_SIZE}, got {self.shape}")
        check_objective(self)
        check_times(self)
        if self.augment > 0 and isinstance(self.network, NetworkConfig):
            object.__setattr__(self, "network", dataclasses.replace(self.network, augment_embedding=True))
        check_augmentation(self)
        if not isinstance(self.network, NetworkConfig):
            _check_adopted(self.noise, self.network)
        if self.objective == "average-velocity" and isinstance(self.network, NetworkConfig):
            object.__setattr__(self, "network", dataclasses.replace(self.network, interval_embedding=True))


def _check_adopted(noise: ProcessConfig, network: "OwnNetwork | AdoptedNetwork") -> None:
    """Raises ValueError if the process of an adopted model's run is not the one that its network is a flow of."""
    from distillkac.flow.adopted import AdoptedNetwork  # needs torch, as whoever has such a network does

    if not isinstance(network, AdoptedNetwork):
        return
    same = [math.isclose(getattr(noise, name), getattr(network, name), rel_tol=1e-6) for name in ("sigma", "tau_max")]
    if noise.process != "gaussian" or not all(same):
        raise ValueError(
            f"noise: the process of this adopted model is gaussian, sigma {network.sigma:g}, tau_max {network.tau_max:g}, got "
            f"{noise.process}, {noise.sigma:g}, {noise.tau_max:g}: adopt it anew, --sigma, for another"
        )


def refuse_few_steps(folder: Path, config: RunConfig, wanted: str) -> None:
    """Raises ValueError if a run learned few steps from data alone. wanted: what only a run of flow matching does."""
    if config.objective != "flow-matching":
        raise ValueError(
            f"{folder} was trained for {config.objective}, to make images in a few steps by itself; what {wanted} is the flow "
            "itself: train one with --objective flow-matching"
        )


def checked(config: Config, kind: type[Config]) -> Config:
    """The config as it will be read back from a file, its whole numbers floats where floats are meant.

    config: what a caller gave, of which Python has looked at no field. kind: the dataclass that it must be. Raises ValueError
    naming the field that no file may hold, such as a word that is not known, or a number of numpy.
    """
    if not isinstance(config, kind):
        raise ValueError(f"config must be a {kind.__name__}, got {config!r:.80}")
    try:
        return build(kind, config, "config")
    except TypeError as error:
        raise ValueError(str(error)) from None


def save_config(folder: Path, config: RunConfig) -> None:
    from distillkac.runs import checkpoints

    content = {"format": checkpoints.FORMAT, **dataclasses.asdict(config)}
    files.write_json(folder / checkpoints.CONFIG, content)


def load_config(folder: Path) -> RunConfig:
    """The config of a run folder. Raises ValueError naming file and field if it is missing, damaged or of a later version."""
    from distillkac.runs import checkpoints  # torch only now: options of commands are made of this module

    path = folder / checkpoints.CONFIG
    if not path.exists():
        raise ValueError(f"{folder} is no run folder: {checkpoints.instead_of_run(folder)}")
    content = files.read_json(path)
    try:
        if not isinstance(content, dict):
            raise TypeError(f"expected an object, got {content!r:.80}")
        written = content.pop("format", 1)
        checkpoints.check_format(path, written)
        config = build(RunConfig, content, "")
        if lost := [name for name in ALWAYS if name not in content]:
            raise ValueError(f"{lost[0]} is missing, which every run has: put the file back as it was written")
        if isinstance(config.network, NetworkConfig):
            config = dataclasses.replace(config, network=network_config.of_format(config.network, written))
        return config
    except TypeError as error:
        raise ValueError(f"{path}: not a config of this version of distillkac ({error})") from None
    except ValueError as error:
        raise ValueError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
