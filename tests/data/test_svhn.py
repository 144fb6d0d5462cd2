"""SVHN's cropped digits in .mat files: read as SciPy reads them, and refused before anything large is made of a damaged one."""

import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import scipy.io
import torch

from distillkac.data import DataConfig, load
from distillkac.data.mat import read_mat

COUNTS = {"train": 40, "test": 20}


def arrays(split):
    source = np.random.default_rng(len(split))
    labels = (np.arange(COUNTS[split]) % 10 + 1).astype(np.uint8)[:, None]
    return {"X": source.integers(0, 256, (6, 5, 3, COUNTS[split]), np.uint8), "y": labels}


def svhn(folder, compress=True):
    folder.mkdir(parents=True, exist_ok=True)
    for split in COUNTS:
        scipy.io.savemat(folder / f"{split}_32x32.mat", arrays(split), do_compression=compress)
    return folder


@pytest.mark.parametrize("compress", [False, True])
def test_pixels_labels_and_splits_are_those_of_the_files(tmp_path, compress):
    svhn(tmp_path, compress)
    for split in COUNTS:
        data = load(DataConfig(path=str(tmp_path)), split)
        assert (data.shape, data.class_names, data.images.dtype) == ((3, 6, 5), tuple("0123456789"), torch.uint8)
        assert np.array_equal(data.images.numpy(), arrays(split)["X"].transpose(3, 2, 0, 1))
        assert data.labels.tolist() == (arrays(split)["y"][:, 0] % 10).tolist(), "10 is the digit 0"


def test_a_file_that_is_named_is_learned_from(tmp_path):
    svhn(tmp_path)
    config = DataConfig(path=str(tmp_path / "train_32x32.mat"))
    assert [len(load(config, split)) for split in COUNTS] == [40, 20]
    assert len(load(DataConfig(path=str(tmp_path / "test_32x32.mat"), held_out=0.0), "train")) == 20
    (tmp_path / "train_32x32.mat").unlink()
    with pytest.raises(ValueError, match=r"holds test_32x32\.mat but no train_32x32\.mat"):
        load(DataConfig(path=str(tmp_path)), "train")


def test_two_sizes_in_one_folder(tmp_path):
    svhn(tmp_path)
    for split in COUNTS:
        changed = {name: array[..., ::-1] if name == "X" else array for name, array in arrays(split).items()}
        scipy.io.savemat(tmp_path / f"{split}_64x64.mat", changed)
    with pytest.raises(ValueError, match=r"test_32x32\.mat and test_64x64\.mat are both test files; keep one of them"):
        load(DataConfig(path=str(tmp_path)), "train")
    config = DataConfig(path=str(tmp_path / "train_64x64.mat"))
    found = load(config, "test")
    assert np.array_equal(found.images.numpy(), arrays("test")["X"][..., ::-1].transpose(3, 2, 0, 1))


def test_the_extra_file_is_left_out_with_a_word(tmp_path):
    svhn(tmp_path)
    (tmp_path / "extra_32x32.mat").write_bytes(b"x")
    with pytest.warns(UserWarning, match=r"left out 1 files that are not read, such as extra_32x32\.mat"):
        assert len(load(DataConfig(path=str(tmp_path)), "train")) == 40


def test_sizes_and_classes_are_changed_as_elsewhere(tmp_path):
    svhn(tmp_path)
    assert load(DataConfig(path=str(tmp_path), image_size=4, channels=1), "test").shape == (1, 4, 4)
    assert load(DataConfig(path=str(tmp_path), unconditional=True), "test").class_names == ("all",)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_numbers_are_those_that_scipy_wrote(tmp_path, dtype, compress):
    for shape in ((1, 1), (3, 1), (2, 3, 4), (5, 7)):
        array = np.arange(np.prod(shape)).astype(dtype).reshape(shape)
        content = {"before": "text", "a": array, "cells": np.array([1, "x"], object), "after": np.eye(2)}
        scipy.io.savemat(tmp_path / "x.mat", content, do_compression=compress)
        found = read_mat(tmp_path / "x.mat", ("a",))
        assert found.keys() == {"a"}
        assert np.array_equal(found["a"], array)
        assert found["a"].shape == shape


# ------------------------------------------------------------------------------------------------------------- damaged


def element(kind, content):
    return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)


def array(name, shape, numbers, flags=9, kind=2, length=None):
    """An element of an array of MATLAB, uint8 by default; with another length in the tag of its numbers, if given."""
    head = element(6, struct.pack("<II", flags, 0)) + element(5, struct.pack(f"<{len(shape)}i", *shape))
    length = len(numbers) if length is None else length
    body = head + element(1, name) + struct.pack("<II", kind, length) + numbers + bytes(-len(numbers) % 8)
    return element(14, body)


