"""Numbers of options: whatever is no number, not finite or absurd is refused by its name as the dataclass is made, of every
field of every config that there is."""

import dataclasses
import importlib
import math
import re
import typing
from pathlib import Path

import numpy as np
import pytest
import torch

from distillkac.__main__ import VERBS
from distillkac.adopt import AdoptArgs
from distillkac.base.options import parse
from distillkac.base.ranges import check_number, in_ranges
from distillkac.data.config import Fingerprint, LatentSpace
from distillkac.distill import DistillArgs
from distillkac.distillation import DistillConfig
from distillkac.encode import EncodeArgs
from distillkac.evaluate import EvaluateArgs
from distillkac.evaluation.diagnosis_options import DiagnoseArgs
from distillkac.evaluation.ship import ShipArgs
from distillkac.export import ExportArgs
from distillkac.flow import Gaussian, Planar, Quad, Telegraph
from distillkac.flow.adopted import AdoptedNetwork
from distillkac.flow.noise_schedules import NoiseSchedule
from distillkac.report import ReportArgs
from distillkac.runs import OptimConfig, RunConfig, SamplerConfig
from distillkac.runs.built import Others
from distillkac.runs.config import StudentConfig
from distillkac.runs.own_network import OwnNetwork
from distillkac.runs.sampler import Trained
from distillkac.sample import SampleArgs
from distillkac.scheduler import KacScheduler

COMMANDS = [
    kind
    for module in (*(f"distillkac.{verb}" for verb in VERBS), "distillkac.evaluation.ship")
    for name, kind in vars(importlib.import_module(module)).items()
    if name.endswith("Args")
]
"""The options of every command."""
ROOTS = (RunConfig, DistillConfig, SamplerConfig, Trained, *COMMANDS)
RUN = Path("run")
MADE = {
    AdoptArgs: AdoptArgs("model", RUN),
    DiagnoseArgs: DiagnoseArgs(RUN),
    DistillArgs: DistillArgs(RUN),
    EncodeArgs: EncodeArgs("vae", RUN),
    EvaluateArgs: EvaluateArgs(RUN),
    ExportArgs: ExportArgs(RUN, RUN),
    SampleArgs: SampleArgs(RUN),
    ReportArgs: ReportArgs(RUN),
    ShipArgs: ShipArgs(RUN, "digits", "make demo", "digits", "here"),
    Fingerprint: Fingerprint((1,), (1,), "a", "b"),
    LatentSpace: LatentSpace("vae", 0.2, 0.0, "c", (3, 8, 8)),
    StudentConfig: StudentConfig(4, 2, 1.5, 0.0),
    AdoptedNetwork: AdoptedNetwork("UNet2DModel", {}, NoiseSchedule("linear")),
    NoiseSchedule: NoiseSchedule("linear"),
    OwnNetwork: OwnNetwork("nets.Net", 1),
    Trained: Trained(0.1),
}
MAY_BE_NEGATIVE = {
    "times.mean",
    "average_velocity.mean",
    "latent.shift_factor",
    "seed",
    "seeds",
    "network.meaning",
    "network.answers",
}
FROM_ONE = (
    "num",
    "batch_size",
    "columns",
    "reference_num",
    "k",
    "workers",
    "port",
    "steps",
    "processes",
    "sigma",
    "max_ratio",
)


def inside(hint):
    """The parts of an annotation, those that it may be besides too."""
    found = [hint]
    for part in typing.get_args(hint):
        found += inside(part) if not isinstance(part, Others) else part.kinds()
    return found


def configs(*waiting):
    """These dataclasses and all inside of them."""
    found, waiting = [], list(waiting)
    while waiting:
        kind = waiting.pop()
        found.append(kind)
        for hint in typing.get_type_hints(kind, include_extras=True).values():
            kinds = [part for part in inside(hint) if isinstance(part, type) and dataclasses.is_dataclass(part)]
            waiting += [part for part in kinds if part not in (found + waiting)]
    return found


def numbers():
    """(config, field, whether it is a tuple) of every numeric option."""
    for kind in configs(*ROOTS):
        for name, hint in typing.get_type_hints(kind, include_extras=True).items():
            parts = inside(hint)
            if int in parts or float in parts:
                yield kind, name, any(typing.get_origin(part) is tuple for part in parts)


