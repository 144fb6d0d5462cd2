"""Options that a source of images cannot use are refused, and what all sources can do all of them do."""

import dataclasses
import pickle

import numpy as np
import pytest
import torch

from distillkac import encode, train
from distillkac.data import DataConfig, load, load_training, read
from distillkac.data.latents import LatentSpace, write_index
from distillkac.data.sources import STREAMED, UNDERSTOOD, WORDS
from distillkac.runs.config import RunConfig
from distillkac.runs.run_data import RunData
from tests.data import cifar100_files
from tests.data.test_cifar_and_patches import write_binary
from tests.image_sets import WRITERS, samples, write_npz, write_tar
from tests.toys import refusal

pytestmark = pytest.mark.usefixtures("alone")


def write_latents(root, made):
    root.mkdir()
    for split, count in (("train", 6), ("test", 4)):
        np.save(root / f"{split}.npy", np.random.default_rng(0).normal(size=(count, 4, 4, 4)).astype(np.float16))
        np.save(root / f"{split}_labels.npy", np.arange(count) % 2)
    images = dataclasses.replace(load(DataConfig(), "train"), class_names=("a", "b"))
    write_index(root, LatentSpace("v", 1.0, 0.0, "w", (3, 8, 8)), DataConfig(), images)
    return root


def write_cifar(root, made):
    write_binary(root)
    return root


MAKERS = {
    "builtin": None,
    "folder": WRITERS["folder"],
    "npz": WRITERS["npz"],
    "cifar": write_cifar,
    "cifar100": lambda root, made: cifar100_files.write_binary(root),
    "idx": WRITERS["idx"],
    "svhn": WRITERS["svhn"],
    "latents": write_latents,
    "shards": WRITERS["tar"],
    "saved": WRITERS["saved"],
    "parquet": WRITERS["parquet"],
}
# A value of each option that is not its default.
VALUES = {
    "image_size": 8,
    "channels": 3,
    "flip": True,
    "held_out": 0.3,
    "bad_images": "skip",
    "image_column": "image",
    "label_column": "label",
    "unconditional": True,
    "coarse": True,
    "subset": "small",
    "split": "dev",
    "test_split": "dev",
    "streaming": True,
    "shuffle_buffer": 7,
    "eval_images": 3,
    "num_classes": 2,
}


def make(kind, tmp_path):
    if kind in ("saved", "parquet"):
        pytest.importorskip("datasets")
    maker = MAKERS[kind]
    return None if maker is None else str(maker(tmp_path / "set", samples()))


def config(kind, tmp_path, **options):
    path = make(kind, tmp_path) if not (tmp_path / "set").exists() else str(tmp_path / "set")
    return DataConfig(path=path, cache=str(tmp_path / "cache"), **options)


def test_the_table_has_every_kind_and_every_option():
    options = {option.name for option in dataclasses.fields(DataConfig)} - {"path", "builtin", "cache"}
    assert options == set(VALUES)
    assert UNDERSTOOD.keys() == WORDS.keys() == {*MAKERS, "hub"}
    assert set.union(*UNDERSTOOD.values(), *STREAMED.values()) == options


NOT_UNDERSTOOD = [
    (kind, option)
    for kind in MAKERS
    for option in VALUES
    if option not in UNDERSTOOD[kind] and not (kind in STREAMED and option == "streaming")
]


@pytest.mark.parametrize(("kind", "option"), NOT_UNDERSTOOD)
def test_what_a_source_cannot_use_is_refused_by_name(tmp_path, kind, option):
    settings = config(kind, tmp_path, **{option: VALUES[option]})
    for read_it in (lambda: load(settings, "train"), lambda: load_training(settings)):
        with pytest.raises(ValueError, match=f"--data.{option.replace('_', '-')}") as error:
            read_it()
        assert "omit it" in str(error.value)


