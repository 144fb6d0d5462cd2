"""WebDataset shards: labels, the test part, and archives that make no sense."""

import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from distillkac.data import load, read
from tests.data.sources_tools import config, small_memory, splits, write
from tests.image_sets import (
    add,
    pixels,
    samples,
    write_tar,
)

pytestmark = pytest.mark.usefixtures("alone")


# -------------------------------------------------------------------------------------------------------- WebDataset


def test_what_webdataset_writes_is_read_as_it_reads_it(tmp_path, monkeypatch):
    small_memory(monkeypatch)
    webdataset = pytest.importorskip("webdataset")
    images = pixels(12)
    with webdataset.ShardWriter(str(tmp_path / "part-%06d.tar"), maxcount=5, verbose=0) as sink:
        for i, image in enumerate(images):
            sink.write({"__key__": f"dir.v1/x{i:02d}", "png": Image.fromarray(image), "cls": i % 2, "json": {"a": i}})
    pattern = str(tmp_path / "part-{000000..000002}.tar")
    data = load(config(pattern, tmp_path, held_out=0.0), "train")
    theirs = list(webdataset.WebDataset(pattern, shardshuffle=False).decode("rgb8"))
    assert [str(sample["__key__"]) for sample in theirs] == [member.key for _, member in data.images.records.members]
    got, labels = data.__getitems__(range(12))
    assert torch.equal(got, torch.from_numpy(np.stack([s["png"] for s in theirs])).permute(0, 3, 1, 2))
    assert labels.tolist() == [sample["cls"] for sample in theirs]
    with pytest.raises(ValueError, match=r"part-000003\.tar: is missing"):
        load(config(str(tmp_path / "part-{000000..000003}.tar"), tmp_path), "train")


def test_labels_of_shards(tmp_path):
    expected = splits(config(write("tar", tmp_path / "cls"), tmp_path))
    got = splits(config(write_tar(tmp_path / "json", samples(), label="json"), tmp_path))
    assert torch.equal(got[0][1], expected[0][1])
    with tarfile.open(tmp_path / "words.tar", "w") as archive:
        for i, (name, content, label) in enumerate(samples()):
            add(archive, f"a/{name}", content)
            add(archive, f"a/{i:03d}.json", json.dumps({"kind": ("dog", "ant")[label]}).encode())
    words = load(config(tmp_path / "words.tar", tmp_path, label_column="kind"), "train")
    assert words.class_names == ("ant", "dog")
    assert read(words, [0])[1].tolist() == [1]
    with pytest.warns(UserWarning, match=r"no \.json of these shards has an entry 'label', so there are no classes"):
        plain = load(config(tmp_path / "words.tar", tmp_path), "train")
    assert plain.class_names == ("all",), "a .json without a label is no label"


@pytest.mark.parametrize(
    "names", [("train/a.tar", "test/a.tar"), ("train-0.tar", "val-0.tar"), ("a.tar", "a_test.tar")]
)
def test_test_shards_are_the_split(tmp_path, names):
    made = samples()
    for name, part in zip(names, (made[:15], made[5:15:3]), strict=True):
        write_tar(tmp_path / "x", part, shards=1)
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / "shard-0.tar").rename(tmp_path / "set" / name)
    (x, _), (x_test, _) = splits(config(tmp_path / "set", tmp_path))
    assert (len(x), len(x_test)) == (15, 4)
    assert torch.equal(x_test, x[5:15:3])
    if names[0] == "train/a.tar":
        pytest.importorskip("webdataset")
        by_pattern = splits(config(tmp_path / "set" / "{train,test}" / "a.tar", tmp_path))
        assert torch.equal(by_pattern[1][0], x_test)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.txt": b"x"}, "holds no images"),
        ({"a.png": None, "b.png": None, "a.cls": b"0"}, "b has no class but others have"),
        ({"a.png": None, "a.jpg": None}, "two images called a"),
        ({"a.png": None, "a.cls": b"0", "b.png": None, "b.cls": b"dog"}, "some classes are words"),
        ({"a.png": None, "a.cls": b"\xff\xfe"}, "a.cls: does not say a class"),
        ({"a.png": None, "a.cls": b"0", "./a.cls": b"1"}, "a.cls: says another class than the one before it"),
        (
            {"a.png": None, "a.cls": b"0", "a.CLS": b"1", "./a.cls": b"1"},
            "a.cls: says another class than the one before it",
        ),
    ],
)
def test_shards_that_make_no_sense(tmp_path, members, message):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, content in members.items():
            add(archive, name, samples(2)[0][1] if content is None else content)
    with pytest.raises(ValueError, match=message) as error:
        load(config(tmp_path / "x.tar", tmp_path, held_out=0.0), "train")
    assert "x.tar" in str(error.value)


def test_links_in_an_archive_are_not_followed(tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(samples()[0][1])
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        archive.addfile(link)
        for name, content, _ in samples(4):
            add(archive, f"../../{name}", content)
    with pytest.warns(UserWarning, match=r"left out 1 links and devices, such as x\.tar: link\.png"):
        assert len(load(config(tmp_path / "x.tar", tmp_path, held_out=0.0), "train")) == 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "secret.png", "x.tar"], "nothing is unpacked"
