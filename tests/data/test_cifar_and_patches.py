"""CIFAR-10's own files, binary and pickled, and the built-in colour patches."""

import pickle

import numpy as np
import pytest
import torch

from distillkac.data import DataConfig, load, read
from distillkac.data.cifar import CLASSES

RECORDS = 7


def batches():
    """{name: (images (7, 3, 32, 32) uint8, labels (7,))} of the six files."""
    source = np.random.default_rng(0)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    return {
        n: (source.integers(0, 256, (RECORDS, 3, 32, 32), np.uint8), source.integers(0, 10, RECORDS)) for n in names
    }


def write_binary(folder):
    folder.mkdir(parents=True)
    for name, (images, labels) in batches().items():
        rows = np.concatenate([labels[:, None].astype(np.uint8), images.reshape(RECORDS, -1)], 1)
        (folder / f"{name}.bin").write_bytes(rows.tobytes())


def write_pickled(folder):
    folder.mkdir(parents=True)
    for name, (images, labels) in batches().items():
        batch = {b"data": images.reshape(RECORDS, -1), b"labels": labels.tolist(), b"batch_label": b"x"}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))


@pytest.mark.parametrize("write", [write_binary, write_pickled])
@pytest.mark.parametrize("inside", [False, True])
def test_both_versions_give_the_images_in_order(tmp_path, write, inside):
    folder = tmp_path / "cifar" / ("cifar-10-batches-bin" if write is write_binary else "cifar-10-batches-py")
    write(folder)
    config = DataConfig(path=str(folder.parent if inside else folder))
    train, test = load(config, "train"), load(config, "test")
    assert (len(train), len(test), train.shape, train.class_names) == (5 * RECORDS, RECORDS, (3, 32, 32), CLASSES)
    expected = np.concatenate([images for name, (images, _) in batches().items() if name != "test_batch"])
    x, y = read(train, range(5 * RECORDS))
    torch.testing.assert_close(x, torch.from_numpy(expected).float() / 127.5 - 1)
    assert y.tolist() == [n for name, (_, labels) in batches().items() if name != "test_batch" for n in labels]
    assert read(test, range(RECORDS))[1].tolist() == batches()["test_batch"][1].tolist()
    assert train.images.dtype == torch.uint8


class Hostile:
    def __reduce__(self):
        return print, ("code ran",)


def spoil_missing(folder):
    next(folder.glob("data_batch_3*")).unlink()


def spoil_cut(folder):
    path = next(folder.glob("data_batch_3*"))
    path.write_bytes(path.read_bytes()[:-5])


def spoil_label(folder):
    path = folder / "data_batch_3.bin"
    path.write_bytes(bytes([11]) + path.read_bytes()[1:])


def spoil_hostile(folder):
    (folder / "data_batch_3").write_bytes(pickle.dumps({b"data": Hostile(), b"labels": []}))


def spoil_shape(folder):
    (folder / "data_batch_3").write_bytes(pickle.dumps({b"data": np.zeros((2, 5), np.uint8), b"labels": [1, 2]}))


@pytest.mark.parametrize(
    ("write", "spoil", "message"),
    [
        (write_binary, spoil_missing, "data_batch_3.bin"),
        (write_binary, spoil_cut, "not whole records"),
        (write_binary, spoil_label, "from 0 to 9"),
        (write_pickled, spoil_cut, "is no batch of CIFAR-10"),
        (write_pickled, spoil_hostile, "asks for builtins.print"),
        (write_pickled, spoil_shape, "data must be"),
    ],
)
def test_damaged_files_are_named_and_run_no_code(tmp_path, capsys, write, spoil, message):
    write(tmp_path / "c")
    spoil(tmp_path / "c")
    with pytest.raises(ValueError, match=message) as error:
        load(DataConfig(path=str(tmp_path / "c")), "train")
    assert str(tmp_path) in str(error.value)
    assert "code ran" not in capsys.readouterr().out


def test_patches_are_of_two_classes_and_the_splits_share_no_pixel():
    from sklearn.datasets import load_sample_images

    config = DataConfig(builtin="patches")
    train, test = load(config, "train"), load(config, "test")
    assert train.class_names == ("china", "flower")
    assert train.shape == test.shape == (3, 32, 32)
    assert train.labels.bincount().tolist() == [3050, 3050]
    assert len(set(test.labels.bincount().tolist())) == 1
    # The first train patch is the corner of the photograph; the test patches begin right of column 512.
    photographs = load_sample_images().images
    x, _ = read(train, [0, 1, 3050])
    corner = torch.from_numpy(photographs[0][:32, :40].copy()).permute(2, 0, 1).float() / 127.5 - 1
    torch.testing.assert_close(x[0], corner[:, :, :32])
    torch.testing.assert_close(x[1], corner[:, :, 8:])
    first, _ = read(test, [0])
    right = torch.from_numpy(photographs[0][:32, 512:544].copy()).permute(2, 0, 1).float() / 127.5 - 1
    torch.testing.assert_close(first[0], right)
    last_train_column = 8 * ((512 - 32) // 8) + 32
    assert last_train_column <= 512


@pytest.mark.parametrize("options", [{"image_size": 16}, {"channels": 1}])
def test_patches_and_cifar_have_one_size(tmp_path, options):
    write_binary(tmp_path / "c")
    for config in (DataConfig(builtin="patches", **options), DataConfig(path=str(tmp_path / "c"), **options)):
        with pytest.raises(ValueError, match=r"32 x 32 in colour"):
            load(config, "train")
