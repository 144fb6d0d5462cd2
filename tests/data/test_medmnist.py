"""MedMNIST's .npz files, and headers of any .npz that promise what is not there."""

import io
import tracemalloc
import zipfile

import numpy as np
import pytest

from distillkac.data import DataConfig, arrays, load

COUNTS = {"train": 60, "val": 10, "test": 20}


def medmnist(path, shape=(28, 28), columns=1, parts=tuple(COUNTS)):
    source, made = np.random.default_rng(0), {}
    for part in parts:
        made[f"{part}_images"] = source.integers(0, 256, (COUNTS[part], *shape), np.uint8)
        numbers = np.arange(COUNTS[part] * columns).reshape(-1, columns)
        made[f"{part}_labels"] = (numbers % (2 if columns > 1 else 5)).astype(np.uint8)
    np.savez_compressed(path, **made)
    return made


@pytest.mark.parametrize("shape", [(28, 28), (28, 28, 3), (64, 64)])
def test_its_own_splits_are_kept_and_validation_is_named(tmp_path, shape):
    made, config = medmnist(tmp_path / "x.npz", shape), DataConfig(path=str(tmp_path / "x.npz"))
    for split in ("train", "test"):
        with pytest.warns(UserWarning, match="left out 2 arrays that are not read: val_images, val_labels"):
            data = load(config, split)
        images = made[f"{split}_images"]
        expected = images[:, None] if len(shape) == 2 else images.transpose(0, 3, 1, 2)
        assert np.array_equal(data.images.numpy(), expected)
        assert data.labels.tolist() == made[f"{split}_labels"][:, 0].tolist()
        assert data.class_names == tuple("01234")


def test_without_a_test_part_validation_is_measured_with(tmp_path):
    medmnist(tmp_path / "x.npz", parts=("train", "val"))
    assert len(load(DataConfig(path=str(tmp_path / "x.npz")), "test")) == 10


def test_several_labels_an_image_are_refused_by_name(tmp_path):
    medmnist(tmp_path / "chestmnist.npz", columns=14)
    config = DataConfig(path=str(tmp_path / "chestmnist.npz"))
    with pytest.raises(
        ValueError, match=r"chestmnist\.npz: train_labels has 14 numbers an image.*--data\.unconditional"
    ):
        load(config, "train")
    assert load(DataConfig(path=config.path, unconditional=True), "train").class_names == ("all",)


def test_volumes_are_refused_by_name(tmp_path):
    medmnist(tmp_path / "organmnist3d.npz", (28, 28, 28))
    with pytest.raises(
        ValueError, match=r"organmnist3d\.npz: train_images must be .* these are volumes, as in MedMNIST's 3-D"
    ):
        load(DataConfig(path=str(tmp_path / "organmnist3d.npz")), "train")


# ---------------------------------------------------------------------------------- headers that promise what is not there


def header(shape, dtype="|u1"):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


def archive(path, images, labels=None):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("images.npy", images)
        if labels is not None:
            made.writestr("labels.npy", labels)
    return path


def refused(path):
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"x\.npz: ") as error:
        load(DataConfig(path=str(path)), "train")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20
    return str(error.value)


@pytest.mark.parametrize("shape", [(1 << 20, 1 << 10, 1 << 10), (1 << 40, 28, 28), (3, 8, 8)])
def test_a_size_that_is_not_there_is_refused_before_it_is_allocated(tmp_path, shape):
    said = refused(archive(tmp_path / "x.npz", header(shape) + bytes(64)))
    assert "images should be" in said
    assert "save it anew" in said


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "x.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as made,
        made.open("images.npy", "w") as file,
    ):
        file.write(header((100, 8, 8)))
        for _ in range(64):
            file.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 17
    assert "images should be (100, 8, 8) uint8 but has" in refused(path)


@pytest.mark.parametrize(("place", "byte"), [(6, 1), (8, 99)], ids=["locked", "packed in an unknown way"])
def test_an_archive_that_cannot_be_unpacked_is_refused(tmp_path, place, byte):
    path = archive(tmp_path / "x.npz", header((4, 8, 8)) + bytes(256))
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\1\2") + 2  # the list at the end has two bytes more in front
    content[place] = content[entry + place] = byte
    path.write_bytes(content)
    assert "cannot be read as an .npz" in refused(path)


def test_what_does_not_fit_into_memory_is_refused(tmp_path, monkeypatch):
    path = archive(tmp_path / "x.npz", header((100, 8, 8)) + bytes(6400))
    sizes = {"SC_PAGE_SIZE": 10, "SC_PHYS_PAGES": 100}
    monkeypatch.setattr(arrays.os, "sysconf", lambda name: sizes[name])
    assert "its header promises 6400 bytes, more than the 1000 bytes of memory here" in refused(path)
