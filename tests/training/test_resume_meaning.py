"""What going on means: with nothing to go on from, with another teacher, with another schedule, from an earlier checkpoint."""

import json
import shutil

import pytest

from distillkac import data, distill, evaluate, sample, train
from distillkac.evaluation import classifier
from distillkac.runs import checkpoints
from distillkac.runs.config import load_config
from distillkac.runs.sampling import SamplerConfig, choose
from distillkac.training import train as train_run
from distillkac.training.fit import new_schedule
from distillkac.training.learning_rate import learning_rate
from tests.toys import optim, refusal, run_config
from tests.training.resume_options import CHAIN, TINY, weights

# ---------------------------------------------------------------------------------------------- nothing to go on from


def test_with_nothing_to_resume_both_commands_begin_and_say_so(trained, tmp_path, capsys):
    """As the training scripts of diffusers do; a name that was mistyped is answered by the one that was meant."""
    folder = tmp_path / "new"
    assert train.main(["--run", str(folder), "--resume", "--steps", "2", *TINY]) == 0
    assert f"nothing to resume in {folder}: it begins at step 0" in capsys.readouterr().out
    assert train.main(["--run", str(tmp_path / "once"), "--steps", "2", *TINY]) == 0
    assert "nothing to resume" not in capsys.readouterr().out
    assert weights(folder) == weights(tmp_path / "once")
    out = tmp_path / "students"
    assert distill.main([str(trained), *CHAIN, "--out", str(out), "--resume"]) == 0
    assert f"nothing to resume in {out}: its students begin at step 0" in capsys.readouterr().out
    assert distill.main([str(trained), *CHAIN, "--out", str(out), "--resume"]) == 0
    assert "nothing to resume" not in capsys.readouterr().out


def test_a_mistyped_run_is_answered_by_the_one_that_was_meant(trained, capsys):
    wrong = trained.parent / "dmeo"
    assert train.main(["--run", str(wrong), "--resume", "--steps", "1", *TINY]) == 0
    assert f"nothing to resume in {wrong} (did you mean {trained}?): it begins at step 0" in capsys.readouterr().out


def test_a_run_that_died_before_its_first_checkpoint_begins_with_its_options(trained, tmp_path, capsys):
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(trained / checkpoints.CONFIG, folder)
    assert train.main(["--run", str(folder), "--resume"]) == 0
    assert "it begins at step 0" in capsys.readouterr().out
    assert load_config(folder).steps == 4
    assert weights(folder) == weights(trained)


@pytest.mark.parametrize("options", [[], ["--resume"]])
def test_weights_without_a_checkpoint_are_not_overwritten(trained, tmp_path, monkeypatch, options, capsys):
    folder = tmp_path / "shared"
    folder.mkdir()
    for name in (checkpoints.CONFIG, checkpoints.EMA):
        shutil.copy(trained / name, folder)
    monkeypatch.setattr(data, "load_training", None)  # which may take an hour
    assert train.main(["--run", str(folder), *options, *TINY]) == 1
    told = capsys.readouterr()
    assert "holds weights of a run, but no state/training.pt to go on from" in told.err
    assert "nothing to resume" not in told.out
    with pytest.raises(ValueError, match="holds weights of a run"):
        train_run(folder, data.DataConfig(), resume=bool(options))
    assert weights(folder) == weights(trained)


def test_fewer_steps_than_were_made_are_refused(run, capsys):
    said = refusal(train, ["--run", str(run), "--resume", "--steps", "3"], capsys)
    assert "has made 4 steps already, more than --steps 3" in said
    assert load_config(run).steps == 4


# ------------------------------------------------------------------------------------------------- another teacher


