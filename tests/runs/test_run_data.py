"""A run knows its images: elsewhere they are the same, others are refused by what differs."""

import dataclasses
import json
import os
import shutil
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from distillkac import diagnose, distill, evaluate, sample, train
from distillkac.data import DataConfig, load, load_training
from distillkac.data.fingerprint import difference, of_arrays
from distillkac.evaluation import classifier
from distillkac.runs.config import load_config, save_config
from distillkac.runs.run_data import DataPlace, RunData
from tests.image_sets import (
    WRITERS,
    add,
    encoded,
    samples,
    write_folder,
    write_parquet,
    write_tar,
)
from tests.toys import refusal, run_config

TINY = ["--network.channels", "8", "--network.head-dim", "8", "--optim.batch-size", "8", "--preview", "0"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


def write(kind, root, made=None):
    if kind in ("parquet", "saved"):
        pytest.importorskip("datasets")
    return WRITERS[kind](root, samples() if made is None else made)


def fingerprint(path, tmp_path, **options):
    part = load_training(DataConfig(path=str(path), cache=str(tmp_path / "cache"), **options))
    return part.fingerprint, part.class_names


def said_of(one, other):
    return difference(one[0], one[1], other[0], other[1])


@pytest.mark.parametrize("kind", WRITERS)
def test_the_same_set_in_another_place_is_the_same(tmp_path, kind):
    one = fingerprint(write(kind, tmp_path / "a"), tmp_path)
    other = fingerprint(write(kind, tmp_path / "b" / "c"), tmp_path)
    assert said_of(one, other) is None
    train, test = (load(DataConfig(path=str(write(kind, tmp_path / "d"))), split) for split in ("train", "test"))
    assert train.fingerprint == test.fingerprint == one[0]
    assert sum(one[0].train) == len(train)
    assert sum(one[0].test) == len(test)


def changed(made, row, **options):
    """Another image in its place."""
    name, _, label = made[row]
    return [*made[:row], (name, encoded(Image.new("RGB", (8, 8), (9, 9, 9)), **options), label), *made[row + 1 :]]


@pytest.mark.parametrize("kind", WRITERS)
def test_other_images_are_told_by_what_differs(tmp_path, kind):
    made = samples()
    one = fingerprint(write(kind, tmp_path / "a"), tmp_path)
    more = [
        *made,
        *((f"1{name}", encoded(Image.new("RGB", (8, 8), (i, 0, 0))), 1) for i, (name, *_) in enumerate(made[:12])),
    ]
    assert said_of(one, fingerprint(write(kind, tmp_path / "b", more), tmp_path)) == (
        "12 images more (32 for 20), of class '1'"
    )
    assert said_of(one, fingerprint(write(kind, tmp_path / "c", made[:-1]), tmp_path)) == (
        "1 image fewer (19 for 20), of class '1'"
    )
    assert said_of(one, fingerprint(write(kind, tmp_path / "d", changed(made, 4)), tmp_path))
    if kind not in ("parquet", "saved"):  # tables name their classes, and one without images is refused
        assert said_of(one, fingerprint(write(kind, tmp_path / "e", made[:10]), tmp_path)).startswith(
            "class '1' is gone"
        )
    moved = [*made[:9], (made[9][0], made[9][1], 1), *made[10:]]
    assert said_of(one, fingerprint(write(kind, tmp_path / "f", moved), tmp_path))


def test_which_part_differs_is_said(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8), np.uint8)
    found = []
    for name, test in (("a", images[20:]), ("b", 255 - images[20:])):
        np.savez(tmp_path / f"{name}.npz", images=images[:20], test_images=test)
        found.append(fingerprint(tmp_path / f"{name}.npz", tmp_path))
    said = said_of(*found)
    assert "but others to measure against" in said
    assert "to learn from" not in said


