"""Images that cannot be read, in every source: named and refused, or skipped, counted and named."""

import io
import os
import struct
import tarfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from distillkac import train
from distillkac.data import DataConfig, load, read, records
from tests.image_sets import WRITERS, encoded, pixels, samples, write_folder, write_npz, write_table, write_tar
from tests.toys import TINY_OPTIONS

SOURCES = ["folder", "tar", "parquet", "saved"]
TINY = [*TINY_OPTIONS, "--preview", "0", "--optim.batch-size", "8"]


def bomb(width, height):
    """A PNG of a few bytes whose header promises this many pixels."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def noise(size=32):
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (size, size, 3), np.uint8))


BAD = {
    "truncated jpeg": (encoded(noise(), "jpeg")[:400], "(?i)truncated"),
    "truncated png": (encoded(noise(), "png")[:-300], "cannot be read as an image"),
    "zero bytes": (b"", "cannot be read as an image"),
    "text with the suffix of an image": (b"no image at all", "cannot be read as an image"),
    "decompression bomb": (bomb(60000, 60000), "far larger"),
    "small decompression bomb": (bomb(12000, 12000), "far larger"),
    "floating point": (encoded(Image.new("F", (8, 8), 0.5), "tiff"), "no fixed range"),
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


def write(kind, root, made):
    if kind in ("parquet", "saved"):
        pytest.importorskip("datasets")
    return WRITERS[kind](root, made)


def config(path, tmp_path, **options):
    return DataConfig(path=str(path), cache=str(tmp_path / "cache"), **options)


def whole(settings, split="train"):
    data = load(settings, split)
    return *read(data, range(len(data))), data.left_out


def spoiled(content, rows=(3, 11)):
    return [(name, content if i in rows else good, label) for i, (name, good, label) in enumerate(samples())]


# What errors call images 3 and 11 of the set.
NAMES = {
    "folder": ("003.png", "011.png"),
    "tar": ("shard-0.tar: 003", "shard-1.tar: 011"),
    "parquet": ("row 3 of", "row 11 of"),
    "saved": ("row 3 of", "row 11 of"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("kind", SOURCES)
def test_bad_images_are_refused_or_skipped_and_counted(tmp_path, kind, bad):
    content, message = BAD[bad]
    path = write(kind, tmp_path / kind, spoiled(content))
    with pytest.raises(ValueError, match=message) as error:
        load(config(path, tmp_path), "train")
    assert NAMES[kind][0] in str(error.value) or NAMES[kind][1] in str(error.value)
    with pytest.warns(UserWarning, match=r"left out 2 of 20 images that cannot be read") as told:
        x, y, left_out = whole(config(path, tmp_path, bad_images="skip", held_out=0.0))
    assert all(name in str(told[-1].message) for name in NAMES[kind])
    assert (len(x), len(left_out), y.tolist()) == (18, 2, [0] * 9 + [1] * 9)
    kept = [i for i in range(20) if i not in (3, 11)]
    assert torch.equal(x, torch.from_numpy(pixels()[kept]).permute(0, 3, 1, 2).float() / 127.5 - 1)


@pytest.mark.filterwarnings("ignore:.*left out")
@pytest.mark.parametrize("kind", SOURCES)
def test_skipping_moves_no_image_between_the_splits(tmp_path, monkeypatch, kind):
    healthy = [
        whole(config(write(kind, tmp_path / "a", samples()), tmp_path, held_out=0.3), s) for s in ("train", "test")
    ]
    for limit in (records.MEMORY_LIMIT, 100, 100):  # in memory; read on demand; the same from the remembered check
        monkeypatch.setattr(records, "MEMORY_LIMIT", limit)
        if not (tmp_path / "b").exists():
            write(kind, tmp_path / "b", spoiled(b""))
        settings = config(tmp_path / "b", tmp_path, held_out=0.3, bad_images="skip")
        total = 0
        for split, (x, _, _) in zip(("train", "test"), healthy, strict=True):
            fewer, _, left_out = whole(settings, split)
            assert len(left_out) == 2
            rest = {tuple(image) for image in x.flatten(1).tolist()}
            assert all(tuple(image) in rest for image in fewer.flatten(1).tolist())
            total += len(fewer)
        assert total == 18
    with pytest.raises(ValueError, match="cannot be read"):  # also from the remembered check
        load(config(tmp_path / "b", tmp_path), "train")


def unreadable(path, monkeypatch):
    """No permission to read; for the superuser, who always has it, by a stand-in for the system's answer."""
    path.chmod(0)
    if not os.access(path, os.R_OK):
        return
    import builtins

    opened = builtins.open

    def refusing(file, *args, **options):
        if str(file) == str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(file, *args, **options)

    monkeypatch.setattr(builtins, "open", refusing)


