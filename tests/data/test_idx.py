"""IDX files: MNIST's and those of the sets that come in its form, recognised by content, kept in order."""

import warnings

import numpy as np
import pytest
import torch

from distillkac.data import DataConfig, load, read
from distillkac.data.idx_files import is_idx
from tests.idx_files import idx, write_set

COUNT = {"train": 60, "t10k": 20}
MAPPINGS = {
    "letters": "".join(f"{i} {64 + i} {96 + i}\n" for i in range(1, 27)),
    "balanced": "".join(f"{i} {code}\n" for i, code in enumerate([*range(48, 58), *range(65, 91), *range(97, 108)])),
}


def images(split, size=(28, 20)):
    return np.random.default_rng(len(split)).integers(0, 256, (COUNT[split], *size), np.uint8)


def labels(split, first=0, count=10):
    return (np.arange(COUNT[split]) % count + first).astype(np.uint8)


def mnist(folder, names="{split}-{}-idx{}-ubyte", packed=True, **options):
    for split in COUNT:
        write_set(folder, images(split), labels(split, **options), names.replace("{split}", split), packed=packed)
    return folder


def quiet(path, split="train", **options):
    """The split, of which nothing is to be said."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load(DataConfig(path=str(path), **options), split)


def pixels(data):
    return data.images[torch.arange(len(data.labels))].numpy()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("names", ["{split}-{}-idx{}-ubyte", "{split}-{}.idx{}-ubyte", "{split}_{}", "{}.{split}.bin"])
def test_pixels_labels_and_splits_are_those_of_the_files(tmp_path, names, packed):
    folder = mnist(tmp_path, names, packed)
    for split in COUNT:
        data = quiet(folder, "train" if split == "train" else "test")
        assert (data.shape, data.class_names, data.images.dtype) == ((1, 28, 20), tuple("0123456789"), torch.uint8)
        assert np.array_equal(pixels(data)[:, 0], images(split))
        assert data.labels.tolist() == labels(split).tolist()


@pytest.mark.parametrize("inside", ["raw", "gzip", "RAW"])
def test_the_usual_sub_folders_are_looked_into(tmp_path, inside):
    mnist(tmp_path / "MNIST" / inside)
    assert len(quiet(tmp_path / "MNIST")) == len(quiet(tmp_path / "MNIST" / inside)) == 60


def test_a_file_of_images_stands_for_its_set(tmp_path):
    mnist(tmp_path)
    train = tmp_path / "train-images-idx3-ubyte.gz"
    assert (len(quiet(train)), len(quiet(train, "test"))) == (60, 20)
    test = tmp_path / "t10k-images-idx3-ubyte.gz"  # what is named is learned from
    assert len(quiet(test, held_out=0.0)) == 20
    with pytest.raises(ValueError, match="holds labels; give the path of their images"):
        load(DataConfig(path=str(tmp_path / "train-labels-idx1-ubyte.gz")), "train")


def test_without_test_files_some_images_are_held_out(tmp_path):
    write_set(tmp_path, images("train"), labels("train", count=2), "clothes-{}-idx{}-ubyte")
    train, test = (quiet(tmp_path, split, held_out=0.2) for split in ("train", "test"))
    assert len(train) + len(test) == 60
    assert 4 <= len(test) <= 20
    assert len(quiet(tmp_path, held_out=0.0)) == 60


def test_sizes_channels_and_classes_are_changed_as_elsewhere(tmp_path):
    mnist(tmp_path)
    assert quiet(tmp_path, image_size=32, channels=3).shape == (3, 32, 32)
    assert len(quiet(tmp_path, flip=True)) == 120
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte\.gz: has no labels beside it.*--data\.unconditional"):
        load(DataConfig(path=str(tmp_path)), "test")
    assert quiet(tmp_path, unconditional=True).class_names == ("all",)


def test_labels_with_gaps_keep_their_numbers_as_names(tmp_path):
    mnist(tmp_path, first=1, count=4)
    with pytest.warns(UserWarning, match="do not count from 0 without gaps"):
        assert load(DataConfig(path=str(tmp_path)), "train").class_names == ("1", "2", "3", "4")


@pytest.mark.parametrize(("kind", "dtype"), [("i1", ">i1"), ("i2", ">i2"), ("i4", ">i4")])
def test_labels_of_any_whole_type(tmp_path, kind, dtype):
    write_set(tmp_path, images("train"), labels("train").astype(dtype))
    assert quiet(tmp_path, held_out=0.0).labels.tolist() == labels("train").tolist()


def test_qmnist_has_tables_of_labels(tmp_path):
    for split in COUNT:
        table = np.zeros((COUNT[split], 8), np.int32)
        table[:, 0], table[:, 1:] = labels(split), 99
        name = "test" if split == "t10k" else split
        write_set(tmp_path, images(split), table, f"qmnist-{name}-{{}}-idx{{}}-ubyte")
    assert (tmp_path / "qmnist-train-labels-idx2-int.gz").exists()
    assert quiet(tmp_path, "test").labels.tolist() == labels("t10k").tolist()
    assert quiet(tmp_path).class_names == tuple("0123456789")


# -------------------------------------------------------------------------------------------------------------- EMNIST


def emnist(folder, kind, first, count, mapping=True):
    for split, name in (("train", "train"), ("t10k", "test")):
        names = f"emnist-{kind}-{name}-{{}}-idx{{}}-ubyte"
        write_set(folder, images(split, (9, 9)), labels(split, first, count), names)
    if mapping:
        (folder / f"emnist-{kind}-mapping.txt").write_text(MAPPINGS[kind])
    return folder


@pytest.mark.parametrize(
    ("kind", "first", "count", "names"),
    [
        ("letters", 1, 5, ("Aa", "Bb", "Cc", "Dd", "Ee")),
        ("balanced", 0, 20, (*"0123456789", *"ABCDEFGHIJ")),
    ],
)
def test_emnist_is_turned_upright_and_its_mapping_names_the_classes(tmp_path, kind, first, count, names):
    emnist(tmp_path, kind, first, count)
    with pytest.warns(UserWarning, match="is taken for EMNIST by its name.*turned upright$") as said:
        data = load(DataConfig(path=str(tmp_path)), "train")
    assert len(said) == 1
    assert data.class_names == names
    assert np.array_equal(pixels(data)[:, 0], images("train", (9, 9)).transpose(0, 2, 1))
    assert data.labels.tolist() == (labels("train", 0, count)).tolist()


def test_emnist_without_its_mapping_says_so(tmp_path):
    emnist(tmp_path, "letters", 1, 3, mapping=False)
    with pytest.warns(UserWarning, match="no mapping of this set lies beside them"):
        assert load(DataConfig(path=str(tmp_path)), "train").class_names == ("1", "2", "3")


def test_of_several_sets_the_one_that_is_named_is_read(tmp_path):
    for kind, first in (("letters", 1), ("balanced", 0)):
        emnist(tmp_path / "gzip", kind, first, 5)
    with pytest.raises(ValueError, match=r"holds 2 sets of IDX files \(gzip/emnist-balanced.*, gzip/emnist-letters"):
        load(DataConfig(path=str(tmp_path)), "train")
    path = tmp_path / "gzip" / "emnist-balanced-train-images-idx3-ubyte.gz"
    with pytest.warns(UserWarning, match="EMNIST"):
        data = load(DataConfig(path=str(path)), "test")
    assert (len(data), data.class_names) == (20, tuple("01234"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1 65\n2\n", "line 2 must be a label and one or two characters"),
        ("1 65\n1 66\n", "line 2 says label 1 or class 'B' a second time"),
        ("1 65\n2 65\n", "line 2 says label 2 or class 'A' a second time"),
        ("1 65\n2 66\n3 A\n", "line 3 must be"),
        ("1 65\n2 66\n", "label 3 means no class; labels are 1 to 2"),
        ("x" * (1 << 17), "too large for a mapping"),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused(tmp_path, content, message):
    emnist(tmp_path, "letters", 1, 3)
    (tmp_path / "emnist-letters-mapping.txt").write_text(content)
    with pytest.raises(ValueError, match=message):
        load(DataConfig(path=str(tmp_path)), "train")


# ----------------------------------------------------------------------------------------------------- what is one set


def test_a_file_and_its_packed_twin_are_one(tmp_path):
    mnist(tmp_path, packed=True)
    mnist(tmp_path, packed=False)
    with pytest.warns(
        UserWarning, match="4 IDX files are here plain and packed; left out t10k-images-idx3-ubyte.gz"
    ) as said:
        assert len(load(DataConfig(path=str(tmp_path)), "train")) == 60
    assert len(said) == 1
    for path in tmp_path.glob("*.gz"):
        path.write_bytes(b"x")
    with pytest.warns(UserWarning, match="4 IDX files are here plain and packed"):
        load(DataConfig(path=str(tmp_path / "train-images-idx3-ubyte")), "train")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("train.images-idx3-ubyte", "are the same part of one set"),
        ("images-idx3-ubyte", "cannot all be parts of one set"),
        ("train-test-images-idx3-ubyte", "its name says train and test"),
        ("kmnist-train-images-idx3-ubyte", "holds 2 sets of IDX files"),
    ],
)
def test_files_that_may_be_meant_in_two_ways_are_refused(tmp_path, more, message):
    mnist(tmp_path)
    (tmp_path / more).write_bytes(idx(images("train")))
    with pytest.raises(ValueError, match=message):
        load(DataConfig(path=str(tmp_path)), "train")


def test_test_files_or_labels_alone_are_refused(tmp_path):
    mnist(tmp_path)
    for path in tmp_path.glob("train*"):
        path.unlink()
    with pytest.raises(ValueError, match=r"no images to learn from.*path of t10k-images-idx3-ubyte\.gz itself"):
        load(DataConfig(path=str(tmp_path)), "train")
    (tmp_path / "t10k-images-idx3-ubyte.gz").unlink()
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte\.gz but no IDX file of images"):
        load(DataConfig(path=str(tmp_path)), "train")


def test_other_files_are_not_taken_for_idx(tmp_path):
    for name, content in (
        ("a.txt", b"\0\0"),
        ("b.bin", b"\0\0\x08\0"),
        ("c.bin", b"\0\0\x0a\3"),
        ("d", b""),
        ("e.gz", b"x"),
    ):
        (tmp_path / name).write_bytes(content)
        assert not is_idx(tmp_path / name), name
    (tmp_path / "f.tga").write_bytes(idx(images("t10k")))
    assert not is_idx(tmp_path / "f.tga"), "the suffix of an image"


def test_the_fingerprint_is_of_the_content(tmp_path):
    one, other = (quiet(mnist(tmp_path / name, packed=packed)) for name, packed in (("a", True), ("b", False)))
    assert one.fingerprint == other.fingerprint
    assert torch.equal(read(one, [3])[0], read(other, [3])[0])
