"""Folders of every make: one reading or none, splits and classes by name, and a word for all that is left out."""

import os
import tarfile
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distillkac import train
from distillkac.data import DataConfig, load, read
from tests.image_sets import samples, write_npz, write_saved, write_table, write_tar
from tests.toys import refusal

PIXELS = np.random.default_rng(3).integers(0, 256, (400, 4, 4, 3), np.uint8)
PIXELS[:, 0, 0, 0], PIXELS[:, 0, 0, 1] = np.arange(400) % 256, np.arange(400) // 256  # which one it is


def picture(path, number=0):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(PIXELS[number]).save(path, "png")
    return path


def pictures(root, *folders, count=4, first=0):
    for folder in folders:
        for _ in range(count):
            picture(root / folder / f"{first:03d}.png", first)
            first += 1
    return root


def config(path, **options):
    return DataConfig(path=str(path), **{"held_out": 0.0} | options)


def told(path, split="train", **options):
    """(data, {number of the image: name of its class}, what was warned of)."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = load(config(path, **options), split)
    x, y = read(data, range(len(data)))
    numbers = ((x[:, :2, 0, 0] + 1) * 127.5).round().long()
    classes = {int(a + 256 * b): data.class_names[k] for (a, b), k in zip(numbers, y.tolist(), strict=True)}
    return data, classes, "\n".join(str(w.message) for w in caught)


def refused(path, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=r".") as error:
            load(config(path, **options), "train")
    return str(error.value)


# -------------------------------------------------------------------------------------------------------- two readings


def add_tar(root):
    write_tar(root.parent / "tar", samples(4), shards=1)
    os.replace(root.parent / "tar" / "shard-0.tar", root / "pets.tar")
    return "pets.tar"


def add_parquet(root):
    write_table(root / "extra_train.parquet", {"image": [content for _, content, _ in samples(4)]})
    return "extra_train.parquet"


def add_cifar(root):
    from tests.test_cifar_and_patches import write_binary

    write_binary(root / "cifar-10-batches-bin")
    return "data_batch_1.bin"


def add_saved(root):
    write_saved(root.parent / "saved", samples(4))
    for path in (root.parent / "saved").iterdir():
        os.replace(path, root / path.name)
    return "state.json"


def add_latents(root):
    (root / "latents.json").write_text("{}")
    return "latents.json"


OTHERS = [add_tar, add_parquet, add_cifar, add_saved, add_latents]


@pytest.mark.parametrize("add", OTHERS)
@pytest.mark.parametrize("images", ["cats", "assets/deep"])
def test_images_beside_another_kind_of_data_are_two_readings(tmp_path, add, images):
    if add in (add_parquet, add_saved):
        pytest.importorskip("datasets")
    root = pictures(tmp_path / "set", images, "dogs")
    name = add(root)
    said = refused(root)
    assert name in said
    assert f"{images}/000.png" in said
    assert "give the path of the one that is meant" in said


@pytest.mark.parametrize("one", OTHERS)
@pytest.mark.parametrize("two", OTHERS)
def test_any_two_kinds_of_data_in_a_folder_are_two_readings(tmp_path, one, two):
    pytest.importorskip("datasets")
    (root := tmp_path / "set").mkdir()
    if one is not two:
        names = {one(root), two(root)}
        assert all(name in refused(root) for name in names)


def test_loose_images_and_archives_in_split_folders_are_two_readings_too(tmp_path):
    root = pictures(tmp_path / "a", ".")
    add_tar(root)
    assert "pets.tar" in refused(root)
    root = pictures(tmp_path / "b", "Test/cats")
    (root / "Train").mkdir()
    add_tar(root / "Train")
    assert "Train/pets.tar" in refused(root)


def test_what_is_named_in_a_refusal_of_two_readings_can_be_given_itself(tmp_path):
    root = pictures(tmp_path / "set", "cats", "dogs")
    add_tar(root)
    assert len(load(config(root / "pets.tar", cache=str(tmp_path / "cache")), "train")) == 4


def test_an_npz_in_a_folder_is_named(tmp_path):
    path = write_npz(tmp_path / "set", samples())
    assert "holds no images but set.npz; give its own path" in refused(tmp_path / "set")
    pictures(tmp_path / "set", "cats", "dogs")
    data, classes, words = told(tmp_path / "set")
    assert (len(data), set(classes.values())) == (8, {"cats", "dogs"})
    assert "left out 1 files that are no images, such as set.npz" in words
    assert len(load(config(path), "train")) == 20


@pytest.mark.parametrize(
    ("name", "remedy"), [("a.zip", "unpack it first"), ("b.tar.gz", "unpack it first"), ("in/c.parquet", "own path")]
)
def test_a_folder_whose_data_are_elsewhere_says_where(tmp_path, name, remedy):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"x")
    said = refused(tmp_path)
    assert name in said
    assert remedy in said


def test_data_beside_what_is_read_are_named(tmp_path):
    root = write_tar(tmp_path / "set", samples(), shards=1)
    (root / "more").mkdir()
    add_tar(root / "more")
    (root / "labels.csv").write_text("x")
    (root / "README.md").write_text("x")
    *_, words = told(root, cache=str(tmp_path / "cache"))
    assert "left out 2 files that are not read, such as labels.csv" in words
    assert "README" not in words


@pytest.mark.parametrize("name", ["SET.NPZ", "SET.TAR"])
def test_suffixes_in_any_case(tmp_path, name):
    made = write_npz(tmp_path, samples()) if name == "SET.NPZ" else write_tar(tmp_path, samples(), 1) / "shard-0.tar"
    os.replace(made, tmp_path / name)
    assert len(load(config(tmp_path / name, cache=str(tmp_path / "cache")), "train")) == 20


@pytest.mark.parametrize("name", ["a?b", "set[1]", "x*", "{0..2}", "a{b,c}.tar", "~x", "hf:", "ä b\n"])
def test_a_path_is_no_pattern(tmp_path, name):
    """Beside each are folders that a pattern of that name would find."""
    pictures(tmp_path / name, "cats", "dogs")
    for number, other in enumerate(("acb", "set1", "xy", "0", "1", "ab.tar", "x")):
        pictures(tmp_path / other, "owls", first=20 * number + 20)
    data, classes, _ = told(tmp_path / name)
    assert (sorted(classes), data.class_names) == (list(range(8)), ("cats", "dogs"))
    write_tar(tmp_path / "tar" / name, samples(4), shards=1)
    write_tar(tmp_path / "tar" / "acb", samples(), shards=1)
    assert len(load(config(tmp_path / "tar" / name, cache=str(tmp_path / "cache")), "train")) == 4


def test_an_archive_of_the_name_of_a_pattern_is_itself(tmp_path):
    write_tar(tmp_path, samples(4), shards=2)
    os.replace(tmp_path / "shard-0.tar", tmp_path / "shard-{1..1}.tar")
    data = load(config(tmp_path / "shard-{1..1}.tar", cache=str(tmp_path / "cache")), "train")
    assert data.class_names == ("0",)


# -------------------------------------------------------------------------------------------------------------- splits


def sizes(root, **options):
    _, learned, words = told(root, **options)
    _, measured, _ = told(root, "test", **options)
    return learned, measured, words


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
    assert "test has no images of class a, c" in words
    pictures(tmp_path, "test/z", first=30)
    assert "z is in test alone" in refused(tmp_path)
    assert len(told(tmp_path, "test", unconditional=True)[0]) == 8


def test_a_lone_folder_around_the_classes_is_named(tmp_path):
    pictures(tmp_path, "pets/cats", "pets/dogs")
    data, _, words = told(tmp_path)
    assert data.class_names == ("pets",)
    assert f"its only class is pets, of which cats, dogs are parts; if these are the classes give --data.path {tmp_path}/pets" in words  # fmt: skip # noqa: E501


# --------------------------------------------------------------------------------------------------- what is left out


def test_linked_folders_and_files_are_followed_and_dangling_links_are_named(tmp_path):
    store = pictures(tmp_path / "store", "a", "b", count=3)
    root = pictures(tmp_path / "set", "c", count=2, first=10)
    (root / "a").symlink_to(store / "a", target_is_directory=True)
    (root / "b").mkdir()
    for path in (store / "b").iterdir():
        (root / "b" / path.name).symlink_to(path)
    (root / "c" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (root / "c" / "loop.png").symlink_to("loop.png")
    (root / "lost").symlink_to(tmp_path / "nowhere", target_is_directory=True)
    data, classes, words = told(root)
    assert data.class_names == ("a", "b", "c")
    assert sorted(classes) == [0, 1, 2, 3, 4, 5, 10, 11]
    assert "left out 3 links that lead to no file, such as c/gone.png" in words


def test_no_image_comes_twice_through_links(tmp_path):
    root = pictures(tmp_path / "set", "a", "b/deep", count=2)
    (root / "a" / "up").symlink_to("..", target_is_directory=True)
    (root / "a" / "further").symlink_to(tmp_path, target_is_directory=True)
    (root / "c").symlink_to(root / "b", target_is_directory=True)
    (root / "b" / "same.png").symlink_to(root / "b" / "deep" / "003.png")
    outside = pictures(tmp_path / "outside", "x", first=20)
    (outside / "x" / "back").symlink_to(root, target_is_directory=True)
    (root / "d").symlink_to(outside / "x", target_is_directory=True)
    (root / "e").symlink_to(outside / "x", target_is_directory=True)
    data, classes, words = told(root)
    assert data.class_names == ("a", "b", "d")
    assert (len(data), sorted(classes)) == (8, [0, 1, 2, 3, 20, 21, 22, 23])
    assert "left out 5 links to folders that are read already" in words
    assert "left out 1 links to files that are read already, such as b/same.png" in words


def test_images_kept_in_a_hidden_store_are_read_through_their_links(tmp_path):
    store = pictures(tmp_path / ".store", "x", count=2)
    (tmp_path / "cats").mkdir()
    for path in (store / "x").iterdir():
        (tmp_path / "cats" / path.name).symlink_to(os.path.relpath(path, tmp_path / "cats"))
    (tmp_path / "dogs").symlink_to(".store/y", target_is_directory=True)
    pictures(store, "y", first=5)
    assert len(told(tmp_path)[0]) == 6


def unlistable(folder, monkeypatch):
    """No permission to list; for the superuser, who always has it, by a stand-in for the system's answer."""
    folder.chmod(0)
    if os.access(folder, os.R_OK):
        listed = os.scandir

        def refusing(path):
            if Path(path) == folder:
                raise PermissionError(13, "Permission denied", str(path))
            return listed(path)

        monkeypatch.setattr(os, "scandir", refusing)