@pytest.mark.parametrize("option", ["held_out", "subset"])
def test_what_a_stream_cannot_use_is_refused_by_name(tmp_path, option):
    settings = config("parquet", tmp_path, streaming=True, **{option: VALUES[option]})
    with pytest.raises(ValueError, match=rf"cannot use --data.{option.replace('_', '-')} .* while it is streamed"):
        load_training(settings)


def test_the_hub_is_asked_only_for_what_it_understands():
    for option in ("shuffle_buffer", "eval_images", "num_classes"):
        with pytest.raises(ValueError, match=r"which is for --data\.streaming"):
            load(DataConfig(path="hf://someone/birds", **{option: VALUES[option]}), "train")


def test_the_commands_refuse_them(tmp_path, capsys):
    path = make("folder", tmp_path)
    for option in ("--data.num-classes 2", "--data.split dev", "--data.subset x", "--data.image-column image"):
        said = refusal(train, ["--run", str(tmp_path / "run"), "--data.path", path, *option.split()], capsys)
        assert f"a folder of images cannot use {option}" in said
    said = refusal(
        encode, ["--vae", "v", "--out", str(tmp_path / "o"), "--data.path", path, "--data.split", "dev"], capsys
    )
    assert "cannot use --data.split" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", [kind for kind in MAKERS if kind != "builtin"])
def test_built_in_images_beside_a_path_are_refused(tmp_path, kind):
    with pytest.raises(ValueError, match=r"data\.path .* and data\.builtin patches both say"):
        load(config(kind, tmp_path, builtin="patches"), "train")


