"""Images become latents once; runs on latents train, sample, are measured and shared as images."""

import contextlib
import errno
import json
import os
import shutil

import numpy as np
import pytest
import torch

from distillkac import data, diagnose, distill, encode, evaluate, sample, train
from distillkac.base import files
from distillkac.base.files import read_json
from distillkac.base.random import derive_seed
from distillkac.data import vae
from distillkac.evaluation import inception
from distillkac.flow.networks import VelocityNet
from distillkac.pipeline import KacPipeline
from distillkac.runs import checkpoints, lock, pictures
from distillkac.runs.config import load_config
from distillkac.runs.presets import PRESETS
from distillkac.runs.run import open_run
from distillkac.runs.run_data import DataPlace, RunData
from distillkac.runs.sampling import SamplerConfig, class_labels, generate
from tests.autoencoders import autoencoder
from tests.closeness import assert_same
from tests.evaluation.stand_in import Stand
from tests.toys import TINY_OPTIONS

TINY = [*TINY_OPTIONS, "--optim.batch-size", "16", "--steps", "2"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """images.npz, 60 + 12 colour images 16 x 16 of two classes; vae/; latents/ of both, mirror images too."""
    root, source = tmp_path_factory.mktemp("latents"), np.random.default_rng(0)
    arrays = {}
    for name, count in (("", 60), ("test_", 12)):
        arrays[f"{name}images"] = source.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
        arrays[f"{name}labels"] = np.arange(count) % 2
    np.savez(root / "images.npz", **arrays)
    autoencoder(0).save_pretrained(root / "vae")
    command = ["--data.path", str(root / "images.npz"), "--vae", str(root / "vae"), "--out", str(root / "latents")]
    assert encode.main([*command, "--data.flip", "--batch-size", "7"]) == 0
    return root


@pytest.fixture(scope="module")
def run(folder):
    options = ["--run", str(folder / "run"), "--data.path", str(folder / "latents"), "--preview", "4", *TINY]
    assert train.main(options) == 0
    distilled = ["--stages", "2,1", "--steps", "2", "--optim.batch-size", "16"]
    assert distill.main([str(folder / "run"), *distilled]) == 0
    return folder / "run"


def images_of(folder, split="train"):
    x, y = data.load(data.DataConfig(path=str(folder / "images.npz")), split).__getitems__(range(12))
    return (x if x.is_floating_point() else x.float() / 127.5 - 1), y


def test_latents_are_the_means_scaled(folder):
    """By the formula of diffusers' own pipelines, up to float16."""
    latents = data.load(data.DataConfig(path=str(folder / "latents")), "train")
    assert (len(latents), latents.shape, latents.class_names) == (120, (4, 8, 8), ("0", "1"))
    (x, y), network = images_of(folder), autoencoder(0)
    with torch.no_grad():
        expected = (network.encode(x).latent_dist.mean - 0.2) * 0.7
        mirrored = (network.encode(x.flip(-1)).latent_dist.mean - 0.2) * 0.7
    z, labels = latents.__getitems__(range(12))
    assert z.dtype == torch.float32
    torch.testing.assert_close(z, expected, rtol=1e-3, atol=1e-3)
    assert torch.equal(labels, y)
    torch.testing.assert_close(latents.__getitems__(range(60, 72))[0], mirrored, rtol=1e-3, atol=1e-3)
    assert len(data.load(data.DataConfig(path=str(folder / "latents")), "test")) == 12


def test_decoding_undoes_the_scale(folder):
    space = data.load(data.DataConfig(path=str(folder / "latents")), "train").space
    network, (x, _) = autoencoder(0), images_of(folder)
    with torch.no_grad():
        expected = network.decode(network.encode(x).latent_dist.mean).sample
    torch.testing.assert_close(vae.decode(network, space, vae.encode(network, space, x)), expected)


def test_samples_are_decoded_images(folder, run, tmp_path):
    config = load_config(run)
    assert config.shape == (4, 8, 8)
    assert config.latent.shape == (3, 16, 16)
    assert load_config(run / "student-1").latent == config.latent
    assert (run / "samples" / "step-000002.png").exists()
    loaded = open_run(run, CPU)
    samples = generate(loaded, class_labels(config, 5), SamplerConfig(steps=3), path=True)
    assert samples.images.shape == (5, 3, 16, 16)
    assert torch.equal(samples.path[-1], samples.images)
    assert samples.path.shape == (4, 5, 3, 16, 16)
    # The first state is the prior, which no image is: decoded all the same.
    prior = loaded.process.prior(5, (4, 8, 8), derive_seed(0, "prior"))
    with torch.no_grad():
        expected = autoencoder(0).decode(prior / 0.7 + 0.2).sample
    torch.testing.assert_close(samples.path[0], expected, rtol=1e-4, atol=1e-4)
    assert sample.main([str(run), "--steps", "1", "--num", "3", "--out", str(tmp_path / "x.npz")]) == 0
    assert np.load(tmp_path / "x.npz")["images"].shape == (3, 16, 16, 3)


def test_runs_are_measured_against_the_images(run, monkeypatch):
    pytest.importorskip("torchmetrics")
    monkeypatch.setattr(inception, "find_weights", lambda choice: None)
    monkeypatch.setattr(inception, "load_inception", lambda path: Stand())
    assert evaluate.main([str(run), "--metrics", "fid", "--num", "8", "--teacher-steps", "2"]) == 0
    report = read_json(run / "fidelity.json")
    assert "12 images of the test split" in report["protocol"]["reference"]
    assert [row["name"] for row in report["rows"]] == ["teacher", "student-1"]


def test_the_pipeline_brings_the_autoencoder_along(run, tmp_path):
    pipeline = KacPipeline.from_pretrained(run, num_inference_steps=1)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(tmp_path)
    again = KacPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    draw = [p([0, 1], generator=torch.Generator().manual_seed(0), output_type="pt").images for p in (pipeline, again)]
    assert draw[0].shape == (2, 3, 16, 16)
    assert_same(*draw)
    drawn = again([0, 1], generator=torch.Generator().manual_seed(0)).images
    assert np.array_equal(np.stack([np.asarray(picture) for picture in drawn]), pictures.to_uint8(draw[1]))


def test_another_autoencoder_is_refused(folder, run, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(run, other)
    autoencoder(1).save_pretrained(tmp_path / "vae")
    config = json.loads((other / "config.json").read_text())
    config["latent"]["vae"] = str(tmp_path / "vae")
    (other / "config.json").write_text(json.dumps(config))
    assert sample.main([str(other), "--steps", "2", "--num", "2"]) == 1
    assert "not the autoencoder that made the latents" in capsys.readouterr().err
    config["latent"]["vae"] = str(tmp_path / "nowhere")
    (other / "config.json").write_text(json.dumps(config))
    for command, words in (
        (sample, [str(other), "--num", "2", "--steps", "2", "--model", "teacher"]),
        (train, ["--run", str(other), "--resume", "--steps", "3"]),
    ):
        assert command.main(words) == 1
        assert "nowhere, where there is nothing now: put it back, or name its new place" in capsys.readouterr().err
    assert checkpoints.described(other)[0] == 2  # before a step was made


def test_mistakes_are_explained(folder, run, tmp_path, capsys):
    latents, network = str(folder / "latents"), str(folder / "vae")
    images = ["--data.path", str(folder / "images.npz")]
    for command, options, message in (
        (encode, [*images, "--vae", network, "--out", latents], "holds latents already"),
        (
            encode,
            [*images, "--vae", str(run), "--out", str(tmp_path / "x")],
            "no AutoencoderKL or VQModel of diffusers",
        ),
        (encode, ["--data.path", latents, "--vae", network, "--out", str(tmp_path / "x")], "holds latents, not images"),
        (encode, ["--vae", network, "--out", str(tmp_path / "x")], "takes images of 3 channels, these have 1"),
        (
            encode,
            [*images, "--vae", network, "--data.image-size", "15", "--out", str(tmp_path / "x")],
            "multiples of 2",
        ),
        (train, ["--run", str(tmp_path / "r"), "--data.path", latents, "--data.flip"], "cannot be flipped or resized"),
        (diagnose, [str(run)], "learned latents"),
    ):
        assert command.main(options) == 1, message
        assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_nothing_is_decoded_that_nobody_asked_for(run, monkeypatch):
    """Neither what fills a block up nor states between those that are wanted; and an image does not depend on the others."""
    opened, decoded, decode = open_run(run, CPU), [], vae.decode
    monkeypatch.setattr(vae, "decode", lambda network, space, z: (decoded.append(len(z)), decode(network, space, z))[1])
    made = [
        generate(opened, torch.tensor(y), SamplerConfig(4), 2, path=p) for y, p in (([0, 1, 0], True), ([0], [2, 4]))
    ]
    assert sum(decoded) == 5 * 3 + 2
    assert_same(made[1].path, made[0].path[[2, 4], :1])
    assert_same(made[1].images, made[0].images[:1])


def test_latents_and_images_are_found_where_they_were_moved(folder, run, tmp_path, capsys):
    shutil.copytree(folder / "latents", tmp_path / "latents")
    shutil.copy(folder / "images.npz", tmp_path / "other.npz")
    config = load_config(run)

    def at(name):
        return RunData(run, config, DataPlace(str(tmp_path / name)))

    assert len(at("latents").load_training()) == 120
    assert len(at("latents").load_pixels("test")) == len(at("other.npz").load_pixels("test")) == 12
    with pytest.raises(ValueError, match=r"other\.npz holds no latents, but .*run learned latents"):
        at("other.npz").load_training()
    with np.load(folder / "images.npz") as arrays:
        np.savez(tmp_path / "less.npz", **{name: array[1:] for name, array in arrays.items()})
    with pytest.raises(ValueError, match=r"not the images that .* was trained on: 2 images fewer"):
        at("less.npz").load_pixels("test")
    again = shutil.copytree(run, tmp_path / "run")
    resume = ["--run", str(again), "--resume", "--steps", "3", "--data.path"]
    autoencoder(1).save_pretrained(tmp_path / "vae")
    images = ["--data.path", str(folder / "images.npz"), "--data.flip"]
    assert encode.main([*images, "--vae", str(tmp_path / "vae"), "--out", str(tmp_path / "strange")]) == 0
    assert train.main([*resume, str(tmp_path / "strange")]) == 1
    assert "not the latents that" in capsys.readouterr().err
    assert train.main([*resume, str(folder / "images.npz"), "--preview", "0"]) == 1
    assert "was trained on images of 4 x 8 x 8, but those of" in capsys.readouterr().err
    assert train.main([*resume, str(tmp_path / "latents")]) == 0
    assert load_config(again).data.path == str(tmp_path / "latents")
    assert load_config(again).latent == config.latent


def test_two_do_not_encode_into_one_folder(folder, tmp_path, capsys):
    """A lock holds between processes, so the first is a child."""
    ready, done = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.ExitStack() as held:
            os.write(ready[1], b"x" if lock.take(tmp_path / "latents", held) is None else b"!")
            os.read(done[0], 1)
            os._exit(0)
    assert os.read(ready[0], 1) == b"x"
    images = ["--data.path", str(folder / "images.npz"), "--vae", str(folder / "vae")]
    assert encode.main([*images, "--out", str(tmp_path / "latents")]) == 1
    assert f"latents are being written to {tmp_path / 'latents'} (process {child})" in capsys.readouterr().err
    os.write(done[1], b"x")
    os.waitpid(child, 0)
    assert encode.main([*images, "--out", str(tmp_path / "latents")]) == 0


@pytest.mark.parametrize("damage", ["cut", "missing", "pickle", "labels", "index"])
def test_damaged_latents_are_named(folder, tmp_path, damage):
    path = tmp_path / "latents"
    shutil.copytree(folder / "latents", path)
    file = path / "train.npy"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "missing":
        file.unlink()
    elif damage == "pickle":
        np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    elif damage == "labels":
        np.save(path / "train_labels.npy", np.zeros(3, dtype=np.int64))
    else:
        (path / "latents.json").write_text("{}")
    name = {"labels": "latents: train holds 120", "index": r"latents\.json"}.get(damage, r"train\.npy")
    with pytest.raises(ValueError, match=name):
        data.load(data.DataConfig(path=str(path)), "train")


def test_the_preset_learns_4_x_32_x_32():
    config = PRESETS["lsun256"]
    with torch.device("meta"):
        network = VelocityNet(config.network, (4, 32, 32), 1)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(230, rel=0.3)


def test_a_full_disk_ends_encoding_with_a_sentence_and_leaves_nothing(folder, tmp_path, capsys, monkeypatch):
    class Full:
        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, content):
            if self.file.tell() + len(content) > 1000:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self.file.write(content)

    opened = open
    monkeypatch.setattr(files, "open", lambda *words: Full(opened(*words)), raising=False)
    monkeypatch.setattr(Full, "__enter__", lambda self: self, raising=False)
    monkeypatch.setattr(Full, "__exit__", lambda self, *_: self.file.close(), raising=False)
    out = tmp_path / "latents"
    command = ["--data.path", str(folder / "images.npz"), "--vae", str(folder / "vae"), "--out", str(out)]
    assert encode.main(command) == 1
    assert "train.npy: cannot be written (No space left on device)" in capsys.readouterr().err
    assert not list(out.glob("*.npy*")) + list(out.glob(".*.tmp"))