@pytest.mark.parametrize("place", ["b/deep", "b/deep/er"])
def test_folders_that_may_not_be_listed(tmp_path, monkeypatch, place):
    pictures(tmp_path, "a", "b", place)
    unlistable(tmp_path / place, monkeypatch)
    said = refused(tmp_path)
    assert f"{place}: cannot be listed (Permission denied)" in said
    data, classes, words = told(tmp_path, bad_images="skip")
    assert sorted(classes) == list(range(8))
    assert f"left out 1 folders that cannot be listed, such as {place}" in words
    assert len(data.left_out) == 1
    assert place in data.left_out[0]
    (tmp_path / place).chmod(0o700)


SYSTEM = [
    "@eaDir/000.png/SYNOPHOTO_THUMB_M.jpg",
    ".thumbnails/normal/1.png",
    "__MACOSX/cats/._000.png",
    "cats/._000.png",
    "cats/.hidden.png",
    "cats/@eaDir/000.png",
    "#recycle/cats/0.png",
    "$RECYCLE.BIN/0.png",
    "lost+found/0.png",
    ".Trash-1000/files/0.png",
    "System Volume Information/0.png",
    "@Recycle/0.png",
    ".ipynb_checkpoints/0-checkpoint.png",
]


@pytest.mark.parametrize("name", SYSTEM)
def test_what_systems_put_beside_images_is_never_learned(tmp_path, name):
    pictures(tmp_path, "cats", "dogs")
    picture(tmp_path / name, 50)
    data, classes, words = told(tmp_path)
    assert (sorted(classes), data.class_names) == (list(range(8)), ("cats", "dogs"))
    assert f"left out 1 hidden images and thumbnails of the system, such as {name}" in words


