"""Checkpoints that are kept beside the last one."""

import os
import shutil

import pytest
import torch

from distillkac import distill, evaluate, sample, train
from distillkac.evaluation import classifier
from distillkac.runs import checkpoints, kept
from tests.toys import optim
from tests.training.resume_options import CHAIN, TINY, weights

# ---------------------------------------------------------------------------------------------- earlier checkpoints


def test_the_last_checkpoints_are_kept_as_runs(tmp_path, monkeypatch):
    options = ["--steps", "7", "--optim.save-every", "2", "--optim.keep", "3", *TINY]
    assert train.main(["--run", str(tmp_path / "run"), *options]) == 0
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["step-000004", "step-000006", "step-000007"]
    plain = ["--steps", "7", "--optim.save-every", "2", *TINY]
    assert train.main(["--run", str(tmp_path / "plain"), *plain]) == 0
    assert not (tmp_path / "plain" / "checkpoints").exists()
    assert weights(tmp_path / "run") == weights(tmp_path / "plain") == weights(tmp_path / "run/checkpoints/step-000007")
    middle = tmp_path / "run" / "checkpoints" / "step-000004"
    assert sample.main([str(middle), "--steps", "2", "--num", "2", "--out", str(tmp_path / "x.png")]) == 0
    monkeypatch.setattr(classifier, "STEPS", 5)
    assert evaluate.main([str(middle), "--num", "8", "--teacher-steps", "1"]) == 0
    assert distill.main([str(middle), *CHAIN, "--out", str(tmp_path / "students")]) == 0
    # Taken up from there, it is the run that it was.
    shutil.copytree(middle, tmp_path / "again")
    assert train.main(["--run", str(tmp_path / "again"), "--resume", "--optim.keep", "1"]) == 0
    ends = [checkpoints.load_weights(tmp_path / name)[0] for name in ("again", "run")]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    # What was measured there stays when the checkpoint goes.
    assert train.main(["--run", str(tmp_path / "run"), "--resume", "--steps", "10", "--optim.keep", "2"]) == 0
    assert [path.name for path in kept.kept(tmp_path / "run")] == ["step-000004", "step-000008", "step-000010"]
    assert not (middle / checkpoints.CONFIG).exists()
    assert (middle / "evaluation.json").exists()


def test_a_run_that_is_taken_back_keeps_none_of_the_later_checkpoints_of_before(tmp_path, capsys):
    run, middle = tmp_path / "run", tmp_path / "run" / "checkpoints" / "step-000002"
    options = ["--optim.save-every", "2", "--optim.keep", "3", *TINY]
    assert train.main(["--run", str(run), "--steps", "6", *options]) == 0
    before = weights(run)
    (run / "checkpoints" / "step-000006" / "evaluation.json").write_text("{}")
    shutil.copytree(middle, run, dirs_exist_ok=True)
    assert train.main(["--run", str(run), "--resume", "--optim.lr", "0.01"]) == 0
    assert "goes on from step 2: removed step-000004, step-000006, which it had made before" in capsys.readouterr().out
    assert [path.name for path in kept.kept(run)] == ["step-000002", "step-000004", "step-000006"]
    assert weights(run) == weights(run / "checkpoints" / "step-000006") != before
    assert (run / "checkpoints" / "step-000006" / "evaluation.json").exists()


def test_a_checkpoint_that_was_not_kept_for_want_of_time_is_kept_on_resume(tmp_path):
    run = tmp_path / "run"
    options = ["--optim.save-every", "2", "--optim.keep", "2", *TINY]
    assert train.main(["--run", str(run), "--steps", "4", *options]) == 0
    last = run / "checkpoints" / "step-000004"
    expected = {path.relative_to(last): path.read_bytes() for path in last.rglob("*") if path.is_file()}
    (last / checkpoints.CONFIG).unlink()  # as a crash leaves it
    (last / checkpoints.STATE).with_name(".training.pt.tmp").write_bytes(b"half")
    assert train.main(["--run", str(run), "--resume"]) == 0
    assert {path.relative_to(last): path.read_bytes() for path in last.rglob("*") if path.is_file()} == expected


