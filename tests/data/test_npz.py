"""Arrays in .npz files: names, types, sizes, and errors that name file and array."""

import numpy as np
import pytest
import torch

from distillkac.data import load
from tests.data.flat_pictures import config, whole

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
        ({"images": np.array([None, {}])}, {}, r"images is an array of Python objects, .* images\.astype\(str\)"),
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
