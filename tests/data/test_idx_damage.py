"""IDX files that are not what they say: refused by name, before anything large is made of them."""

import gzip
import os
import tracemalloc
import zlib

import numpy as np
import pytest

from distillkac.data import DataConfig, arrays, load
from tests.idx_files import idx, write_set

IMAGES = np.random.default_rng(5).integers(0, 256, (40, 6, 5), np.uint8)
LABELS = (np.arange(40) % 4).astype(np.uint8)
NAMES = {"images": "train-images-idx3-ubyte", "labels": "train-labels-idx1-ubyte"}
HUGE = (1 << 20, 1 << 10, 1 << 10)


def refused(folder, **options):
    with pytest.raises(ValueError) as error:  # noqa: PT011  the caller looks at what it says
        load(DataConfig(path=str(folder), **options), "train")
    said = str(error.value)
    assert "\n" not in said
    return said


@pytest.fixture(params=[False, True], ids=["plain", "gzip"])
def packed(request):
    return request.param


def spoiled(folder, what, content, packed):
    """A set of which one file has this content."""
    write_set(folder, IMAGES, LABELS, packed=packed)
    path = folder / f"{NAMES[what]}{'.gz' if packed else ''}"
    path.write_bytes(gzip.compress(content, 1) if packed else content)
    return path


SOUND = idx(IMAGES)
CONTENTS = [
    ("images", SOUND[:-7], "is cut short"),
    ("images", SOUND[:17], "is cut short"),
    ("images", SOUND[:9], "is cut short in its header"),
    ("images", SOUND + b"\0", "goes on after its end"),
    ("images", SOUND + bytes(1 << 20), "goes on after its end"),
    ("images", b"", "begins with nothing"),
    ("images", b"\0\0", "begins with 00 00,"),
    ("images", b"GIF89a" + SOUND[6:], "begins with 47 49 46 38"),
    ("images", idx(IMAGES, code=0x0A), "its header says type 0a"),
    ("images", bytes((0, 0, 8, 0)) + SOUND[4:], "its header says 0 dimensions"),
    ("images", bytes((0, 0, 8, 255)) + SOUND[4:], "its header says 255 dimensions"),
    ("images", idx(IMAGES[:0]), "is empty, its header says 0 x 6 x 5"),
    ("images", idx(IMAGES[:, :0]), "is empty"),
    ("images", idx(IMAGES.astype(np.float32)), "unsigned bytes, got 3 dimensions of float32"),
    ("images", idx(IMAGES.astype(np.int16)), "unsigned bytes, got 3 dimensions of int16"),
    ("images", idx(IMAGES[..., None]), "unsigned bytes, got 4 dimensions of uint8"),
    ("images", idx(IMAGES[:-1]), "has 40 labels, but train-images-idx3-ubyte"),
    ("labels", idx(LABELS[:-1]), "has 39 labels, but train-images-idx3-ubyte"),
    ("labels", idx(LABELS)[:-1], "is cut short"),
    ("labels", idx(LABELS) + b"\0", "goes on after its end"),
    ("labels", idx(LABELS.astype(np.float32)), "labels must be whole numbers"),
    ("labels", idx(np.zeros((40, 3), np.uint8)), "got 40 x 3 of uint8"),
    ("labels", idx(np.full((40, 8), 10, np.int32)), "QMNIST's labels are 0 to 9, got 10 to 10"),
    ("labels", idx(LABELS.astype(np.int8) - 1), "classes are numbered from 0, got -1"),
]


@pytest.mark.parametrize(("what", "content", "message"), CONTENTS)
def test_what_is_wrong_is_said_with_the_name_of_the_file(tmp_path, packed, what, content, message):
    path = spoiled(tmp_path, what, content, packed)
    said = refused(tmp_path)
    assert message in said
    assert "numbered from 0" in said or path.name in said
    assert message in refused(path.with_name(path.name.replace("labels-idx1", "images-idx3")))