def test_files_without_permission(tmp_path, monkeypatch):
    root = write_folder(tmp_path / "set", samples())
    unreadable(root / "0" / "003.png", monkeypatch)
    with pytest.raises(ValueError, match=r"003\.png: cannot be read as an image .*Permission denied"):
        load(config(root, tmp_path), "train")
    with pytest.warns(UserWarning, match=r"left out 1 of 20 .*(\n.*)*003\.png"):
        assert len(load(config(root, tmp_path, bad_images="skip", held_out=0.0), "train")) == 19


def test_an_archive_without_permission(tmp_path, monkeypatch):
    root = write_tar(tmp_path / "set", samples(), shards=2)
    unreadable(root / "shard-1.tar", monkeypatch)
    with pytest.raises(ValueError, match=r"shard-1\.tar: cannot be read .*Permission denied"):
        load(config(root, tmp_path), "train")


def spoil_cut(content):
    return content[: len(content.rstrip(b"\0")) * 2 // 3]


def spoil_mark(content):
    return content[: len(content.rstrip(b"\0")) // 512 * 512 + 512]


def spoil_header(content):
    place = content.rindex(b"ustar") - 257
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


def spoil_gzip(content):
    import gzip

    return gzip.compress(content)


@pytest.mark.parametrize("spoil", [spoil_cut, spoil_mark, spoil_header, spoil_gzip, lambda content: b""])
def test_damaged_archives(tmp_path, spoil):
    root = write_tar(tmp_path / "set", samples(), shards=2)
    path = root / "shard-1.tar"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ValueError, match=r"shard-1\.tar: "):
        load(config(root, tmp_path), "train")
    if spoil is spoil_cut:
        with pytest.warns(UserWarning, match=r"shard-1\.tar: is (no whole|cut short).* after the damage are left out"):
            x, y, _ = whole(config(root, tmp_path, bad_images="skip", held_out=0.0))
        assert 10 < len(x) < 20
        assert y.tolist().count(0) == 10, "what lies before the damage is kept"


def test_damaged_tables(tmp_path):
    pytest.importorskip("datasets")
    root = write("parquet", tmp_path / "set", samples())
    path = next(root.glob("*00000-of*"))
    for content in (path.read_bytes()[:-50], b"", b"PAR1" + bytes(100)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"set: cannot be opened as a Hugging Face data set"):
            load(config(root, tmp_path), "train")
    saved = write("saved", tmp_path / "saved", samples())
    next(saved.glob("*.arrow")).write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match=r"saved: cannot be opened as a Hugging Face data set"):
        load(config(saved, tmp_path), "train")


def test_rows_without_an_image(tmp_path):
    pytest.importorskip("datasets")
    columns = {"image": [None if i == 4 else content for i, (_, content, _) in enumerate(samples())]}
    path = write_table(tmp_path / "x.parquet", columns)
    with pytest.raises(ValueError, match=r"row 4 of the training split: cannot be read as an image \(it is empty\)"):
        load(config(path, tmp_path), "train")


