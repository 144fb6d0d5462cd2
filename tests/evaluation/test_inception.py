"""The Inception network computes what torch-fidelity's does; weight files are found, checked and named in errors."""

import hashlib
import importlib.util
import pickle
import sys
import types
import urllib.error
from pathlib import Path

import pytest
import torch

from distillkac.evaluation import inception


def random_weights() -> dict:
    """Of the network and of the classes' layer behind it, as in the published file; batch norms far from the identity."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = inception.Inception().state_dict()
        for name, value in weights.items():
            if name.endswith("conv.weight"):  # a signal of order 1 through all the layers
                value.normal_(0, (2 / value[0].numel()) ** 0.5)
            elif name.endswith("running_var"):
                value.uniform_(0.5, 1.5)
            elif name.endswith(("running_mean", "bn.bias")):
                value.normal_(0, 0.2)
        return weights | {"fc.weight": torch.randn(1008, 2048), "fc.bias": torch.randn(1008)}


@pytest.fixture(scope="module")
def weight_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(random_weights(), path)
    return path


@pytest.fixture
def torch_fidelity(monkeypatch):
    """Its Inception module, from where `make test` puts it; the package around it, which needs torchvision, is left out."""
    monkeypatch.syspath_prepend(Path(sys.prefix) / "apart")
    spec = importlib.util.find_spec("torch_fidelity")
    if spec is None:
        pytest.skip("torch-fidelity, to compare with, is not installed")
    package = types.ModuleType("torch_fidelity")
    package.__path__ = list(spec.submodule_search_locations)
    monkeypatch.setitem(sys.modules, "torch_fidelity", package)
    yield importlib.import_module("torch_fidelity.feature_extractor_inceptionv3").FeatureExtractorInceptionV3
    for name in [name for name in sys.modules if name.startswith("torch_fidelity.")]:
        del sys.modules[name]


@pytest.mark.parametrize("size", [(32, 32), (320, 301)])
def test_features_are_torch_fidelitys(torch_fidelity, weight_file, size):
    theirs = torch_fidelity("inception", ["2048"], feature_extractor_weights_path=str(weight_file))
    images = torch.randint(256, (2, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ours = inception.load_inception(weight_file)
    with torch.no_grad():
        expected, got = theirs(images)[0], ours(images)
    assert got.shape == (2, 2048)
    assert expected.std() > 0.05  # not one number everywhere
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", [2, 5, 299, 400])
def test_resize_is_tensorflows(size):
    """Pixel i of the result is read at i H / 299: a ramp stays a ramp until its end and then its last value."""
    ramp = torch.arange(size, dtype=torch.float32)
    result = inception.resize_bilinear((ramp[:, None] + 1000 * ramp)[None, None], 299)[0, 0].double()
    at = (torch.arange(299) * (size / 299)).clamp(max=size - 1).double()
    torch.testing.assert_close(result, at[:, None] + 1000 * at, rtol=1e-5, atol=1e-2)


def test_parameters_are_those_of_the_published_network():
    """21.8 million before the classes' layer (Szegedy et al. 2016), 94 batch norms."""
    network = inception.Inception()
    assert sum(p.numel() for p in network.parameters()) == 21_785_568
    assert sum(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules()) == 94


def test_what_tensorflow_does_otherwise_than_torchvision():
    """Bytes become [-1, 127/128], batch norms have eps 1e-3, means leave the padding out, and the last pool is a maximum."""
    network, seen = inception.Inception().eval(), []
    network.Conv2d_1a_3x3.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].unique().tolist()))
    with torch.no_grad():
        for level in (0, 255):
            network(torch.full((1, 3, 299, 299), level, dtype=torch.uint8))
    assert seen == [[-1.0], [127 / 128]]
    assert {part.eps for part in network.modules() if isinstance(part, torch.nn.BatchNorm2d)} == {1e-3}
    blocks = {name: part for name, part in network.named_children() if isinstance(part, inception.Mixed)}
    last = {name: block.branches[-1][0] for name, block in blocks.items()}
    assert [name for name, first in last.items() if first == inception.MAX] == ["Mixed_7c"]
    mean = inception.Mixed(1, (inception.AVERAGE, ("pool", 1, 1))).eval()
    torch.nn.init.ones_(mean.pool.conv.weight)
    with torch.no_grad():
        flat = mean(torch.ones(1, 1, 5, 5))
    torch.testing.assert_close(flat, flat[:, :, 2:3, 2:3].expand_as(flat))


def test_load_says_which_weights_it_used(weight_file, capsys):
    network = inception.load_inception(weight_file)
    assert network.sha256 == hashlib.sha256(weight_file.read_bytes()).hexdigest()
    assert "random.pth" in network.name
    assert "not the file that FID is defined by" in capsys.readouterr().out
    assert not network.training


class Payload:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize("kind", ["text", "pickle", "other", "missing layer", "number"])
def test_wrong_files_are_named(tmp_path, capsys, kind):
    path = tmp_path / "w.pth"
    if kind == "text":
        path.write_text("hello")
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Payload(), protocol=2))
    elif kind == "other":
        torch.save({"weight": torch.zeros(3)}, path)
    elif kind == "number":
        torch.save(3, path)
    else:
        weights = inception.Inception().state_dict()
        del weights["Mixed_7c.branch_pool.conv.weight"]
        torch.save(weights, path)
    with pytest.raises(ValueError, match=r"w\.pth.*expected the weights of weights-inception-2015-12-05-6726825d"):
        inception.load_inception(path)
    assert "run" not in capsys.readouterr().out


def test_weights_are_looked_for_and_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ValueError, match="--inception download"):
        inception.find_weights(None)
    with pytest.raises(ValueError, match="there is no file"):
        inception.find_weights(str(tmp_path / "none.pth"))

    def download(url, path, hash_prefix, progress):
        assert (url, hash_prefix) == (inception.URL, inception.SHA256)
        open(path, "wb").close()

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    expected = tmp_path / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    assert inception.find_weights("download") == expected
    assert "downloading" in capsys.readouterr().out
    assert inception.find_weights("download") == inception.find_weights(None) == expected
    assert capsys.readouterr().out == ""
    expected.unlink()

    def refuse(*_, **__):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(ValueError, match=r"cannot be downloaded to .* \(.*no route.*\); .*--inception FILE"):
        inception.find_weights("download")


@pytest.mark.parametrize("images", [torch.zeros(1, 3, 8, 8), torch.zeros(1, 1, 8, 8, dtype=torch.uint8)])
def test_images_of_another_kind_are_refused(images):
    with pytest.raises(ValueError, match="must be uint8"):
        inception.Inception().eval()(images)
