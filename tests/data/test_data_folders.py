"""Folders that hold one kind of data or several: one reading, or a refusal that names both."""

import os
import tarfile

import pytest

from distillkac.data import load
from tests.data import cifar100_files
from tests.image_folders import config, pictures, refused, told
from tests.image_sets import samples, write_idx, write_npz, write_saved, write_svhn, write_table, write_tar

# -------------------------------------------------------------------------------------------------------- two readings


def add_tar(root):
    write_tar(root.parent / "tar", samples(4), shards=1)
    os.replace(root.parent / "tar" / "shard-0.tar", root / "pets.tar")
    return "pets.tar"


def add_parquet(root):
    write_table(root / "extra_train.parquet", {"image": [content for _, content, _ in samples(4)]})
    return "extra_train.parquet"


def add_cifar(root):
    from tests.data.test_cifar_and_patches import write_binary

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


def add_cifar100(root):
    cifar100_files.write_pickled(root / "cifar-100-python")
    return "cifar-100-python/train"


def add_idx(root):
    write_idx(root, samples(4))
    return "train-images-idx3-ubyte.gz"


def add_svhn(root):
    write_svhn(root, samples(4))
    return "train_32x32.mat"


OTHERS = [add_tar, add_parquet, add_cifar, add_cifar100, add_idx, add_svhn, add_saved, add_latents]


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


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("set.zip", "another kind: unpack it first"),
        ("a.png", "give the folder"),
        ("saved/dataset_info.json", "give the folder"),
    ],
)
def test_a_file_that_is_no_source_has_a_remedy(tmp_path, name, remedy):
    (tmp_path / "saved").mkdir()
    for file in ("saved/state.json", name):
        (tmp_path / file).write_bytes(b"{}")
    assert remedy in refused(tmp_path / name)


def test_data_beside_what_is_read_are_named(tmp_path):
    root = write_tar(tmp_path / "set", samples(), shards=1)
    (root / "more").mkdir()
    add_tar(root / "more")
    (root / "labels.csv").write_text("x")
    (root / "README.md").write_text("x")
    *_, words = told(root, cache=str(tmp_path / "cache"))
    assert "left out 2 files that are not read, such as labels.csv" in words
    assert "README" not in words


def test_parts_of_save_to_disk_are_asked_for_by_their_folder(tmp_path):
    pytest.importorskip("datasets")
    for name in ("one", "two"):
        write_saved(tmp_path / name, samples(4))
    assert "one/data-00000-of-00001.arrow; give the path of the folder that save_to_disk wrote it to" in refused(
        tmp_path
    )


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


def test_tar_members_beside_one_folder(tmp_path):
    """A folder of one archive and nothing else is that archive."""
    with tarfile.open(tmp_path / "x.tar", "w"):
        pass
    assert "x.tar" in refused(tmp_path, cache=str(tmp_path / ".cache"))