def test_images_of_an_npz_that_are_not_finite(tmp_path):
    path = write_npz(tmp_path, samples())
    with np.load(path) as file:
        images, labels = file["images"] / 127.5 - 1, file["labels"]
    images[3, 0, 0, 0], images[11, 1, 1, 1] = np.nan, np.inf
    np.savez(path, images=images, labels=labels)
    with pytest.raises(ValueError, match=r"images\[3\] has values that are not finite"):
        load(config(path, tmp_path), "train")
    with pytest.warns(UserWarning, match=r"left out 2 of 20 .*(\n.*)*images\[11\]"):
        x, y, left_out = whole(config(path, tmp_path, bad_images="skip", held_out=0.0))
    assert (len(x), len(left_out), y.tolist()) == (18, 2, [0] * 9 + [1] * 9)
    assert x.isfinite().all()


@pytest.mark.parametrize("kind", SOURCES)
def test_a_class_that_loses_all_its_images_is_named(tmp_path, kind):
    path = write(kind, tmp_path / kind, spoiled(b"", range(10, 20)))
    with (
        pytest.warns(UserWarning, match="left out 10 of 20 .*(\n.*)*and 5 more"),
        pytest.raises(ValueError, match="no image of class '1' is there"),
    ):
        load(config(path, tmp_path, bad_images="skip"), "train")
    path = write(kind, tmp_path / "none", spoiled(b"", range(20)))
    with pytest.raises(ValueError, match="all other images cannot be read"):
        load(config(path, tmp_path, bad_images="skip"), "train")


def test_the_command_refuses_and_skips(tmp_path, capsys):
    root = write_folder(tmp_path / "set", spoiled(BAD["truncated jpeg"][0]))
    options = ["--run", str(tmp_path / "run"), "--steps", "2", "--data.path", str(root), *TINY]
    assert train.main(options) == 1
    assert "003.png: cannot be read as an image" in capsys.readouterr().err
    with pytest.warns(UserWarning, match="left out 2 of 20"):
        assert train.main([*options, "--data.bad-images", "skip"]) == 0


def test_an_image_that_breaks_while_it_is_used_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "MEMORY_LIMIT", 100)
    root = write_folder(tmp_path / "set", samples())
    data = load(config(root, tmp_path, held_out=0.0), "train")
    (root / "0" / "003.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"003\.png: cannot be read"):
        read(data, range(20))


def odd_images():
    """Images that need care but are whole, and the one colour each has in the end."""
    red, exif = (200, 30, 60), Image.Exif()
    exif[0x0112] = 6
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, *red])
    frames = [Image.new("RGB", (8, 8), colour) for colour in (red, (0, 0, 0))]
    return [
        (encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "tiff"), (255, 0, 0)),
        (encoded(Image.new("I;16", (8, 8), 257 * 100), "png"), (100,) * 3),
        (encoded(palette, "gif"), red),
        (encoded(frames[0], "webp", save_all=True, append_images=frames[1:], lossless=True), red),  # the first frame
        (encoded(Image.new("RGBA", (8, 8), (0, 0, 0, 51)), "png"), (204,) * 3),
        (encoded(Image.new("RGB", (8, 8), red), "png", exif=exif), red),
        (encoded(Image.new("L", (8, 8), 77), "png"), (77,) * 3),
        (encoded(Image.new("RGB", (8, 8), red), "bmp"), red),
    ]


@pytest.mark.parametrize("kind", SOURCES)
def test_unusual_images_and_wrong_suffixes_are_read_the_same_everywhere(tmp_path, kind):
    """All are called .jpg; what they are is found in their bytes."""
    made = odd_images()
    listed = [(f"{i}.jpg", content, int(i >= 4)) for i, (content, _) in enumerate(made)]
    x, _, left_out = whole(config(write(kind, tmp_path / kind, listed), tmp_path, held_out=0.0))
    expected = torch.tensor([colour for _, colour in made]).float()[:, :, None, None].expand(-1, -1, 8, 8) / 127.5 - 1
    assert torch.equal(x, expected)
    assert left_out == ()


def test_a_tar_member_may_say_it_is_larger_than_the_archive(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        member = tarfile.TarInfo("a.png")
        member.size = 1 << 40
        archive.fileobj.write(member.tobuf())
        archive.fileobj.write(io.BytesIO(samples()[0][1]).getvalue())
    with pytest.raises(ValueError, match=r"x\.tar: "):
        load(config(tmp_path / "x.tar", tmp_path), "train")
