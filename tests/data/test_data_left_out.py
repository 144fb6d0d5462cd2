"""Folders: a word for all that is left out, any name that the system allows, classes by name."""

import dataclasses
import os
import unicodedata
from pathlib import Path

import pytest

from distillkac import train
from distillkac.data import records
from distillkac.runs import checkpoints
from distillkac.runs.config import load_config, save_config
from tests.image_folders import picture, pictures, refused, sizes, told
from tests.image_sets import samples, write_tar
from tests.toys import refusal

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


def test_a_class_that_may_not_be_listed_is_not_dropped(tmp_path, monkeypatch):
    pictures(tmp_path, "a", "b")
    unlistable(tmp_path / "b", monkeypatch)
    assert "b: cannot be listed, and a class without images cannot be learned" in refused(tmp_path, bad_images="skip")
    (tmp_path / "b").chmod(0o700)
    unlistable(tmp_path, monkeypatch)
    assert "cannot be listed (Permission denied); allow it, or give another path" in refused(tmp_path)
    tmp_path.chmod(0o700)


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
    root = pictures(tmp_path / "set", "1", "2", "10")
    options = ["--run", str(tmp_path / "run"), "--data.path", str(root), "--steps", "1", "--network.head-dim", "8"]
    assert train.main([*options, "--optim.batch-size", "4"]) == 0
    made = load_config(tmp_path / "run")
    assert made.class_names == ("1", "2", "10")
    (tmp_path / "run" / checkpoints.CONFIG).unlink()
    save_config(tmp_path / "run", dataclasses.replace(made, class_names=("1", "10", "2")))
    assert "numbered in another order" in refusal(
        train, ["--run", str(tmp_path / "run"), "--resume", "--steps", "2"], capsys
    )


def test_two_links_to_one_image_are_read_once(tmp_path):
    """As of a store of files by their digests: the same image in train and in test would be learned and measured."""
    store, root = pictures(tmp_path / "store", "x", "y", count=2), tmp_path / "set"
    for split in ("train", "test"):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
    for n, path in enumerate(sorted((store / "x").iterdir()) + sorted((store / "y").iterdir())):
        for split in ("train", "test") if n % 2 else ("train",):
            (root / split / "ab"[n // 2] / path.name).symlink_to(path)
    for n, split in enumerate(("train", "test")):
        for k, name in enumerate("ab"):
            pictures(root / split, name, count=1, first=100 + 10 * n + k)
    learned, measured, words = sizes(root)
    assert len(learned) + len(measured) == 8
    assert not set(learned) & set(measured)
    assert "left out 2 links to files that are read already" in words


def test_files_that_are_images_only_by_name_are_left_out(tmp_path):
    root = pictures(tmp_path, "a", "b", count=2)
    for name in ("meta.h5", "a/drawing.eps", "b/film.mpg"):
        (root / name).write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")
    data, _, words = told(root)
    assert len(data) == 4
    assert "left out 3 files that are no images" in words
    (root / "a" / "000.png").write_bytes((root / "a" / "drawing.eps").read_bytes())
    assert "000.png: cannot be read as an image" in refused(root)  # nor is another program run for what it holds
