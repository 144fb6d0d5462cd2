"""Folders of latents: a damaged one is refused in a sentence, and one that has changed is known for another."""

import hashlib
import json

import numpy as np
import pytest
import torch

from distillkac import data, encode
from distillkac.data import DataConfig, from_tensors, load
from distillkac.data.config import LatentSpace
from distillkac.data.latents import write_index
from tests.toys import refused

SPACE = LatentSpace("vae", 0.7, 0.2, "0" * 64, (3, 16, 16))


@pytest.fixture
def folder(tmp_path):
    """200 + 20 latents of two classes."""
    source = np.random.default_rng(0)
    for split, count in (("train", 200), ("test", 20)):
        np.save(tmp_path / f"{split}.npy", source.standard_normal((count, 4, 8, 8)).astype(np.float16))
        np.save(tmp_path / f"{split}_labels.npy", np.arange(count) % 2)
    images = torch.from_numpy(source.integers(0, 256, (2, 3, 16, 16), dtype=np.uint8))
    write_index(tmp_path, SPACE, DataConfig(path="images"), from_tensors(images, torch.arange(2), ("a", "b")))
    return tmp_path


def latents(folder, **options):
    return load(DataConfig(path=str(folder), **options), "train")


def test_labels_must_be_those_of_classes(folder):
    for labels in (np.full(200, 2), np.arange(200) - 1):
        np.save(folder / "train_labels.npy", labels)
        with pytest.raises(ValueError, match=r"labels of train reach from -?\d+ to \d+ instead of 0 to 1; encode"):
            latents(folder)
    assert len(latents(folder, unconditional=True)) == 200


def test_both_splits_have_one_shape(folder):
    np.save(folder / "test.npy", np.zeros((20, 4, 8, 9), np.float16))
    with pytest.raises(ValueError, match=r"train are \(4, 8, 8\) but those of test \(4, 8, 9\); encode"):
        latents(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("space", []),
        ("space", {"shape": [3, 16, 16]}),
        ("space", {**vars(SPACE), "scaling_factor": -1}),
        ("data", []),
        ("data", {"channels": 2}),
        ("class_names", None),
        ("class_names", []),
        ("class_names", ["a", "a"]),
        ("class_names", [1, 2]),
        ("fingerprint", [1]),
        ("fingerprint", {"train": [1]}),
        (None, []),
        (None, "latents"),
        (None, {}),
    ],
)
def test_an_index_of_another_form_is_refused(folder, name, value):
    path = folder / "latents.json"
    path.write_text(json.dumps(value if name is None else json.loads(path.read_text()) | {name: value}))
    with pytest.raises(ValueError, match=r"latents\.json: not written by this version of distillkac\.encode \("):
        latents(folder)


def test_latents_are_known_by_more_than_the_first(folder):
    before, array = latents(folder).fingerprint, np.load(folder / "train.npy")
    for row in (0, 199):
        changed = array.copy()
        changed[row] += 1
        np.save(folder / "train.npy", changed)
        assert latents(folder).fingerprint != before
    changed[100:104] = 0  # one of four is looked at
    changed[199] = array[199]
    np.save(folder / "train.npy", changed)
    assert latents(folder).fingerprint != before
    np.save(folder / "train.npy", array)
    assert latents(folder).fingerprint == before


def test_those_of_an_earlier_version_stay_the_same(folder):
    """By the first latent alone, as runs that learned them know them."""
    path = folder / "latents.json"
    index = json.loads(path.read_text())
    del index["spread"]
    path.write_text(json.dumps(index))
    before, array = latents(folder).fingerprint, np.load(folder / "train.npy")
    assert hashlib.blake2b(array[0].tobytes()).hexdigest() in latents(folder).images.mark(1)
    array[199] += 1
    np.save(folder / "train.npy", array)
    assert latents(folder).fingerprint == before


def test_the_autoencoder_is_looked_at_before_the_images_are_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data, "load", None)
    assert str(tmp_path / "vae") in refused(encode, ["--vae", tmp_path / "vae", "--out", tmp_path / "out"], capsys)
    assert not (tmp_path / "out").exists()
