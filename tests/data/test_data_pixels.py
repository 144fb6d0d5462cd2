"""What is no pixel does not decide about an image; a set that uses little of its range is warned of."""

import io
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin

from distillkac.data import DataConfig, load, load_training, records
from distillkac.data.image_files import read_image
from tests.image_sets import WRITERS, encoded

NOISE = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
PICTURE = Image.fromarray(NOISE)


def chunk(kind, content, broken=False):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content) ^ broken)


def png(*extra, image=PICTURE, after=False):
    """A PNG with more chunks after its header, or after its pixels."""
    content = encoded(image)
    place = len(content) - 12 if after else 33
    return content[:place] + b"".join(extra) + content[place:]


def jpeg(*extra):
    """A JPEG with more segments: (marker, content)."""
    content = encoded(PICTURE, "jpeg", quality=100)
    more = (b"\xff" + bytes([mark]) + struct.pack(">H", len(text) + 2) + text for mark, text in extra)
    return content[:2] + b"".join(more) + content[2:]


LONG = zlib.compress(b"x" * 3_000_000)
TEXTS = {
    "zTXt": chunk(b"zTXt", b"Comment\0\0" + LONG),
    "iTXt": chunk(b"iTXt", b"Comment\0\1\0\0\0" + LONG),
    "tEXt": chunk(b"tEXt", b"Comment\0" + b"x" * 3_000_000),
    "much tEXt": chunk(b"tEXt", b"Comment\0" + b"x" * 900_000) * 80,
    "iCCP": chunk(b"iCCP", b"icc\0\0" + LONG),
    "damaged iCCP": chunk(b"iCCP", b"icc\0\0" + b"garbage"),
    "damaged text": chunk(b"zTXt", b"Comment\0\0garbage"),
    "text of another kind": chunk(b"zTXt", b"Comment\0\7garbage"),
    "text with a wrong checksum": chunk(b"tEXt", b"Comment\0x", broken=True),
    "time with a wrong checksum": chunk(b"tIME", bytes(7), broken=True),
    "short pHYs": chunk(b"pHYs", b"\0"),
    "short gAMA": chunk(b"gAMA", b""),
    "empty cHRM": chunk(b"cHRM", b"\0"),
    "damaged eXIf": chunk(b"eXIf", b"garbage"),
    "eXIf with a wrong checksum": chunk(b"eXIf", b"MM\0\x2a", broken=True),
    "private": chunk(b"prVt", b"?" * 100),
}


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("name", TEXTS)
def test_a_sound_png_with_any_text_or_profile_is_read(name, after):
    before = (PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY, ImageFile.LOAD_TRUNCATED_IMAGES)
    array = read_image(io.BytesIO(png(TEXTS[name], after=after)), None, None, "x.png")
    assert np.array_equal(array, NOISE.transpose(2, 0, 1))
    assert before == (PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY, ImageFile.LOAD_TRUNCATED_IMAGES)


