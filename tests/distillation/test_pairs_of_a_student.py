"""Pairs made by a consistency student: whose steps they are, where their students start, what is refused."""

import shutil

import pytest

from distillkac import distill, sample, train
from distillkac.distillation.recipes import RECIPES
from distillkac.runs import checkpoints
from distillkac.runs.config import load_config
from distillkac.runs.sampling import SamplerConfig, choose
from tests.distillation.path_ends import check_ends, stir
from tests.toys import refusal
from tests.training.resume_options import TINY, weights

BATCH = ["--optim.batch-size", "16"]
FIRST = ["--consistency.steps", "3", *BATCH]
BEST = ["--recipe", "best", "--steps", "2", "--pairs.count", "40", "--inverse.steps", "1", *FIRST]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("best") / "demo"
    assert train.main(["--run", str(folder), "--steps", "4", *TINY]) == 0
    assert distill.main([str(folder), *BEST]) == 0
    return folder


def test_paths_are_the_students_own_steps(run, tmp_path):
    teacher = stir(shutil.copytree(run, tmp_path / "demo", ignore=shutil.ignore_patterns("student-*", "paths-*")))
    assert distill.main([str(teacher), *BEST, "--optim.lr", "0.05"]) == 0
    (folder,), student = teacher.glob("paths-2-*"), teacher / "student-4-consistency"
    check_ends(folder, student, 2)
    for other, num_steps in ((teacher, 2), (student, 1), (student, 4)):
        with pytest.raises(AssertionError):
            check_ends(folder, other, num_steps)


def test_their_student_starts_from_it_and_says_so(run, tmp_path):
    student = load_config(run / "student-1-pairs").student
    assert (student.teacher_steps, student.num_steps, student.rho, student.restart) == (2, 1, 1.5, None)
    assert student.options == (
        "--backward 0.0",
        "--pairs.count 40",
        "--pairs.huber 0.0",
        "--pairs.features 0.0",
        "--pairs.by consistency",
        "--pairs.keep 0.0",
    )
    assert student.teacher == checkpoints.described(run)[1]
    assert student.before == checkpoints.described(run / "student-4-consistency")[1]
    assert choose(run, SamplerConfig(steps=1)).name == "student-1-inverse"
    assert load_config(run / "student-1-inverse").student.before == checkpoints.described(run / "student-1-pairs")[1]
    assert [choose(run, SamplerConfig(steps=steps)).name for steps in (2, 4)] == ["student-4-consistency"] * 2
    before, after = (checkpoints.load_weights(run / name)[0] for name in ("student-4-consistency", "student-1-pairs"))
    moved = max((before[name] - value).abs().max().item() for name, value in after.items())
    assert 0 < moved < 0.02  # two steps of Muon at rates up to 1e-3
    assert sample.main([str(run), "--steps", "1", "--num", "2", "--out", str(tmp_path / "one.png")]) == 0


def test_a_student_that_keeps_the_other_times_takes_any_number_of_steps(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "demo", ignore=shutil.ignore_patterns("student-1-*"))
    assert distill.main([str(copy), *BEST, "--pairs.keep", "0.5", "--resume"]) == 0
    student = load_config(copy / "student-4-pairs").student
    assert (student.teacher_steps, student.num_steps, student.rho, student.restart) == (2, 4, 1.5, 0.75)
    assert student.options[-1] == "--pairs.keep 0.5"
    assert not (copy / "student-1-pairs").exists()
    # It comes before the student that it was made of; the inverse student of one step comes from it.
    chosen = {steps: choose(copy, SamplerConfig(steps=steps)).name for steps in (1, 2, 3, 4)}
    assert chosen == {1: "student-1-inverse"} | dict.fromkeys((2, 3, 4), "student-4-pairs")
    assert load_config(copy / "student-1-inverse").student.before == checkpoints.described(copy / "student-4-pairs")[1]
    assert sample.main([str(copy), "--steps", "2", "--num", "2", "--out", str(tmp_path / "two.png")]) == 0


def test_it_goes_on_from_the_student_that_another_recipe_made(run, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "demo")
    made = {name: weights(run / name) for name in ("student-4-consistency", "student-1-pairs", "student-1-inverse")}
    for name in ("student-4-consistency", "student-1-pairs", "student-1-inverse"):
        shutil.rmtree(copy / name)
    assert distill.main([str(copy), "--recipe", "consistency", *FIRST]) == 0
    assert distill.main([str(copy), *BEST, "--resume"]) == 0
    assert {name: weights(copy / name) for name in made} == made
    # The first student must be there while those after it are resumed.
    shutil.rmtree(copy / "student-4-consistency")
    assert "student-4-consistency, which is gone" in refusal(distill, [str(copy), *BEST, "--resume"], capsys)


def test_another_student_of_many_steps_is_no_reason_to_go_on(run, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "demo")
    was = weights(copy / "student-1-pairs")
    shutil.rmtree(copy / "student-4-consistency")
    assert distill.main([str(copy), "--recipe", "consistency", *FIRST, "--consistency.steps", "4"]) == 0
    said = refusal(distill, [str(copy), *BEST, "--consistency.steps", "4", "--resume"], capsys)
    assert "was distilled from other weights of the network of the stage before" in said
    assert weights(copy / "student-1-pairs") == was


def test_what_nothing_would_use_is_refused(run, tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")]

    def said(*options):
        return refusal(distill, [str(run), *BEST, *out, *options], capsys)

    assert "omit w_max" in said("--w-max", "2", "--inverse.steps", "0", "--inverse.pairs", "0")
    endpoint = [str(run), *out, "--pairs.by", "consistency"]
    assert "pairs.by consistency is of method pairs, got method endpoint" in refusal(distill, endpoint, capsys)
    assert "consistency.* are options of method consistency" in said("--pairs.by", "teacher")
    assert "keeps what a consistency student predicts" in said("--pairs.by", "teacher", "--pairs.keep", "1")
    assert "give stages such as 2,1, got (4, 2, 1)" in said(
        "--stages", "4,2,1", "--steps", "2", "2", "--pairs.keep", "1"
    )
    assert "consistency.teacher_steps is 0" in said("--consistency.teacher-steps", "0", "--integrator", "heun")
    assert not (tmp_path / "out").exists()


def test_the_shorter_recipe_is_the_first_part_of_the_best():
    best, first = RECIPES["best"], RECIPES["consistency"]
    assert best.consistency == first.consistency
    assert best.optim == first.optim
    assert (best.integrator, best.exact_start, best.rho, best.w) == (
        first.integrator,
        first.exact_start,
        first.rho,
        first.w,
    )
