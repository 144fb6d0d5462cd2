"""Exported graphs give the network's images at any batch size; noise drawn inside has the law of the prior."""

import errno
import os

import pytest
import torch

from distillkac import distill, export, train
from distillkac.flow.patches import lengths
from distillkac.flow.processes import Gaussian, Planar, Quad, Telegraph
from distillkac.ops import reference
from distillkac.runs import graphs
from distillkac.runs.process_config import law
from distillkac.runs.run import open_run

TINY = ["--network.channels", "8", "16", "--network.head-dim", "8", "--optim.batch-size", "16"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert train.main(["--run", str(folder), "--steps", "20", "--optim.lr", "0.01", *TINY]) == 0
    assert distill.main([str(folder), "--stages", "4,2", "--steps", "3", "--optim.batch-size", "16"]) == 0
    return folder


@pytest.mark.parametrize(
    ("steps", "suffix"),
    [
        (2, ".onnx"),
        (3, ".pt2"),
        pytest.param(2, ".pt2", marks=pytest.mark.slow),
        pytest.param(3, ".onnx", marks=pytest.mark.slow),
    ],
)
def test_graph_gives_the_images_of_the_network(run, tmp_path, capsys, suffix, steps):
    if suffix == ".onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    out = tmp_path / f"student{suffix}"
    assert export.main([str(run), "--steps", str(steps), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "differs from the network by at most" in said
    loaded = open_run(run / "student-2" if steps == 2 else run, torch.device("cpu"))
    assert f"its input noise is {law(loaded.config.noise)} at t = 1" in said
    assert graphs.largest_gap(out, graphs.Chain(loaded, steps), loaded) < 1e-4  # at 70 images; the example had 3


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_a_network_with_patches_is_exported_as_it_is(tmp_path, suffix):
    """In one step: patches are cut and put together inside the graph, whose images have their own shape."""
    if suffix == ".onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    run, out = tmp_path / "run", tmp_path / f"patched{suffix}"
    tiny = ["--network.channels", "8", "--network.head-dim", "8", "--optim.batch-size", "16"]
    assert train.main(["--run", str(run), "--steps", "5", "--optim.lr", "0.01", "--network.patch", "2", *tiny]) == 0
    assert export.main([str(run), "--steps", "1", "--out", str(out)]) == 0
    loaded = open_run(run, torch.device("cpu"))
    assert loaded.network.unet.config.in_channels == 4
    assert graphs.largest_gap(out, graphs.Chain(loaded, 1), loaded) < 1e-4


def test_noise_inside_makes_other_images_every_time(run, tmp_path):
    out = tmp_path / "student.pt2"
    assert export.main([str(run), "--steps", "2", "--noise", "inside", "--out", str(out)]) == 0
    sample = torch.export.load(out).module()
    first, second = sample(torch.zeros(5, dtype=torch.int64)), sample(torch.zeros(5, dtype=torch.int64))
    assert first.shape == (5, 1, 8, 8)
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("prior", "process"),
    [
        (graphs.TelegraphPrior, Telegraph(1.5, 2.0)),
        (graphs.TelegraphPrior, Telegraph(25.0, 2.0)),
        (graphs.PlanarPrior, Planar(1.5, 2.0)),
        (graphs.QuadPrior, Quad(1.5, 2.0)),
        (graphs.QuadPrior, Quad(25.0, 2.0)),
        (graphs.GaussianPrior, Gaussian(0.4)),
    ],
)
def test_noise_inside_has_the_law_of_the_prior(prior, process):
    """Two samples of 1e5 numbers, ours and the kernels': quantiles and, where particles never turned, their share."""
    torch.manual_seed(0)
    ours = prior(process, (1, 10, 10))(torch.zeros(1000, dtype=torch.int64)).flatten()
    theirs = process.prior(1000, (1, 10, 10), 1).flatten()
    at = torch.linspace(0.01, 0.99, 50)
    spread = theirs.std()
    # The standard error of a quantile at p is sqrt(p (1 - p) / n) / density; 0.03 spreads is five of them or more.
    gap = (ours.quantile(at) - theirs.quantile(at)).abs().max() / spread
    assert gap < 0.035
    if isinstance(
        process, Quad
    ):  # of patches of the image, 2.5e4 lengths: in standard errors of the exact law's quantiles
        ours, theirs = (lengths(x.view(1000, 1, 10, 10), "quad").flatten() for x in (ours, theirs))
        radius = ours.quantile(at).double() / process.c
        error = reference.quad_cdf_radius(radius, process.a) - at
        assert (error / (at * (1 - at) / len(ours)).sqrt())[radius < 0.999].abs().max() < 4.4
    if isinstance(process, (Telegraph, Quad)):
        share, expected = ((x.abs() > 0.999999 * process.c).float().mean() for x in (ours, theirs))
        assert abs(share - expected) < 5 * (expected * (1 - expected) / len(ours) * 2) ** 0.5 + 1e-6


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_an_export_that_cannot_be_written_leaves_the_one_before(run, tmp_path, capsys, monkeypatch, suffix):
    if suffix == ".onnx":
        pytest.importorskip("onnxscript")
    out = tmp_path / f"student{suffix}"
    out.write_bytes(b"the one before")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert export.main([str(run), "--steps", "2", "--out", str(out)]) == 1
    assert "cannot be written (No space left on device); what was there is kept" in capsys.readouterr().err
    assert out.read_bytes() == b"the one before"


def test_mistakes_are_explained(run, tmp_path, capsys):
    assert export.main([str(run), "--out", str(tmp_path / "x.bin")]) == 1
    assert "must end in .onnx or .pt2" in capsys.readouterr().err
    assert distill.main([str(run), "--stages", "4,2", "--steps", "2", "--w-max", "1", "--out", str(tmp_path)]) == 0
    assert export.main([str(tmp_path / "student-2"), "--steps", "2", "--out", str(tmp_path / "x.pt2")]) == 1
    assert "guidance weight as an input" in capsys.readouterr().err
