"""Networks in Python whose images are not at hand: they teach as far as noise is enough, and say what is not."""

import pytest
import torch

from distillkac.data import from_tensors
from distillkac.distillation import DistillConfig, InverseConfig, distill
from distillkac.runs import SamplerConfig, adopt, class_labels, generate, open_run
from distillkac.runs.run_data import RunData
from tests.distillation.test_own_teachers import DATA, OPTIM, PLANS, no_precision_stays, wrapped

__all__ = ["no_precision_stays"]
NOISE = {
    "pairs": PLANS["pairs"],
    "endpoint": DistillConfig(stages=(4, 2, 1), steps=(1, 1), optim=OPTIM, w=0.5, backward=1.0),
    "inverse": DistillConfig(stages=(1,), optim=OPTIM, inverse=InverseConfig(1, alpha=1.0, beta=1.0, start="teacher")),
}


@pytest.fixture
def alone(tmp_path):
    return adopt(wrapped(), tmp_path / "run", shape=(1, 4, 4))


@pytest.mark.parametrize("method", NOISE)
def test_it_works_as_far_as_no_images_are_needed(alone, method):
    assert (alone.config.shape, alone.config.class_names, alone.config.label_drop) == ((1, 4, 4), ("0", "1"), 0.1)
    assert generate(alone, class_labels(alone.config, 6), SamplerConfig(3, w=0.5)).images.isfinite().all()
    made = distill(alone, config=NOISE[method])
    again = open_run(made[-1].folder, network=wrapped())
    one, two = (generate(run, class_labels(run.config, 4), SamplerConfig(1)).images for run in (made[-1], again))
    assert torch.equal(one, two)


def test_what_needs_images_says_so(alone):
    for plan, needed in (
        (DistillConfig(stages=(4, 2), steps=(1,), optim=OPTIM), "method endpoint"),
        (PLANS["endpoint"], "exact_start"),
        (PLANS["reconstruction"], "method reconstruction"),
        (PLANS["consistency"], "method consistency"),
        (PLANS["inverse"], "inverse distillation"),
    ):
        words = f"adopted without the images that it was trained on, and {needed} learns from them: .* give dataset"
        with pytest.raises(ValueError, match=words):
            distill(alone, config=plan)
    with pytest.raises(ValueError, match="was adopted without the images that it was trained on"):
        RunData(alone.folder, alone.config)
    other = from_tensors(DATA.x, DATA.y)  # they are at hand later
    assert len(distill(alone, other, config=PLANS["reconstruction"])) == 1


def test_what_is_said_of_images_that_are_not_there_must_fit(tmp_path):
    place = tmp_path / "run"
    for options, message in (
        ({}, r"give dataset=, or where they are not at hand shape=\(C, H, W\)"),
        ({"classes": 2}, "does not say the shape of its images"),
        ({"shape": (4, 4)}, r"shape must be \(C, H, W\), three whole numbers of at least 1, got \(4, 4\)"),
        ({"shape": (1, 4, 0)}, "shape must be"),
        ({"shape": (3, 4, 4)}, r"forward\(x, t, y\) failed for x \(2, 3, 4, 4\)"),
        ({"shape": (1, 4, 4), "classes": 3}, "null_class, .* must be 3"),
        ({"shape": (1, 4, 4), "classes": ("a", "a")}, "classes names one of them twice"),
        ({"shape": (1, 4, 4), "classes": 0}, "classes must be a number of at least 1, or the names"),
        ({"shape": (1, 4, 4), "dataset": DATA}, "omit shape and classes, or dataset"),
    ):
        with pytest.raises(ValueError, match=message):
            adopt(wrapped(), place, **options)
    with pytest.raises(ValueError, match="shape is of a network in Python"):
        adopt(str(tmp_path / "model"), place, shape=(1, 4, 4))
    assert not place.exists()
    assert adopt(wrapped(), place, shape=[1, 4, 4], classes=["dark", "bright"]).config.class_names == ("dark", "bright")
