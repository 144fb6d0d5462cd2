"""Inverse distillation of several steps as a command: what it starts from, a second phase, how its student is sampled."""

import shutil

import numpy as np
import pytest
import torch

from distillkac import distill, evaluate, sample, train
from distillkac.distillation.inverse import GeneratorAndFake
from distillkac.distillation.students import go_on_with_fake
from distillkac.evaluation import classifier
from distillkac.runs import checkpoints
from distillkac.runs.config import load_config
from distillkac.runs.run import open_run
from distillkac.runs.sampling import SamplerConfig, choose
from tests.toys import refusal
from tests.training.resume_options import TINY, weights

BATCH = ["--optim.batch-size", "16"]
FIRST = ["--recipe", "consistency", "--consistency.steps", "2", *BATCH]
ALONE = ["--stages", "4", "--inverse.num-steps", "4", "--inverse.steps", "2", "--optim.lr-end", "1", *BATCH]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("few") / "demo"
    assert train.main(["--run", str(folder), "--steps", "2", *TINY]) == 0
    assert distill.main([str(folder), *FIRST]) == 0
    assert distill.main([str(folder), *ALONE, "--start", str(folder / "student-4-consistency")]) == 0
    return folder


def started(run, *options):
    return [str(run), *ALONE, "--start", str(run / "student-4-consistency"), *options]


def test_its_student_knows_what_made_it_and_serves_any_number_of_steps(run, tmp_path):
    student = load_config(run / "student-4-inverse").student
    assert (student.teacher_steps, student.num_steps, student.rho, student.restart) == (4, 4, 1.5, 0.5)
    assert student.options[-2:] == ("--inverse.backward 0.5", "--inverse.restart 0.5")
    assert student.teacher == checkpoints.described(run)[1]
    assert student.before == checkpoints.described(run / "student-4-consistency")[1]
    assert [choose(run, SamplerConfig(steps=steps)).name for steps in (1, 2, 3, 4)] == ["student-4-inverse"] * 4
    before, after = (checkpoints.load_weights(run / f"student-4-{name}")[0] for name in ("consistency", "inverse"))
    moved = max((before[name] - value).abs().max().item() for name, value in after.items())
    assert 0 < moved < 0.01
    images = {}
    for options in (("--steps", "4"), ("--steps", "4", "--restart", "1"), ("--steps", "2"), ("--steps", "1")):
        out = tmp_path / "images.npz"
        assert sample.main([str(run), *options, "--num", "4", "--out", str(out)]) == 0
        images[options] = np.load(out)["images"]
    assert len({value.tobytes() for value in images.values()}) == 4


