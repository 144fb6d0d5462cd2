"""`models`, and `sample digits` right after the installation: what a newcomer types first."""

import numpy as np
import pytest
import torch
from PIL import Image

from distillkac import models, sample
from distillkac.evaluation import ship
from distillkac.pipeline import KacPipeline
from distillkac.runs import shipped
from distillkac.scheduler import KacScheduler
from tests.places import ROOT


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(capsys, *words):
    code = models.main(list(words))
    streams = capsys.readouterr()
    assert code == 0, streams.err
    return streams.out


def test_the_first_picture(elsewhere, capsys):
    assert sample.main(["digits", "--out", "grid.png"]) == 0
    assert capsys.readouterr().out.startswith(
        "student-4-consistency (digits/student-4-consistency): 100 images, 4 steps, nfe 4, "
    )
    with Image.open("grid.png") as grid:
        assert grid.width == grid.height > 400  # ten columns, one of each class
    assert [path.name for path in elsewhere.iterdir()] == ["grid.png"]


def test_without_a_place_the_picture_is_in_this_folder(elsewhere, capsys):
    assert sample.main(["digits", "--num", "3"]) == 0
    assert sample.main(["digits", "--num", "3", "--steps", "1"]) == 0
    assert sample.main(["digits/student-1-inverse", "--num", "3"]) == 0
    assert {path.name for path in elsewhere.iterdir()} == {
        "digits-steps-4.png",
        "digits-steps-1.png",
        "digits-student-1-inverse-steps-1.png",
    }


def test_a_student_of_any_run_takes_its_own_steps(run, capsys):
    assert sample.main([str(run / "student-2"), "--num", "2", "--out", "two.png"]) == 0
    assert "2 steps, nfe 2," in capsys.readouterr().out
    assert sample.main([str(run), "--num", "2", "--out", "twenty.png"]) == 0
    assert "20 steps, nfe 20," in capsys.readouterr().out


@pytest.mark.parametrize("steps", [None, 4, 1])
def test_the_pipeline_draws_what_the_command_draws(steps):
    """The classes that were asked for: most of 60 digits are the nearest to the mean of their own class."""
    from distillkac.data import DataConfig, class_means, load

    pipeline = KacPipeline.from_pretrained("digits", num_inference_steps=steps)
    assert pipeline.config.num_inference_steps == (steps or 4)
    labels = torch.arange(60) % 10
    images = pipeline(labels, generator=torch.Generator().manual_seed(0), output_type="pt").images
    means = class_means(load(DataConfig(), "train"))[:10]
    nearest = torch.cdist(images.flatten(1), means.flatten(1)).argmin(1)
    assert (nearest == labels).float().mean() > 0.75


def test_a_pipeline_of_a_model_is_saved_as_any_other(elsewhere):
    KacPipeline.from_pretrained("digits").save_pretrained("mine")
    again = KacPipeline.from_pretrained("mine")
    assert again.config.trained["num_steps"] == 4
    with pytest.raises(ValueError, match=r"distilled with w = 0\.0"):
        again([3], guidance_scale=3.0)


def test_the_list_says_what_they_are_how_made_and_how_good(capsys):
    printed = told(capsys)
    for name, entry in shipped.index().items():
        assert f"{name}: {entry['title']}" in printed
        for word in (entry["made_by"], entry["commit"], entry["source"], entry["evaluator"]["digest"][:12]):
            assert word in printed
        for row in entry["rows"]:
            assert f"{row['frechet']:.3f}" in printed
            assert row["name"] in printed
    assert printed.endswith("sample digits --out grid.png\n")


def test_the_page_shows_what_is_printed(capsys):
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    assert page.partition("```text\n")[2].partition("```")[0] == told(capsys).rpartition("\ndraw from one")[0]


@pytest.mark.parametrize("name", list(shipped.index()))
def test_a_name_prints_its_card(capsys, name):
    assert told(capsys, name) == (shipped.FOLDER / name / shipped.CARD).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["letters"], "there is no model letters; distillkac comes with digits"),
        (["--measure"], "name the model that is to be measured: digits"),
        (["digits", "--data.path", "DIR"], "--data.path says where images are that --measure needs"),
    ],
)
def test_mistakes(capsys, words, sentence):
    assert models.main(words) == 1
    assert sentence in capsys.readouterr().err


def test_figures_of_the_card_are_those_of_the_shipped_weights(capsys, monkeypatch):
    """Of the one-step student, to what another processor may draw differently."""
    monkeypatch.setattr(ship, "students", lambda folder: [folder / "student-1-inverse"])
    printed = told(capsys, "digits", "--measure")
    rows = {line.split(",")[0].strip() + line.split(",")[1].split()[0]: line for line in printed.splitlines()[1:]}
    (now,) = (line for name, line in rows.items() if name.endswith("now"))
    card = next(line for name, line in rows.items() if name == "student-1-inversecard")
    now, card = (np.array([float(cell) for cell in line.split()[2:]]) for line in (now, card))
    assert now == pytest.approx(card, abs=0.02)
    assert 0.15 < card[2] < 0.25


def test_what_was_saved_by_the_name_of_a_model_goes_before_it(elsewhere):
    pipeline = KacPipeline.from_pretrained("digits", num_inference_steps=1)
    pipeline.save_pretrained("fashion")
    with pytest.warns(
        UserWarning, match="fashion is a saved pipeline in this folder and fashion also a model that comes with"
    ):
        again = KacPipeline.from_pretrained("fashion")
    assert tuple(again.unet.config.shape) == (1, 8, 8)
    KacScheduler(process="planar", a=9.0).save_pretrained("digits")
    assert KacScheduler.from_pretrained("digits").config.process == "planar"
    assert sample.main(["digits", "--num", "1", "--out", "one.png"]) == 0  # which nothing else is in that folder for


def test_a_pipeline_makes_no_black_pictures_of_what_is_not_finite():
    pipeline = KacPipeline.from_pretrained("digits")
    with torch.no_grad():
        next(pipeline.unet.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="2 of 2 images hold values that are not finite"):
        pipeline([0, 1])
