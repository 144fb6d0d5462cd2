"""Pairs made by a consistency student: whose steps they are, where their students start, what is refused."""

import shutil

import numpy as np
import pytest
import torch

from distillkac import distill, sample, train
from distillkac.base.random import derive_seed
from distillkac.distillation.stages import RECIPES, DistillConfig
from distillkac.flow.guidance import GuidedVelocity
from distillkac.flow.integrators import integrate, time_grid
from distillkac.runs import checkpoints
from distillkac.runs.config import load_config
from distillkac.runs.run import open_run
from distillkac.runs.sampling import SamplerConfig, choose
from tests.toys import refusal
from tests.training.resume_options import TINY, weights

BATCH = ["--optim.batch-size", "16"]
ONE_STEP = ["--recipe", "one-step", "--steps", "2", "--pairs.count", "40", *BATCH]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one-step") / "demo"
    assert train.main(["--run", str(folder), "--steps", "4", *TINY]) == 0
    assert distill.main([str(folder), "--recipe", "consistency", "--consistency.steps", "3", *BATCH]) == 0
    assert distill.main([str(folder), *ONE_STEP]) == 0
    return folder


def test_paths_are_the_students_own_steps(run):
    maker = open_run(run / "student-4-consistency", "cpu")
    (folder,) = run.glob("paths-2-*")
    states = torch.from_numpy(np.load(folder / "states-000000.npy"))[:, :40].float()
    noise = maker.process.prior(40, maker.config.shape, derive_seed(0, "path"))
    with torch.no_grad():
        field, grid = GuidedVelocity(maker.network), time_grid(2, 1.5)
        ends = integrate(field, noise, torch.arange(40) % 10, grid, "euler")
    torch.testing.assert_close(states[-1], ends, rtol=2**-9, atol=2e-3)  # in half precision, in batches of other sizes


def test_their_student_starts_from_it_and_says_so(run, tmp_path):
    student = load_config(run / "student-1-pairs").student
    assert (student.teacher_steps, student.num_steps, student.rho) == (2, 1, 1.5)
    assert student.options == (
        "--backward 0.0",
        "--pairs.count 40",
        "--pairs.huber 0.0",
        "--pairs.features 0.0",
    )
    assert student.teacher == checkpoints.described(run)[1]
    assert student.before == checkpoints.described(run / "student-4-consistency")[1]
    assert choose(run, SamplerConfig(steps=1)).name == "student-1-pairs"
    assert choose(run, SamplerConfig(steps=2)).name == "student-4-consistency"
    before, after = (checkpoints.load_weights(run / name)[0] for name in ("student-4-consistency", "student-1-pairs"))
    moved = max((before[name] - value).abs().max().item() for name, value in after.items())
    assert 0 < moved < 0.02  # two steps of Muon at rates up to 1e-3
    assert sample.main([str(run), "--steps", "1", "--num", "2", "--out", str(tmp_path / "one.png")]) == 0


def test_another_student_of_many_steps_is_no_reason_to_go_on(run, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "demo")
    was = weights(copy / "student-1-pairs")
    shutil.rmtree(copy / "student-4-consistency")
    options = ["--recipe", "consistency", "--consistency.steps", "2", *BATCH]
    assert distill.main([str(copy), *options]) == 0
    said = refusal(distill, [str(copy), *ONE_STEP, "--resume"], capsys)
    assert "was distilled from other weights of the network of the stage before" in said
    assert weights(copy / "student-1-pairs") == was


def test_what_cannot_make_the_paths_is_refused(run, tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")]

    def said(*options):
        return refusal(distill, [str(run), *ONE_STEP, *out, *options], capsys)

    assert "student-4-consistency: make it first, distill --recipe consistency" in said()
    assert "is no student of any number of steps" in said("--pairs.student", str(run))
    assert "is no student of any number of steps" in said("--pairs.student", str(run / "student-1-pairs"))
    maker = ["--pairs.student", str(run / "student-4-consistency")]
    assert "has w 0, and w 2 is asked for" in said(*maker, "--w", "2")
    assert "omit w_max, exact_start and integrator" in said(*maker, "--integrator", "heun")
    assert "makes the paths of method pairs, got method endpoint" in said(*maker, "--method", "endpoint")
    other = tmp_path / "other"
    assert train.main(["--run", str(other), "--steps", "2", *TINY]) == 0
    assert "was distilled from another teacher" in refusal(distill, [str(other), *ONE_STEP, *maker], capsys)
    assert not (tmp_path / "out").exists()


def test_the_recipe_is_of_the_other_recipes_student():
    assert RECIPES["one-step"].pairs.student == "student-4-consistency"
    assert isinstance(RECIPES["consistency"], DistillConfig)
    assert RECIPES["consistency"].consistency.num_steps == 4