def test_students_of_a_teacher_that_was_trained_on_are_refused_and_named(run, tmp_path, monkeypatch, capsys):
    before = weights(run / "student-2")
    assert distill.main([str(run), *CHAIN, "--resume"]) == 0
    assert train.main(["--run", str(run), "--resume", "--steps", "6"]) == 0
    said = refusal(distill, [str(run), *CHAIN, "--resume"], capsys)
    assert f"{run}/student-2 was distilled from other weights of the teacher than those that are there now" in said
    assert weights(run / "student-2") == before
    for use in (
        lambda: sample.main([str(run), "--steps", "2", "--num", "2", "--out", str(tmp_path / "a.png")]),
        lambda: sample.main([str(run / "student-2"), "--steps", "2", "--num", "2", "--out", str(tmp_path / "a.png")]),
    ):
        with pytest.warns(UserWarning, match="student-2 was distilled from other weights than those that .* has now"):
            assert use() == 0
    monkeypatch.setattr(classifier, "STEPS", 5)
    with pytest.warns(UserWarning, match="was distilled from") as told:
        assert evaluate.main([str(run), "--num", "8", "--teacher-steps", "1"]) == 0
    for name in ("student-2", "student-1"):
        assert sum(f"{name} was distilled from other weights" in str(w.message) for w in told) == 1
    for name in ("student-2", "student-1"):
        shutil.rmtree(run / name)
    assert distill.main([str(run), *CHAIN, "--resume"]) == 0
    assert weights(run / "student-2") != before
    choose(run, SamplerConfig(steps=2))


def test_a_student_that_was_made_anew_makes_those_after_it_strangers(run, capsys):
    shutil.rmtree(run / "student-2")
    said = refusal(distill, [str(run), *CHAIN, "--resume"], capsys)
    assert f"{run}/student-1 was distilled from {run}/student-2, which is gone" in said
    said = refusal(distill, [str(run), "--stages", "6,3,1", *CHAIN[2:], "--resume"], capsys)
    assert f"student-1 was distilled from a network of 2 steps, and by these options it is from {run}/student-3" in said
    assert not (run / "student-2").exists()
    other = [*CHAIN[:3], "3", "2", *CHAIN[4 + 1 :]]
    assert distill.main([str(run), *other, "--out", str(run.parent / "other")]) == 0
    shutil.copytree(run.parent / "other" / "student-2", run / "student-2")
    said = refusal(distill, [str(run), *other, "--resume"], capsys)
    assert f"{run}/student-1 was distilled from other weights of the network of the stage before" in said


def test_a_longer_stage_is_refused_before_it_is_trained(run, capsys):
    said = refusal(distill, [str(run), "--stages", "4,2,1", "--steps", "5", "2", *CHAIN[5:], "--resume"], capsys)
    assert f"{run}/student-1 was distilled from {run}/student-2, which has made 2 steps and is to make 5" in said
    assert checkpoints.described(run / "student-2")[0] == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--w", "1"], "with --w 0, which --resume cannot change to --w 1"),
        (["--backward", "0.5"], "with --backward 0.0, which --resume cannot change to --backward 0.5"),
        (["--integrator", "heun"], "with --integrator ab2, which --resume cannot change to --integrator heun"),
        (["--exact-start"], "with no --exact-start, which --resume cannot change to --exact-start"),
        (["--rho", "2"], "with --rho 1.5, which --resume cannot change to --rho 2"),
        (["--stages", "8,2,1"], "with --stages 4,2, which --resume cannot change to --stages 8,2"),
        (["--seed", "1"], "with --seed 0, which --resume cannot change to --seed 1"),
    ],
)
def test_another_distillation_is_not_taken_for_the_same(trained, options, said, capsys):
    assert said in refusal(distill, [str(trained), *CHAIN, "--resume", *options], capsys)


def test_students_of_earlier_versions_are_as_good_as_before(tmp_path, recwarn):
    run = tmp_path / "demo"
    assert train.main(["--run", str(run), "--steps", "1", *TINY, "--network.channels", "32"]) == 0
    assert distill.main([str(run), *CHAIN]) == 0
    for name in ("student-2", "student-1"):
        path = run / name / checkpoints.CONFIG
        content = json.loads(path.read_text())
        content["format"] = 2
        for new in ("teacher", "before", "options"):
            del content["student"][new]
        del content["fingerprint"], content["optim"]["keep"]
        path.write_text(json.dumps(content))
    choose(run, SamplerConfig(steps=2))
    assert not [w for w in recwarn if "other weights" in str(w.message)]
    assert distill.main([str(run), *CHAIN, "--resume"]) == 0


