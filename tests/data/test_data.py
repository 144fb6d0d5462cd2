"""Data sources: exact splits, folders of images, and errors that name the file."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader

from distillkac.data import DataConfig, load, records
from distillkac.data.records import ImageFiles
from tests.data.flat_pictures import GREY, RED, config, picture_folder, whole, write

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
