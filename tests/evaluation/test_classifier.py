"""The classifier that measures: what it knows, its training, its cache."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save as to_safetensors

from distillkac.data import ImageDataset, read
from distillkac.evaluation import classifier
from distillkac.evaluation.metrics import Evaluator
from tests.evaluation.small_sets import noise, small

# ------------------------------------------------------------------------------------------------- the digits' metric


def test_classifier_knows_held_out_digits(evaluator, splits):
    assert evaluator.accuracy >= 0.98
    x, y = read(splits[1], range(500))
    result = evaluator(x, y)
    assert result["accuracy"] == pytest.approx(evaluator.accuracy)
    assert result["frechet"] < 1e-9
    assert result["diversity"] == pytest.approx(1, abs=1e-6)


def test_features_are_32_of_unit_variance_on_the_train_split(evaluator, real):
    phi = evaluator.features(real[0])
    assert (phi.shape, phi.dtype) == ((1297, 32), torch.float64)
    np.testing.assert_allclose(phi.std(0), 1, rtol=1e-4)


@pytest.mark.parametrize("shape", [(1, 2, 3), (3, 6, 4), (1, 8, 8), (1, 28, 28), (3, 40, 64)])
def test_any_shape(quick, shape):
    result = Evaluator(small(shape), small(shape, seed=1)).floor()
    assert all(np.isfinite(value) for value in result.values())
    assert set(result) == {"frechet", "frechet_train", "accuracy", "worst_class_accuracy", "diversity", "nn_ratio"}


def test_classifier_of_8_by_8_is_the_published_one():
    sizes = [tuple(p.shape) for p in classifier.Classifier((1, 8, 8), 10).parameters() if p.dim() > 1]
    assert sizes == [(32, 1, 3, 3), (64, 32, 3, 3), (64, 64, 3, 3), (32, 1024), (10, 32)]


def test_larger_data_are_seen_a_number_of_times_by_muon_and_smaller_ones_as_ever(monkeypatch):
    monkeypatch.setattr(classifier, "STEPS", 3)
    data = small()
    before, known = classifier.train_classifier(data).state_dict(), classifier.fingerprint_of(data, data)
    assert classifier.steps_for(14_999) == 3
    assert classifier.steps_for(60_000) == 4687  # five times each, in batches of 64
    monkeypatch.setattr(classifier, "LARGE", len(data))
    monkeypatch.setattr(classifier, "BATCH", max(1, classifier.EPOCHS * len(data) // 3))  # as many steps as before
    assert classifier.steps_for(len(data)) == 3
    built = []
    build = classifier.build_optimizer
    monkeypatch.setattr(classifier, "build_optimizer", lambda *given: built.append(given[1]) or build(*given))
    after = classifier.train_classifier(data).state_dict()
    assert [optim.optimizer for optim in built] == ["muon"]
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert (
        classifier.fingerprint_of(data, data) != known
    )  # so neither a cached nor a shipped one is taken for the other


def test_one_class_has_no_accuracy_but_features(splits, monkeypatch):
    x, _ = read(splits[0], range(1297))
    data = [ImageDataset(part, torch.zeros(len(part), dtype=torch.int64), ("all",)) for part in (x[:800], x[800:])]
    monkeypatch.setattr(classifier, "STEPS", 60)
    one = Evaluator(*data)
    assert one.accuracy > 0.4  # at naming one of four mirrorings
    floor = one.floor()
    assert set(floor) == {"frechet", "frechet_train", "diversity", "nn_ratio"}
    assert one(noise(x[:800], 0.8), data[0].labels)["frechet"] > 2 * floor["frechet"]


def test_splits_that_do_not_fit_are_refused(quick):
    with pytest.raises(ValueError, match="must agree"):
        Evaluator(small(), small(classes=3))
    with pytest.raises(ValueError, match="at least 2"):
        Evaluator(small(), ImageDataset(small().images[:1], torch.zeros(1, dtype=torch.int64), ("0", "1")))


# -------------------------------------------------------------------------------------------- seeds and the cached file


@pytest.mark.one_alignment
def test_training_depends_on_the_data_only_and_leaves_the_global_generator_alone(quick):
    weights = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        weights.append(classifier.train_classifier(small()).state_dict())
        assert torch.equal(torch.get_rng_state(), before)
    for key, value in weights[0].items():
        assert torch.equal(value, weights[1][key])


@pytest.fixture
def trainings(monkeypatch, quick):
    """Counts how often a classifier is trained."""
    count, train = [], classifier.train_classifier
    monkeypatch.setattr(classifier, "train_classifier", lambda data: count.append(1) or train(data))
    return count


def test_cached_classifier_gives_the_same_figures(tmp_path, trainings):
    first = Evaluator(small(), small(seed=1), tmp_path)
    before = torch.get_rng_state()
    second = Evaluator(small(), small(seed=1), tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(trainings) == 1
    assert second.floor() == pytest.approx(first.floor(), rel=1e-9, abs=1e-9)
    assert second.identity == first.identity
    assert first.name == "trained here"
    assert json.loads((tmp_path / "classifier.json").read_text())["accuracy"] == first.accuracy == second.accuracy
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "classifier-moments.safetensors",
        "classifier.json",
        "classifier.safetensors",
    ]


def test_stale_or_damaged_cache_is_not_used(tmp_path, trainings, monkeypatch):
    Evaluator(small(), small(seed=1), tmp_path)
    Evaluator(small(), small(seed=2), tmp_path)  # other held-out images
    Evaluator(small(seed=3), small(seed=2), tmp_path)  # other train images
    assert len(trainings) == 3
    relabelled = ImageDataset(small(seed=3).images, small().labels.flip(0), ("0", "1"))
    Evaluator(relabelled, small(seed=2), tmp_path)
    assert len(trainings) == 4
    (tmp_path / "classifier.safetensors").write_bytes(b"cut short")
    Evaluator(relabelled, small(seed=2), tmp_path)
    assert len(trainings) == 5
    # Other weights in a sound file that claims to be of these data: their digest tells.
    path = tmp_path / "classifier.safetensors"
    with safe_open(path, framework="pt") as file:
        about, weights = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    weights["head.2.bias"] += 1
    path.write_bytes(to_safetensors(weights, about))
    Evaluator(relabelled, small(seed=2), tmp_path)
    assert len(trainings) == 6
    Evaluator(relabelled, small(seed=2), tmp_path)
    assert len(trainings) == 6
    monkeypatch.setattr(classifier, "RECIPE", "another")
    Evaluator(relabelled, small(seed=2), tmp_path)
    assert len(trainings) == 7


def test_the_four_mirrorings_are_four():
    x = torch.arange(4.0).view(1, 1, 2, 2).expand(4, 1, 2, 2)
    images, which = classifier._mirror(x)
    assert which.tolist() == [0, 1, 2, 3]
    assert all(map(torch.equal, images, (x[0], x[0].flip(-1), x[0].flip(-2), x[0].flip(-1, -2))))
