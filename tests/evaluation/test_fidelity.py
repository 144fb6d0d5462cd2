"""FID, KID, precision and recall against closed forms and brute force; references are reused only where they fit."""

import json
import warnings

import pytest
import torch
from accelerate import Accelerator
from safetensors import safe_open

from distillkac import data
from distillkac.evaluation import fidelity, moments
from tests.evaluation.stand_in import Stand


def normal(rows: int, mean, root, seed: int) -> torch.Tensor:
    """Whitened, so that mean and covariance (divisor n - 1) of the sample are exactly `mean` and root root^T."""
    x = torch.randn(rows, len(mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x - x.mean(0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T
    return torch.as_tensor(mean, dtype=torch.float64) + x @ torch.as_tensor(root, dtype=torch.float64).T


def test_fid_of_gaussians_is_the_closed_form(torchmetrics):
    """Commuting covariances: |m - m'|^2 + sum (s_i - s_i')^2."""
    s, t, shift = torch.tensor([1.0, 2.0, 0.5]), torch.tensor([2.0, 0.1, 0.5]), torch.tensor([0.3, 0.0, -1.0])
    p, q = normal(500, torch.zeros(3), s.diag(), 0), normal(400, shift, t.diag(), 1)
    expected = float(shift.square().sum() + (s - t).square().sum())
    assert fidelity.fid(p, q) == pytest.approx(expected, rel=1e-6)
    assert fidelity.fid(p, p) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("rows", [12, 300])  # fewer than features: singular covariances
def test_fid_is_the_frechet_distance_of_our_own_metrics(torchmetrics, rows):
    source = torch.Generator().manual_seed(rows)
    p, q = torch.randn(rows, 20, generator=source), torch.rand(rows, 20, generator=source) ** 2
    expected = moments.frechet_distance(moments.Moments.of(p), moments.Moments.of(q))
    assert fidelity.fid(p, q) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("metric", "features", "enough"), [("fid", 2048, 2048), ("kid", 2048, 1000), ("fid", 6, 6)])
def test_few_images_are_warned_of(metric, features, enough):
    """2048 features of fewer images cannot have a covariance of full rank; KID's subsets take 1000."""
    for counts in ((enough - 1, 50_000), (50_000, enough - 1)):
        with pytest.warns(UserWarning, match=f"{metric.upper()} of {counts[0]} generated and {counts[1]} real images"):
            fidelity.warn_of_few([metric], *counts, features)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fidelity.warn_of_few([metric], enough, enough, features)
        fidelity.warn_of_few(["precision-recall"], 10, 10, features)


def test_fid_and_kid_of_few_rows_warn(torchmetrics):
    source = torch.Generator().manual_seed(0)
    few, many = torch.randn(30, 40, generator=source), torch.randn(50, 40, generator=source)
    for pair in ((few, many), (many, few)):
        with pytest.warns(UserWarning, match="covariance of full rank"):
            fidelity.fid(*pair)
        with pytest.warns(UserWarning, match="no error bar"):
            fidelity.kid(*pair)


def test_kid_is_the_formula(torchmetrics):
    """With as many images as a subset takes there is nothing random: the unbiased estimate, by loops."""
    source = torch.Generator().manual_seed(0)
    x, y = torch.randn(30, 5, generator=source).double(), torch.randn(30, 5, generator=source).double() + 0.5
    n, d = x.shape

    def kernel(a, b):
        return (float(a @ b) / d + 1) ** 3

    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    expected = sum(kernel(x[i], x[j]) + kernel(y[i], y[j]) for i, j in pairs) / (n * (n - 1))
    expected -= 2 * sum(kernel(a, b) for a in x for b in y) / n**2
    mean, std = fidelity.kid(x, y)
    assert mean == pytest.approx(expected, rel=1e-6)
    assert std == pytest.approx(0, abs=1e-9)


def test_kid_depends_on_its_seed_and_leaves_the_global_generator(torchmetrics, monkeypatch):
    monkeypatch.setattr(fidelity, "KID_SUBSET_SIZE", 50)
    source = torch.Generator().manual_seed(0)
    x, y = torch.randn(120, 4, generator=source), torch.randn(110, 4, generator=source)
    state = torch.random.get_rng_state()
    first = fidelity.kid(x, y, seed=3)
    assert torch.equal(state, torch.random.get_rng_state())
    torch.rand(7)
    assert fidelity.kid(x, y, seed=3) == first
    assert fidelity.kid(x, y, seed=4) != first
    assert first[1] > 0


@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_are_brute_force(k, monkeypatch):
    monkeypatch.setattr(fidelity, "CHUNK", 7)
    source = torch.Generator().manual_seed(k)
    g, r = torch.randn(40, 3, generator=source).double(), torch.randn(33, 3, generator=source).double() * 1.5 + 0.3

    def distance(a, b):
        return float((a - b).square().sum()) ** 0.5

    def radius(points, i):
        return sorted(distance(points[i], p) for j, p in enumerate(points) if j != i)[k - 1]

    in_real = [[distance(a, b) <= radius(r, i) for i, b in enumerate(r)] for a in g]
    in_made = [[distance(b, a) <= radius(g, j) for j, a in enumerate(g)] for b in r]
    expected = {
        "precision": sum(any(row) for row in in_real) / 40,
        "recall": sum(any(row) for row in in_made) / 33,
        "density": sum(sum(row) for row in in_real) / (k * 40),
        "coverage": sum(any(row[i] for row in in_real) for i in range(33)) / 33,
    }
    assert fidelity.precision_recall(g, r, k) == pytest.approx(expected)
    assert 0 < expected["precision"] < 1 or 0 < expected["recall"] < 1


def test_precision_and_recall_see_what_is_wrong():
    """One mode of two: precise, not recalled. The same points: all 1. Far away: all 0."""
    source = torch.Generator().manual_seed(0)
    left, right = torch.randn(200, 4, generator=source), torch.randn(200, 4, generator=source) + 50
    both = torch.cat([left, right])
    one = fidelity.precision_recall(torch.randn(300, 4, generator=source), both)
    assert one["precision"] > 0.9
    assert one["recall"] < 0.55
    assert one["coverage"] < 0.55
    same = fidelity.precision_recall(both, both)
    assert same["precision"] == same["recall"] == same["coverage"] == 1
    assert set(fidelity.precision_recall(both + 1000, both).values()) == {0}
    with pytest.raises(ValueError, match="k must lie in"):
        fidelity.precision_recall(left[:3], both, 3)


def test_pixels_are_those_of_a_saved_file():
    grey = torch.tensor([-1.5, -1.0, 0.0, 0.999, 1.0]).view(1, 1, 1, 5)
    assert fidelity.to_rgb8(grey)[0, :, 0].tolist() == [[0, 0, 128, 255, 255]] * 3
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(fidelity.to_rgb8(levels.float() / 127.5 - 1)[:, :1], levels)
    assert torch.equal(fidelity.to_rgb8(levels)[:, 2:], levels)
    with pytest.raises(ValueError, match="not finite"):
        fidelity.to_rgb8(grey / 0)


def reference(extractor, split="test", limit=100, config=None):
    config = config or data.DataConfig()
    return fidelity.Reference(data.load(config, split), split, limit, extractor)


def test_a_reference_is_reused_only_where_everything_is_the_same(tmp_path):
    accelerator, extractor = Accelerator(cpu=True), Stand()
    made = reference(extractor).features(tmp_path, 30, accelerator)
    assert made.shape == (100, 6)
    assert extractor.images == 100
    again = Stand()
    assert torch.equal(reference(again).features(tmp_path, 7, accelerator), made)
    assert again.calls == 0
    path = tmp_path / "reference-test.safetensors"
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["key"])["count"] == 100
    patches = data.DataConfig(builtin="patches")
    for other in (
        reference(Stand("1")),
        reference(Stand(), limit=99),
        reference(Stand(), config=patches),
        reference(Stand()),
    ):
        other.features(tmp_path, 30, accelerator)
        assert other.extractor.calls > 0  # not the file's
        before = other.extractor.calls
        other.features(tmp_path, 30, accelerator)
        assert other.extractor.calls == before
    path.write_bytes(path.read_bytes()[:50])
    torch.testing.assert_close(reference(Stand()).features(tmp_path, 30, accelerator), made)
    train_split = reference(Stand(), "train")
    train_split.features(tmp_path, 30, accelerator)
    assert train_split.extractor.calls > 0
    assert (tmp_path / "reference-train.safetensors").exists()


def test_the_whole_split_is_the_reference_and_no_mirror_images():
    config = data.DataConfig(builtin="patches", flip=True)
    rows = reference(Stand(), "train", 10**6, config).rows
    assert rows.tolist() == list(range(6100))
