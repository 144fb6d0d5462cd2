"""A path is a path, whatever it is called: never a pattern, an address or a name in one encoding only."""

import os
import shutil
import tarfile
import unicodedata

import pytest
import torch
from PIL import Image

from distillkac.data import DataConfig, load, load_training, read, records
from tests.image_sets import WRITERS, add, encoded, samples, write_parquet, write_table, write_tar

pytestmark = pytest.mark.usefixtures("alone")

# With each, what it would stand for if it were a pattern.
NAMES = {
    "a?b": "axb",
    "set[1]": "set1",
    "x*y": "x--y",
    "{a,b}": "a",
    "a b": "a",
    "50%20": "50 ",
    "c#d": "c",
    "e::f": "e",
    "g:h": "g",
    "file:": "file",
    "$HOME": "home",
    "é": unicodedata.normalize("NFD", "é"),
    os.fsdecode(b"caf\xe9"): "café",
}


@pytest.fixture(autouse=True)
def library():
    pytest.importorskip("datasets")


def config(path, tmp_path, **options):
    options = options if options.get("streaming") else {"held_out": 0.0} | options
    return DataConfig(path=str(path), cache=str(tmp_path / "cache"), **options)


def pixels_of(settings):
    data = load(settings, "train")
    return read(data, range(len(data)))[0]


def mixed(count=8):
    """`samples` with the classes in turn."""
    return [(name, content, i % 2) for i, (name, content, _) in enumerate(samples(count))]


def others(count=6):
    """Images of another set, which must not be met."""
    return [(f"{i}.png", encoded(Image.new("RGB", (8, 8), (i, 0, 0))), i % 2) for i in range(count)]


def places(tmp_path, name):
    """The set's own place, and a set of other images where a pattern of this name would look."""
    write_parquet(tmp_path / NAMES[name] / "p", others())
    write_tar(tmp_path / NAMES[name] / "t", others())
    WRITERS["saved"](tmp_path / NAMES[name] / "s", others())
    plain, odd = tmp_path / "plain", tmp_path / name
    write_parquet(plain / "p", mixed())
    write_tar(plain / "t", mixed())
    WRITERS["saved"](plain / "s", mixed())
    shutil.copytree(plain, odd)
    return odd


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_odd_names_are_names(tmp_path, name):
    odd = places(tmp_path, name)
    expected = pixels_of(config(tmp_path / "plain" / "p", tmp_path))
    assert len(expected) == 8
    file = next((odd / "p").glob("*-00000-of-*"))
    for place in ("p", "t", "s"):
        assert torch.equal(pixels_of(config(odd / place, tmp_path)), expected), place
    assert torch.equal(pixels_of(config(file, tmp_path)), expected[:4]), "one file of it"
    assert torch.equal(pixels_of(config(odd / "p", tmp_path)), expected), "from the cache"
    os.rename(file, odd / "p" / f"{name}.parquet")
    assert torch.equal(pixels_of(config(odd / "p" / f"{name}.parquet", tmp_path)), expected[:4])


@pytest.mark.parametrize("name", ["a?b", "set[1]", "e::f", os.fsdecode(b"caf\xe9")], ids=ascii)
def test_odd_names_are_names_of_streams(tmp_path, name):
    odd = places(tmp_path, name)
    stream = load_training(config(odd / "p", tmp_path, streaming=True, eval_images=1, unconditional=True))
    x, _ = stream.__getitems__(range(7))
    expected = {tuple(image) for image in pixels_of(config(tmp_path / "plain" / "p", tmp_path)).flatten(1).tolist()}
    met = (x.float() / 127.5 - 1).flatten(1).tolist()
    assert len(met) == 7
    assert all(tuple(image) in expected for image in met)


def test_tables_of_two_folders_are_not_mixed(tmp_path):
    """Same names, sizes and dates."""
    made = [("one", samples(8)), ("two", samples(8)[::-1])]
    for name, part in made:
        write_table(tmp_path / f"{name}.parquet", {"image": [c for _, c, _ in part], "label": [0, 1] * 4})
        (tmp_path / name).mkdir()
        os.rename(tmp_path / f"{name}.parquet", tmp_path / name / "x.parquet")
        os.utime(tmp_path / name / "x.parquet", (1, 1))
    first, second = (pixels_of(config(tmp_path / name, tmp_path)) for name, _ in made)
    assert torch.equal(first, second.flip(0))