def test_many_classes_are_told_in_few_words():
    empty = torch.empty(0, 1, 2, 2)
    one, other = (
        (of_arrays(torch.zeros(100, 1, 2, 2), torch.arange(100), empty, torch.arange(0), 100), tuple(map(str, names)))
        for names in (range(100), range(50, 150))
    )
    said = said_of(one, other)
    assert "class '0' is gone" in said
    assert "47 more classes are new" in said
    assert len(said) < 300
    assert said_of(one, (one[0], one[1][::-1])) == "the classes are numbered in another order"


def test_a_renamed_file_is_the_same_set(tmp_path):
    for kind, suffix in (("npz", ".npz"), ("tar", ".tar")):
        root = (
            write(kind, tmp_path / kind) if kind == "npz" else write_tar(tmp_path / "tar", samples(), 1) / "shard-0.tar"
        )
        one = fingerprint(root, tmp_path)
        assert said_of(one, fingerprint(root.rename(root.with_name(f"renamed{suffix}")), tmp_path)) is None


def test_tables_that_only_name_their_images_may_move_with_them(tmp_path):
    datasets = pytest.importorskip("datasets")
    found = []
    for place in ("a", "b/c"):
        root = write_folder(tmp_path / place / "images", samples())
        paths = sorted(map(str, root.rglob("*.png")))
        rows = {
            "image": [{"bytes": None, "path": path} for path in paths],
            "label": [int("/1/" in path) for path in paths],
        }
        features = {"image": datasets.Image(decode=False), "label": datasets.ClassLabel(names=["0", "1"])}
        table = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
        table.to_parquet(tmp_path / place / "set.parquet")
        found.append(fingerprint(tmp_path / place / "set.parquet", tmp_path))
    assert said_of(*found) is None


