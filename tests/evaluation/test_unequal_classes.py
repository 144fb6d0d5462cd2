"""Data whose classes are not equally frequent: what would be a perfect generator of them is as near as real images are."""

import json
import warnings

import numpy as np
import pytest
import torch

from distillkac import evaluate, train
from distillkac.data import DataConfig, ImageDataset, load, read
from distillkac.data.config import Fingerprint
from distillkac.evaluation import classifier
from distillkac.evaluation.metrics import Evaluator
from distillkac.runs import RunConfig
from distillkac.runs.class_shares import reference_labels
from tests.commands.tiny import TINY


def nine_to_one(split):
    """Zeros and ones among the digits, nine times as many zeros."""
    data = load(DataConfig(), split)
    zeros, ones = ((data.labels == k).nonzero().flatten() for k in (0, 1))
    rows = torch.cat([zeros, ones[: len(zeros) // 9]])
    return ImageDataset(data.images[rows], data.labels[rows], ("0", "1"))


def test_a_perfect_generator_is_near_only_with_the_shares_of_the_data(monkeypatch):
    monkeypatch.setattr(classifier, "STEPS", 60)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few images
        measure = Evaluator(nine_to_one("train"), nine_to_one("test"))
    images, labels = read(measure.train, range(len(measure.train)))
    counts = tuple(measure.test.labels.bincount().tolist())
    config = RunConfig(class_names=("0", "1"), fingerprint=Fingerprint((1, 1), counts, "", ""))

    def drawn(asked):
        """Real images of these classes, each once where there are enough."""
        place = [(labels == k).nonzero().flatten() for k in (0, 1)]
        met = [0, 0]
        rows = []
        for k in asked.tolist():
            rows.append(place[k][met[k] % len(place[k])])
            met[k] += 1
        return images[torch.stack(rows)]

    shared = reference_labels(config, 120)
    equal = torch.arange(120) % 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        near = measure(drawn(shared), shared)["frechet"]
    with pytest.warns(UserWarning, match=r"class '1' is 50% of these images and \d+% of the held-out ones"):
        far = measure(drawn(equal), equal)["frechet"]
    assert far > 10 * near


def test_evaluate_draws_classes_as_often_as_the_held_out_images_have_them(tmp_path, capsys, quick):
    x = np.random.default_rng(0).integers(0, 255, (120, 8, 8, 1), dtype=np.uint8)
    y, y_test = np.array([0] * 50 + [1] * 10), np.array([0] * 51 + [1] * 9)
    np.savez(tmp_path / "d.npz", images=x[:60], labels=y, test_images=x[60:], test_labels=y_test)
    run = tmp_path / "run"
    assert train.main([*TINY, "--data.path", str(tmp_path / "d.npz"), "--run", str(run), "--steps", "2"]) == 0
    capsys.readouterr()
    assert evaluate.main([str(run), "--num", "40", "--teacher-steps", "1"]) == 0
    assert "drawn: classes as often as the test split has them (2)" in capsys.readouterr().out
    found = json.loads((run / "evaluation.json").read_text())
    assert found["drawn"] == "classes as often as the test split has them (2)"