@pytest.mark.parametrize("pattern", ["shard-{0..2}.tar", "{shard-0,shard-1,shard-2}.tar"])
def test_a_pattern_of_shards_begins_below_the_folders_that_are_there(tmp_path, pattern):
    pytest.importorskip("webdataset")
    for name in ("{a,b}", "e::f"):
        write_tar(tmp_path / name, samples(8))
        assert len(pixels_of(config(tmp_path / name / pattern, tmp_path))) == 8


def test_names_in_other_encodings_inside_an_archive(tmp_path, monkeypatch):
    """Their index and their check are kept all the same."""
    monkeypatch.setattr(records, "MEMORY_LIMIT", 100)
    path = tmp_path / os.fsdecode(b"\xe9.tar")
    with tarfile.open(path, "w", encoding="latin-1") as archive:
        for i, (_, content, label) in enumerate(samples(8)):
            add(archive, f"caf\xe9{i}.png", content)
            add(archive, f"caf\xe9{i}.cls", str(label).encode())
        add(archive, "\xe9.txt", b"x")
    for _ in range(2):
        with pytest.warns(UserWarning, match="left out 1 members that are neither"):
            assert len(pixels_of(config(path, tmp_path))) == 8
    assert len(list((tmp_path / "cache").glob("*.json"))) == 2
    with tarfile.open(path, "a", encoding="latin-1") as archive:
        add(archive, "\xe9bad.png", b"no image")
        add(archive, "\xe9bad.cls", b"0")
    with pytest.raises(ValueError, match=r"bad: cannot be read as an image"):
        load(config(path, tmp_path), "train")


def test_images_beside_a_table_are_found_from_anywhere(tmp_path, monkeypatch):
    """A table may name files: those beside it, not those of the current folder."""
    root = tmp_path / "a?b"
    (root / "train" / "images").mkdir(parents=True)
    for name, content, _ in samples(8):
        (root / "train" / "images" / name).write_bytes(content)
    rows = [{"bytes": None, "path": f"images/{name}"} for name, *_ in samples(8)]
    rows[3] = {"bytes": samples(8)[3][1], "path": "nowhere.png"}
    write_table(root / "train" / "t.parquet", {"image": rows, "label": [0] * 8})
    (tmp_path / "elsewhere" / "images").mkdir(parents=True)
    for name, content, _ in others(8):
        (tmp_path / "elsewhere" / "images" / f"00{name}").write_bytes(content)
    monkeypatch.chdir(tmp_path / "elsewhere")
    expected = pixels_of(config(write_tar(tmp_path / "t", samples(8)), tmp_path))
    path = root / "train" / "t.parquet"
    assert torch.equal(pixels_of(config(path, tmp_path)), expected)
    stream = load_training(config(path, tmp_path, streaming=True, eval_images=1, unconditional=True))
    assert stream.__getitems__(range(7))[0].shape == (7, 3, 8, 8)
    (root / "train" / "images" / "001.png").unlink()
    with pytest.raises(ValueError, match=r"row 1 of the training split: cannot be read .*images/001\.png"):
        load(config(path, tmp_path), "train")


def test_images_that_a_saved_set_names_without_a_folder_are_refused(tmp_path, monkeypatch):
    import datasets

    rows = {"image": [{"bytes": None, "path": f"{i}.png"} for i in range(4)]}
    cell = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    datasets.Dataset.from_dict(rows, features=datasets.Features({"image": cell})).save_to_disk(tmp_path / "set")
    for name, content, _ in others(4):
        (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"row 0 .*a file called 0\.png, and nothing says in which folder"):
        load(config(tmp_path / "set", tmp_path), "train")


def test_addresses_in_a_table_are_refused_by_name(tmp_path):
    rows = [{"bytes": None, "path": "http://127.0.0.1:9/x.png"}] * 4
    path = write_table(tmp_path / "t.parquet", {"image": rows, "label": [0] * 4})
    with pytest.raises(ValueError, match=r"row 0 .*an address, http://127\.0\.0\.1:9/x\.png, and nothing is fetched"):
        load(config(path, tmp_path), "train")


def test_a_name_of_the_hub_is_no_folder(tmp_path, monkeypatch):
    """`datasets` would read the folder, in silence and only from here."""
    write_parquet(tmp_path / "someone" / "birds", samples(8))
    monkeypatch.chdir(tmp_path)
    for name in ("someone/birds", "someone/birds@v2"):
        with pytest.raises(
            ValueError, match=r"a folder of this name is in the current one.*--data\.path someone/birds,"
        ):
            load(config(f"hf://{name}", tmp_path), "train")
    assert load(config("someone/birds", tmp_path, unconditional=True), "train").num_classes == 1
