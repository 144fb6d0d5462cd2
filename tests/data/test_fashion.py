"""Fashion-MNIST as Debian packages it: counts, classes, pixels, splits; and a run that learns it."""

import gzip
import hashlib
import shutil

import numpy as np
import pytest
import torch

from distillkac import sample, train
from distillkac.data import DataConfig, load, read
from distillkac.data.fashion_mnist import FASHION as NAMES
from distillkac.runs.config import load_config
from tests.idx_files import write_set
from tests.places import FASHION
from tests.toys import TINY_OPTIONS

pytestmark = [pytest.mark.fashion, pytest.mark.usefixtures("alone")]
COUNTS = {"train": 60_000, "test": 10_000}
FIRST = {"train": [9, 0, 0, 3, 0, 2, 7, 2, 5, 5], "test": [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]}
FILES = {"train": "train", "test": "t10k"}


def raw(split, what, header):
    """The bytes of a file behind its header."""
    name = f"{FILES[split]}-{what}-ubyte.gz"
    return np.frombuffer(gzip.decompress((FASHION / name).read_bytes()), np.uint8)[header:]


@pytest.fixture(scope="module")
def whole():
    return {split: load(DataConfig(path=str(FASHION)), split) for split in COUNTS}


def subset(folder, count=400):
    """The first images of both splits, in files of their own."""
    for split, name in FILES.items():
        images = raw(split, "images-idx3", 16)[: count * 784].reshape(count, 28, 28)
        write_set(folder, images, raw(split, "labels-idx1", 8)[:count], f"{name}-{{}}-idx{{}}-ubyte")
    return folder


@pytest.mark.parametrize("split", COUNTS)
def test_counts_shapes_classes_and_pixels(whole, split):
    data = whole[split]
    assert (len(data), data.shape, data.class_names) == (COUNTS[split], (1, 28, 28), NAMES)
    assert data.images.dtype == torch.uint8
    assert data.labels[:10].tolist() == FIRST[split]
    assert data.labels.bincount().tolist() == [COUNTS[split] // 10] * 10
    content = raw(split, "images-idx3", 16).tobytes()
    assert hashlib.sha256(data.images.numpy().tobytes()).digest() == hashlib.sha256(content).digest()
    assert data.labels.tolist() == raw(split, "labels-idx1", 8).tolist()
    x, _ = read(data, [0, 1])
    assert (float(x.min()), float(x.max())) == (-1, 1)


def test_the_names_belong_to_the_numbers(whole):
    """Trousers are the narrowest, sandals leave most of the image black, and what has sleeves or handles the least."""
    data = whole["train"]
    images = data.images[:2000].float().flatten(0, 1)
    labels = data.labels[:2000]
    width = (images.amax(1) > 30).sum(1).float()
    filled = (images > 30).float().mean((1, 2))
    by_name = {name: labels == i for i, name in enumerate(NAMES)}
    assert min(by_name, key=lambda name: width[by_name[name]].mean()) == "Trouser"
    assert min(by_name, key=lambda name: filled[by_name[name]].mean()) in ("Sandal", "Trouser")
    assert max(by_name, key=lambda name: filled[by_name[name]].mean()) in ("Pullover", "Coat", "Shirt", "Bag")


def test_one_fingerprint_for_both_splits_wherever_it_lies(whole, tmp_path):
    for path in FASHION.glob("*.gz"):
        (tmp_path / path.name.removesuffix(".gz")).write_bytes(gzip.decompress(path.read_bytes()))
    elsewhere = load(DataConfig(path=str(tmp_path)), "train")
    assert whole["train"].fingerprint == whole["test"].fingerprint == elsewhere.fingerprint
    assert (elsewhere.fingerprint.train, elsewhere.fingerprint.test) == ((6000,) * 10, (1000,) * 10)
    assert elsewhere.class_names == NAMES


def test_nothing_is_held_out_beside_its_test_part():
    with pytest.raises(ValueError, match=r"has a test part of its own, so --data\.held-out 0\.2 holds nothing out"):
        load(DataConfig(path=str(FASHION), held_out=0.2), "train")


def test_of_the_training_files_alone_a_tenth_is_held_out(tmp_path):
    for path in FASHION.glob("train*"):
        shutil.copy(path, tmp_path)
    parts = {split: load(DataConfig(path=str(tmp_path)), split) for split in COUNTS}
    assert sum(map(len, parts.values())) == 60_000
    assert all(500 < count < 700 for count in parts["test"].labels.bincount().tolist())
    assert parts["train"].class_names == NAMES


def test_other_labels_are_not_taken_for_clothes(tmp_path):
    """The first 400 are not all of them: what has no name is called by its number."""
    assert load(DataConfig(path=str(subset(tmp_path))), "train").class_names == tuple("0123456789")


def test_a_run_learns_it_and_draws_a_class_by_its_name(tmp_path, capsys):
    run, options = str(tmp_path / "run"), [*TINY_OPTIONS, "--preview", "0", "--optim.batch-size", "8"]
    assert train.main(["--run", run, "--data.path", str(FASHION), "--steps", "2", *options]) == 0
    assert load_config(tmp_path / "run").class_names == NAMES
    asked = ["--steps", "2", "--num", "3", "--classes", "T-shirt/top", "Ankle boot", "--out", str(tmp_path / "out")]
    assert sample.main([run, *asked]) == 0
    names = sorted(path.name for path in (tmp_path / "out").glob("*.png"))
    assert len(names) == 3
    assert any("T-shirt-top" in name for name in names)
    assert any("Ankle-boot" in name for name in names)
    moved = tmp_path / "moved"
    shutil.copytree(FASHION, moved)
    assert train.main(["--run", run, "--resume", "--steps", "3", "--data.path", str(moved)]) == 0