def test_a_checkpoint_that_is_kept_is_whole_or_no_run(trained, tmp_path, monkeypatch):
    """The disk says no at each file in turn: the run itself is untouched, and the next attempt makes up for it."""
    run, replace = shutil.copytree(trained, tmp_path / "run"), os.replace
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    place = run / "checkpoints" / "step-000004"
    for number in range(4):
        left = [number]

        def failing(source, target, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(28, "No space left on device")
            replace(source, target)

        monkeypatch.setattr(os, "replace", failing)
        with pytest.raises(OSError, match="No space left"):
            kept.keep(run, 4, 2)
        assert not (place / checkpoints.CONFIG).exists()
        assert all(path.read_bytes() == content for path, content in before.items())
    monkeypatch.setattr(os, "replace", replace)
    kept.keep(run, 4, 2)
    for name in (checkpoints.CONFIG, checkpoints.EMA, checkpoints.MODEL, checkpoints.STATE):
        assert (place / name).read_bytes() == (run / name).read_bytes()


def test_steps_of_more_digits_come_later(tmp_path):
    for name in ("step-999999", "step-1000000", "step-000200"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert [path.name for path in kept.kept(tmp_path)] == ["step-000200", "step-999999", "step-1000000"]
    with pytest.raises(ValueError, match=r"optim\.keep must be at least 1"):
        optim(keep=0)


def test_a_kept_checkpoint_is_not_trained_on_where_it_is_removed(run, tmp_path, monkeypatch, capsys):
    more = ["--run", str(run), "--resume", "--optim.save-every", "2", "--optim.keep", "2"]
    assert train.main([*more, "--steps", "8"]) == 0
    old = run / "checkpoints" / "step-000006"
    before = weights(old)
    monkeypatch.chdir(old)
    for place in (old, "."):
        assert train.main(["--run", str(place), "--resume", "--steps", "12"]) == 1
        assert "copy it to a new place to train it there" in capsys.readouterr().err
    assert weights(old) == before
    copy = shutil.copytree(old, tmp_path / "checkpoints" / "step-000006")  # of no run here
    assert train.main(["--run", str(copy), "--resume", "--steps", "12"]) == 0


# ------------------------------------------------------------------------------------------------- the best checkpoint


class Killed(BaseException):
    pass


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def killed_before(number, monkeypatch):
    """From now on the process ends before its `number`-th change of a name: nothing of what follows is done."""
    left = [number]

    def counted(change):
        def wrapped(*arguments, **options):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return change(*arguments, **options)

        return wrapped

    for name in ("replace", "rename"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))
    for name in ("unlink", "rmdir", "replace"):
        monkeypatch.setattr(kept.Path, name, counted(getattr(kept.Path, name)))


@pytest.mark.parametrize("first", [True, False])
def test_the_best_checkpoint_is_whole_wherever_the_process_is_killed(trained, tmp_path, first):
    """At each change of the disk in turn: RUN/best is then that of before, or there is none; when the run goes on it is that of
    before or this one, whole, with what was measured there, and nothing else is left."""
    source = content(trained)
    wanted = {place: source[place] for place in map(kept.Path, map(str, kept.FILES))}
    ends = set()
    for number in range(100):
        run = shutil.copytree(trained, tmp_path / f"run-{number}")
        best = run / "best"
        if not first:
            kept.keep_best(run)
            (best / checkpoints.METRICS).write_text("mine")
            (best / "samples").mkdir()
            (best / "samples" / "a.png").write_text("picture")
            for name in kept.FILES:  # another one than is to come
                (best / name).write_bytes(b"before")
        before = content(best)
        mine = {place: value for place, value in before.items() if place not in wanted}
        with pytest.MonkeyPatch.context() as patch:
            killed_before(number, patch)
            try:
                kept.keep_best(run)
                done = True
            except Killed:
                done = False
        if (best / checkpoints.CONFIG).exists():
            found = content(best)
            assert {place: found[place] for place in wanted} in (wanted, {place: b"before" for place in wanted})
        kept.clean(run)
        found = content(best)
        assert found in (before, wanted | mine)
        assert {path.name for path in run.iterdir()} <= {path.name for path in trained.iterdir()} | {"best"}
        ends.add(found == wanted | mine)
        assert not done or found == wanted | mine
        shutil.rmtree(run)
        if done:
            break
    assert done
    assert ends == {True, False}
