"""Labels in the forms that files have, and names of arrays in an .npz."""

import json
import warnings
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from distillkac.data import DataConfig, arrow, load, read
from distillkac.data.classes import class_name, natural, number_classes, printable
from distillkac.data.dataset import hold_out
from distillkac.data.labels import class_in_json, class_in_text

IMAGES = np.random.default_rng(1).integers(0, 256, (20, 6, 4, 3), np.uint8)
LABELS = np.arange(20) % 2


def load_npz(tmp_path, split="train", options=None, **arrays):
    """(data, labels, what was warned of)."""
    np.savez(tmp_path / "x.npz", **arrays)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = load(DataConfig(path=str(tmp_path / "x.npz"), **{"held_out": 0.0} | (options or {})), split)
    return data, read(data, range(len(data)))[1].tolist(), "\n".join(str(w.message) for w in caught)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (LABELS.astype(np.uint8), ("0", "1")),
        (LABELS.astype(np.float32), ("0", "1")),
        (LABELS.astype(np.float16)[:, None], ("0", "1")),
        (LABELS.astype(bool), ("0", "1")),
        (LABELS.astype(">i8")[:, None], ("0", "1")),
        (LABELS.reshape(20, 1, 1), ("0", "1")),
        (np.array(["ant", "dog"])[LABELS], ("ant", "dog")),
        (np.array([b"ant", b"dog"])[LABELS], ("ant", "dog")),
        (np.array(["img9", "img10"])[LABELS], ("img9", "img10")),
        (LABELS + 1, ("1", "2")),
        (LABELS * 7.0 + 3, ("3", "10")),
        (LABELS.astype(np.uint64) * 2**63, ("0", "9223372036854775808")),
    ],
)
def test_labels_in_any_type_that_means_classes(tmp_path, labels, names):
    data, got, words = load_npz(tmp_path, images=IMAGES, labels=labels)
    assert data.class_names == names
    assert got == LABELS.tolist()
    assert ("numbered anew" in words) == (names not in (("0", "1"), ("ant", "dog"), ("img9", "img10")))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS + 0.25, r"labels must be whole numbers, got 0\.25"),
        (np.where(LABELS, np.nan, 1.0), "whole numbers, got nan"),
        (LABELS * 1e300, "whole numbers, got 1e"),
        (np.eye(4)[LABELS], r"labels has 4 numbers an image, \(20, 4\).*argmax.*--data\.unconditional"),
        (LABELS[:-1, None], r"\(20,\), one per image, got \(19, 1\)"),
        (LABELS[None], r"\(20,\), one per image, got \(1, 20\)"),
        (LABELS.astype("datetime64[s]"), "whole numbers or words, got datetime64"),
        (LABELS - 1, r"from 0, got -1.*--data\.unconditional"),
        (np.array(["ant", ""])[LABELS], "labels has empty words"),
        (np.array([b" ", b"ant"])[LABELS], "labels has empty words"),
    ],
)
def test_labels_that_mean_no_classes_are_refused_unless_none_are_wanted(tmp_path, labels, message):
    with pytest.raises(ValueError, match=message):
        load_npz(tmp_path, images=IMAGES, labels=labels)
    data, got, words = load_npz(tmp_path, options={"unconditional": True}, images=IMAGES, labels=labels)
    assert (data.class_names, set(got), words) == (("all",), {0}, "")


def test_an_npy_that_was_renamed_is_no_npz(tmp_path):
    np.save(tmp_path / "x.npy", IMAGES)
    path = (tmp_path / "x.npy").rename(tmp_path / "x.npz")
    with pytest.raises(ValueError, match=r"x\.npz: cannot be read as an \.npz .*it is an \.npy"):
        load(DataConfig(path=str(path)), "train")


def test_pickled_labels_do_not_stop_who_asks_for_none(tmp_path):
    arrays = {"images": IMAGES, "labels": np.array([None, *range(19)], dtype=object)}
    with pytest.raises(ValueError, match="labels is an array of Python objects"):
        load_npz(tmp_path, **arrays)
    assert len(load_npz(tmp_path, options={"unconditional": True}, **arrays)[0]) == 20


def medmnist():
    """As its files are: three splits, labels (N, 1)."""
    arrays = {}
    for name, rows in (("train", slice(0, 10)), ("val", slice(10, 14)), ("test", slice(14, 20))):
        arrays |= {f"{name}_images": IMAGES[rows], f"{name}_labels": LABELS[rows, None].astype(np.uint8)}
    return arrays


def test_files_of_medmnist(tmp_path):
    data, got, words = load_npz(tmp_path, **medmnist())
    assert got == LABELS[:10].tolist()
    np.testing.assert_allclose(read(data, range(10))[0].permute(0, 2, 3, 1), IMAGES[:10] / 127.5 - 1, atol=1e-6)
    assert "left out 2 arrays that are not read: val_images, val_labels" in words
    test, got, _ = load_npz(tmp_path, "test", **medmnist())
    assert got == LABELS[14:].tolist()
    without = {name: array for name, array in medmnist().items() if "test" not in name}
    val, got, words = load_npz(tmp_path, "test", **without)
    assert (len(val), len(test), got, words) == (4, 6, LABELS[10:14].tolist(), "")