CASES = [pytest.param(*case, id=f"{case[0].__name__}.{case[1]}") for case in numbers()]
assert len(CASES) > 100, "the configs are no longer found"


@pytest.mark.parametrize(("kind", "name", "several"), CASES)
def test_every_number_has_a_range_and_a_name(kind, name, several):
    good = MADE.get(kind) or kind()
    wrong = [math.nan, math.inf, -math.inf, 1e30, -1e30, 10**40, "1", "1e-3", True, [1], torch.ones(())]
    for value in wrong:
        with pytest.raises(ValueError, match=name) as told:
            dataclasses.replace(good, **{name: (value,) if several else value})
        assert "\n" not in str(told.value)
    with pytest.raises(ValueError, match=name) as told:
        dataclasses.replace(good, **{name: "12" if several else "auto-matic"})
    label = str(told.value).split(" ")[0]
    if label not in MAY_BE_NEGATIVE:
        with pytest.raises(ValueError, match=name):
            dataclasses.replace(good, **{name: (-1.0,) if several else -1.0})


OPTIONS = [pytest.param(kind, name, id=f"{kind.__name__}.{name}") for kind, name, _ in numbers() if kind in COMMANDS]
assert len(OPTIONS) > 25, "the commands are no longer found"


@pytest.mark.parametrize(("kind", "name"), OPTIONS)
def test_a_command_says_so_in_one_sentence(kind, name, capsys):
    """Of its own numbers; those inside of configs come the same way."""
    wrong = [str(10**40), *(["-1"] if name not in MAY_BE_NEGATIVE else []), *(["0"] if name in FROM_ONE else [])]
    for text in wrong:
        with pytest.raises(SystemExit):
            parse(kind, [f"--{name.replace('_', '-')}", text], "command", MADE.get(kind) or kind())
        said = " ".join(capsys.readouterr().err.replace("│", " ").split())
        assert re.search(rf"Error parsing {kind.__name__}: {name} must .*, got {text[:1]}", said), said


@pytest.mark.parametrize("kind", configs(*ROOTS))
def test_what_is_usual_passes(kind):
    good = MADE.get(kind) or kind()
    assert dataclasses.replace(good) == good


def test_numbers_of_numpy_are_numbers():
    assert SamplerConfig(w=np.float32(1.5), interval=(np.float64(0), 1)).w == 1.5
    assert OptimConfig(clip=1).clip == 1


@pytest.mark.parametrize("make", [Telegraph, Planar, Quad, Gaussian])
def test_a_process_takes_numbers(make):
    name = "sigma" if make is Gaussian else "a"
    for value in ("25", math.nan, -1.0, None, True):
        with pytest.raises(ValueError, match=f"{name} must be positive and finite, got"):
            make(**{name: value})


def test_a_scheduler_takes_numbers():
    for options in ({"a": "25"}, {"shift": "2"}, {"sigma": math.nan}):
        with pytest.raises(ValueError, match=next(iter(options))):
            KacScheduler(**options)


def test_what_is_said():
    for value, text, words in (
        (0, "[1, 1e9]", "x must be at least 1, got 0"),
        (1e10, "[1, 1e9]", r"x must lie in \[1, 1e9\], got"),
        (math.nan, "(0, 100]", "x must be positive and finite, got nan"),
        (1000, "(0, 100]", r"x must lie in \(0, 100\], got 1000"),
        (1, "[0, 1)", r"x must lie in \[0, 1\), got 1"),
        (0, "[1/64, 64]", r"x must lie in \[1/64, 64\], got 0"),
        ("3", "[1, 4]", "x must be a number, got '3', of type str"),
    ):
        with pytest.raises(ValueError, match=words):
            check_number("x", value, text)
    check_number("x", 1 / 64, "[1/64, 64]")


def test_no_number_is_left_without_a_range():
    """A field that is added without one is found as soon as the class is used."""

    @dataclasses.dataclass
    @in_ranges("some", one="[0, 1]")
    class Config:
        one: float = 0.0
        two: float | None = None

    with pytest.raises(AssertionError, match=r"Config: \['two'\] need a range"):
        Config()
