"""Recipes of publications: what they say is what is done, in the config of every student, and each works from end to end."""

import shutil
from dataclasses import replace

import pytest

from distillkac import distill, train
from distillkac.distillation.inverse_options import InverseConfig
from distillkac.distillation.recipes import RECIPES
from distillkac.distillation.stages import inverse_config, stages_of, student_config
from distillkac.distillation.students import usual_beginning
from distillkac.runs import checkpoints
from distillkac.runs.config import StudentConfig, load_config, save_config
from distillkac.training.averages import Reconstruction
from tests.toys import refusal, run_config
from tests.training.resume_options import TINY

SMALL = ["--inverse.steps", "2", "--optim.batch-size", "4"]


def test_realuid_is_as_published():
    """Against run.sh and train_distil.py of RealUID: 800 000 updates, of which every sixth is the generator's."""
    config = inverse_config(run_config(), RECIPES["realuid"])
    optim, inverse = config.optim, RECIPES["realuid"].inverse
    assert (config.steps, inverse.fake_updates) == (800_000 // 6, 6 - 1)
    assert (optim.lr, inverse.fake_lr, optim.warmup, optim.lr_end) == (3e-5, 3e-5, 500, 1.0)
    assert (optim.batch_size, optim.beta1, optim.beta2, optim.weight_decay, optim.clip) == (256, 0.0, 0.999, 0.0, 1.0)
    assert optim.ema in (0.999, 0.9996, 0.9999)
    assert round(inverse.beta / inverse.alpha, 2) == 0.98
    second = inverse_config(run_config(), RECIPES["realuid-second"])
    assert (second.optim.lr, second.optim.warmup) == (1e-5, 1)
    assert round(RECIPES["realuid-second"].inverse.beta / RECIPES["realuid-second"].inverse.alpha, 2) == 1.06


def test_one_shot_leaps_once_and_then_halves():
    config = RECIPES["one-shot"]
    plan = stages_of(config)
    assert [(stage.teacher_steps, stage.num_steps, stage.steps) for stage in plan] == [
        (100, 4, 100_000),
        (4, 2, 100_000),
        (2, 1, 100_000),
    ]
    assert (config.integrator, config.rho) == ("euler", 1.0)
    optim = student_config(run_config(), plan[0], config).optim
    assert (optim.optimizer, optim.lr, optim.lr_end, optim.ema, optim.weight_decay) == ("adamw", 1e-4, 1.0, 0.9999, 0.0)
    assert optim.warmup == 0.05 * plan[0].steps


def test_defaults_of_inverse_distillation_are_those_of_before():
    """The generators of today's commands keep their weights."""
    optim = inverse_config(run_config(), RECIPES["best"]).optim
    assert (optim.warmup, optim.beta1, optim.beta2) == (1, 0.0, 0.99)


def test_beta_may_be_1_where_alpha_is_not_and_not_the_other_way():
    assert InverseConfig(steps=1, alpha=0.94, beta=1.0).beta == 1
    with pytest.raises(ValueError, match="beta must be 1 where alpha is"):
        InverseConfig(alpha=1.0, beta=0.94)


def test_both_phases_of_realuid(tmp_path, capsys):
    run, second = str(tmp_path / "run"), str(tmp_path / "second")
    assert train.main(["--run", run, "--steps", "2", *TINY]) == 0
    assert distill.main([run, "--recipe", "realuid", *SMALL]) == 0
    first = tmp_path / "run" / "student-1-inverse"
    made = load_config(first)
    assert (made.optim.warmup, made.optim.beta2, made.student.w) == (500, 0.999, 0.0)
    kept = Reconstruction(first)
    assert (made.optim.ema, kept.decays()) == (0.9996, ["decay-0.999", "decay-0.9999"])
    for name in kept.decays():
        assert kept.decayed(name).keys() == checkpoints.load_weights(first)[0].keys()
    assert made.student.before == made.student.teacher == checkpoints.described(tmp_path / "run")[1]
    assert "--inverse.start teacher" in made.student.options
    begun = [run, "--recipe", "realuid-second", "--out", second, *SMALL]
    shutil.copytree(first, tmp_path / "second" / "student-1")  # whatever it is, nobody named it
    assert "goes on with the student that recipe realuid made: give --start" in refusal(distill, begun, capsys)
    assert distill.main([*begun, "--start", str(first)]) == 0
    assert "was distilled from other weights" not in capsys.readouterr().err
    again = load_config(tmp_path / "second" / "student-1-inverse").student
    assert again.before == checkpoints.described(first)[1]
    assert {"--inverse.alpha 0.94", "--inverse.beta 1.0"} <= {*again.options}


def test_nothing_but_a_student_of_this_teacher_is_begun_with_unasked(tmp_path):
    student = StudentConfig(2, 1, rho=1.0, w=0.0, teacher="mine")
    place = tmp_path / "student-1"
    with pytest.raises(ValueError, match=r"there is no student in .*student-1 to begin with: give --start"):
        usual_beginning(tmp_path, "mine")
    for found in (student, replace(student, teacher=None)):  # as of earlier versions
        save_config(place, run_config(student=found))
        assert usual_beginning(tmp_path, "mine") == place
    for found in (None, replace(student, num_steps=2), replace(student, restart=0.5)):
        save_config(place, run_config(student=found))
        with pytest.raises(ValueError, match="student-1 is no student of one step to begin with: give --start"):
            usual_beginning(tmp_path, "mine")
    save_config(place, run_config(student=replace(student, teacher="another")))
    with pytest.raises(ValueError, match=r"student-1 was distilled from other weights .*: give --start"):
        usual_beginning(tmp_path, "mine")


def test_a_student_of_a_teacher_that_was_trained_on_is_not_begun_with_unasked(tmp_path, capsys):
    run = str(tmp_path / "run")
    assert train.main(["--run", run, "--steps", "2", *TINY]) == 0
    assert distill.main([run, "--stages", "2,1", "--steps", "1", *SMALL[2:]]) == 0
    assert train.main(["--run", run, "--steps", "3", "--resume"]) == 0
    lone = [run, "--stages", "1", *SMALL]
    assert "student-1 was distilled from other weights than those of this teacher now" in refusal(distill, lone, capsys)
    with pytest.warns(
        UserWarning, match=rf"^--start {run}/student-1 was distilled from other weights than .* {run} has"
    ):
        assert distill.main([*lone, "--start", f"{run}/student-1"]) == 0