def test_names_that_are_no_text(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    made = [(name, *samples()[0][1:]), *samples()[1:]]
    assert fingerprint(write_folder(tmp_path / "a", made), tmp_path)[0].train
    with tarfile.open(tmp_path / "x.tar", "w", errors="surrogateescape") as archive:
        for name, content, _ in made:
            add(archive, name, content)
    assert fingerprint(tmp_path / "x.tar", tmp_path)[0].train


def test_streams_are_known_by_their_files(tmp_path):
    pytest.importorskip("datasets")
    options = {"streaming": True, "eval_images": 4, "unconditional": True}
    write_parquet(tmp_path / "a", samples())
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    one = fingerprint(tmp_path / "a", tmp_path, **options)
    assert said_of(one, fingerprint(tmp_path / "b", tmp_path, **options)) is None
    measured = load(DataConfig(path=str(tmp_path / "b"), cache=str(tmp_path / "cache"), **options), "test")
    assert measured.fingerprint == one[0]
    write_parquet(tmp_path / "b", samples()[:-2])
    assert said_of(one, fingerprint(tmp_path / "b", tmp_path, **options))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of a folder of images that lies nowhere any more: (run, where the images lay, where they are)."""
    root = tmp_path_factory.mktemp("moved")
    write_folder(root / "before", samples())
    assert train.main(["--run", str(root / "run"), "--data.path", str(root / "before"), "--steps", "3", *TINY]) == 0
    (root / "before").rename(root / "now")
    return root / "run", root / "before", root / "now"


def test_moved_images_are_named_by_every_command_and_found_by_an_option(trained, tmp_path, monkeypatch, capsys):
    run, before, now = trained
    chain = ["--stages", "2,1", "--steps", "1", "--optim.batch-size", "8", "--out", str(tmp_path / "students")]
    quick = ["--num", "8", "--teacher-steps", "1"]
    less = ["--num", "8", "--reference-num", "8", "--guidance-num", "0", "--out", str(tmp_path / "diagnosis")]
    commands = ((distill, [str(run), *chain]), (evaluate, [str(run), *quick]), (diagnose, [str(run), *less]))
    for module, argv in commands:
        said = refusal(module, argv, capsys)
        assert f"the images that {run} was trained on should be at {before}, where there is nothing now" in said
        assert "--data.path" in said
    said = refusal(train, ["--run", str(run), "--resume", "--steps", "4"], capsys)
    assert f"the images that {run} was trained on should be at {before}, where there is nothing now" in said
    monkeypatch.setattr(classifier, "STEPS", 5)
    for module, argv in commands[:2]:
        assert module.main([*argv, "--data.path", str(now)]) == 0
    assert RunData(run, load_config(run), DataPlace(str(now))).load("test").num_classes == 2
    assert load_config(tmp_path / "students" / "student-1").data.path == str(now)
    assert load_config(run).data.path == str(before), "only going on with a run changes it"
    again = tmp_path / "run"
    shutil.copytree(run, again)
    assert train.main(["--run", str(again), "--resume", "--data.path", str(now)]) == 0
    assert load_config(again).data.path == str(now)
    assert evaluate.main([str(again), *quick]) == 0
    assert sample.main([str(again), "--steps", "1", "--num", "2", "--out", str(tmp_path / "x.png")]) == 0


def test_images_that_were_added_are_no_longer_the_runs(trained, tmp_path, capsys):
    run, _, now = trained
    other = tmp_path / "set"
    shutil.copytree(now, other)
    for i in range(12):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(other / "1" / f"x{i}.png")
    chain = ["--stages", "2,1", "--steps", "1", "--out", str(tmp_path / "students")]
    for module, argv in (
        (train, ["--run", str(run), "--resume", "--steps", "4"]),
        (distill, [str(run), *chain]),
        (evaluate, [str(run), "--num", "8"]),
        (diagnose, [str(run)]),
    ):
        said = refusal(module, [*argv, "--data.path", str(other)], capsys)
        assert "12 images more (32 for 20), of class '1'" in said
        assert len(said[said.index("error:") :]) < 500 + len(str(run)) + len(str(other))
    assert not (tmp_path / "students").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda root: shutil.rmtree(root / "1"), "class '1' is gone"),
        (lambda root: (root / "1").rename(root / "one"), "class '1' is gone, class 'one' is new"),
        (lambda root: (root / "0" / "000.png").unlink(), "1 image fewer (19 for 20), of class '0'"),
    ],
)
def test_what_differs_is_said(trained, tmp_path, capsys, change, said):
    run, _, now = trained
    shutil.copytree(now, tmp_path / "set")
    change(tmp_path / "set")
    options = ["--run", str(run), "--resume", "--steps", "4", "--data.path", str(tmp_path / "set")]
    assert said in refusal(train, options, capsys)


def test_only_the_options_that_differ_are_named(trained, capsys):
    run, _, now = trained
    where = ["--data.path", str(now)]
    for options, words in (
        (["--data.flip"], "was trained with no --data.flip, which --resume cannot change to --data.flip"),
        (["--data.held-out", "0.5"], "with --data.held-out 0.1, which --resume cannot change to --data.held-out 0.5"),
        (
            ["--network.channels", "16"],
            "with --network.channels 8, which --resume cannot change to --network.channels 16",
        ),
        (
            ["--process", "planar", "--seed", "3"],
            "with --process telegraph and --seed 0, which --resume cannot change to --process planar and --seed 3",
        ),
    ):
        said = refusal(train, ["--run", str(run), "--resume", *where, *options], capsys)
        assert words in said
        assert str(run) in said
        assert "DataConfig" not in said


def test_a_run_of_other_sizes_is_refused(tmp_path):
    config = run_config(shape=(3, 9, 9), class_names=("0", "1"))
    config = dataclasses.replace(config, data=DataConfig(path=str(write_folder(tmp_path / "a", samples()))))
    save_config(tmp_path / "run", config)
    with pytest.raises(ValueError, match=r"was trained on images of 3 x 9 x 9, but those of .* are 3 x 8 x 8"):
        RunData(tmp_path / "run", load_config(tmp_path / "run")).load("train")


def test_fingerprints_survive_the_config(tmp_path):
    known, _ = fingerprint(write_folder(tmp_path / "a", samples()), tmp_path)
    save_config(tmp_path, run_config(fingerprint=known))
    assert load_config(tmp_path).fingerprint == known
    assert torch.tensor(known.train).sum() + torch.tensor(known.test).sum() == 20
    assert "cat" not in json.dumps(dataclasses.asdict(known))