def test_arrays_that_are_not_read_are_named(tmp_path):
    *_, words = load_npz(tmp_path, images=IMAGES, labels=LABELS, weights=np.zeros(3), masks=np.zeros(2))
    assert "left out 2 arrays that are not read: weights, masks" in words
    *_, words = load_npz(tmp_path, images=IMAGES, labels=LABELS)
    assert words == ""
    *_, words = load_npz(tmp_path, x_train=IMAGES, label=LABELS)
    assert "not read: label; labels would be called y_train, so there are no classes" in words


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"arr_0": IMAGES, "arr_1": LABELS}, "it has arr_0, arr_1"),
        ({"images": IMAGES, "x_train": IMAGES}, "images and x_train both name the images"),
        ({"train_images": IMAGES, "y_train": LABELS}, "has y_train but no x_train"),
        ({"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES}, "labels for both x_train and x_test"),
        ({"images": IMAGES.transpose(0, 3, 1, 2)}, r"channels first, .*transpose\(0, 2, 3, 1\)"),
        ({"images": np.zeros((0, 3, 3, 3), np.uint8)}, r"not empty, got \(0, 3, 3, 3\), which has no pixels$"),
        ({"images": np.zeros((5, 0, 0, 0), np.uint8)}, r"not empty, got \(5, 0, 0, 0\), which has no pixels$"),
        ({"images": IMAGES[..., :1].transpose(0, 3, 1, 2)}, r"got \(20, 1, 6, 4\); for channels first"),
        ({"images": IMAGES[0]}, r"got \(6, 4, 3\); of a single image save images\[None\]"),
        (
            {"images": IMAGES, "labels": LABELS, "test_images": IMAGES, "test_labels": LABELS + 1},
            "test part has class 2, which no training image has",
        ),
    ],
)
def test_arrays_that_can_be_misread_are_refused(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=message):
        load_npz(tmp_path, **arrays)


def test_gaps_are_the_same_in_both_parts(tmp_path):
    arrays = {"images": IMAGES, "labels": LABELS * 4 + 1, "test_images": IMAGES[:3], "test_labels": [5, 5, 1]}
    test, got, _ = load_npz(tmp_path, "test", **arrays)
    assert (test.class_names, got) == (("1", "5"), [1, 1, 0])


# ------------------------------------------------------------------------------------------------- names and numbers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("caf\udce9", "caf\\xe9"),
        ("\udcff\udc80", "\\xff\\x80"),
        ("\ud800x", "\\ud800x"),
        ("plain ü", "plain ü"),
        ("a\nb\x1b[31m\x85", "a\\x0ab\\x1b[31m\\x85"),
        ("", ""),
    ],
)
def test_printable_names(text, expected):
    assert printable(text) == expected
    assert printable(expected) == expected
    class_name(text).encode()


def test_natural_order():
    names = ["b1", "a10", "a9", "A9b", "10", "9", "01", "1", "", "a", "ä2"]
    assert natural("9" * 5000) < natural("1" + "0" * 5000)
    assert sorted(names, key=natural) == ["", "01", "1", "9", "10", "a", "a9", "A9b", "a10", "b1", "ä2"]


@pytest.mark.parametrize("text", ["12345678901234567890", "12345678901234567890.0", "9" * 1000, "-1", "007"])
def test_numbers_may_have_many_digits(text):
    assert class_in_text(text.encode()) == class_in_json(json.dumps(text).encode(), None) == int(text.split(".")[0])


def test_numbers_of_words_and_numbers():
    with pytest.warns(UserWarning, match="numbered anew from 0"):
        assert number_classes("x", [3, 7, 3], [7]) == ([0, 1, 0], [1], ("3", "7"))
    assert number_classes("x", ["b", "a"], []) == ([1, 0], [], ("a", "b"))
    assert number_classes("x", ["e\u0301", "\u00e9"], []) == ([0, 0], [], ("\u00e9",))


def test_many_classes_take_as_long_as_many_images(monkeypatch):
    """Looked at so many times each, not so many times each other."""
    looked: Counter = Counter()

    class Number(int):
        def __hash__(self):
            looked["numbers"] += 1
            return super().__hash__()

    class Name(str):
        def __eq__(self, other):
            looked["names"] += 1
            return super().__eq__(other)

        __hash__ = str.__hash__

    class Made(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            made = func(*args, **(kwargs or {}))
            looked["rows"] += made.numel() if isinstance(made, torch.Tensor) else 0
            return made

    count = 300
    numbers = [Number(i) for i in range(count)]
    assert len(number_classes("x", numbers, numbers)[2]) == count
    monkeypatch.setattr(arrow, "class_name", Name)
    names = arrow.class_names("x", {"label": SimpleNamespace(names=list(map(str, numbers)))}, "label")
    with Made():
        train, test = hold_out(str, torch.arange(count).repeat(2), names, 0.5, "x")
    assert sorted(train + test) == list(range(2 * count))
    assert max(looked.values()) < 30 * count, looked