def test_it_is_measured_in_all_its_steps(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(classifier, "STEPS", 2)
    copy = shutil.copytree(run, tmp_path / "demo")
    assert evaluate.main([str(copy), "--num", "20", "--teacher-steps", "1"]) == 0
    rows = [line.split()[:2] for line in capsys.readouterr().out.splitlines() if line.startswith("student-4-inverse ")]
    assert rows == [["student-4-inverse", str(steps)] for steps in (4, 2, 1)]


@pytest.mark.one_alignment
def test_with_pairs_it_resumes_exactly(run, tmp_path):
    pairs = ["--inverse.pairs", "1", "--pairs.teacher-steps", "8", "--pairs.count", "20"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert distill.main(started(run, *pairs, "--out", str(whole))) == 0
    assert distill.main(started(run, *pairs, "--out", str(parts), "--inverse.steps", "1")) == 0
    assert weights(parts / "student-4-inverse") != weights(whole / "student-4-inverse")
    assert distill.main(started(run, *pairs, "--out", str(parts), "--resume")) == 0
    assert weights(parts / "student-4-inverse") == weights(whole / "student-4-inverse")
    (folder,) = whole.glob("paths-8-*")
    assert np.load(folder / "states-000000.npy", mmap_mode="r").shape == (4, 512, 1, 8, 8)  # at the times of four steps
    assert weights(whole / "student-4-inverse") != weights(run / "student-4-inverse")


def test_a_second_phase_goes_on_with_both_networks(run, tmp_path):
    first = run / "student-4-inverse"
    again = [str(run), *ALONE, "--start", str(first), "--inverse.fake", "start", "--inverse.lr", "1e-9"]
    assert distill.main([*again, "--inverse.fake-lr", "1e-9", "--out", str(tmp_path)]) == 0
    second = tmp_path / "student-4-inverse"
    assert load_config(second).student.before == checkpoints.described(first)[1]
    assert "--inverse.fake start" in load_config(second).student.options
    before, after = (checkpoints.load_weights(folder, checkpoints.MODEL)[0] for folder in (first, second))
    averaged, _ = checkpoints.load_weights(first)
    for name, value in after.items():
        part, own = name.split(".", 1)
        expected = before[name] if part == "fake" else averaged[own]
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-6)
    teacher, _ = checkpoints.load_weights(run)
    fakes = {name.removeprefix("fake."): value for name, value in before.items() if name.startswith("fake.")}
    assert any(not torch.allclose(teacher[name], value, atol=1e-6) for name, value in fakes.items())


def test_it_ends_the_plan_of_a_student_that_keeps_the_other_times(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "demo", ignore=shutil.ignore_patterns("student-4-inverse"))
    best = ["--recipe", "best", "--steps", "2", "--pairs.count", "40", "--pairs.keep", "1", "--consistency.steps", "2"]
    four = ["--inverse.num-steps", "4", "--inverse.restart", "0.75", "--inverse.steps", "1"]
    plan = [str(copy), *best, *four, *BATCH, "--resume"]
    assert distill.main(plan) == 0
    student = load_config(copy / "student-4-inverse").student
    assert (student.num_steps, student.restart) == (4, 0.75)
    assert student.before == checkpoints.described(copy / "student-4-pairs")[1]
    assert choose(copy, SamplerConfig(steps=1)).name == "student-4-inverse"


def test_what_it_cannot_begin_with_is_refused(run, tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")]

    def said(*options):
        return refusal(distill, [str(run), *out, *options], capsys)

    consistency = str(run / "student-4-consistency")
    assert "give start, the folder of a student of any number of steps" in said(*ALONE)
    assert "is not used where inverse.start is teacher" in said(
        *ALONE, "--inverse.start", "teacher", "--start", consistency
    )
    assert "is of inverse distillation alone, and of pairs.by start: give stages 1" in said("--start", consistency)
    fake = ["--inverse.fake", "start"]
    assert "has no fake model to go on with" in said(*ALONE, *fake, "--start", consistency)
    one = ["--stages", "2,1", "--steps", "1", *BATCH]
    assert distill.main([str(run), *one, "--out", str(tmp_path / "one")]) == 0
    assert "is of 1 Euler step, which predict the data" in said(*ALONE, "--start", str(tmp_path / "one" / "student-1"))
    two = ["--stages", "4,2", "--steps", "1", *BATCH]
    assert distill.main([str(run), *two, "--out", str(tmp_path / "two")]) == 0
    alone = ["--stages", "1", "--inverse.steps", "1", *BATCH, "--start", str(tmp_path / "two" / "student-2")]
    assert "is of 2 Euler steps, the first of which leads to no picture" in said(*alone)
    assert not (tmp_path / "out").exists()


def test_heads_go_on_where_both_phases_have_them(run, tmp_path):
    network = open_run(run, "cpu").network
    row = torch.zeros(1, 1, 8, 8), torch.zeros(1, dtype=torch.int64)
    options = started(run, "--inverse.adversarial", "0.1", "--out", str(tmp_path))
    assert distill.main(options) == 0
    saved, _ = checkpoints.load_weights(tmp_path / "student-4-inverse", checkpoints.MODEL)
    for example in (row, None):
        pair = GeneratorAndFake(open_run(run, "cpu").network, network, 10.0, example)
        go_on_with_fake(pair, tmp_path / "student-4-inverse")
        kept = {name: value for name, value in pair.state_dict().items() if not name.startswith("generator.")}
        assert any(name.startswith("heads.") for name in kept) == (example is not None)
        assert all(torch.equal(value, saved[name]) for name, value in kept.items())