# ------------------------------------------------------------------------------------------------- another schedule


def test_a_longer_run_says_what_becomes_of_its_learning_rate(run, capsys):
    assert train.main(["--run", str(run), "--resume"]) == 0
    assert "learning rate" not in capsys.readouterr().out
    assert train.main(["--run", str(run), "--resume", "--steps", "40"]) == 0
    out = capsys.readouterr().out
    assert "goes on at step 4 of 40 (before: of 4): its learning rate was 1.24e-05 and begins anew at 9.76e-05" in out
    assert learning_rate(3, 4, load_config(run).optim) == pytest.approx(1.24e-05, rel=0.01)
    assert learning_rate(4, 40, load_config(run).optim) == pytest.approx(9.76e-05, rel=0.01)


def test_a_finished_run_keeps_its_optimizer_and_says_so(run, capsys):
    before = load_config(run)
    assert train.main(["--run", str(run), "--resume", "--optim.lr", "1"]) == 0
    assert f"{run} has made its 4 steps, where --optim.lr 1 can change nothing" in capsys.readouterr().out
    assert load_config(run) == before
    assert distill.main([str(run), *CHAIN, "--resume", "--optim.ema", "0.5"]) == 0
    assert "student-1 has made its 2 steps, where --optim.ema 0.5 can change nothing" in capsys.readouterr().out


def test_which_changes_are_told():
    def told(step, **changes):
        now = {"steps": 100, "optim": optim()} | changes
        return new_schedule(run_config(steps=100, optim=optim()), run_config(**now), step)

    assert told(50) is None
    assert told(50, optim=optim(log_every=1, save_every=3, weight_decay=0.1)) is None
    assert told(0, steps=200) is None
    assert told(100, steps=100) is None
    for changes in ({"steps": 200}, {"steps": 60}, {"optim": optim(lr=1.0)}, {"optim": optim(lr_end=0.9)}):
        assert "at step 50" in told(50, **changes)
    assert "at step 100 of 200" in told(100, steps=200)


def test_a_preset_that_a_resumed_run_did_not_begin_with_is_named(run, tmp_path, recwarn, capsys):
    assert train.main(["--run", str(run), "--resume", "--preset", "digits"]) == 0
    said = str(recwarn.pop(UserWarning).message)  # the run began with other widths
    assert "--preset digits decides nothing of a run that is resumed" in said
    assert "--network.channels 8, not --network.channels" in said
    recwarn.clear()
    assert train.main(["--run", str(run), "--resume", "--preset=digits", *TINY]) == 0  # as it was begun
    assert not [str(warning.message) for warning in recwarn if "preset" in str(warning.message)]
    assert train.main(["--run", str(tmp_path / "new"), "--resume", "--preset", "digits", "--steps", "2", *TINY]) == 0
    assert not [str(warning.message) for warning in recwarn if "preset" in str(warning.message)]


def test_a_finished_run_says_that_nothing_is_left(run, capsys):
    """And draws the pictures that it could not draw before it ended."""
    pictures = [run / "curves.png", run / "samples" / "step-000004.png"]
    for path in pictures:
        path.unlink(missing_ok=True)
    assert train.main(["--run", str(run), "--resume"]) == 0
    assert "has made its 4 steps: nothing is left to train" in capsys.readouterr().out
    assert pictures[0].exists()
    assert pictures[1].exists() == (load_config(run).preview > 0)
    before = [path.stat().st_mtime_ns for path in pictures if path.exists()]
    assert train.main(["--run", str(run), "--resume"]) == 0
    assert before == [path.stat().st_mtime_ns for path in pictures if path.exists()]
    capsys.readouterr()
    assert distill.main([str(run), *CHAIN, "--resume"]) == 0
    assert capsys.readouterr().out.count("has made its 2 steps: nothing is left to train") == 2