def test_a_png_with_text_is_upright_and_transparent_all_the_same(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    clear = Image.fromarray(np.dstack([NOISE, np.where(NOISE[..., :1] > 99, 255, 0).astype(np.uint8)]))
    for image in (PICTURE, clear, PICTURE.convert("P"), PICTURE.convert("I;16")):
        plain = encoded(image, exif=exif)
        (tmp_path / "x.png").write_bytes(plain[:33] + TEXTS["zTXt"] + plain[33:])
        expected = read_image(io.BytesIO(plain), None, None, "x")
        assert np.array_equal(read_image(tmp_path / "x.png", None, None), expected)
        assert expected.shape[1:] == (12, 8)


SEGMENTS = {
    "damaged exif": (0xE1, b"Exif\0\0garbage"),
    "empty exif": (0xE1, b"Exif\0\0"),
    "damaged pictures": (0xE2, b"MPF\0MM\0\x2a\0\0\0\x08\0\x03\xb0\0"),
    "damaged profile": (0xE2, b"ICC_PROFILE\0\x09\x01garbage"),
    "damaged photoshop": (0xED, b"Photoshop 3.0\x008BIM\x04\x04"),
    "comment": (0xFE, b"\xff" * 60000),
    "xmp": (0xE1, b"http://ns.adobe.com/xap/1.0/\0<tiff:Orientation>x</"),
}


@pytest.mark.parametrize("name", SEGMENTS)
@pytest.mark.filterwarnings("ignore")
def test_a_sound_jpeg_with_damaged_notes_is_read(name):
    expected = read_image(io.BytesIO(jpeg()), None, None, "x")
    assert np.array_equal(read_image(io.BytesIO(jpeg(SEGMENTS[name])), None, None, "x"), expected)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
@pytest.mark.filterwarnings("ignore")
def test_garbage_for_exif_never_condemns_an_image(kind):
    source = np.random.default_rng(5)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 1, "maker"
    whole = exif.tobytes()
    options = {"lossless": True} if kind == "webp" else {}
    expected = read_image(io.BytesIO(encoded(PICTURE, kind, **options)), None, None, "x")
    for _ in range(60):
        spoilt = bytearray(whole)
        for place in source.integers(6, len(whole), 4):
            spoilt[place] = source.integers(256)
        content = encoded(PICTURE, kind, exif=bytes(spoilt), **options)
        array = read_image(io.BytesIO(content), None, None, "x")
        assert sorted(array.shape) == sorted(expected.shape)
        assert np.array_equal(np.sort(array, axis=None), np.sort(expected, axis=None))


@pytest.mark.parametrize("value", ["6", (6, 3), 9, 0, b"\6"])
def test_an_orientation_that_makes_no_sense_turns_nothing(monkeypatch, value):
    monkeypatch.setattr(Image.Exif, "get", lambda *_: value)
    assert np.array_equal(read_image(io.BytesIO(encoded(PICTURE)), None, None, "x"), NOISE.transpose(2, 0, 1))


def test_damaged_pixels_stay_refused_with_what_pillow_said_first():
    whole = png(TEXTS["zTXt"])
    for content in (whole[:-60], whole[:-200], png(TEXTS["zTXt"])[: len(LONG) // 2]):
        with pytest.raises(ValueError, match=r"x: cannot be read as an image"):
            read_image(io.BytesIO(content), None, None, "x")
    with pytest.raises(ValueError, match="too large"):
        read_image(io.BytesIO(whole[:-100]), None, None, "x")
    cut = jpeg(SEGMENTS["damaged pictures"])
    with pytest.raises(ValueError, match="cannot be read"):
        read_image(io.BytesIO(cut[: len(cut) - 150]), None, None, "x")


def test_text_does_not_help_a_bomb_past_the_limit(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for text in ("zTXt", "damaged text", "private"):
            with pytest.raises(ValueError, match=r"far larger|cannot be read"):
                read_image(io.BytesIO(png(TEXTS[text])), None, None, "x")


@pytest.mark.parametrize("kind", ["folder", "tar", "parquet"])
def test_text_in_images_of_every_source(tmp_path, kind):
    if kind == "parquet":
        pytest.importorskip("datasets")
    made = [(f"{i}.png", png(TEXTS["zTXt"]), i % 2) for i in range(8)]
    path = WRITERS[kind](tmp_path / kind, sorted(made, key=lambda one: one[2]))
    assert len(load(DataConfig(path=str(path), cache=str(tmp_path / "c"), held_out=0.0), "train")) == 8


def test_many_threads_at_once():
    bad = []

    def look():
        for text in ("zTXt", "damaged iCCP", "private"):
            if not np.array_equal(read_image(io.BytesIO(png(TEXTS[text])), None, None, "x"), NOISE.transpose(2, 0, 1)):
                bad.append(text)

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bad == []


# ---------------------------------------------------------------------------------------------- a small part of the range


def levels(kind, low, high):
    """Eight images whose pixels reach from low to high."""
    arrays = np.random.default_rng(1).integers(low, high + 1, (8, 6, 6)).astype(np.uint16)
    arrays[:, 0, 0], arrays[:, 0, 1] = low, high
    images = [Image.fromarray(array if kind == 16 else array.astype(np.uint8)) for array in arrays]
    return [(f"{i}.png", encoded(image), i // 4) for i, image in enumerate(images)]


def narrow(path, tmp_path, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_training(DataConfig(path=str(path), cache=str(tmp_path / "cache"), **options))
    return "\n".join(str(w.message) for w in caught if "small part" in str(w.message))


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("kind", ["folder", "tar", "parquet", "saved"])
def test_twelve_bits_in_sixteen_are_warned_of(tmp_path, monkeypatch, kind, large):
    if kind in ("parquet", "saved"):
        pytest.importorskip("datasets")
    if large:
        monkeypatch.setattr(records, "MEMORY_LIMIT", 10)
    path = WRITERS[kind](tmp_path / kind, levels(16, 0, 4095))
    for _ in range(2):  # also when the check of a large set is remembered
        said = narrow(path, tmp_path)
        assert "all images that were looked at lie between 0 and 16, a small part of 0 to 255" in said
        assert "multiply by 16" in said


def test_streams_are_warned_of_too(tmp_path):
    pytest.importorskip("datasets")
    made = levels(16, 0, 4095)
    path = WRITERS["parquet"](tmp_path / "parquet", [made[i // 2 + 4 * (i % 2)] for i in range(8)])
    assert "between 0 and 16" in narrow(path, tmp_path, streaming=True, eval_images=2)


@pytest.mark.parametrize(
    ("bits", "low", "high", "warned"),
    [
        (16, 0, 65535, False),
        (16, 0, 2**14 - 1, True),
        (16, 0, 2**15 - 1, False),
        (16, 60000, 65535, True),
        (8, 0, 1, True),
        (8, 0, 255, False),
        (8, 7, 7, True),
        (8, 100, 200, False),
    ],
)
def test_what_is_a_small_part(tmp_path, bits, low, high, warned):
    path = WRITERS["folder"](tmp_path / "set", levels(bits, low, high))
    assert bool(narrow(path, tmp_path)) == warned


@pytest.mark.parametrize(
    ("images", "warned"),
    [
        (np.eye(6, dtype=np.uint8)[None].repeat(8, 0), True),
        (np.eye(6, dtype=np.uint8)[None].repeat(8, 0) * 255, False),
        (np.linspace(-0.1, 0.1, 8 * 36).reshape(8, 6, 6), True),
        (np.linspace(-1, 1, 8 * 36).reshape(8, 6, 6), False),
    ],
)
def test_arrays_that_use_a_small_part(tmp_path, images, warned):
    np.savez(tmp_path / "x.npz", images=images)
    assert bool(narrow(tmp_path / "x.npz", tmp_path)) == warned
