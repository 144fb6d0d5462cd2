"""Moments of features and the Fréchet distance: right against independent formulas; those of a data set are measured once."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.linalg import sqrtm

from distillkac.base import files
from distillkac.data import DataConfig, ImageDataset, load
from distillkac.evaluation import classifier, evaluators
from distillkac.evaluation.metrics import Evaluator
from distillkac.evaluation.moments import KEPT, Moments, SplitMoments, frechet_distance
from distillkac.runs.presets import PRESETS
from tests.evaluation.small_sets import small


def moments(mean, cov):
    return Moments(torch.as_tensor(mean).double(), torch.as_tensor(cov).double())


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
    np.testing.assert_allclose(Moments.of(phi).mean, phi.double().numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(Moments.of(phi).cov, np.cov(phi.double().numpy().T), rtol=1e-10)


# ------------------------------------------------------------------------------------------------- those of a data set


def splits(name):
    data = PRESETS["fashion"].data if name == "fashion" else DataConfig(builtin=name)
    return [load(data, split) for split in ("train", "test")]


@pytest.fixture
def measurings(monkeypatch):
    """Counts how often all images of a data set are looked at for their moments."""
    monkeypatch.setattr(classifier, "steps_for", lambda count: 2)
    count, measured = [], SplitMoments.measured
    monkeypatch.setattr(SplitMoments, "measured", lambda *given: count.append(1) or measured(*given))
    return count


def assert_close(found: SplitMoments, wanted: SplitMoments) -> None:
    """Features are divided by their standard deviations, so their moments are of the size of 1."""
    there = wanted.tensors()
    for name, value in found.tensors().items():
        torch.testing.assert_close(value, there[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "name", ["digits", "patches", pytest.param("fashion", marks=[pytest.mark.fashion, pytest.mark.slow])]
)
def test_shipped_moments_are_those_of_the_images(name):
    data = splits(name)
    known = classifier.classifier_of(*data)
    shipped = evaluators.shipped_moments(known.digest)
    assert_close(SplitMoments.of_tensors(shipped.tensors), SplitMoments.measured(known.network, *data))
    assert shipped.digest == classifier.digest_of(known.digest, shipped.tensors)


def test_of_shipped_ones_no_image_is_looked_at(measurings):
    evaluator = Evaluator(*splits("digits"))
    assert (evaluator.name, measurings) == ("digits, shipped", [])
    assert evaluator.floor()["frechet_train"] < 1e-9  # all training images, whose moments they are


@pytest.mark.parametrize("damage", ["bit", "swapped", "missing", "other numbers"])
def test_damaged_or_swapped_moments_are_refused_by_name(measurings, damage, tmp_path, monkeypatch):
    folder = tmp_path / "evaluators"
    shutil.copytree(evaluators.FOLDER, folder)
    monkeypatch.setattr(evaluators, "FOLDER", folder)
    path = folder / "digits.moments.safetensors"
    content = path.read_bytes()
    if damage == "bit":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "swapped":
        shutil.copy(folder / "patches.moments.safetensors", path)
    elif damage == "missing":
        path.unlink()
    else:
        tensors = load_file(path)
        save_file(tensors | {"test.mean": tensors["test.mean"] + 1e-12}, path)
    with pytest.raises(ValueError, match=r"evaluators/digits\.moments\.safetensors.*(damaged|replaced).*install"):
        Evaluator(*splits("digits"))


def test_those_of_other_data_are_kept_beside_their_classifier(measurings, tmp_path):
    data = small(), small(seed=1)
    first, second = Evaluator(*data, tmp_path), Evaluator(*data, tmp_path)
    assert len(measurings) == 1
    assert_close(
        *(SplitMoments(one.scale, one.train_moments, one.test_moments) for one in (first, second)),
    )
    Evaluator(small(), small(seed=2), tmp_path)  # other held-out images
    assert len(measurings) == 2
    (tmp_path / KEPT).write_bytes(b"cut short")
    Evaluator(small(), small(seed=2), tmp_path)
    assert len(measurings) == 3


def test_kept_ones_that_do_not_say_what_they_are_of_are_measured_again(measurings, tmp_path):
    """Of another classifier, with a tensor less, and with other numbers than were written."""
    data, path = (small(), small(seed=1)), tmp_path / KEPT
    wanted = Evaluator(*data, tmp_path)
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    about = json.loads(content[8 : 8 + size])["__metadata__"]
    tensors = load_file(path)
    for metadata, named in (
        (about | {"classifier": "0" * 32}, tensors),
        (about, {key: value for key, value in tensors.items() if key != "scale"}),
        (about, tensors | {"scale": 2 * tensors["scale"]}),
    ):
        before = len(measurings)
        save_file(named, path, metadata)
        assert torch.equal(Evaluator(*data, tmp_path).scale, wanted.scale)
        assert len(measurings) == before + 1


def test_a_folder_that_one_may_only_read_serves_as_it_is(measurings, tmp_path, monkeypatch):
    data = small(), small(seed=1)
    classifier.classifier_of(*data, tmp_path)

    def refused(path, content):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(files, "write_atomic", refused)
    with pytest.warns(UserWarning, match=r"classifier-moments\.safetensors cannot be written \(Permission denied\)"):
        evaluator = Evaluator(*data, tmp_path)
    assert evaluator.floor()["frechet_train"] < 1e-9


def test_a_feature_that_never_varies_does_not_count():
    class Constant(torch.nn.Module):
        def features(self, x):
            return torch.cat([x.double().flatten(1)[:, :3], torch.full((len(x), 1), 7.0)], dim=1)

    images = torch.randn(40, 1, 2, 2, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    data = ImageDataset(images, torch.zeros(40, dtype=torch.int64), ("all",))
    found = SplitMoments.measured(Constant(), data, data)
    assert found.scale.isinf().tolist() == [False, False, False, True]
    assert found.train.cov.diagonal().tolist() == pytest.approx([1, 1, 1, 0])
    assert found.train.mean[3] == 0
