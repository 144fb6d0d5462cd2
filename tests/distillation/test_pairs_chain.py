"""Chains of pairs: their students, stopping and going on, what is refused, what is told."""

import json

import pytest

from distillkac import distill, sample, train
from distillkac.distillation.stages import DistillConfig, stages_of
from distillkac.runs import checkpoints
from distillkac.runs.config import load_config
from distillkac.runs.run import students
from distillkac.training import loop
from tests.toys import refusal
from tests.training.resume_options import TINY, weights


def test_every_student_of_pairs_is_taught_by_the_teacher_itself():
    config = DistillConfig(method="pairs", stages=(20, 4, 2, 1), steps=(3, 4, 5), rho=2.0)
    assert [(s.teacher_steps, s.num_steps, s.steps, s.first) for s in stages_of(config)] == [
        (20, 4, 3, True),
        (20, 2, 4, False),
        (20, 1, 5, False),
    ]


PAIRS = ["--method", "pairs", "--stages", "4,2,1", "--pairs.count", "40", "--optim.batch-size", "16"]
WHOLE = [*PAIRS, "--steps", "4", "3", "--backward", "0.5", "--inverse.steps", "2", "--inverse.pairs", "2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs") / "demo"
    assert train.main(["--run", str(folder), "--steps", "4", *TINY]) == 0
    assert distill.main([str(folder), *WHOLE]) == 0
    return folder


def test_students_of_pairs_are_found_and_sampled(run, tmp_path, capsys):
    names = ["student-2-pairs", "student-1-inverse", "student-1-pairs"]
    assert [path.name for path in students(run)] == names
    for steps, name in ((2, names[0]), (1, names[1])):
        out = tmp_path / f"{steps}.png"
        assert sample.main([str(run), "--steps", str(steps), "--num", "3", "--out", str(out)]) == 0
        assert name.partition("-")[0] in capsys.readouterr().out
    student = load_config(run / "student-1-pairs").student
    assert (student.teacher_steps, student.num_steps, student.rho, student.method) == (4, 1, 2.0, "pairs")
    assert "--pairs.count 40" in student.options
    assert "--backward 0.5" in student.options
    options = load_config(run / "student-1-inverse").student.options
    assert {"--inverse.pairs 2.0", "--pairs.count 40"} <= set(options)
    assert len(list(run.glob("paths-4-*/states-*.npy"))) == 1
    described = json.loads(next(run.glob("paths-4-*/paths.json")).read_text())
    assert described["teacher"] == checkpoints.described(run)[1]


@pytest.mark.one_alignment
def test_a_chain_of_pairs_that_was_stopped_ends_with_the_same_weights(run, tmp_path, monkeypatch, capsys):
    """Stopped in the first student; before it goes on, the paths are lost and must be made again, the same to the bit."""
    made = []

    class Stops(loop.StopSignal):
        @property
        def requested(self):
            made.append(0)
            return len(made) == 2

        @requested.setter
        def requested(self, value):
            pass

    out = ["--out", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(loop, "StopSignal", Stops)
        assert distill.main([str(run), *WHOLE, *out]) == 130
    assert "saved at step 2 of 4" in capsys.readouterr().out
    assert distill.main([str(run), *WHOLE, *out, "--resume"]) == 0
    for name in ("student-2-pairs", "student-1-pairs", "student-1-inverse"):
        assert weights(tmp_path / name) == weights(run / name)
    next(tmp_path.glob("paths-4-*/states-000000.npy")).unlink()
    again = tmp_path / "again"
    assert distill.main([str(run), *WHOLE, "--out", str(again)]) == 0
    assert weights(again / "student-1-pairs") == weights(run / "student-1-pairs")


def test_other_paths_are_no_reason_to_go_on(run, capsys):
    changed = [word if word != "40" else "80" for word in WHOLE]
    said = refusal(distill, [str(run), *changed, "--resume"], capsys)
    assert "--pairs.count 40, which --resume cannot change to --pairs.count 80" in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--pairs.count", "0"], "count must be at least 1"),
        (["--pairs.huber", "-1"], "huber must be at least 0"),
        (["--inverse.pairs", "1"], "give inverse.steps, or omit inverse.pairs"),
        (["--inverse.adversarial", "1"], "give inverse.steps, or omit inverse.adversarial"),
        (["--reconstruction.steps", "3"], "are options of method reconstruction, got method endpoint"),
        (["--pairs.count", "50"], "pairs.* are options of method pairs and of inverse.pairs, got method endpoint"),
        (["--inverse.pairs", "-1", "--inverse.steps", "1"], "inverse.pairs must be at least 0"),
        (["--stages", "1", "--inverse.steps", "1", "--inverse.pairs", "1"], "give pairs.teacher_steps, such as 20"),
    ],
)
def test_impossible_pairs_are_refused(run, options, words, capsys):
    assert words in refusal(distill, [str(run), *options], capsys)


def test_the_cost_of_the_paths_is_told_before_they_are_made(run, tmp_path, capsys):
    assert distill.main([str(run), *WHOLE, "--out", str(tmp_path / "students"), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0].strip() for line in lines[1:5]] == ["paths", "4 -> 2", "4 -> 1", "inverse"]
    assert lines[1].split()[2] == "2048"  # one file, 512 paths of 4 steps
    assert distill.main([str(run), *WHOLE, "--integrator", "heun", "--out", str(tmp_path / "x"), "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[2] == "4096"
    assert not (tmp_path / "students").exists()


def test_a_student_of_pairs_that_takes_w_learns_paths_of_every_weight(run, tmp_path):
    out = tmp_path / "students"
    options = [*PAIRS, "--steps", "2", "2", "--w-max", "2", "--out", str(out)]
    assert distill.main([str(run), *options]) == 0
    assert load_config(out / "student-2-pairs").student.w_max == 2.0
    assert (
        sample.main([str(out / "student-2-pairs"), "--num", "2", "--w", "1.5", "--out", str(tmp_path / "w.png")]) == 0
    )


def test_paths_of_another_precision_are_not_taken(run, tmp_path):
    """Of the same weights, in the same place: bfloat16 answers otherwise."""
    chain = ["--method", "pairs", "--stages", "4,2", "--pairs.count", "40", "--optim.batch-size", "16"]
    for precision, steps in (("bf16", "2"), ("no", "3")):
        options = ["--steps", steps, "--out", str(tmp_path), "--optim.precision", precision, "--resume"]
        assert distill.main([str(run), *chain, *options]) == 0
    made = {json.loads(path.read_text())["precision"]: path.parent for path in tmp_path.glob("paths-4-*/paths.json")}
    half, single = ((made[precision] / "states-000000.npy").read_bytes() for precision in ("bf16", "no"))
    assert half[128:-4] != single[128:-4]  # without the header and the check, which knows the name
