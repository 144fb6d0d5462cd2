"""What `make stability` measures, as data: processes, networks, guidance weights, steps and bounds."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from distillkac.flow.methods import EVEN_UP_TO
from distillkac.flow.processes import Gaussian, Planar, Process, Telegraph

PROCESSES: dict[str, Process] = {"telegraph": Telegraph(), "planar": Planar(), "gaussian": Gaussian()}
TITLES = {"telegraph": "telegraph (25, 2)", "planar": "planar (25, 2)", "gaussian": "Gaussian, σ = 1"}
NOISE = {
    "telegraph": ("--process", "telegraph"),
    "planar": ("--process", "planar"),
    "gaussian": ("--process", "gaussian", "--sigma", "1.0"),
}
WEIGHTS, STEPS = (0.0, 2.0, 4.0, 8.0, 16.0), (1, 2, 4, 10, 20, 100)
QUICK_WEIGHTS, QUICK_STEPS = (0.0, 4.0, 16.0), (1, 4, 20)
# One network for any number of steps, which learned up to four. In a hundred it would draw most of an image anew a hundred
# times: left out.
MOST_STUDENT_STEPS = 20
NETWORKS = ("teacher", "student")


def bound_of(process: Process) -> float:
    """The `max_speed` of a bounded cell: no target of the process is faster for images in [-1, 1]. The Gaussian process has no
    such number and is held to that of the telegraph process."""
    own = process.max_target_speed()
    return own if own < float("inf") else PROCESSES["telegraph"].max_target_speed()


@dataclass(frozen=True)
class Cell:
    """One measurement: `num` images of a network. bounded: whether `max_speed` holds its velocity."""

    process: str
    network: str
    w: float
    steps: int
    bounded: bool

    @property
    def name(self) -> str:
        """Of its file."""
        words = (
            self.process,
            self.network,
            f"w{self.w:g}",
            f"steps{self.steps}",
            "bounded" if self.bounded else "free",
        )
        return "-".join(words)


@dataclass(frozen=True)
class Plan:
    """What must be the same for figures to stand in one table. num: images of a cell. teacher, student: words of the command
    lines that train what is not given; the student has w as an input, up to the largest weight. path_num: images whose paths
    are compared. integrator_num: images of each way to integrate a network. points: data of an exact flow. sides: of its
    images, in pixels."""

    num: int
    path_num: int
    integrator_num: int
    points: int
    sides: tuple[int, ...]
    teacher: tuple[str, ...]
    student: tuple[str, ...]
    seed: int

    def described(self) -> dict[str, Any]:
        """What must be the same, and up to how many steps the grid of a teacher is even."""
        return asdict(self) | {"even_up_to": EVEN_UP_TO}


STUDENT = ("--recipe", "consistency", "--w-max", f"{WEIGHTS[-1]:g}", "--optim.batch-size", "64")


def full_plan(num: int, seed: int) -> Plan:
    student = (*STUDENT, "--consistency.steps", "400", "--consistency.teacher-steps", "4")
    return Plan(num, num // 4, num // 2, 32, (8, 16, 32), ("--preset", "demo"), student, seed)


def quick_plan(num: int, seed: int) -> Plan:
    """The same in small; its figures mean little."""
    student = (*STUDENT, "--consistency.steps", "60", "--consistency.teacher-steps", "2")
    return Plan(num, num // 4, num // 2, 16, (8,), ("--preset", "demo", "--steps", "250"), student, seed)


def cells(processes: tuple[str, ...], weights: tuple[float, ...], steps: tuple[int, ...]) -> Iterator[Cell]:
    """Those of the table, the cheapest first."""
    for number in sorted(steps):
        for process in processes:
            for network in NETWORKS:
                if network == "student" and number > MOST_STUDENT_STEPS:
                    continue
                for w in weights:
                    for bounded in (False, True):
                        yield Cell(process, network, w, number, bounded)
