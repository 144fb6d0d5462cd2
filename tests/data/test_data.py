"""Data sources: exact splits, every kind of image file, and errors that name the file."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader

from distillkac.data import DataConfig, load, read, records
from distillkac.data.image_files import read_image
from distillkac.data.records import ImageFiles

RED, GREY = (200, 30, 60), 77


def whole(dataset):
    return read(dataset, range(len(dataset)))


def write(path, size=(8, 8), color=RED, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path)
    return path


def picture_folder(root, classes=("a", "b"), count=10, size=(8, 8)):
    """Image i of class k is a flat picture of grey level 20 k + i."""
    for k, name in enumerate(classes):
        for i in range(count):
            write(root / name / f"{i:02d}.png", size, 20 * k + i, "L")
    return root


def config(path, **options):
    return DataConfig(path=str(path), **options)


# ------------------------------------------------------------------------------------------------------------- digits


def test_digits_are_split_as_published():
    train, test = load(DataConfig(), "train"), load(DataConfig(), "test")
    assert (len(train), len(test), train.shape, train.num_classes) == (1297, 500, (1, 8, 8), 10)
    digits = load_digits()
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(1234))
    (x, y), (x_test, y_test) = whole(train), whole(test)
    assert torch.equal(torch.cat([x, x_test])[:, 0], torch.tensor(digits.images, dtype=torch.float32)[order] / 8 - 1)
    assert torch.equal(torch.cat([y, y_test]), torch.tensor(digits.target)[order])
    assert (x.dtype, y.dtype, x.min().item(), x.max().item()) == (torch.float32, torch.int64, -1, 1)


def test_a_loader_gets_whole_batches_in_the_order_it_asks_for():
    train = load(DataConfig(), "train")
    loader = DataLoader(train, batch_sampler=[[3, 1], [5]], collate_fn=lambda batch: batch)
    x, y = whole(train)
    for (got_x, got_y), rows in zip(loader, ([3, 1], [5]), strict=True):
        assert torch.equal(got_x, x[rows])
        assert torch.equal(got_y, y[rows])
    with pytest.raises(IndexError, match="1297"):
        train.__getitems__([1297])


def test_flips_add_each_mirror_image_once_to_training_only():
    plain, flipped = load(DataConfig(), "train"), load(DataConfig(flip=True), "train")
    assert len(flipped) == 2 * len(plain)
    (x, y), (xf, yf) = whole(plain), whole(flipped)
    assert torch.equal(xf, torch.cat([x, x.flip(-1)]))
    assert torch.equal(yf, torch.cat([y, y]))
    assert torch.equal(whole(plain)[0], x), "reading must not change what is stored"
    assert len(load(DataConfig(flip=True), "test")) == 500


@pytest.mark.parametrize("options", [{"image_size": 16}, {"channels": 3}])
def test_digits_have_one_shape(options):
    with pytest.raises(ValueError, match="8 x 8 and grey"):
        load(DataConfig(**options), "train")


@pytest.mark.parametrize("options", [{"image_size": 0}, {"channels": 2}, {"held_out": 1.0}, {"held_out": -0.1}])
def test_config_is_checked(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        DataConfig(**options)


# ------------------------------------------------------------------------------------------------------------ folders


def test_folder_has_a_class_per_sub_folder_and_holds_out_of_each(tmp_path):
    picture_folder(tmp_path, classes=("cat", "ant", "bee"), count=10)
    train, test = (load(config(tmp_path, held_out=0.2), split) for split in ("train", "test"))
    assert train.class_names == test.class_names == ("ant", "bee", "cat")
    assert train.shape == (1, 8, 8), "all files are grey"
    held_out = torch.bincount(whole(test)[1], minlength=3)
    assert (torch.bincount(whole(train)[1]) + held_out).tolist() == [10, 10, 10]
    assert 1 <= held_out.min() <= held_out.max() <= 5
    levels = [((whole(part)[0][:, 0, 0, 0] + 1) * 127.5).round().int().tolist() for part in (train, test)]
    assert sorted(levels[0] + levels[1]) == sorted(20 * k + i for k in range(3) for i in range(10))
    assert levels[1] != sorted(20 * k + i for k in range(3) for i in range(2)), (
        "held-out files are drawn, not the first"
    )
    again = whole(load(config(tmp_path, held_out=0.2), "test"))
    assert torch.equal(again[0], whole(test)[0])


def test_another_class_leaves_the_split_of_the_others(tmp_path):
    picture_folder(tmp_path, classes=("a", "b"))
    before = whole(load(config(tmp_path), "test"))[0]
    picture_folder(tmp_path, classes=("c",))
    x, y = whole(load(config(tmp_path), "test"))
    assert torch.equal(before, x[y < 2])


def test_flat_folder_is_one_class(tmp_path):
    for i in range(5):
        write(tmp_path / f"{i}.jpg", color=RED)
    train = load(config(tmp_path), "train")
    assert (len(train), train.num_classes, train.shape) == (4, 1, (3, 8, 8))


def test_train_and_test_folders_are_the_split(tmp_path):
    picture_folder(tmp_path / "train", count=3)
    picture_folder(tmp_path / "test", count=2)
    assert [len(load(config(tmp_path), split)) for split in ("train", "test")] == [6, 4]
    write(tmp_path / "test" / "z" / "0.png")
    with pytest.raises(ValueError, match=r"same classes.* z"):
        load(config(tmp_path), "train")


def test_nothing_held_out(tmp_path):
    picture_folder(tmp_path)
    assert len(load(config(tmp_path, held_out=0.0), "train")) == 20
    with pytest.raises(ValueError, match="held-out"):
        load(config(tmp_path, held_out=0.0), "test")


def test_shorter_side_is_scaled_and_the_centre_cropped(tmp_path):
    wide = np.zeros((16, 48), np.uint8)
    wide[:, 16:32] = 255
    for i in range(2):
        Image.fromarray(wide).save(tmp_path / f"{i}.png")
    x = whole(load(config(tmp_path, image_size=8), "train"))[0]
    assert x.shape == (1, 1, 8, 8)
    # Lanczos looks a little across the edges of the white square; its inside is exact.
    assert (x[..., 1:-1, 2:-2] > 0.97).all()


def test_mixed_grey_and_colour_become_rgb_unless_told(tmp_path):
    write(tmp_path / "a" / "0.png", color=GREY, mode="L")
    write(tmp_path / "a" / "1.png", color=RED)
    for channels, depth in ((None, 3), (3, 3), (1, 1)):
        assert load(config(tmp_path, held_out=0.0, channels=channels), "train").shape == (depth, 8, 8)
    x = whole(load(config(tmp_path, held_out=0.0), "train"))[0]
    torch.testing.assert_close(x[:, :, 0, 0], torch.tensor([(GREY,) * 3, RED]) / 127.5 - 1)


def test_too_large_for_memory_reads_the_same_images_from_disk(tmp_path, monkeypatch):
    picture_folder(tmp_path)
    expected = whole(load(config(tmp_path, channels=3), "train"))
    monkeypatch.setattr(records, "MEMORY_LIMIT", 100)
    train = load(config(tmp_path, channels=3, cache=str(tmp_path / ".cache")), "train")
    assert isinstance(train.images, ImageFiles)
    assert train.shape == (3, 8, 8)
    for got, wanted in zip(whole(train), expected, strict=True):
        assert torch.equal(got, wanted)


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


def test_folders_without_images(tmp_path):
    with pytest.raises(ValueError, match="there is nothing"):
        load(config(tmp_path / "missing"), "train")
    with pytest.raises(ValueError, match="holds no images"):
        load(config(tmp_path), "train")
    picture_folder(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty: holds no images"):
        load(config(tmp_path), "train")
    (tmp_path / "empty").rmdir()
    write(tmp_path / "loose.png")
    with pytest.raises(ValueError, match=r"loose\.png"):
        load(config(tmp_path), "train")
    with pytest.raises(ValueError, match="another kind"):
        load(config(tmp_path / "loose.png"), "train")
    with pytest.raises(ValueError, match="split must be"):
        load(DataConfig(), "val")


def test_a_class_of_one_image(tmp_path):
    picture_folder(tmp_path)
    write(tmp_path / "single" / "0.png", color=3, mode="L")
    with pytest.raises(ValueError, match="'single' has a single image"):
        load(config(tmp_path), "train")
    assert len(load(config(tmp_path, held_out=0.0), "train")) == 21


# ---------------------------------------------------------------------------------------------------------------- npz

IMAGES = np.random.default_rng(1).integers(0, 256, (20, 6, 4, 3), np.uint8)
LABELS = np.arange(20) % 2


def npz(tmp_path, **arrays):
    np.savez(tmp_path / "x.npz", **arrays)
    return tmp_path / "x.npz"


def test_npz_keeps_pixels_and_labels(tmp_path):
    path = npz(tmp_path, images=IMAGES, labels=LABELS, test_images=IMAGES[:4], test_labels=LABELS[:4].astype(np.uint8))
    train, test = (load(config(path), split) for split in ("train", "test"))
    assert (train.shape, train.class_names, len(test)) == ((3, 6, 4), ("0", "1"), 4)
    x, y = whole(train)
    np.testing.assert_allclose(x.permute(0, 2, 3, 1), IMAGES / 127.5 - 1, atol=1e-6)
    assert y.tolist() == LABELS.tolist()
    assert torch.equal(whole(test)[0], x[:4])


def test_npz_without_test_or_labels_or_channels(tmp_path):
    path = npz(tmp_path, images=IMAGES[..., 0])
    train, test = (load(config(path), split) for split in ("train", "test"))
    assert (len(train) + len(test), train.shape, train.class_names) == (20, (1, 6, 4), ("all",))
    assert 1 <= len(test) <= 5


def test_npz_floats_and_the_names_of_mnist(tmp_path):
    floats = (IMAGES[..., :1] / 127.5 - 1).astype(np.float64)
    path = npz(tmp_path, x_train=floats, y_train=LABELS, x_test=floats[:3], y_test=LABELS[:3])
    x, _ = whole(load(config(path), "train"))
    np.testing.assert_allclose(x.permute(0, 2, 3, 1), floats, atol=1e-6)


def test_npz_of_bytes_is_resized_and_converted(tmp_path):
    path = npz(tmp_path, images=IMAGES, labels=LABELS)
    assert load(config(path, image_size=2, channels=1), "train").shape == (1, 2, 2)
    grey = npz(tmp_path, images=IMAGES[..., :1])
    x = whole(load(config(grey, channels=3), "train"))[0]
    assert torch.equal(x, x[:, :1].expand(-1, 3, -1, -1))


FLOATS = IMAGES / 127.5 - 1
NAN = np.where(np.arange(20)[:, None, None, None] == 7, np.nan, FLOATS)


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({"pictures": IMAGES}, {}, "array named images"),
        ({"images": IMAGES[0, 0]}, {}, r"must be \(N, H, W\)"),
        ({"images": IMAGES[:0]}, {}, "not empty"),
        ({"images": IMAGES[..., :2]}, {}, r"\(20, 6, 4, 2\)"),
        ({"images": IMAGES.astype(np.int32)}, {}, "int32"),
        ({"images": NAN}, {}, r"images\[7\] has values that are not finite"),
        ({"images": FLOATS * 2}, {}, r"span \[-1, 1\]"),
        ({"images": FLOATS}, {"image_size": 4}, "not resized"),
        ({"images": FLOATS}, {"channels": 1}, "not resized or converted"),
        ({"images": IMAGES, "labels": LABELS[:-1]}, {}, r"\(20,\), one per image, got \(19,\)"),
        ({"images": IMAGES, "labels": LABELS + 0.5}, {}, r"whole numbers, got 0\.5"),
        ({"images": IMAGES, "labels": LABELS * 1j}, {}, "whole numbers or words, got complex128"),
        ({"images": IMAGES, "labels": LABELS - 1}, {}, "from 0, got -1"),
        ({"images": IMAGES, "labels": LABELS, "test_images": IMAGES}, {}, "labels for both"),
        ({"images": IMAGES, "test_labels": LABELS}, {}, "test_labels but no test_images"),
        ({"images": IMAGES, "test_images": IMAGES[:, :5]}, {}, r"test_images \(3, 5, 4\)"),
        ({"images": IMAGES, "labels": LABELS, "test_images": IMAGES, "test_labels": LABELS * 2}, {}, "has class 2"),
        ({"images": np.array([None, {}])}, {}, "plain arrays"),
    ],
)
def test_npz_errors_name_file_and_array(tmp_path, arrays, options, message):
    with pytest.raises(ValueError, match=message) as error:
        load(config(npz(tmp_path, **arrays), **options), "train")
    assert "x.npz" in str(error.value)


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_damaged_npz(tmp_path, keep):
    path = npz(tmp_path, images=IMAGES)
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(ValueError, match=r"x\.npz: cannot be read"):
        load(config(path), "train")
