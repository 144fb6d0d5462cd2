"""CIFAR-100's own files, binary and pickled, with fine or coarse classes."""

import codecs
import pickle

import numpy as np
import pytest
import torch

from distillkac.data import DataConfig, load, load_training, read
from tests.data.cifar100_files import COARSE, FINE, parts, write_binary, write_pickled

FOLDERS = {write_binary: "cifar-100-binary", write_pickled: "cifar-100-python"}


@pytest.mark.parametrize("write", FOLDERS)
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("coarse", [False, True])
def test_both_versions_give_the_images_in_order(tmp_path, write, inside, coarse):
    folder = write(tmp_path / "set" / FOLDERS[write])
    config = DataConfig(path=str(folder.parent if inside else folder), coarse=coarse)
    for split, (images, *labels) in parts().items():
        data = load(config, split)
        assert (data.class_names, data.images.dtype) == (COARSE if coarse else FINE, torch.uint8)
        x, y = read(data, range(len(images)))
        torch.testing.assert_close(x, torch.from_numpy(images).float() / 127.5 - 1)
        assert y.tolist() == labels[coarse].tolist()


def test_both_versions_have_one_fingerprint(tmp_path):
    found = [load(DataConfig(path=str(write(tmp_path / name))), "train") for write, name in FOLDERS.items()]
    assert found[0].fingerprint == found[1].fingerprint
    assert found[0].class_names == found[1].class_names


def test_the_same_set_twice_is_said(tmp_path):
    for write, name in FOLDERS.items():
        write(tmp_path / name)
    with pytest.warns(UserWarning, match="holds CIFAR-100 twice; cifar-100-binary is read"):
        assert len(load(DataConfig(path=str(tmp_path)), "train")) == 120


def test_one_of_its_files_is_answered_with_the_folder(tmp_path):
    for write, name in ((write_binary, "train.bin"), (write_pickled, "train")):
        path = write(tmp_path / FOLDERS[write]) / name
        with pytest.raises(ValueError, match="a file of another kind: give the folder it lies in"):
            load(DataConfig(path=str(path)), "train")


def test_without_classes(tmp_path):
    config = DataConfig(path=str(write_binary(tmp_path / "set")), unconditional=True)
    assert load(config, "test").class_names == ("all",)


class Hostile:
    def __reduce__(self):
        return print, ("code ran",)


class Huge:
    """An array that a few bytes ask for."""

    def __init__(self, *shape):
        self.shape = shape

    def __reduce__(self):
        return np.ndarray, (self.shape, "u1")


class Doubled:
    """A few bytes that a codec makes twice as long, again and again."""

    def __init__(self, times):
        self.times = times

    def __reduce__(self):
        return codecs.encode, (Doubled(self.times - 1) if self.times else b"aa", "hex")


class Repeated:
    """One long text that is encoded as often as it is named."""

    text = "x" * 10**6

    def __reduce__(self):
        return codecs.encode, (self.text, "latin1")


def nested(depth):
    """A list that holds one list ten times, which holds another one ten times."""
    return [nested(depth - 1)] * 10 if depth else [1] * 10


def repickle(folder, name, **changes):
    batch = pickle.loads((folder / name).read_bytes(), encoding="bytes")
    batch |= {key.encode(): value for key, value in changes.items()}
    (folder / name).write_bytes(pickle.dumps(batch, protocol=2))


def cut(folder):
    for name in ("test.bin", "test"):
        if (path := folder / name).exists():
            path.write_bytes(path.read_bytes()[:-5])


def label(folder):
    content = bytearray((folder / "train.bin").read_bytes())
    content[1] = 100
    (folder / "train.bin").write_bytes(content)


BAD = [
    (write_binary, cut, "test.bin: .*not whole records of 3074"),
    (write_binary, label, "fine labels must be whole numbers from 0 to 99"),
    (write_binary, lambda f: (f / "test.bin").unlink(), "test.bin is missing"),
    (write_binary, lambda f: (f / "train.bin").write_bytes(b""), "0 bytes are not whole records"),
    (write_binary, lambda f: (f / "fine_label_names.txt").write_text("cat\n"), "names 1 fine classes, not 100"),
    (write_pickled, cut, "is no file of CIFAR-100"),
    (write_pickled, lambda f: (f / "test").unlink(), "test is missing"),
    (write_pickled, lambda f: repickle(f, "train", data=Hostile()), "asks for __builtin__.print"),
    (write_pickled, lambda f: repickle(f, "meta", fine_label_names=Hostile()), "asks for __builtin__.print"),
    (write_pickled, lambda f: repickle(f, "train", data=Huge(120, 3072)), "is no file of CIFAR-100"),
    (write_pickled, lambda f: repickle(f, "train", data=Huge(2**62)), "is no file of CIFAR-100"),
    (
        write_pickled,
        lambda f: repickle(f, "train", data=[Repeated() for _ in range(100)]),
        "larger arrays than its size",
    ),
    (write_pickled, lambda f: repickle(f, "train", data=Doubled(40)), "asks for the codec b?'hex'"),
    (write_pickled, lambda f: repickle(f, "train", data=nested(12)), "an entry is no array and no list"),
    (write_pickled, lambda f: repickle(f, "train", data=np.zeros((2, 5), np.uint8)), r"data must be \(N, 3072\)"),
    (write_pickled, lambda f: repickle(f, "train", data=[[1], [1, 2]]), "an entry is no array and no list"),
    (write_pickled, lambda f: repickle(f, "train", fine_labels=7), "an entry is no array and no list of"),
    (write_pickled, lambda f: repickle(f, "train", fine_labels=[100] * 120), "from 0 to 99"),
    (write_pickled, lambda f: repickle(f, "train", fine_labels=[0.5] * 120), "must be whole numbers"),
    (write_pickled, lambda f: repickle(f, "meta", fine_label_names=[b"cat"] * 100), "names 1 fine classes, not 100"),
    (
        write_pickled,
        lambda f: repickle(f, "meta", fine_label_names=[b"x" * 1000] * 1000),
        "larger arrays than its size",
    ),
    (write_pickled, lambda f: repickle(f, "meta", fine_label_names=3), "an entry is no array and no list of"),
    (write_pickled, lambda f: repickle(f, "meta", fine_label_names=[3]), "must be a list of names"),
    (write_pickled, lambda f: (f / "train").write_bytes(b"\x80\x02]."), "is no file of CIFAR-100"),
]


@pytest.mark.parametrize(("write", "spoil", "message"), BAD)
def test_damaged_files_are_named_and_run_no_code(tmp_path, capsys, write, spoil, message):
    folder = write(tmp_path / "set")
    spoil(folder)
    with pytest.raises(ValueError, match=message) as error:
        load(DataConfig(path=str(folder)), "train")
    assert str(tmp_path) in str(error.value)
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize("options", [{"image_size": 16}, {"channels": 1}])
def test_its_size_is_fixed(tmp_path, options):
    with pytest.raises(ValueError, match="32 x 32 in colour"):
        load_training(DataConfig(path=str(write_binary(tmp_path / "set")), **options))