@pytest.mark.parametrize("name", ["path", "cache"])
def test_an_empty_string_is_no_path(tmp_path, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    make("folder", tmp_path)
    with pytest.raises(ValueError, match=rf"data\.{name} is empty"):
        DataConfig(**{name: ""})
    assert f"data.{name} is empty" in refusal(train, ["--run", "r", f"--data.{name}", ""], capsys)


# ---------------------------------------------------------------------------------------------- a test part of its own


def own_test(kind, root):
    made = samples()
    if kind == "folder":
        WRITERS["folder"](root / "train", made[::2])
        WRITERS["folder"](root / "test", made[1::2])
    elif kind == "npz":
        path = write_npz(root, made)
        with np.load(path) as file:
            arrays = dict(file)
        np.savez(path, **arrays, test_images=arrays["images"], test_labels=arrays["labels"])
        return path
    elif kind == "tar":
        for split in ("train", "test"):
            write_tar(root / split, made, shards=1)
    elif kind in ("idx", "svhn"):
        for split in ("t10k" if kind == "idx" else "test", "train"):
            for file in WRITERS[kind](root / split, made).iterdir():
                file.rename(root / file.name.replace("train", split))
            (root / split).rmdir()
    elif kind == "cifar100":
        cifar100_files.write_pickled(root)
    else:
        write_cifar(root, made)
    return root


@pytest.mark.parametrize("kind", ["folder", "npz", "tar", "cifar", "cifar100", "idx", "svhn", "builtin"])
def test_nothing_is_held_out_beside_a_test_part(tmp_path, kind):
    path = None if kind == "builtin" else str(own_test(kind, tmp_path / "set"))
    whole = {}
    for held_out in (0.0, 0.1):
        whole[held_out] = len(load(DataConfig(path=path, held_out=held_out, cache=str(tmp_path / "c")), "train"))
    assert whole[0.0] == whole[0.1]
    with pytest.raises(ValueError, match=r"has a test part of its own, so --data.held-out 0.3 holds nothing out"):
        load(DataConfig(path=path, held_out=0.3, cache=str(tmp_path / "c")), "train")


# ---------------------------------------------------------------------------------------------------- without classes


@pytest.mark.parametrize("kind", [kind for kind in MAKERS if kind not in ("shards", "saved", "parquet")])
def test_every_source_can_be_learned_without_classes(tmp_path, kind):
    plain = load(config(kind, tmp_path), "train")
    assert plain.num_classes > 1
    settings = dataclasses.replace(config(kind, tmp_path), unconditional=True)
    if kind == "npz":
        settings = dataclasses.replace(settings, path=str(tmp_path / "set" / "set.npz"))
    for split in ("train", "test"):
        data = load(settings, split)
        assert data.class_names == ("all",)
        assert data.labels.dtype == torch.int64
        assert data.labels.unique().tolist() == [0]
    if kind in ("builtin", "cifar", "cifar100", "latents"):  # these have splits of their own
        assert torch.equal(read(load(settings, "train"), range(6))[0], read(plain, range(6))[0])


def test_the_images_that_latents_were_made_of_come_without_classes_too(tmp_path):
    settings = dataclasses.replace(config("latents", tmp_path), unconditional=True)
    run = RunConfig(data=settings, latent=LatentSpace("v", 1.0, 0.0, "w", (3, 8, 8)))
    images = RunData(tmp_path / "run", run).load_pixels("test")  # the digits
    assert (images.shape, images.class_names) == ((1, 8, 8), ("all",))


@pytest.mark.parametrize("builtin", ["digits", "patches"])
def test_built_in_images_without_classes(builtin):
    data = load(DataConfig(builtin=builtin, unconditional=True), "test")
    assert (data.class_names, int(data.labels.max())) == (("all",), 0)


def test_what_is_held_out_does_not_depend_on_classes_that_are_not_asked_for(tmp_path):
    """A class of a single image is no obstacle where classes are not asked for."""
    made = [(name, content, int(i > 18)) for i, (name, content, _) in enumerate(samples())]
    WRITERS["folder"](tmp_path / "folder", made)
    with pytest.raises(ValueError, match="single image"):
        load(DataConfig(path=str(tmp_path / "folder")), "train")
    for path in (tmp_path / "folder", write_npz(tmp_path / "npz", made)):
        settings = DataConfig(path=str(path), unconditional=True, held_out=0.2)
        train, test = load(settings, "train"), load(settings, "test")
        assert (len(train) + len(test), train.class_names) == (20, ("all",))


def test_folders_in_any_disorder_can_be_learned_without_classes(tmp_path):
    WRITERS["folder"](tmp_path / "set", samples())
    (tmp_path / "set" / "loose.png").write_bytes(samples(21)[20][1])
    (tmp_path / "set" / "empty").mkdir()
    with pytest.raises(ValueError, match=r"loose\.png.*--data.unconditional"):
        load(DataConfig(path=str(tmp_path / "set")), "train")
    assert len(load(DataConfig(path=str(tmp_path / "set"), unconditional=True, held_out=0.0), "train")) == 21


def test_contradictions_about_classes_are_refused(tmp_path):
    for options in ({"label_column": "label"}, {"num_classes": 3, "streaming": True}):
        with pytest.raises(ValueError, match="unconditional learns without classes"):
            load_training(config("parquet", tmp_path, unconditional=True, **options))


def test_the_command_learns_without_classes(tmp_path):
    from distillkac.runs.config import load_config

    options = ["--run", str(tmp_path / "run"), "--steps", "1", "--network.head-dim", "8", "--optim.batch-size", "4"]
    assert train.main([*options, "--data.unconditional"]) == 0
    assert load_config(tmp_path / "run").class_names == ("all",)
    assert train.main(["--run", str(tmp_path / "run"), "--resume", "--steps", "2"]) == 0


def test_cifar_twice_is_said(tmp_path):
    write_binary(tmp_path / "set" / "cifar-10-batches-bin")
    py = tmp_path / "set" / "cifar-10-batches-py"
    py.mkdir()
    batch = {b"data": np.zeros((1, 3072), np.uint8), b"labels": [0]}
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        (py / name).write_bytes(pickle.dumps(batch, protocol=2))
    with pytest.warns(UserWarning, match="holds CIFAR-10 twice; cifar-10-batches-bin is read"):
        assert len(load(DataConfig(path=str(tmp_path / "set")), "train")) == 35
