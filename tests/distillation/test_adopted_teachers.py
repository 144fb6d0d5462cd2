"""Every method distils a model of diffusers as it distils ours, and the students are runs like any."""

import numpy as np
import pytest
import torch

from distillkac import distill, evaluate, export, report, sample
from distillkac.data import DataConfig
from distillkac.pipeline import KacPipeline
from distillkac.runs import adopt, load_config, open_run, students
from distillkac.runs.run import student_folder
from distillkac.scheduler import KacScheduler
from tests.adopted import saved

FAST = ("--optim.batch-size", "8", "--optim.warmup", "1")
METHODS = {
    "endpoint": ("--stages", "4,2,1", "--steps", "1", "2", "--w", "0.5", "--backward", "0.5", "--exact-start"),
    "reconstruction": ("--stages", "4,2", "--steps", "1", "--method", "reconstruction"),
    "pairs": ("--stages", "4,1", "--steps", "1", "--method", "pairs", "--pairs.count", "8", "--pairs.features", "0.1"),
    "consistency": ("--method", "consistency", "--consistency.steps", "1", "--optim.optimizer", "muon"),
}
INVERSE = ("--stages", "1", "--inverse.steps", "1", "--inverse.start", "teacher", "--inverse.adversarial", "0.02")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Of the digits, with a class that means none. Its students are made by the tests, each in a folder of its own."""
    folder = tmp_path_factory.mktemp("adopted")
    adopt(saved(folder / "model", "epsilon", num_class_embeds=11), folder / "run", DataConfig())
    return folder / "run"


def made(teacher, out, *options, fast=FAST) -> None:
    assert distill.main([str(teacher), "--out", str(out), *fast, *options]) == 0


@pytest.mark.parametrize("method", METHODS)
def test_every_method(teacher, tmp_path, method):
    made(teacher, tmp_path, *METHODS[method])
    for folder in students(tmp_path):
        run = open_run(folder)
        assert run.config.network == load_config(teacher).network
        assert run.process.tau_max == run.network.tau_max < 1
        before = open_run(teacher).network.state_dict()
        assert any(not torch.equal(value, before[name]) for name, value in run.network.state_dict().items())
    made(teacher, tmp_path, *METHODS[method], "--resume")


def test_inverse_distillation(teacher, tmp_path):
    made(teacher, tmp_path, *INVERSE, fast=FAST[:2])  # the warm-up is of stages
    assert open_run(student_folder(tmp_path, 1, "inverse")).config.student.num_steps == 1


def test_w_as_an_input_is_refused(teacher, tmp_path, capsys):
    options = ("--out", str(tmp_path), "--stages", "2,1", "--steps", "1", "--w-max", "2")
    assert distill.main([str(teacher), *options]) == 1
    assert "takes no guidance weight as an input: distil with a fixed --w" in capsys.readouterr().err


def test_noise_alone_is_enough_where_there_are_no_images(tmp_path, capsys):
    run = adopt(saved(tmp_path / "model", num_class_embeds=2), tmp_path / "run").folder
    pairs = ("--stages", "2,1", "--steps", "1", "--method", "pairs", "--pairs.count", "8")
    alone = ("--inverse.steps", "1", "--inverse.alpha", "1", "--inverse.beta", "1")
    made(run, run, *pairs, *alone)
    made(run, run, "--stages", "2,1", "--steps", "1", "--backward", "1")
    assert len(students(run)) == 3
    for options, needed in (
        ((), "method endpoint"),
        (("--exact-start", "--backward", "1"), "exact_start"),
        (("--method", "pairs", "--pairs.by", "consistency"), "pairs.by consistency"),
    ):
        assert distill.main([str(run), "--stages", "2,1", "--steps", "1", *options]) == 1
        assert f"{needed} learns from them: say with --data.path" in capsys.readouterr().err
    assert evaluate.main([str(run), "--num", "10"]) == 1
    assert "was adopted without the images that it was trained on" in capsys.readouterr().err


def test_images_of_another_size_that_come_later_are_told_how_to_be_used(tmp_path, capsys):
    run = adopt(saved(tmp_path / "model"), tmp_path / "run").folder
    images = np.random.default_rng(0).integers(0, 256, (30, 12, 10), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=images)
    place = ["--data.path", str(tmp_path / "images.npz")]
    assert distill.main([str(run), *place, "--stages", "2,1", "--steps", "1"]) == 1
    words = capsys.readouterr().err
    assert "was trained on images of 1 x 8 x 8, but those of" in words
    assert f"adopt it again with these, {' '.join(place)} --data.image-size 8, which brings them" in words
    again = adopt(saved(tmp_path / "again"), tmp_path / "other", DataConfig(path=place[1], image_size=8)).folder
    made(again, again, "--stages", "2,1", "--steps", "1")


def test_images_of_other_classes_need_another_adoption(tmp_path, capsys):
    run = adopt(saved(tmp_path / "model"), tmp_path / "run").folder
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=images, labels=np.arange(30) % 3)
    told = [str(run), "--data.path", str(tmp_path / "images.npz"), "--stages", "2,1", "--steps", "1"]
    assert distill.main(told) == 1
    assert "(0, 1, 2) are not those of" in (words := capsys.readouterr().err)
    assert "adopt it again with these, --data.path, and with --data.unconditional" in words


def test_a_run_like_any(teacher, tmp_path, capsys):
    made(teacher, teacher, "--stages", "2,1", "--steps", "1")
    assert sample.main([str(teacher), "--num", "2", "--steps", "1", "--out", str(tmp_path / "x.png")]) == 0
    assert evaluate.main([str(teacher), "--num", "20"]) == 0
    assert report.main([str(teacher)]) == 0
    assert export.main([str(teacher), "--out", str(tmp_path / "x.pt2")]) == 0
    assert export.main([str(teacher), "--out", str(tmp_path / "back")]) == 0
    assert "whose README.md has the lines" in capsys.readouterr().out
    assert export.main([str(teacher), "--out", str(tmp_path / "back"), "--steps", "2"]) == 1
    assert "use --steps 1" in capsys.readouterr().err
    pipeline = KacPipeline.from_pretrained(teacher, num_inference_steps=1)
    pipeline.save_pretrained(tmp_path / "pipeline")
    again = KacPipeline.from_pretrained(tmp_path / "pipeline")
    assert again.scheduler.config.tau_max == KacScheduler.from_pretrained(teacher).config.tau_max < 1
    first, second = (
        part([3, 7], generator=torch.Generator().manual_seed(0), output_type="pt").images for part in (pipeline, again)
    )
    assert torch.equal(first, second)


def test_trainings_cannot_go_on_from_it(teacher, capsys):
    from distillkac import train

    assert train.main(["--run", str(teacher), "--resume"]) == 1
    assert "was adopted from diffusers" in capsys.readouterr().err


def test_the_exact_start_is_the_mean_of_the_class(teacher):
    """At t = 1 one step leads to the mean image, whatever the noise: x - u = mean."""
    from distillkac.flow.exact_start import ExactStart

    run = open_run(teacher)
    means = torch.randn(11, *run.config.shape, generator=torch.Generator().manual_seed(0))
    field, x = ExactStart(run.network, run.process, means), run.process.prior(3, run.config.shape, 0)
    y = torch.tensor([0, 5, 9])
    assert (x - field(x, 1.0, y) - means[y]).abs().max() < 1e-5
