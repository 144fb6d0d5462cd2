"""A consistency student on a tiny run: any number of steps, wherever images are drawn."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from torch import nn

from distillkac import distill, evaluate, export, sample
from distillkac.base.random import derive_seed
from distillkac.distillation import stages as plans
from distillkac.flow.guidance import GuidedVelocity
from distillkac.flow.integrators import restart_chain, time_grid
from distillkac.pipeline import KacPipeline
from distillkac.runs.config import load_config, save_config
from distillkac.runs.run import open_run, students
from distillkac.runs.sampler import SamplerConfig
from distillkac.runs.sampling import Drawing, choose, class_labels, generate
from distillkac.web.engine import Demo
from tests.commands.tiny import TINY, arrays
from tests.toys import refused


@pytest.fixture(scope="module")
def made(run, tmp_path_factory):
    """The tiny run with a consistency student beside those of its chain, of 2 steps and 1."""
    folder = tmp_path_factory.mktemp("runs") / "consistency"
    shutil.copytree(run, folder)
    options = ["--method", "consistency", "--consistency.steps", "3", "--optim.batch-size", "16"]
    assert distill.main([str(folder), *options]) == 0
    return folder


def test_its_run_folder_says_what_it_is(made):
    student = load_config(made / "student-4-consistency").student
    assert (student.method, student.num_steps, student.w) == ("consistency", 4, 0.0)
    assert student.restart == plans.RESTART
    assert [path.name for path in students(made)] == ["student-4-consistency", "student-2", "student-1"]


@pytest.mark.parametrize(
    ("steps", "network"),
    [(1, "student-1"), (2, "student-2"), (3, "student-4-consistency"), (4, "student-4-consistency"), (5, "")],
)
def test_students_of_that_number_come_first_then_the_one_of_any_then_the_teacher(made, steps, network):
    assert choose(made, SamplerConfig(steps)) == made / network


def test_of_those_of_any_number_that_of_the_fewest_comes_first(made, tmp_path):
    folder = shutil.copytree(made, tmp_path / "run")
    eight = shutil.copytree(folder / "student-4-consistency", folder / "student-8-consistency")
    config = load_config(eight)
    save_config(eight, replace(config, student=replace(config.student, num_steps=8)))
    assert choose(folder, SamplerConfig(3)) == folder / "student-4-consistency"
    assert choose(folder, SamplerConfig(5)) == eight


def test_what_a_dedicated_student_cannot_do_the_one_of_any_number_may(made):
    assert choose(made, SamplerConfig(2, rho=3.0)) == made / "student-4-consistency"
    with pytest.warns(UserWarning, match="the teacher is sampled in 2 steps"):
        assert choose(made, SamplerConfig(2, w=1.0)) == made


@pytest.mark.parametrize("steps", [1, 2, 4, 7])
def test_it_takes_any_number_of_steps_with_one_evaluation_each(made, steps):
    run = open_run(made / "student-4-consistency", "cpu")
    y = class_labels(run.config, 6)
    samples = generate(run, y, SamplerConfig(steps), seed=3)
    assert samples.nfe == steps
    drawing = Drawing(run, SamplerConfig(steps), seed=3)
    x = run.process.prior(drawing.rows, tuple(run.config.shape), derive_seed(3, "prior"))
    labels = nn.functional.pad(y, (0, drawing.rows - 6))
    grid, fresh = time_grid(steps, load_config(run.folder).student.rho), derive_seed(3, "fresh")
    with torch.no_grad():
        expected = restart_chain(GuidedVelocity(run.network), x, labels, grid, run.process, plans.RESTART, fresh)
    assert torch.equal(samples.images, expected[:6])
    # Another share may be asked for, also none.
    flow = generate(run, y, SamplerConfig(steps, restart=0.0), seed=3).images
    assert torch.equal(flow, samples.images) == (steps == 1)


def test_the_command_draws_with_it(made, tmp_path):
    student = made / "student-4-consistency"
    two, _ = arrays(student, tmp_path, "--steps", "2", "--num", "4")
    own, _ = arrays(student, tmp_path, "--num", "4")
    flow, _ = arrays(student, tmp_path, "--steps", "2", "--restart", "0", "--num", "4")
    assert (two != own).any()
    assert (two != flow).any()
    assert sample.main([str(made), "--steps", "3", "--num", "4", "--out", str(tmp_path / "grid.png")]) == 0


def test_a_pipeline_takes_any_number_too(made, tmp_path):
    folder = made / "student-4-consistency"
    pipeline = KacPipeline.from_pretrained(folder)
    assert pipeline.scheduler.config.restart == plans.RESTART

    def drawn(pipeline, steps, generator=None):
        generator = generator or torch.Generator().manual_seed(1)
        return pipeline([3, 4], num_inference_steps=steps, generator=generator, output_type="pt").images

    pipeline.save_pretrained(tmp_path / "saved")
    assert "any number of steps, best at most 4" in (tmp_path / "saved" / "README.md").read_text(encoding="utf-8")
    again = KacPipeline.from_pretrained(tmp_path / "saved")
    for steps in (1, 2, 3):
        assert torch.equal(drawn(pipeline, steps), drawn(again, steps))
    # Each row of a list of generators is what its generator gives alone.
    both = drawn(pipeline, 3, [torch.Generator().manual_seed(k) for k in (5, 6)])
    alone = pipeline([4], num_inference_steps=3, generator=torch.Generator().manual_seed(6), output_type="pt").images
    torch.testing.assert_close(both[1:], alone)
    with pytest.raises(ValueError, match="give integrator euler with restart"):
        type(pipeline.scheduler)(restart=0.5)


def test_evaluation_measures_it_at_its_steps_and_the_halves_of_them(made):
    assert evaluate.main([str(made), "--num", "20", "--teacher-steps", "2"]) == 0
    rows = json.loads((made / "evaluation.json").read_text(encoding="utf-8"))["rows"]
    found = [(row["steps"], row["nfe"]) for row in rows if row["name"] == "student-4-consistency"]
    assert found == [(4, 4), (2, 2), (1, 1)]
    for steps in (4, 2, 1):
        assert (made / "samples" / f"student-4-consistency-steps-{steps}.png").exists()


def test_a_graph_has_no_fresh_noise(made, tmp_path, capsys):
    out = tmp_path / "it.pt2"
    student = made / "student-4-consistency"
    assert "draws fresh noise between its steps" in refused(export, [student, "--steps", 2, "--out", out], capsys)
    assert export.main([str(student), "--steps", "1", "--out", str(out)]) == 0


def test_the_demo_page_offers_it(made):
    demo = Demo((made,), torch.device("cpu"))
    (choice,) = demo.generate("telegraph", [4], num=4)
    assert (choice.network, choice.nfe, choice.error) == ("student-4-consistency", 4, "")


def test_older_configs_mean_what_they_meant(made, tmp_path):
    config = load_config(made / "student-2")
    save_config(tmp_path, config)
    content = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    del content["student"]["restart"]
    (tmp_path / "config.json").write_text(json.dumps(content), encoding="utf-8")
    assert load_config(tmp_path) == config
    assert config.student.restart is None


def test_a_dry_run_and_the_recipe_say_what_will_be_made(run, tmp_path, capsys):
    assert distill.main([str(run), "--recipe", "consistency", "--dry-run", "--out", str(tmp_path)]) == 0
    lines = capsys.readouterr().out
    assert "1 to 4" in lines
    assert str(tmp_path / "student-4-consistency") in lines
    assert not list(tmp_path.iterdir())
    said = refused(distill, [run, "--method", "consistency", "--consistency.teacher-steps", 0, "--w", 2], capsys)
    assert "w 2.0 is of the teacher's steps" in said


def test_resume_refuses_another_schedule_and_goes_on_with_the_same(run, tmp_path, capsys):
    options = [str(run), "--method", "consistency", *TINY[-4:], "--out", str(tmp_path), "--consistency.steps"]
    assert distill.main([*options, "2"]) == 0
    capsys.readouterr()
    said = refused(distill, [*options, "4", "--resume", "--consistency.phases", "2"], capsys)
    assert "--consistency.phases" in said
    assert distill.main([*options, "4", "--resume"]) == 0
    assert load_config(tmp_path / "student-4-consistency").steps == 4