def packed(content):
    made = zlib.compress(content, 9)
    return struct.pack("<II", 15, len(made)) + made


START = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x0100) + b"IM"
SMALL = bytes(range(48)) * 1
X, Y = array(b"X", (2, 2, 3, 4), SMALL), array(b"y", (4, 1), bytes([1, 2, 1, 2]))
HUGE = array(b"X", (1 << 15, 1 << 15, 3, 1), SMALL, length=(1 << 30) * 3)
LIAR = struct.pack("<II", 14, 1 << 31) + HUGE[8:]  # of an element as long as its array would be


def refused(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError) as error:  # noqa: PT011  the caller looks at what it says
        load(DataConfig(path=str(path)), "train")
    assert path.name in str(error.value)
    return str(error.value)


def test_the_parts_that_are_spoiled_below_are_sound(tmp_path):
    for content in (START + X + Y, START + packed(X) + packed(Y), START + Y + packed(X)):
        (tmp_path / "a.mat").write_bytes(content)
        data = load(DataConfig(path=str(tmp_path / "a.mat"), held_out=0.0, unconditional=True), "train")
        assert data.shape == (3, 2, 2)
        assert scipy.io.loadmat(tmp_path / "a.mat")["X"].shape == (2, 2, 3, 4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "does not begin with MATLAB 5.0"),
        (START[:100], "does not begin with MATLAB 5.0"),
        (b"MATLAB 7.3 MAT-file".ljust(128), "an HDF5 file; save it with -v7"),
        (b"\x89HDF\r\n\x1a\n".ljust(128), "does not begin with MATLAB 5.0"),
        (START, "has the arrays X and y"),
        (START + X, "has the arrays X and y"),
        ((START + X + Y)[:-8], "it is cut short"),
        ((START + X + packed(Y))[:-8], "it is cut short"),
        (START + X + struct.pack("<II", 15, 8) + b"no zlib!", "cannot be read as a .mat file"),
        (START + X + X + Y, "it has X twice"),
        (START + array(b"X", (2, 2, 3, 4), SMALL[:-1]) + Y, "should be 2 x 2 x 3 x 4 but has 47 bytes"),
        (START + packed(array(b"X", (2, 2, 3, 4), SMALL[:-8], length=48)) + Y, "it is cut short"),
        (START + packed(array(b"X", (2, 2, 3, 5), SMALL)) + Y, "should be 2 x 2 x 3 x 5 but has 48 bytes"),
        (START + array(b"X", (-2, 2, 3, 4), SMALL) + Y, "the sizes of X are"),
        (START + array(b"X", (2, 2, 3, 4), SMALL, flags=1) + Y, "X is no array of plain numbers"),
        (START + array(b"X", (2, 2, 3, 4), SMALL, flags=0x809) + Y, "X is no array of plain numbers"),
        (START + array(b"X", (2, 2, 3, 4), SMALL, kind=99) + Y, "numbers of type 99"),
        (START + array(b"X", (2, 2, 4, 3), SMALL) + Y, r"X must be (H, W, 3, N)"),
        (START + array(b"X", (2, 2, 3, 0), b"") + Y, r"X must be (H, W, 3, N) unsigned bytes and not empty"),
        (START + X + array(b"y", (3, 1), bytes([1, 2, 3])), "has 4 images and 3 labels"),
        (START + X + array(b"y", (4, 1), bytes([1, 2, 11, 1])), "from 1 to 10"),
        (START + X + array(b"y", (4, 1), bytes([0, 1, 2, 1])), "from 1 to 10"),
    ],
)
def test_what_is_wrong_is_said_with_the_name_of_the_file(tmp_path, content, message):
    assert message in refused(tmp_path / "train_32x32.mat", content)


@pytest.mark.parametrize("content", [HUGE, packed(HUGE), packed(LIAR), packed(HUGE + bytes(1 << 26))])
def test_an_absurd_size_is_refused_before_it_is_allocated(tmp_path, content):
    tracemalloc.start()
    said = refused(tmp_path / "train_32x32.mat", START + content + Y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "cannot hold" in said or "cut short" in said
    assert peak < 4 << 20


def test_every_cut_and_many_changes_are_refused_or_read(tmp_path):
    """Nothing but a sentence about the file comes of any bytes."""
    sound, source = START + packed(X) + Y, np.random.default_rng(0)
    spoiled = [sound[:size] for size in range(128, len(sound), 3)]
    for _ in range(300):
        content = bytearray(sound)
        content[source.integers(128, len(sound))] = source.integers(256)
        spoiled.append(bytes(content))
    for content in spoiled:
        (tmp_path / "a.mat").write_bytes(content)
        try:
            read_mat(tmp_path / "a.mat", ("X", "y"))
        except ValueError as error:
            assert "a.mat" in str(error)  # noqa: PT017  some of them can be read
