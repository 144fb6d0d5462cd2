"""Folders that are splits, classes, or may be either."""

import pytest

from tests.image_folders import pictures, refused, sizes, told

# -------------------------------------------------------------------------------------------------------------- splits


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("train2017", "val2017"), True),
        (("Training Set", "Test Set"), True),
        (("train_images", "test_images", "test_2"), True),
        (("train ", "test "), True),
        (("train station", "test tube", "cat"), False),
        (("trains", "contest"), False),
        (("train a", "train b"), False),
    ],
)
def test_names_that_are_nearly_splits_are_asked_about(tmp_path, names, said):
    data, _, words = told(pictures(tmp_path, *names))
    assert data.num_classes == len(names)
    assert ("are taken for classes; if they are splits call them train and test" in words) == said


def test_loose_images_beside_splits_are_never_mixed_with_them_in_silence(tmp_path):
    pictures(tmp_path, "train/a", "Test/a", "train/b", "Test/b")
    pictures(tmp_path, "", count=1, first=90)
    said = refused(tmp_path)
    assert "holds Test, train with loose images beside them, such as 090.png; move the images away" in said
    assert "unconditional" not in said, "which would learn the test images"
    data, _, words = told(tmp_path, unconditional=True)
    assert len(data) == 17
    assert "holds Test, train with loose images beside them, such as 090.png, so all images are taken together" in words


@pytest.mark.parametrize(
    ("names", "used"),
    [
        (("train", "test"), 2),
        (("Train", "Test"), 2),
        (("TRAINING", "Testing"), 2),
        (("train", "val"), 2),
        (("train", "Valid"), 2),
        (("training", "validation"), 2),
        (("train", "test", "valid"), 2),
        (("train", "test", "VAL"), 2),
        (("train", "Dev"), 2),
        (("train", "eval", "dev"), 2),
    ],
)
@pytest.mark.parametrize("classes", [True, False])
def test_split_folders_by_any_usual_name(tmp_path, names, used, classes):
    for number, name in enumerate(names):
        for sub in ("cats", "dogs") if classes else (".",):
            pictures(tmp_path / name, sub, first=40 * number + 20 * (sub == "dogs"))
    learned, measured, words = sizes(tmp_path)
    assert {n // 40 for n in learned} == {0}
    assert {n // 40 for n in measured} == {1}
    assert set(learned.values()) == set(measured.values()) == ({"cats", "dogs"} if classes else {"all"})
    assert len(learned) == len(measured) == (8 if classes else 4)
    for name in names[used:]:
        assert f"{name} ({8 if classes else 4} images) is not read, {names[1]} is the test part" in words


def test_train_and_test_beside_other_classes_are_classes(tmp_path):
    """Vehicles: bus, train and somebody's test."""
    pictures(tmp_path, "bus", "train", "test")
    data, classes, words = told(tmp_path)
    assert data.class_names == ("bus", "test", "train")
    assert len(classes) == 12
    assert "holds test, train with bus beside them, so all of them are taken for classes and none for a split" in words


def test_splits_with_classes_of_their_own_beside_other_folders_are_refused(tmp_path):
    pictures(tmp_path, "train/cats", "train/dogs", "test/cats", "test/dogs", "extra")
    said = refused(tmp_path)
    assert "if they are splits move extra away" in said
    data, _, words = told(tmp_path, unconditional=True)
    assert len(data) == 20
    assert "none for a split" in words


def test_splits_below_the_classes_are_refused(tmp_path):
    pictures(tmp_path, "cats/train", "cats/test", "dogs/Train", "dogs/val")
    assert "its class cats holds test, train: put the splits above the classes, train/CLASS and test/CLASS" in refused(
        tmp_path
    )
    data, _, words = told(tmp_path, unconditional=True)
    assert len(data) == 16
    assert "its class cats holds test, train, so all images are taken together and none for a split" in words
    for folder in ("cats", "dogs"):
        pictures(tmp_path / "rails", f"{folder}/train", f"{folder}/bus")  # kinds of what is seen
    data, _, words = told(tmp_path / "rails")
    assert (len(data), data.class_names, words) == (16, ("cats", "dogs"), "")


def test_notes_beside_splits_are_no_class_but_an_empty_folder_may_be_one(tmp_path):
    pictures(tmp_path, "train", "test")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "x.xml").write_text("x")
    learned, measured, words = sizes(tmp_path)
    assert (len(learned), len(measured)) == (4, 4)
    assert "files that are no images, such as annotations/x.xml" in words
    (tmp_path / "annotations" / "x.xml").unlink()
    (tmp_path / "annotations").rmdir()
    (tmp_path / "bus").mkdir()
    assert "bus: holds no images" in refused(tmp_path)


def test_a_lone_train_folder_is_the_training_part(tmp_path):
    pictures(tmp_path / "a", "train/cats", "train/dogs", count=5)
    learned, measured, words = sizes(tmp_path / "a", held_out=0.2)
    assert (len(learned), len(measured)) == (8, 2)
    assert set(learned.values()) == {"cats", "dogs"}
    assert "train has no test folder beside it, so 0.2 of each class in it is held out" in words
    pictures(tmp_path / "b", "Training")
    data, classes, words = told(tmp_path / "b")
    assert (len(classes), data.class_names) == (4, ("all",))
    assert "nothing is held out" in words


@pytest.mark.parametrize("names", [("test",), ("val",), ("Test", "validation")])
def test_tests_without_training_are_refused(tmp_path, names):
    pictures(tmp_path, *names)
    said = refused(tmp_path)
    assert "but no train" in said
    assert f"{tmp_path.name}/train" in said


@pytest.mark.parametrize("names", [("train", "Train"), ("train", "training"), ("train", "test", "Test")])
def test_two_folders_of_one_split_are_refused(tmp_path, names):
    pictures(tmp_path, *names)
    assert "both name the" in refused(tmp_path)


def test_classes_of_the_test_part(tmp_path):
    pictures(tmp_path, "train/a", "train/b", "train/c", "test/b")
    learned, measured, words = sizes(tmp_path)
    assert set(learned.values()) == {"a", "b", "c"}
    assert set(measured.values()) == {"b"}
    assert "test has no images of class a, c: learned, but not measured" in words
    (tmp_path / "test" / "a").mkdir()
    assert sizes(tmp_path) == (learned, measured, words)
    (tmp_path / "train" / "d").mkdir()
    assert "d: holds no images; fill this class folder or remove it" in refused(tmp_path)
    (tmp_path / "train" / "d").rmdir()
    pictures(tmp_path, "test/z", first=30)
    assert "z is in test alone" in refused(tmp_path)
    assert len(told(tmp_path, "test", unconditional=True)[0]) == 8


def test_a_lone_folder_around_the_classes_is_named(tmp_path):
    pictures(tmp_path, "pets/cats", "pets/dogs")
    data, _, words = told(tmp_path)
    assert data.class_names == ("pets",)
    assert "its only class is pets, of which cats, dogs are parts" in words
    assert f"give --data.path {tmp_path}/pets" in words
    pictures(tmp_path / "b", "images/Train/cats", "images/Test/cats")
    said = refused(tmp_path / "b")
    assert f"holds Test, Train; if these are the splits give --data.path {tmp_path}/b/images" in said
