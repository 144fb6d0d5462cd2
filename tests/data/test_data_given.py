"""Data given in Python: one way in for tensors, one set of rules for data sets of others."""

import numpy as np
import pytest
import torch

from distillkac import data
from distillkac.data import DataConfig, Dataset, from_tensors, read
from distillkac.data.given import checked, is_given
from tests.toys import ToyData

SOURCE = torch.Generator().manual_seed(0)
FLOATS = torch.rand(6, 1, 4, 4, generator=SOURCE) * 2 - 1
BYTES = torch.randint(256, (6, 3, 4, 4), generator=SOURCE, dtype=torch.uint8)


def test_bytes_are_scaled_and_floats_are_left_alone():
    x, y = read(from_tensors(BYTES), range(6))
    assert torch.equal(x, BYTES.float() / 127.5 - 1)
    assert y.tolist() == [0] * 6
    x, y = read(from_tensors(FLOATS, torch.tensor([2, 0, 1, 0, 0, 0], dtype=torch.int32)), [1, 0])
    assert torch.equal(x, FLOATS[[1, 0]])
    assert y.tolist() == [0, 2]


def test_names_default_to_numbers_and_mirror_images_double_the_data():
    dataset = from_tensors(FLOATS, torch.tensor([0, 1, 1, 0, 0, 1]), flip=True)
    assert dataset.class_names == ("0", "1")
    assert len(dataset) == 12
    assert torch.equal(dataset.__getitems__([7])[0][0], FLOATS[1].flip(-1))
    assert from_tensors(FLOATS).class_names == ("all",)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (FLOATS * 3, r"must span \[-1, 1\] where they are float32, got \[-.*: scale them"),
        (FLOATS.abs(), r"must span \[-1, 1\].*from \[0, 1\] by 2 \* x - 1"),
        ((FLOATS > 0).float(), r"must span \[-1, 1\].*, got \[0, 1\]"),
        (FLOATS.where(FLOATS < 0.9, 1.5), r"must span \[-1, 1\]"),
        (FLOATS.where(FLOATS > -0.9, -1.5), r"must span \[-1, 1\]"),
        (FLOATS.double(), r"uint8 from 0 to 255, or float32 in \[-1, 1\], got torch.float64"),
        (BYTES.int(), "got torch.int32"),
        (FLOATS.where(FLOATS < 0.9, float("nan")), r"images\[\d\] has values that are not finite"),
        (FLOATS[0], r"must be a tensor \(N, C, H, W\), not empty, got float32 \(1, 4, 4\)"),
        (FLOATS[:0], r"not empty, got float32 \(0, 1, 4, 4\)"),
        (np.zeros((2, 1, 4, 4)), "got ndarray"),
        (BYTES.permute(0, 2, 3, 1), r"channels first, got uint8 \(6, 4, 4, 3\): images.permute\(0, 3, 1, 2\)"),
    ],
)
def test_other_values_are_refused(images, words):
    with pytest.raises(ValueError, match=words):
        from_tensors(images)


@pytest.mark.parametrize(
    ("labels", "names", "words"),
    [
        (torch.zeros(5, dtype=torch.int64), None, "6 whole numbers, one for each image"),
        (torch.zeros(6), None, r"whole numbers, one for each image, got float32 \(6,\)"),
        (torch.zeros(6, 2, dtype=torch.int64), None, r"got int64 \(6, 2\)"),
        (torch.full((6,), -1), None, "names of the classes|must lie in"),
        (torch.full((6,), 2), ("a", "b"), r"labels must lie in \[0, 1\], for 2 classes, got 2 to 2"),
        (torch.zeros(6, dtype=torch.int64), ("a", "a"), "each once"),
        (torch.zeros(6, dtype=torch.int64), (1,), "names of the classes"),
    ],
)
def test_other_labels_are_refused(labels, names, words):
    with pytest.raises(ValueError, match=words):
        from_tensors(FLOATS, labels, names)


def test_what_is_no_picture_may_have_any_finite_values():
    fields = torch.randn(4, 2, 4, 4, generator=SOURCE) * 5
    assert torch.equal(from_tensors(fields).__getitems__([0])[0][0], fields[0])
    with pytest.raises(ValueError, match="not finite"):
        from_tensors(fields / 0)


