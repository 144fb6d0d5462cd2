"""Image files of every kind and mode, and errors that name the file."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from distillkac.data import load
from distillkac.data.image_files import read_image
from tests.data.flat_pictures import GREY, RED, config, picture_folder, write


def test_files_that_are_no_images_are_left_out_with_a_warning(tmp_path):
    picture_folder(tmp_path)
    (tmp_path / "a" / "notes.md").write_text("hello")
    (tmp_path / "a" / ".hidden.png").write_text("hello")
    with pytest.warns(UserWarning, match=r"1 files.*notes.md"):
        assert len(load(config(tmp_path), "train")) == 18


# ---------------------------------------------------------------------------------------------------- kinds of images


def flat(path, channels=None):
    """The one colour of a flat picture."""
    array = read_image(path, None, channels)
    assert (array == array[:, :1, :1]).all()
    return array[:, 0, 0].tolist()


@pytest.mark.parametrize(
    ("mode", "color", "name", "expected"),
    [
        ("1", 1, "x.png", [255]),
        ("L", GREY, "x.bmp", [GREY]),
        ("LA", (GREY, 255), "x.png", [GREY]),
        ("LA", (GREY, 0), "x.png", [255]),
        ("RGB", RED, "x.webp", list(RED)),
        ("RGBA", (*RED, 255), "x.png", list(RED)),
        ("RGBA", (*RED, 0), "x.tiff", [255] * 3),
        ("RGBA", (0, 0, 0, 51), "x.png", [204] * 3),
        ("CMYK", (0, 255, 255, 0), "x.tiff", [255, 0, 0]),
        ("CMYK", (0, 255, 255, 0), "x.jpg", [255, 0, 0]),
        ("I;16", 257 * 100, "x.png", [100]),
        ("I;16", 65535, "x.tiff", [255]),
        ("I", 257 * 100, "x.tiff", [100]),
    ],
)
def test_every_mode_becomes_plain_pixels(tmp_path, mode, color, name, expected):
    options = {"lossless": True} if name.endswith("webp") else {"quality": 100} if name.endswith("jpg") else {}
    Image.new(mode, (8, 6), color).save(tmp_path / name, **options)
    np.testing.assert_allclose(flat(tmp_path / name), expected, atol=2 if name.endswith("jpg") else 0)
    grey = Image.new("RGB", (1, 1), tuple(expected * (3 // len(expected)))).convert("L").getpixel((0, 0))
    assert abs(flat(tmp_path / name, channels=1)[0] - grey) <= 1


def test_the_transparent_value_of_16_bits_is_white(tmp_path):
    pixels = np.array([[0, 257 * 100], [65535, 1]], np.uint16)
    Image.fromarray(pixels).save(tmp_path / "clear.png", transparency=0)
    assert read_image(tmp_path / "clear.png", None, None).tolist() == [[[255, 100], [255, 0]]]
    Image.fromarray(pixels).save(tmp_path / "plain.png")
    assert read_image(tmp_path / "plain.png", None, None).tolist() == [[[0, 100], [255, 0]]]


def test_a_transparent_colour_of_16_bits_is_refused(tmp_path):
    """Pillow keeps 8 bits of each pixel, of which it cannot be told which ones have it."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head, pixels = (
        struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0),
        zlib.compress(b"\0" + struct.pack(">3H", 0, 257, 65535)),
    )
    for name, clear in (("clear", chunk(b"tRNS", struct.pack(">3H", 0, 0, 0))), ("plain", b"")):
        parts = chunk(b"IHDR", head), clear, chunk(b"IDAT", pixels), chunk(b"IEND", b"")
        (tmp_path / f"{name}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    assert flat(tmp_path / "plain.png") == [0, 1, 255]
    with pytest.raises(
        ValueError, match=r"clear\.png: .*transparent colour has 16 bits; save it with 8 bits or with an alpha"
    ):
        flat(tmp_path / "clear.png")


def test_16_bits_whose_zero_is_white_are_turned_round(tmp_path):
    pixels = np.array([[0, 257 * 100], [65535, 257]], np.uint16)
    for what, expected in ((0, [[255, 155], [0, 254]]), (1, [[0, 100], [255, 1]])):
        Image.fromarray(pixels).save(tmp_path / "x.tiff", tiffinfo={262: what})
        assert read_image(tmp_path / "x.tiff", None, None).tolist() == [expected]


def test_palette_with_and_without_transparency(tmp_path):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, *RED])
    image.save(tmp_path / "opaque.gif")
    image.save(tmp_path / "clear.png", transparency=1)
    assert flat(tmp_path / "opaque.gif") == list(RED)
    assert flat(tmp_path / "clear.png") == [255] * 3


def test_exif_orientation_turns_the_picture_upright(tmp_path):
    pixels = np.zeros((8, 16), np.uint8)
    pixels[:, :8] = 255  # bright on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise: bright on top
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    array = read_image(tmp_path / "x.png", None, None)
    assert array.shape == (1, 16, 8)
    assert (array[0, :8] == 255).all()
    assert (array[0, 8:] == 0).all()


# ------------------------------------------------------------------------------------------- errors that name the file


def jpeg():
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)).save(buffer, "jpeg")
    return buffer.getvalue()


@pytest.mark.parametrize("content", [b"", b"no image at all", jpeg()[:400], b"\x89PNG\r\n\x1a\n" + bytes(40)])
@pytest.mark.parametrize("split", ["train", "test"])
def test_an_unreadable_file_of_either_split_is_found_and_named(tmp_path, content, split):
    for part in ("train", "test"):
        picture_folder(tmp_path / part, count=2)
    bad = tmp_path / split / "a" / "bad.jpg"
    bad.write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.jpg: cannot be read as an image .*repair or remove"):
        load(config(tmp_path), "train")


def test_floating_point_and_32_bit_pixels_are_refused(tmp_path):
    Image.new("F", (4, 4), 0.5).save(tmp_path / "x.tiff")
    with pytest.raises(ValueError, match=r"x\.tiff.*no fixed range"):
        read_image(tmp_path / "x.tiff", None, None)
    Image.new("I", (4, 4), 70000).save(tmp_path / "y.tiff")
    with pytest.raises(ValueError, match=r"y\.tiff.*70000"):
        read_image(tmp_path / "y.tiff", None, None)


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    path = write(tmp_path / "bomb.png", (64, 64))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"bomb\.png: is far larger"):
        read_image(path, 8, None)


def test_different_sizes_need_an_image_size(tmp_path):
    picture_folder(tmp_path, count=3)
    write(tmp_path / "b" / "odd.png", (9, 8), 0, "L")
    with pytest.raises(ValueError, match=r"9 x 8 .*8 x 8|8 x 8 .*9 x 8"):
        load(config(tmp_path), "train")
    assert load(config(tmp_path, image_size=8), "train").shape == (1, 8, 8)
