"""Options of inverse distillation of several steps: which are refused, and which of them need images."""

import dataclasses

import pytest

from distillkac.distillation import DistillConfig, InverseConfig, PairsConfig
from distillkac.distillation.images import learns_from_images


def test_without_real_images_its_states_are_its_own():
    alone = {"stages": (4,), "steps": ()}
    free = InverseConfig(steps=1, num_steps=4, alpha=1.0, beta=1.0, backward=1.0)
    assert learns_from_images(DistillConfig(inverse=free, **alone)) is None
    for other in (dataclasses.replace(free, backward=0.5), dataclasses.replace(free, alpha=0.9, beta=0.95)):
        assert learns_from_images(DistillConfig(inverse=other, **alone)) == "inverse distillation"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0, "steps": 1}, "num_steps must be at least 1"),
        ({"num_steps": 4}, "inverse.steps is 0: give inverse.steps"),
        ({"steps": 1, "backward": 1.0}, "is of what comes after a first step, and inverse.num_steps is 1"),
        ({"steps": 1, "restart": 1.0}, r"inverse.restart 1 is of what comes after a first step"),
        ({"steps": 1, "num_steps": 4, "backward": 1.5}, "backward must lie in"),
        ({"steps": 1, "num_steps": 4, "restart": -0.5}, "restart must lie in"),
        ({"steps": 1, "fake": "start", "start": "teacher"}, "and inverse.start is teacher"),
        ({"fake": "start"}, "inverse.fake is of inverse distillation"),
    ],
)
def test_impossible_options_are_explained(options, message):
    with pytest.raises(ValueError, match=message):
        InverseConfig(**options)


FOUR = InverseConfig(steps=1, num_steps=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inverse": FOUR}, "which these stages do not make: give pairs.keep, or stages 4 alone and start"),
        ({"inverse": FOUR, "stages": (1,), "steps": ()}, "stages needs at least two step counts"),
        ({"inverse": dataclasses.replace(FOUR, fake="start")}, "give stages 4 alone and its folder as start"),
        (
            {"inverse": dataclasses.replace(FOUR, pairs=1.0), "stages": (4,), "steps": ()},
            "no stage says of how many steps: give pairs.teacher_steps",
        ),
        (
            {
                "inverse": dataclasses.replace(FOUR, pairs=1.0),
                "stages": (20, 4),
                "steps": (1,),
                "pairs": PairsConfig(teacher_steps=20),
            },
            "is of inverse distillation alone with inverse.pairs",
        ),
        ({"method": "pairs", "pairs": PairsConfig(teacher_steps=20)}, "elsewhere stages begin with that number"),
        (
            {
                "method": "pairs",
                "stages": (2, 1),
                "steps": (1,),
                "pairs": PairsConfig(by="consistency", keep=1.0),
                "inverse": dataclasses.replace(FOUR, num_steps=8),
            },
            r"starts from a student of up to 4 steps: give both the same number \(consistency.num_steps\)",
        ),
    ],
)
def test_plans_that_make_no_sense_are_explained(options, message):
    with pytest.raises(ValueError, match=message):
        DistillConfig(**options)
