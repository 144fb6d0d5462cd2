"""Options of inverse distillation of several steps: which are refused, and which of them need images."""

import dataclasses

import pytest

from distillkac import distill
from distillkac.distillation import DistillConfig, InverseConfig, PairsConfig
from distillkac.distillation.images import learns_from_images
from tests.toys import refusal, refused


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
        (
            {"fake": "start"},
            "inverse.fake start is of inverse distillation, and inverse.steps is 0: give inverse.steps, or omit",
        ),
        ({"lr": 1e-3}, "inverse.lr 0.001 is of inverse distillation, and inverse.steps is 0"),
        ({"start": "random"}, "inverse.start random is of inverse distillation"),
    ],
)
def test_impossible_options_are_explained(options, message):
    with pytest.raises(ValueError, match=message):
        InverseConfig(**options)


FOUR = InverseConfig(steps=1, num_steps=4)
ALONE = {"stages": (4,), "steps": (), "inverse": FOUR}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inverse": FOUR}, "which these stages do not make: give pairs.keep, or stages 4 alone and start"),
        (
            {"inverse": FOUR, "stages": (1,), "steps": ()},
            "stages 1 alone is inverse distillation of as many steps, and inverse.num_steps is 4",
        ),
        ({"inverse": dataclasses.replace(FOUR, fake="start")}, "give stages 4 alone and its folder as start"),
        (
            {"inverse": dataclasses.replace(FOUR, pairs=1.0), "stages": (4,), "steps": ()},
            "no stage says of how many steps: give pairs.teacher_steps",
        ),
        *(
            (
                ALONE | {"inverse": dataclasses.replace(FOUR, pairs=1.0), "pairs": PairsConfig(teacher_steps=steps)},
                rf"pairs.teacher_steps {steps} do not come by the times .* 4, .* give a multiple, such as {told}$",
            )
            for steps, told in ((25, 24), (10, 8), (2, 4))
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
            {**ALONE, "backward": 0.5},
            r"backward 0.5 is of stages, .* alone: omit it \(inverse.backward is the share here\)",
        ),
        (
            {**ALONE, "exact_start": True},
            "exact_start True is of the teacher's steps, and inverse distillation alone makes none",
        ),
        ({**ALONE, "integrator": "heun"}, "integrator heun is of the teacher's steps"),
        ({"method": "reconstruction", "exact_start": True}, "never asks the teacher at pure noise: omit exact_start"),
        (
            {"method": "pairs", "stages": (20, 1), "steps": (1,), "backward": 0.5},
            "backward 0.5 is of states after a first step, and the student of these paths makes one",
        ),
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


def test_with_stored_paths_the_teacher_makes_steps():
    held = {"inverse": dataclasses.replace(FOUR, pairs=1.0), "pairs": PairsConfig(teacher_steps=20)}
    assert DistillConfig(**ALONE | held, exact_start=True, integrator="heun").exact_start
    ends = DistillConfig(method="reconstruction", exact_start=True, inverse=InverseConfig(steps=1, pairs=1.0))
    assert ends.exact_start


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "5"], "steps are of stages, and stages 1 is inverse distillation alone: omit them"),
        (["--rho", "2"], "whose one step has none: omit rho"),
        (["--shift", "2"], "whose one step has none: omit shift"),
        (["--optim.lr", "1e-4"], "alone, which has inverse.lr and inverse.fake_lr: give that instead"),
        (["--optim.warmup", "9"], "alone, which has inverse.warmup: give that instead"),
        (["--optim.ema", "0.9"], "alone, which has inverse.ema: give that instead"),
        (["--optim.beta2", "0.9"], "alone, which has inverse.beta2: give that instead"),
        (["--optim.beta1", "0.5"], "alone, which has a fixed one: omit optim.beta1"),
        (["--optim.weight-decay", "1"], "alone, which has a fixed one: omit optim.weight_decay"),
    ],
)
@pytest.mark.parametrize("recipe", [[], ["--recipe", "realuid"]], ids=["paper", "realuid"])
def test_options_of_stages_are_refused_where_there_are_none(tmp_path, recipe, options, message, capsys):
    alone = [] if recipe else ["--stages", "1", "--inverse.steps", "2"]
    assert message in refused(distill, [tmp_path, *recipe, *alone, *options], capsys)


def test_options_of_a_recipe_that_inverse_distillation_alone_does_not_look_at_are_left_alone(tmp_path, capsys):
    """As of docs/results.md: the student of recipe consistency, then inverse distillation with all else as it had."""
    four = ["--stages", "4", "--inverse.num-steps", "4", "--inverse.steps", "2", "--inverse.start", "teacher"]
    grid = ["--rho", "2", "--shift", "2"]
    said = refused(distill, [tmp_path, "--recipe", "consistency", "--method", "endpoint", *four, *grid], capsys)
    assert "config.json" in said  # there is no run


def test_a_recipe_without_its_inverse_distillation_needs_no_more_than_no_steps_of_it(tmp_path, capsys):
    for recipe in ("best", "pairs"):
        for further in ([], ["--inverse.pairs", "0"]):
            options = [tmp_path, "--recipe", recipe, "--inverse.steps", "0", *further]
            assert "config.json" in refused(distill, options, capsys)
    assert "inverse.lr 0.5 is of inverse distillation" in refusal(
        distill, ["run", "--recipe", "best", "--inverse.steps", "0", "--inverse.lr", "0.5"], capsys
    )
