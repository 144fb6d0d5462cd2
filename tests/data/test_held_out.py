"""Which images are held out: a matter of each image alone."""

import numpy as np
import pytest
import torch
from PIL import Image

from distillkac.data import DataConfig, load, read
from distillkac.data.dataset import content_key, hold_out
from tests.image_sets import encoded, write_folder, write_idx, write_npz, write_saved, write_svhn, write_tar

CLASSES = ("0", "1")
WRITERS = {
    "folder": write_folder,
    "npz": write_npz,
    "tar": lambda r, m: write_tar(r, m, 2),
    "saved": write_saved,
    "idx": write_idx,
    "svhn": write_svhn,
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


def many(count, first=0):
    """Images of one level each, so that an image is known again by its first pixel."""
    levels = range(first, first + count)
    return [(f"{i:03d}.png", encoded(Image.new("RGB", (8, 8), (i, 3 * i % 256, 7))), i % 2) for i in levels]


def splits(path, tmp_path, **options):
    """(levels to learn from, levels held out)."""
    settings = DataConfig(path=str(path), cache=str(tmp_path / "cache"), **options)
    found = []
    for split in ("train", "test"):
        part = load(settings, split)
        found.append(set(((read(part, range(len(part)))[0][:, 0, 0, 0] + 1) * 127.5).round().int().tolist()))
    return found


@pytest.mark.parametrize("kind", WRITERS)
def test_images_added_later_move_no_other(tmp_path, kind):
    if kind == "saved":
        pytest.importorskip("datasets")
    few = splits(WRITERS[kind](tmp_path / "few", many(60)), tmp_path)
    # In front, between and behind the others.
    more = [("0000.png", *many(1, 200)[0][1:]), *many(60), *many(80, 60)]
    after = splits(WRITERS[kind](tmp_path / "more", more), tmp_path)
    assert few[0] <= after[0]
    assert few[1] <= after[1]
    assert len(few[1]) >= 2
    assert len(after[1]) > len(few[1])


@pytest.mark.parametrize("kind", WRITERS)
def test_the_place_of_a_set_decides_nothing(tmp_path, kind):
    if kind == "saved":
        pytest.importorskip("datasets")
    one, other = (splits(WRITERS[kind](tmp_path / name, many(60)), tmp_path) for name in ("a", "b/c/a"))
    assert one == other


def test_the_fraction_is_kept_on_the_average_and_nested():
    labels = torch.arange(20_000) % 2
    before = set()
    for fraction in (0.05, 0.1, 0.3, 0.8):
        train, test = hold_out(str, labels, CLASSES, fraction, "x")
        assert sorted(train + test) == list(range(20_000))
        assert abs(len(test) - 20_000 * fraction) < 5 * (20_000 * fraction * (1 - fraction)) ** 0.5
        assert before < set(test), "a larger fraction holds out the same images and more"
        before = set(test)


@pytest.mark.parametrize("fraction", [1e-9, 0.5, 1 - 1e-9])
def test_at_least_one_and_never_all_of_a_class(fraction):
    labels = torch.tensor([0] * 5 + [1] * 2)
    train, test = hold_out(str, labels, CLASSES, fraction, "x")
    for label in (0, 1):
        assert any(labels[row] == label for row in train)
        assert any(labels[row] == label for row in test)
    same = hold_out(lambda row: "one key for all", labels, CLASSES, fraction, "x")
    assert sorted(same[0] + same[1]) == list(range(7))
    assert hold_out(str, labels, CLASSES, 0.0, "x") == (list(range(7)), [])


def test_names_that_are_no_text_and_both_unicode_forms(tmp_path):
    assert hold_out(lambda row: f"caf\udce9{row}", torch.arange(20) % 2, CLASSES, 0.3, "x")[1]
    composed, decomposed = "\u00e9", "e\u0301"
    one, other = (
        splits(write_folder(tmp_path / form, [(letter + name, *rest) for name, *rest in many(60)]), tmp_path)
        for form, letter in (("nfc", composed), ("nfd", decomposed))
    )
    assert one == other


def test_content_keys_tell_images_apart():
    noise = np.random.default_rng(0).bytes(300_000)
    middle = noise[:150_000] + bytes([noise[150_000] ^ 1]) + noise[150_001:]
    others = [noise, noise[:-1], b"x" + noise[1:], noise[:-1] + b"x", middle, b"", b"a", noise[:131_072]]
    assert len({content_key(content) for content in others}) == len(others)


def test_large_images_on_a_plain_ground_are_held_out_one_by_one(tmp_path):
    """512 x 512 in colour, white above and below: what differs lies far from both ends of the pixels."""
    images = np.full((40, 512, 512, 3), 255, np.uint8)
    images[:, 250:260, 250:260] = np.random.default_rng(0).integers(0, 256, (40, 10, 10, 3), np.uint8)
    np.savez_compressed(tmp_path / "x.npz", images=images)
    assert 3 <= len(load(DataConfig(path=str(tmp_path / "x.npz"), held_out=0.3, image_size=8), "test")) <= 24


def test_equal_images_are_on_one_side(tmp_path):
    """Of sources that know an image by its content: a copy is no help to who measures on the other part."""
    images = np.concatenate([np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8)] * 2)
    np.savez(tmp_path / "x.npz", images=images)
    settings = DataConfig(path=str(tmp_path / "x.npz"), held_out=0.3)
    train, test = (
        {tuple(image) for image in read(part, range(len(part)))[0].flatten(1).tolist()}
        for part in (load(settings, "train"), load(settings, "test"))
    )
    assert not train & test
    assert len(train) + len(test) == 40


def test_the_digits_stay_where_they_were():
    """They never grow, and figures were published with this split."""
    test = load(DataConfig(), "test")
    assert (len(load(DataConfig(), "train")), len(test)) == (1297, 500)
    from sklearn.datasets import load_digits

    order = torch.randperm(1797, generator=torch.Generator().manual_seed(1234))[1297:]
    expected = torch.from_numpy(load_digits().images).float()[order, None] / 8 - 1
    assert torch.equal(read(test, range(500))[0], expected)