@pytest.mark.parametrize("what", NAMES)
def test_an_absurd_size_is_refused_before_it_is_allocated(tmp_path, packed, what):
    spoiled(tmp_path, what, idx(IMAGES, shape=HUGE) if what == "images" else idx(LABELS, shape=(1 << 31,)), packed)
    tracemalloc.start()
    said = refused(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert NAMES[what] in said
    assert ("packed bytes cannot hold" if packed else "is cut short") in said
    assert peak < 1 << 20


def test_of_a_bomb_no_more_is_unpacked_than_its_header_promises(tmp_path):
    path = spoiled(tmp_path, "images", SOUND, True)
    with gzip.open(path, "wb", 9) as file:
        file.write(SOUND)
        for _ in range(64):
            file.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 17
    tracemalloc.start()
    said = refused(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert f"{path.name}: goes on after its end" in said
    assert peak < 4 << 20


def test_what_does_not_fit_into_memory_is_refused(tmp_path, monkeypatch):
    path = spoiled(tmp_path, "images", SOUND, True)
    sizes = {"SC_PAGE_SIZE": 10, "SC_PHYS_PAGES": 100}
    monkeypatch.setattr(arrays.os, "sysconf", lambda name: sizes[name])
    assert f"{path.name}: its header promises 1216 bytes, more than the 1000 bytes of memory here" in refused(tmp_path)


def damaged(content, kind):
    if kind == "cut":
        return content[:-20]
    if kind == "cut in its checksum":
        return content[:-5]
    if kind == "another checksum":
        return content[:-8] + bytes(4) + content[-4:]
    if kind == "another length":
        return content[:-4] + bytes(4)
    if kind == "garbage after it":
        return content + b"garbage"
    if kind == "another compression":
        return content[:2] + b"\7" + content[3:]
    if kind == "damaged inside":
        return content[:200] + bytes(20) + content[220:]
    return content[:4]


@pytest.mark.parametrize(
    "kind",
    [
        "cut", "cut in its checksum", "another checksum", "another length", "garbage after it", "another compression",
        "damaged inside", "only its mark",
    ],
)  # fmt: skip
@pytest.mark.parametrize("what", NAMES)
def test_a_damaged_gzip_is_refused(tmp_path, what, kind):
    write_set(tmp_path, IMAGES, LABELS)
    path = tmp_path / f"{NAMES[what]}.gz"
    content = gzip.compress(SOUND if what == "images" else idx(LABELS), 1)
    if kind == "damaged inside" and what == "labels":
        pytest.skip("it is too short")
    path.write_bytes(damaged(content, kind))
    said = refused(tmp_path)
    assert path.name in said
    assert "cut short" in said or "cannot be read" in said


def test_a_gzip_of_several_members_is_one_file(tmp_path):
    path = spoiled(tmp_path, "images", SOUND, True)
    path.write_bytes(gzip.compress(SOUND[:100]) + gzip.compress(b"") + gzip.compress(SOUND[100:]))
    assert len(load(DataConfig(path=str(tmp_path), held_out=0.0), "train")) == 40


def test_what_is_packed_in_another_way_is_to_be_unpacked(tmp_path):
    write_set(tmp_path, IMAGES, LABELS)
    for name in NAMES.values():
        (tmp_path / f"{name}.gz").unlink()
        (tmp_path / f"{name}.xz").write_bytes(b"\xfd7zXZ\0" + bytes(50))
    assert "unpack it if it is no gzip" in refused(tmp_path)


def test_the_largest_ratio_of_deflate():
    size = 1 << 26
    assert size / len(zlib.compress(bytes(size), 9)) <= arrays.RATIO


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(tmp_path, packed):
    path = spoiled(tmp_path, "images", SOUND, packed)
    path.chmod(0)
    assert path.name in refused(tmp_path)


def test_sizes_that_differ_between_the_splits_are_said(tmp_path):
    write_set(tmp_path, IMAGES, LABELS)
    write_set(tmp_path, IMAGES[:, :, :4], LABELS, "t10k-{}-idx{}-ubyte")
    assert "those of the test part (1, 6, 4); give --data.image-size" in refused(tmp_path)
    assert load(DataConfig(path=str(tmp_path), image_size=4), "test").shape == (1, 4, 4)


def test_a_class_that_only_the_test_part_has_is_refused(tmp_path):
    write_set(tmp_path, IMAGES, LABELS)
    write_set(tmp_path, IMAGES, LABELS + 1, "t10k-{}-idx{}-ubyte")
    assert "the test part has class 4" in refused(tmp_path)
