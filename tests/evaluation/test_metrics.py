"""The measures: right against independent formulas, and worse for images that are worse, each in its own way."""

import json
import warnings

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save as to_safetensors
from scipy.linalg import sqrtm
from torch.nn import functional as F

from distillkac.data import DataConfig, ImageDataset, load, read
from distillkac.evaluation import classifier, metrics
from distillkac.evaluation.metrics import Evaluator, Moments, frechet_distance


@pytest.fixture(scope="session")
def splits():
    return load(DataConfig(), "train"), load(DataConfig(), "test")


@pytest.fixture(scope="session")
def evaluator(splits):
    return Evaluator(*splits)


@pytest.fixture(scope="session")
def real(splits):
    """Real images as a generator would give them, labels in random order."""
    return read(splits[0], range(1297))


@pytest.fixture
def quick(monkeypatch):
    """For what does not depend on how good the classifier is."""
    monkeypatch.setattr(classifier, "STEPS", 3)


def moments(mean, cov):
    result = Moments(torch.zeros(2, len(mean)))
    result.mean, result.cov = torch.as_tensor(mean).double(), torch.as_tensor(cov).double()
    return result


def random_cov(seed, rank=32, scale=1.0):
    a = np.random.default_rng(seed).standard_normal((32, rank)) * scale
    return a @ a.T / rank


# ---------------------------------------------------------------------------------------------------- Fréchet distance


@pytest.mark.parametrize(("rank", "scale"), [(40, 1.0), (32, 1e-3), (64, 1e3)])
def test_frechet_against_scipy(rank, scale):
    p, q = random_cov(0, rank), random_cov(1, rank, scale)
    mean = np.random.default_rng(2).standard_normal((2, 32))
    wanted = ((mean[0] - mean[1]) ** 2).sum() + np.trace(p + q - 2 * sqrtm(p @ q).real)
    assert frechet_distance(moments(mean[0], p), moments(mean[1], q)) == pytest.approx(wanted, rel=1e-8)


def test_frechet_closed_forms():
    zero, s, r = np.zeros(32), np.linspace(0.1, 3, 32), np.linspace(2, 0, 32)
    # Covariances with common axes: the squared distance of the standard deviations; here one is singular too.
    axes = np.linalg.qr(np.random.default_rng(3).standard_normal((32, 32)))[0]
    p, q = (axes @ np.diag(sd**2) @ axes.T for sd in (s, r))
    # (A variance of 0 that rounding makes 1e-16 has a standard deviation of 1e-8: nothing can be more exact.)
    assert frechet_distance(moments(zero, p), moments(zero, q)) == pytest.approx(((s - r) ** 2).sum(), rel=1e-8)
    # The same shape elsewhere: the squared distance of the means.
    assert frechet_distance(moments(zero, p), moments(zero + 0.5, p)) == pytest.approx(8, rel=1e-9)
    # Both singular with ranges at right angles: no overlap, the sum of the traces.
    halves = [np.diag(np.arange(32) < 16) * 1.0, np.diag(np.arange(32) >= 16) * 1.0]
    assert frechet_distance(*(moments(zero, half) for half in halves)) == pytest.approx(32, rel=1e-9)


def test_frechet_of_equal_moments_is_zero_and_it_is_symmetric():
    p, q = (moments(np.zeros(32), random_cov(seed, rank=5)) for seed in (4, 5))
    assert 0 <= frechet_distance(p, p) < 1e-12
    assert frechet_distance(p, q) == pytest.approx(frechet_distance(q, p), rel=1e-9)


def test_moments_are_those_of_numpy():
    phi = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(Moments(phi).mean, phi.double().numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(Moments(phi).cov, np.cov(phi.double().numpy().T), rtol=1e-10)


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


def test_floor_of_real_train_images(evaluator):
    floor = evaluator.floor()
    assert 0.15 < floor["frechet"] < 0.35  # docs/method.md, section 7: .25
    assert floor["frechet_train"] < 1e-9
    assert floor["accuracy"] > 0.995
    assert 0.95 < floor["diversity"] < 1.1


def blur(x):
    return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)


def noise(x, amount):
    return x + amount * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))


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
    rows = metrics._subset(len(train), len(train), "near train")
    fresh = read(train, rows[500:])  # not among the 500 that distances are taken to: as good as new images
    copies = read(train, rows[:500])
    assert evaluator(*fresh)["nn_ratio"] == pytest.approx(1, abs=0.05)
    assert evaluator(*copies)["nn_ratio"] < 1e-6
    assert evaluator(noise(copies[0], 0.05), copies[1])["nn_ratio"] < 0.4
    assert evaluator.floor()["nn_ratio"] < 0.7


def test_images_are_clamped(evaluator, real):
    x, y = real[0] * 1.5, real[1]
    assert evaluator(x, y) == pytest.approx(evaluator(x.clamp(-1, 1), y), rel=1e-9)


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


# ------------------------------------------------------------------------------------------------------ any other data


def small(shape=(3, 6, 4), classes=2, count=12, seed=0):
    x = torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return ImageDataset(x, torch.arange(count) % classes, tuple(map(str, range(classes))))


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


@pytest.mark.parametrize("shape", [(1, 2, 3), (3, 6, 4), (1, 8, 8), (1, 28, 28), (3, 40, 64)])
def test_any_shape(quick, shape):
    result = Evaluator(small(shape), small(shape, seed=1)).floor()
    assert all(np.isfinite(value) for value in result.values())
    assert set(result) == {"frechet", "frechet_train", "accuracy", "worst_class_accuracy", "diversity", "nn_ratio"}


def test_classifier_of_8_by_8_is_the_published_one():
    sizes = [tuple(p.shape) for p in classifier.Classifier((1, 8, 8), 10).parameters() if p.dim() > 1]
    assert sizes == [(32, 1, 3, 3), (64, 32, 3, 3), (64, 64, 3, 3), (32, 1024), (10, 32)]


def test_one_class_has_no_accuracy_but_features(splits, monkeypatch):
    x, _ = read(splits[0], range(1297))
    data = [ImageDataset(part, torch.zeros(len(part), dtype=torch.int64), ("all",)) for part in (x[:800], x[800:])]
    monkeypatch.setattr(classifier, "STEPS", 60)
    one = Evaluator(*data)
    assert one.accuracy > 0.4  # at naming one of four mirrorings
    floor = one.floor()
    assert set(floor) == {"frechet", "frechet_train", "diversity", "nn_ratio"}
    assert one(noise(x[:800], 0.8), data[0].labels)["frechet"] > 2 * floor["frechet"]


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
    assert sorted(path.name for path in tmp_path.iterdir()) == ["classifier.json", "classifier.safetensors"]


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