def test_system_folders_beside_splits_and_archives(tmp_path):
    pictures(tmp_path / "a", "train", "test")
    picture(tmp_path / "a" / "@eaDir" / "x.jpg", 60)
    learned, measured, _ = sizes(tmp_path / "a")
    assert (len(learned), len(measured)) == (4, 4)
    root = write_tar(tmp_path / "b", samples(), shards=1)
    picture(root / "__MACOSX" / "._x.png", 60)
    data, _, words = told(root, cache=str(tmp_path / "cache"))
    assert len(data) == 20
    assert "left out 1 hidden images" in words


def test_files_that_everybody_has_are_not_worth_a_word(tmp_path):
    pictures(tmp_path, "cats", "dogs")
    for name in (".DS_Store", "cats/Thumbs.db", "dogs/desktop.ini", ".directory", "__MACOSX/._cats"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert told(tmp_path)[2] == ""


def test_pipes_are_not_opened(tmp_path):
    pictures(tmp_path, "cats", "dogs")
    os.mkfifo(tmp_path / "cats" / "pipe.png")
    assert "left out 1 things that are neither files nor folders, such as cats/pipe.png" in told(tmp_path)[2]


# --------------------------------------------------------------------------------------------------------------- names

LATIN = os.fsdecode(b"caf\xe9")


@pytest.mark.parametrize("skip", [False, True])
def test_any_file_name_the_system_allows(tmp_path, monkeypatch, capsys, skip):
    from distillkac.data import records

    monkeypatch.setattr(records, "MEMORY_LIMIT", 100)  # so that names go into the cache, too
    root, cache = tmp_path / LATIN, str(tmp_path / "cache")
    names = [f"{LATIN}.png", "a\nb.png", "'\"$(x).png", " .png", "ünï.png", "%s{}.png", "-x.png", "\udcff\udcfe.png"]
    for number, name in enumerate(names):
        picture(root / LATIN / name, number)
        picture(root / "b" / name, number + 10)
    data, classes, _ = told(root, cache=cache)
    assert data.class_names == ("b", "caf\\xe9")
    assert len(classes) == 16
    (root / "b" / f"{LATIN}.png").write_bytes(b"no image")
    (root / "b" / f"{LATIN}.txt").write_bytes(b"no image")
    options = ["--data.path", str(root), "--data.cache", cache, "--network.head-dim", "8", "--steps", "1"]
    options += ["--optim.batch-size", "4", "--run", str(tmp_path / "run")]
    if not skip:
        said = refusal(train, options, capsys)
        assert "caf\\xe9/b/caf\\xe9.png: cannot be read" in said
        return
    with pytest.warns(UserWarning, match="left out 1 of 16 images") as caught:
        assert train.main([*options, "--data.bad-images", "skip", "--data.held-out", "0"]) == 0
    words = "\n".join(str(w.message) for w in caught)
    words.encode()
    assert "b/caf\\xe9.png" in words
    assert "such as b/caf\\xe9.txt" in words
    assert train.main(["--run", str(tmp_path / "run"), "--resume", "--steps", "2"]) == 0


def test_class_names_are_composed_and_two_ways_of_writing_one_are_named(tmp_path):
    composed = unicodedata.normalize("NFC", "Äpfel")
    apart = unicodedata.normalize("NFD", "Äpfel")
    pictures(tmp_path, apart, "b")
    assert told(tmp_path)[0].class_names == ("b", composed)
    pictures(tmp_path, composed, first=20)
    said = refused(tmp_path)
    assert "name one class in two ways of writing it" in said
    assert ascii(apart) in said
    assert ascii(composed) in said


def test_classes_are_in_natural_order_and_files_in_that_of_their_paths(tmp_path):
    pictures(tmp_path, "10", "9", "1", "a2", "a10", "B3")
    data, classes, _ = told(tmp_path)
    assert data.class_names == ("1", "9", "10", "a2", "a10", "B3")
    assert list(classes) == [8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3, *range(12, 24)]


def test_splits_match_by_class_name_not_by_bytes(tmp_path):
    pictures(tmp_path, "train/" + unicodedata.normalize("NFC", "é"), "train/z")
    pictures(tmp_path, "test/" + unicodedata.normalize("NFD", "é"), "test/z", first=20)
    _, measured, _ = sizes(tmp_path)
    assert [measured[n] for n in (20, 24)] == ["é", "z"]


def test_another_order_of_classes_is_noticed_on_resume(tmp_path, capsys):
    """Class numbers are of a run as it was begun: when names are numbered otherwise it does not go on."""
    from distillkac import checkpoints
    from distillkac.config import load_config, save_config

    root = pictures(tmp_path / "set", "1", "2", "10")
    options = ["--run", str(tmp_path / "run"), "--data.path", str(root), "--steps", "1", "--network.head-dim", "8"]
    assert train.main([*options, "--optim.batch-size", "4"]) == 0
    made = load_config(tmp_path / "run")
    assert made.class_names == ("1", "2", "10")
    import dataclasses

    (tmp_path / "run" / checkpoints.CONFIG).unlink()
    save_config(tmp_path / "run", dataclasses.replace(made, class_names=("1", "10", "2")))
    words = refusal(train, ["--run", str(tmp_path / "run"), "--resume", "--steps", "2"], capsys)
    assert "numbered in another order" in words


def test_tar_members_beside_one_folder(tmp_path):
    """A folder of one archive and nothing else is that archive."""
    with tarfile.open(tmp_path / "x.tar", "w"):
        pass
    assert "x.tar" in refused(tmp_path, cache=str(tmp_path / ".cache"))
