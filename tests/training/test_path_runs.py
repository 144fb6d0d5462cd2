"""Runs of Gaussian paths: trained, distilled by every method, sampled, exported, opened by diffusers; commands know them."""

import pytest
import torch
from accelerate.state import AcceleratorState

from distillkac import distill, evaluate, export, report, sample, train
from distillkac.flow import PATHS, add_path
from distillkac.pipeline import KacPipeline
from distillkac.runs import SamplerConfig, class_labels, generate, load_config, open_run
from distillkac.scheduler import KacScheduler
from tests.toys import TINY_OPTIONS, refused

FAST = ("--optim.batch-size", "8")
METHODS = {
    "endpoint": ("--stages", "4,2,1", "--steps", "1", "1", "--w", "0.5", "--backward", "0.5", "--exact-start"),
    "reconstruction": ("--stages", "4,2", "--steps", "1", "--method", "reconstruction"),
    "pairs": ("--stages", "4,1", "--steps", "1", "--method", "pairs", "--pairs.count", "8"),
    "consistency": ("--method", "consistency", "--consistency.steps", "1"),
    "inverse": ("--stages", "1", "--inverse.steps", "1", "--inverse.start", "teacher"),
}


@pytest.fixture(autouse=True)
def no_precision_stays():
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module", params=["vp", "edm"])
def teacher(tmp_path_factory, request):
    run = tmp_path_factory.mktemp(request.param) / "run"
    options = ("--process", "gaussian", "--path", request.param, "--steps", "2", "--preview", "0")
    assert train.main(["--run", str(run), *options, *TINY_OPTIONS]) == 0
    return run


@pytest.mark.parametrize("method", METHODS)
def test_every_method(teacher, tmp_path, method):
    assert distill.main([str(teacher), "--out", str(tmp_path), *FAST, *METHODS[method]]) == 0
    made = open_run(next(tmp_path.glob("student-*")))
    assert made.process == open_run(teacher).process
    assert made.process.path == load_config(teacher).noise.path == teacher.parent.name[:-1]
    steps = made.config.student.num_steps
    assert torch.isfinite(generate(made, class_labels(made.config, 4), SamplerConfig(steps)).images).all()


@pytest.mark.parametrize("objective", ["consistency", "average-velocity"])
def test_few_steps_from_data(tmp_path, objective):
    options = ("--process", "gaussian", "--path", "sub-vp", "--steps", "2", "--preview", "0", "--objective", objective)
    assert train.main(["--run", str(tmp_path / "run"), *options, *TINY_OPTIONS]) == 0
    run = open_run(tmp_path / "run")
    assert torch.isfinite(generate(run, class_labels(run.config, 4), SamplerConfig(2)).images).all()


def test_every_door(teacher, tmp_path, capsys):
    path = load_config(teacher).noise.path
    assert sample.main([str(teacher), "--steps", "2", "--num", "4", "--out", str(tmp_path / "grid.png")]) == 0
    assert export.main([str(teacher), "--steps", "2", "--out", str(tmp_path / "it.pt2")]) == 0
    assert export.main([str(teacher), "--steps", "2", "--noise", "inside", "--out", str(tmp_path / "in.pt2")]) == 0
    pipe = KacPipeline.from_pretrained(teacher)
    pipe.save_pretrained(tmp_path / "pipe")
    again = KacPipeline.from_pretrained(tmp_path / "pipe")
    assert again.scheduler.config.path == path
    assert again.scheduler.process == open_run(teacher).process
    assert report.main([str(teacher), "--out", str(tmp_path / "report.html")]) == 0
    assert f"gaussian ({path}, sigma 1)" in (tmp_path / "report.html").read_text()
    assert "give gamma in place of restart" in refused(sample, [teacher, "--steps", "2", "--restart", "0.5"], capsys)
    assert (
        sample.main([str(teacher), "--steps", "2", "--gamma", "0.5", "--num", "4", "--out", str(tmp_path / "g.png")])
        == 0
    )


def test_its_scheduler_makes_the_states_of_the_process(teacher):
    scheduler, run = KacScheduler.from_pretrained(teacher), open_run(teacher)
    x0, t = torch.rand(3, 1, 8, 8), torch.tensor([0.2, 0.5, 1.0])
    noise = scheduler.sample_noise(x0, t, torch.Generator().manual_seed(0))
    seed = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(0)))
    x_t, u = run.process.pair(x0, t, seed)
    torch.testing.assert_close(scheduler.add_noise(x0, noise, t), x_t, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(scheduler.get_velocity(x0, noise, t), u, rtol=1e-4, atol=1e-5)


def test_a_path_of_the_users_is_opened_where_it_was_added(tmp_path, capsys):
    add_path("eased", lambda t: (torch.cos(1.55 * t**2), torch.sin(1.55 * t**2)))
    run = tmp_path / "run"
    options = ("--process", "gaussian", "--path", "eased", "--steps", "2", "--preview", "0")
    try:
        assert train.main(["--run", str(run), *options, *TINY_OPTIONS]) == 0
        assert distill.main([str(run), *FAST, "--stages", "2,1", "--steps", "1"]) == 0
        assert sample.main([str(run), "--steps", "1", "--out", str(tmp_path / "grid.png")]) == 0
    finally:
        del PATHS["eased"]
    capsys.readouterr()
    for command in (sample, evaluate):
        assert "gave to one with distillkac.flow.add_path, got 'eased'" in refused(command, [run], capsys)


def test_mistakes_are_told(tmp_path, capsys):
    run = ("--run", tmp_path / "run", *TINY_OPTIONS)
    assert "path must be one of vp, cosine" in refused(train, [*run, "--process", "gaussian", "--path", "DIR"], capsys)
    assert "images are data.path" in refused(train, [*run, "--path", "DIR"], capsys)
    options = ("--process", "gaussian", "--path", "vp", "--f", "cosine")
    assert "omit these, or the path" in refused(train, [*run, *options], capsys)
