"""examples/few_images.py, with the real Fashion-MNIST: it writes what the documents say, and measures a run of that."""

import numpy as np
import pytest

from distillkac import train
from distillkac.data import DataConfig, load, read
from distillkac.data.fashion_mnist import DEBIAN, FASHION
from tests.places import ROOT, script
from tests.toys import TINY_OPTIONS

pytestmark = [pytest.mark.fashion]


def test_both_sets_and_a_run_of_the_small_one(tmp_path, capsys):
    few = script(ROOT / "examples" / "few_images.py")
    assert few.main([str(tmp_path)]) == 0
    small = DataConfig(path=str(tmp_path / "two"))
    train_split, test_split = load(small, "train"), load(small, "test")
    assert (len(train_split), len(test_split), train_split.class_names) == (300, 2000, ("Ankle boot", "Bag"))
    x, y = read(load(DataConfig(path=str(DEBIAN)), "train"), range(60_000))
    for number, name in enumerate(train_split.class_names):
        first = x[y == FASHION.index(name)][:150]
        mine, labels = read(train_split, range(300))
        assert (mine[labels == number] == first).all()
    others = load(DataConfig(path=str(tmp_path / "eight.npz")), "train")
    assert len(others) == 48_000
    assert np.bincount(read(others, range(48_000))[1].numpy()).tolist() == [6000] * 8
    assert len(others.class_names) == 8

    run = str(tmp_path / "run")
    options = ["--steps", "1", "--preview", "0", "--data.path", str(tmp_path / "two"), *TINY_OPTIONS]
    assert train.main(["--run", run, *options]) == 0
    capsys.readouterr()
    assert few.main([str(tmp_path), run, "--num", "40"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("fashion, shipped, ")
    assert 0 < float(lines[1].rpartition(" ")[2]) < 1, "real images"
    assert float(lines[2].split("Fréchet ")[1].split(",")[0]) > 5, "noise"

    assert few.main([str(tmp_path)]) == 1
    assert "is there already: name another folder" in capsys.readouterr().err
