"""The measures: right against independent formulas, and worse for images that are worse, each in its own way."""

import warnings

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from distillkac.data import read
from distillkac.evaluation import metrics
from distillkac.evaluation.metrics import Evaluator
from tests.evaluation.small_sets import noise, small


def test_floor_of_real_train_images(evaluator):
    floor = evaluator.floor()
    assert 0.15 < floor["frechet"] < 0.35  # docs/method.md, section 7: .25
    assert floor["frechet_train"] < 1e-9
    assert floor["accuracy"] > 0.995
    assert 0.95 < floor["diversity"] < 1.1


def blur(x):
    return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)


def test_frechet_rises_with_noise_blur_and_a_lost_class(evaluator, real):
    x, y = real
    floor = evaluator(x, y)
    noisy = [evaluator(noise(x, amount), y) for amount in (0.2, 0.4, 0.8)]
    worse = [*noisy, evaluator(blur(x), y), evaluator(x[y != 3], y[y != 3])]
    for result in worse:
        assert result["frechet"] > 1.2 * floor["frechet"]
        assert result["frechet_train"] > floor["frechet_train"] + 0.05
    levels = [result["frechet"] for result in noisy]
    assert levels == sorted(levels)
    assert noisy[-1]["accuracy"] < 0.9


def test_accuracy_compares_with_the_class_asked_for(evaluator, real):
    x, y = real
    assert evaluator(x, (y + 1) % 10)["accuracy"] < 0.02
    asked = torch.where(y == 4, 9, y)
    result = evaluator(x[y != 9], asked[y != 9])
    assert result["worst_class_accuracy"] < 0.05
    assert result["accuracy"] > 0.85


def test_diversity_falls_when_classes_collapse(evaluator, real):
    x, y = real
    one = torch.stack([x[y == k][0] for k in range(10)])
    assert evaluator(one[y], y)["diversity"] < 1e-6
    assert evaluator(0.5 * (x + one[y]), y)["diversity"] == pytest.approx(0.5 * evaluator(x, y)["diversity"], rel=1e-3)


def test_nn_ratio_shows_copies(evaluator, splits):
    train = splits[0]
    rows = metrics.subset(len(train), len(train), "near train")
    fresh = read(train, rows[500:])  # not among the 500 that distances are taken to: as good as new images
    copies = read(train, rows[:500])
    assert evaluator(*fresh)["nn_ratio"] == pytest.approx(1, abs=0.05)
    assert evaluator(*copies)["nn_ratio"] < 1e-6
    assert evaluator(noise(copies[0], 0.05), copies[1])["nn_ratio"] < 0.4
    assert evaluator.floor()["nn_ratio"] < 0.7


def test_images_are_clamped(evaluator, real):
    x, y = real[0] * 1.5, real[1]
    assert evaluator(x, y) == pytest.approx(evaluator(x.clamp(-1, 1), y), rel=1e-9)
    for measure in (evaluator.features, evaluator.logits, evaluator.nearest_train):
        torch.testing.assert_close(measure(x[:20]), measure(x[:20].clamp(-1, 1)))


def test_bad_images_are_refused(evaluator, real):
    x, y = real[0][:10], real[1][:10]
    broken = x.clone()
    broken[3, 0, 1, 1] = float("nan")
    for images, labels, message in (
        (broken, y, "1 of 10 images"),
        (x[:, 0], y, r"images must be .*got \(10, 8, 8\)"),
        (x[:1], y[:1], "n >= 2"),
        (x, y[:9], "labels must be"),
        (x, y.float(), "integers"),
        (x, y + 10, r"labels must lie in \[0, 10\)"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluator(images, labels)


def test_distances_against_numpy(quick):
    train, test, images = small(seed=0), small(seed=1), small(seed=2)
    result = Evaluator(train, test)(images.images, images.labels)
    a, b, c = (data.images.flatten(1).double().numpy() for data in (images, train, test))
    nearest = [np.linalg.norm(a[:, None] - other[None], axis=2).min(1).mean() for other in (b, c)]
    assert result["nn_ratio"] == pytest.approx(nearest[0] / nearest[1], rel=1e-5)

    def spread(x):
        return np.mean([np.linalg.norm(p - q) for i, p in enumerate(x) for q in x[:i]])

    ratios = [spread(a[k::2]) / spread(c[k::2]) for k in range(2)]
    assert result["diversity"] == pytest.approx(np.mean(ratios), rel=1e-5)


def test_measures_that_are_undefined_are_left_out(quick):
    x = small().images
    result = Evaluator(small(), small(seed=1))(x[:2], torch.tensor([0, 1]))
    assert "diversity" not in result
    assert result["frechet"] > 0


def test_a_covariance_of_few_images_is_warned_of(evaluator, real, quick):
    x, y = real
    with pytest.warns(UserWarning, match="only 31 images: 32 features"):
        evaluator(x[:31], y[:31])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluator(x[:32], y[:32])
    with pytest.warns(UserWarning, match="only 12 held-out images"):
        Evaluator(small(count=40), small(seed=1))
