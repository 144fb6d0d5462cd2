"""Pairs made by the student that --start names: whose steps they are, where their students start, what is refused."""

import dataclasses
import shutil

import pytest

from distillkac import distill, train
from distillkac.distillation import distill as distilled
from distillkac.distillation.recipes import RECIPES
from distillkac.runs import checkpoints
from distillkac.runs.config import load_config
from distillkac.runs.run import open_run
from distillkac.runs.sampling import SamplerConfig, choose
from tests.distillation.path_ends import check_ends, stir
from tests.toys import refusal
from tests.training.resume_options import TINY, weights

BATCH = ["--optim.batch-size", "16"]
FIRST = ["--recipe", "consistency", "--consistency.steps", "2", *BATCH]
LEARN = ["--recipe", "best", "--pairs.by", "start", "--stages", "4", "1", "--steps", "2", "--pairs.count", "40", *BATCH]
INVERSE = ["--inverse.steps", "1"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("named") / "demo"
    assert train.main(["--run", str(folder), "--steps", "2", *TINY]) == 0
    assert distill.main([str(folder), *FIRST]) == 0
    assert distill.main([str(folder), *LEARN, *INVERSE, "--start", str(folder / "student-4-consistency")]) == 0
    return folder


def test_paths_are_the_steps_of_the_named_student(run, tmp_path):
    student = stir(shutil.copytree(run / "student-4-consistency", tmp_path / "student-4-consistency"))
    assert (
        distill.main([str(run), *LEARN, "--inverse.steps", "0", "--start", str(student), "--out", str(tmp_path)]) == 0
    )
    (folder,) = tmp_path.glob("paths-4-*")
    check_ends(folder, student, 4)
    for other, num_steps in ((run, 4), (run / "student-4-consistency", 4), (student, 2), (student, 8)):
        with pytest.raises(AssertionError):
            check_ends(folder, other, num_steps)


def test_students_start_from_it_and_know_it(run):
    student = load_config(run / "student-1-pairs").student
    assert (student.teacher_steps, student.num_steps, student.rho, student.restart) == (4, 1, 1.5, None)
    assert "--pairs.by start" in student.options
    assert student.teacher == checkpoints.described(run)[1]
    assert student.before == checkpoints.described(run / "student-4-consistency")[1]
    assert "--pairs.by start" in load_config(run / "student-1-inverse").student.options
    assert load_config(run / "student-1-inverse").student.before == checkpoints.described(run / "student-1-pairs")[1]
    assert [choose(run, SamplerConfig(steps=steps)).name for steps in (1, 2)] == [
        "student-1-inverse",
        "student-4-consistency",
    ]
    before, after = (checkpoints.load_weights(run / name)[0] for name in ("student-4-consistency", "student-1-pairs"))
    moved = max((before[name] - value).abs().max().item() for name, value in after.items())
    assert 0 < moved < 0.02  # two steps of Muon at rates up to 1e-3


@pytest.mark.one_alignment
def test_the_students_of_its_consistency_student_are_those_of_the_chain_that_makes_one(run, tmp_path):
    """Two commands or one: the same student is named or made, and its paths, and what learns them, are the same to the bit."""
    chain = [word if word != "start" else "consistency" for word in LEARN]
    assert distill.main([str(run), *chain, *INVERSE, "--consistency.steps", "2", "--out", str(tmp_path)]) == 0
    for name in ("student-4-consistency", "student-1-pairs", "student-1-inverse"):
        assert weights(tmp_path / name) == weights(run / name), name


@pytest.mark.one_alignment
def test_it_resumes_exactly(run, tmp_path):
    start = ["--start", str(run / "student-4-consistency"), "--out", str(tmp_path), "--inverse.steps", "0"]
    assert distill.main([str(run), *LEARN, *start, "--steps", "1"]) == 0
    assert weights(tmp_path / "student-1-pairs") != weights(run / "student-1-pairs")
    assert distill.main([str(run), *LEARN, *start, "--resume"]) == 0
    assert weights(tmp_path / "student-1-pairs") == weights(run / "student-1-pairs")


def test_another_named_student_is_no_reason_to_go_on(run, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "demo")
    was = weights(copy / "student-1-pairs")
    assert distill.main([str(copy), *FIRST, "--consistency.steps", "3", "--out", str(tmp_path / "other")]) == 0
    start = ["--start", str(tmp_path / "other" / "student-4-consistency"), "--resume"]
    said = refusal(distill, [str(copy), *LEARN, *INVERSE, *start], capsys)
    assert "was distilled from other weights of the network of the stage before" in said
    assert weights(copy / "student-1-pairs") == was


@pytest.mark.one_alignment
def test_from_python(run, tmp_path):
    best = RECIPES["best"]
    config = dataclasses.replace(
        best,
        stages=(4, 1),
        steps=(2,),
        pairs=dataclasses.replace(best.pairs, by="start", count=40),
        inverse=type(best.inverse)(),
        optim=dataclasses.replace(best.optim, batch_size=16),
    )
    (student,) = distilled(open_run(run), config=config, out=tmp_path, start=run / "student-4-consistency")
    assert weights(student.folder) == weights(run / "student-1-pairs")


def test_three_recipes_one_after_the_other(run, tmp_path, capsys):
    """A consistency student, what inverse distillation makes of it, and one step that learns two steps of that."""
    folder, small = shutil.copytree(run, tmp_path / "demo", ignore=shutil.ignore_patterns("student-1-*")), BATCH
    inverse = [str(folder), "--recipe", "inverse", "--inverse.steps", "1", "--pairs.count", "20", *small]
    assert "such as RUN/student-4-consistency" in refusal(distill, inverse, capsys)
    assert distill.main([*inverse, "--start", str(folder / "student-4-consistency")]) == 0
    one = [str(folder), "--recipe", "two-to-one", "--steps", "1", "--pairs.count", "20", *small]
    assert "such as RUN/student-4-inverse" in refusal(distill, one, capsys)
    assert distill.main([*one, "--start", str(folder / "student-4-inverse")]) == 0
    chosen = [choose(folder, SamplerConfig(steps=steps)).name for steps in (1, 2, 3, 4)]
    assert chosen == ["student-1-pairs", *["student-4-inverse"] * 3]
    before = checkpoints.described(folder / "student-4-inverse")[1]
    assert load_config(folder / "student-1-pairs").student.before == before
    assert len([*folder.glob("paths-20-*")]) == len([*folder.glob("paths-2-*")]) == 1


@pytest.mark.parametrize("none", ["0", "0.00", "0e0"])
def test_inverse_distillation_goes_without_paths(run, tmp_path, none):
    lone = [str(run), "--recipe", "inverse", "--inverse.steps", "1", *BATCH, "--out", str(tmp_path)]
    start = ["--start", str(run / "student-4-consistency")]
    assert distill.main([*lone, *start, "--inverse.pairs", none]) == 0
    assert not any(word.startswith("--pairs") for word in load_config(tmp_path / "student-4-inverse").student.options)
    assert not [*tmp_path.glob("paths-*")]


def test_what_cannot_make_the_paths_is_refused(run, tmp_path, capsys):
    out = ["--out", str(tmp_path / "out"), "--inverse.steps", "0"]

    def said(*options, start=run / "student-4-consistency"):
        return refusal(distill, [str(run), *LEARN, *out, "--start", str(start), *options], capsys)

    without = refusal(distill, [str(run), *LEARN, *out], capsys)
    assert "give start, the folder of the student whose steps the paths of pairs.by start are" in without
    by_teacher = [str(run), "--recipe", "pairs", "--start", str(run / "student-4-consistency")]
    assert "of inverse distillation alone, and of pairs.by start" in refusal(distill, by_teacher, capsys)
    assert "pairs.by start makes students without w as an input: omit w_max" in said("--w-max", "2")
    assert "has guidance of w 0 folded in, not 1: give --w 0" in said("--w", "1")
    assert "integrator heun is of the teacher's steps" in said("--integrator", "heun")
    assert "exact_start True is of the teacher's steps" in said("--exact-start")
    assert "give pairs.by consistency" in said("--pairs.keep", "1")
    assert "consistency.* are options of method consistency" in said("--consistency.steps", "3")
    assert "is no student" in said(start=run)
    one = run / "student-1-pairs"
    assert "was made for the grid of 1 steps, rho 1.5, shift 1, and its paths would be of 4 steps" in said(start=one)
    assert not (tmp_path / "out").exists()