def test_images_that_use_a_part_of_the_range_are_warned_of():
    with pytest.warns(UserWarning, match="small part of 0 to 255"):
        from_tensors(BYTES // 64)


class Own(Dataset):
    """What a user writes, and no more."""

    shape, class_names = (1, 4, 4), ("a", "b")

    def __init__(self, x=FLOATS, y=None):
        self.x, self.y = x, torch.arange(len(x)) % 2 if y is None else y

    def __len__(self):
        return len(self.x)

    def __getitems__(self, rows):
        return self.x[rows], self.y[rows]


def test_a_data_set_of_four_members_will_do():
    place, known = checked(Own())
    assert is_given(place)
    assert place == DataConfig(path="python://Own")
    assert known == checked(Own())[1]
    assert known != checked(Own(FLOATS.flip(0)))[1]
    assert known != checked(Own(torch.cat([FLOATS, FLOATS])))[1]
    assert sorted(Own().order(3)(0, 6).tolist()) == list(range(6))
    own = Own()
    own.fingerprint = checked(ToyData())[1]
    assert checked(own)[1] == own.fingerprint


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shape": (4, 4)}, r"Own.shape must be \(C, H, W\)"),
        ({"shape": (1, 4, 5)}, r"x of 64 rows must have shape \(64, 1, 4, 5\), got float32 \(64, 1, 4, 4\)"),
        ({"class_names": ()}, "Own.class_names must be the names"),
        ({"class_names": ("a",)}, r"Own: y must lie in \[0, 0\]"),
        ({"x": FLOATS * 2}, r"Own: x must span \[-1, 1\]"),
        ({"x": FLOATS.double()}, "Own: x must be uint8"),
        ({"y": torch.zeros(6)}, r"y of 64 rows must be \(64,\) int64"),
        ({"__getitems__": lambda rows: FLOATS[rows]}, r"must return a pair of tensors \(x, y\), got float32"),
    ],
)
def test_a_data_set_that_does_something_else_is_refused(change, words):
    own = Own()
    for name, value in change.items():
        setattr(own, name, value)
    with pytest.raises(ValueError, match=words):
        checked(own)


def test_what_is_no_data_set_is_told_what_it_lacks():
    with pytest.raises(
        ValueError, match=r"Tensor is no data set: it lacks class_names, .*from_tensors\(images, labels\)"
    ):
        checked(FLOATS)
    with pytest.raises(ValueError, match=r"str is no data set: .*DataConfig\(path="):
        checked("DIR")
    with pytest.raises(ValueError, match=r"TensorDataset is no data set: .*inherit from distillkac.data.Dataset"):
        checked(torch.utils.data.TensorDataset(FLOATS))


def test_rows_that_change_are_refused_unless_the_data_set_says_what_it_is():
    class Augmented(Own):
        def __getitems__(self, rows):
            return self.x[rows] * torch.rand(len(rows), 1, 1, 1), self.y[rows]

    with pytest.raises(ValueError, match="other images when the same rows were asked for again"):
        checked(Augmented())
    own = Augmented()
    own.fingerprint = checked(Own())[1]
    assert checked(own)[1] == own.fingerprint


def test_no_command_line_can_name_them():
    with pytest.raises(ValueError, match="where there is nothing"):
        data.load(DataConfig(path="python://Own"), "train")


def test_classes_that_nobody_named_have_images():
    with pytest.raises(ValueError, match=r"no image of class 0 .*return_inverse"):
        from_tensors(FLOATS, torch.tensor([1, 2, 3, 1, 2, 3]))
    with pytest.raises(ValueError, match="no image of class 1 "):
        from_tensors(FLOATS, torch.tensor([0, 2500, 5000, 0, 0, 0]))
    assert from_tensors(FLOATS, torch.tensor([1] * 6), ("none", "all")).class_names == ("none", "all")
    assert from_tensors(FLOATS, class_names="cat").class_names == ("cat",)


def test_names_of_classes_have_an_order():
    two = torch.arange(6) % 2
    for names in (["e\u0301", "x"], np.array(["\u00e9", "x"]), iter(["\u00e9", "x"])):
        found = from_tensors(FLOATS, two, names).class_names
        assert found == ("\u00e9", "x")
        assert {type(name) for name in found} == {str}
    assert from_tensors(FLOATS, class_names=np.array(["cat"])).class_names == ("cat",)
    for names in ({"a", "b"}, frozenset("ab"), {"a": 0, "b": 1}, np.array([["a"], ["b"]]), np.array("a"), 2):
        with pytest.raises(ValueError, match=r"class_names must be a list of the names of the classes, in order, got "):
            from_tensors(FLOATS, two, names)
    for names in ([], ["a", 1], ["a", "a"], ["e\u0301", "\u00e9"], np.arange(2)):
        with pytest.raises(ValueError, match=r"class_names must be the names of the classes, each once, got "):
            from_tensors(FLOATS, two, names)


class Of(ToyData):
    """ToyData whose images went through a function."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def __getitems__(self, rows):
        x, y = super().__getitems__(rows)
        return self.change(x), y


def test_own_images_that_span_0_to_1_are_said():
    with pytest.warns(UserWarning, match=r"Of: none of the first 64 images has a value below 0.*2 \* x - 1"):
        checked(Of(lambda x: x / 2 + 0.5))


def test_a_buffer_that_is_used_again_hides_no_change():
    buffer = torch.empty(64, *ToyData.shape)

    def fill(x):
        return buffer.copy_(torch.rand(len(x), *ToyData.shape) * 2 - 1)

    with pytest.raises(ValueError, match="gave other images when the same rows were asked for again"):
        checked(Of(fill))


def test_a_word_is_a_fingerprint():
    dataset = ToyData()
    dataset.fingerprint = "v1"
    _, known = checked(dataset)
    dataset.fingerprint = "v2"
    assert known != checked(dataset)[1]


def test_orders_that_are_none_and_classes_in_place_of_objects_are_refused():
    dataset = ToyData()
    dataset.order = lambda seed: lambda start, stop: list(range(start, stop))
    with pytest.raises(ValueError, match=r"must be a tensor of 64 rows, whole numbers, got list"):
        checked(dataset)
    with pytest.raises(ValueError, match=r"got the class ToyData: make one, ToyData\(\.\.\.\)"):
        checked(ToyData)
