"""Every source gives the same images, order and splits, resumes and is shared out in the same way, and trains."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from distillkac import train
from distillkac.data import DataConfig, load, read, records, to_unit
from distillkac.data.ahead import read_ahead
from distillkac.runs import checkpoints
from distillkac.runs.config import load_config
from tests.data.sources_tools import config, small_memory, splits, write
from tests.image_sets import (
    ARRAYS,
    CLASSES,
    GREY,
    WRITERS,
    pixels,
    samples,
    write_npz,
    write_tar,
)
from tests.toys import TINY_OPTIONS, optim, run_config, trainer

pytestmark = pytest.mark.usefixtures("alone")
SOURCES = list(WRITERS)
TINY = [*TINY_OPTIONS, "--preview", "0", "--optim.batch-size", "8", "--optim.log-every", "1"]


# ------------------------------------------------------------------------------------------------- one set, five forms


def truth_of(kind):
    """(C, 8, 8) of each of the pixels."""
    images = map(Image.fromarray, pixels())
    return [
        np.asarray(image.convert("L"))[None] if kind in GREY else np.asarray(image).transpose(2, 0, 1)
        for image in images
    ]


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("kind", SOURCES)
def test_all_sources_give_the_same_tensors(tmp_path, monkeypatch, kind, large):
    if large:
        small_memory(monkeypatch)
    settings = config(write(kind, tmp_path / kind), tmp_path, held_out=0.2)
    made = load(settings, "train")
    assert made.class_names == CLASSES
    assert isinstance(made.images, torch.Tensor) == (not large or kind in ARRAYS)
    assert made.__getitems__([0])[0].dtype == torch.uint8
    (x, y), (x_test, y_test) = splits(settings)
    # Against the pixels themselves: every image is in one split, none in both.
    truth = torch.from_numpy(np.stack(truth_of(kind))).float() / 127.5 - 1
    place = [int((truth == image).flatten(1).all(1).nonzero()) for image in torch.cat([x, x_test])]
    assert sorted(place) == list(range(20))
    assert torch.cat([y, y_test]).tolist() == [int(i >= 10) for i in place]
    assert 2 <= len(x_test) <= 10
    other = splits(config(write(kind, tmp_path / "elsewhere" / kind), tmp_path, held_out=0.2))
    assert torch.equal(other[1][0], x_test), "wherever it lies"


@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_trains_by_command(tmp_path, kind):
    path = write(kind, tmp_path / kind)
    options = ["--data.path", str(path), "--data.flip", "--data.cache", str(tmp_path / "cache")]
    assert train.main(["--run", str(tmp_path / "run"), "--steps", "2", *options, *TINY]) == 0
    assert [line["step"] for line in checkpoints.MetricsLog.read(tmp_path / "run")] == [1, 2]
    run = load_config(tmp_path / "run")
    assert (run.shape, run.class_names) == ((1 if kind in GREY else 3, 8, 8), CLASSES)
    assert train.main(["--run", str(tmp_path / "run"), "--resume", "--steps", "3"]) == 0
    assert checkpoints.MetricsLog.read(tmp_path / "run")[-1]["step"] == 3


# ------------------------------------------------------------------------------------- order, resuming, many processes


def batches(job, folder=None, stop=None):
    """The (x0, y) that a run meets; it stops after `stop` steps."""
    seen, objective = [], job.objective

    def watching(network, batch):
        seen.append((batch.x0.clone(), batch.y.clone()))
        return objective(network, batch)

    job.objective = watching
    if stop is not None:
        job._stopped = lambda _: job.step == stop
    job.fit()
    return seen


@pytest.mark.parametrize("kind", ["folder", "tar", "parquet"])
def test_a_run_resumes_in_the_middle_of_an_epoch_with_the_same_batches(tmp_path, monkeypatch, kind):
    small_memory(monkeypatch)
    settings = config(write(kind, tmp_path / kind), tmp_path, flip=True, held_out=0.0)
    data = load(settings, "train")  # 40 samples: 12 steps of 12 are 3.6 epochs
    made = run_config(shape=data.shape, class_names=data.class_names, optim=optim(workers=2))
    whole = batches(trainer(tmp_path / "whole", made, data=data))
    first = batches(trainer(tmp_path / "cut", made, data=data), stop=5)
    second = batches(trainer(tmp_path / "cut", made, data=load(settings, "train")))
    assert (len(first), len(second)) == (5, 7)
    for (x, y), (x_whole, y_whole) in zip(first + second, whole, strict=True):
        assert torch.equal(x, x_whole)
        assert torch.equal(y, y_whole)
    epoch = torch.cat([x for x, _ in whole[:4]])[:40]
    expected = read(data, range(40))[0]
    assert sorted(map(tuple, epoch.flatten(1).tolist())) == sorted(map(tuple, expected.flatten(1).tolist()))
    other = batches(trainer(tmp_path / "other", run_config(**{**vars(made), "seed": 1}), data=data))
    assert not torch.equal(torch.cat([x for x, _ in other[:4]])[:40], epoch)


@pytest.mark.parametrize("kind", ["folder", "tar", "parquet"])
def test_two_processes_share_the_rows_of_one(tmp_path, monkeypatch, kind):
    small_memory(monkeypatch)
    data = load(config(write(kind, tmp_path / kind), tmp_path), "train")
    made = run_config(shape=data.shape, class_names=data.class_names, steps=4, optim=optim())
    met = {}
    for processes, index in ((1, 0), (2, 0), (2, 1)):
        job = trainer(tmp_path / f"{processes}-{index}", made, data=data)
        job.rows = made.optim.batch_size // processes
        job.accelerator = SimpleNamespace(process_index=index, num_processes=processes, device=torch.device("cpu"))
        met[processes, index] = list(job.batches())
    for whole, first, second in zip(met[1, 0], met[2, 0], met[2, 1], strict=True):
        assert torch.equal(torch.cat([first.x0, second.x0]), whole.x0)
        assert torch.equal(torch.cat([first.y, second.y]), whole.y)
        assert (len(first.x0), len(second.x0), second.row) == (6, 6, 6)
    assert len(set(map(tuple, met[1, 0][0].x0.flatten(1).tolist()))) == 12, "no image twice in an epoch"


def test_reading_ahead_keeps_order_and_errors_and_is_bounded():
    started = []

    def read_one(i):
        started.append(i)
        if i == 7:
            raise ValueError("seven")
        return i * i

    for threads in (0, 1, 3):
        started.clear()
        source, got = read_ahead(read_one, range(50), threads), []
        for _ in range(7):
            got.append(next(source))
            assert len(started) <= len(got) + 2 * threads
        assert got == [i * i for i in range(7)]
        with pytest.raises(ValueError, match="seven"):
            next(source)
    source = read_ahead(lambda i: i, iter(range(10**9)), 2)
    assert next(source) == 0
    source.close()  # leaves no thread behind and does not read on


def test_bytes_become_the_same_floats_as_ever():
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_unit(every), every.float() / 127.5 - 1)
    floats = torch.rand(3)
    assert to_unit(floats) is floats


def test_a_large_set_is_checked_once(tmp_path, monkeypatch):
    small_memory(monkeypatch)
    path, decoded, decode = write("tar", tmp_path / "tar"), [], records._decode
    monkeypatch.setattr(records, "_decode", lambda *a: decoded.append(a[1]) or decode(*a))
    settings = config(path, tmp_path, held_out=0.0)
    expected = read(load(settings, "train"), range(20))
    assert len(decoded) == 20 + 20
    decoded.clear()
    for got, wanted in zip(read(load(settings, "train"), range(20)), expected, strict=True):
        assert torch.equal(got, wanted)
    assert len(decoded) == 20, "the second time only what is asked for is read"
    decoded.clear()
    write("tar", path, samples()[::-1])  # other bytes
    load(settings, "train")
    assert len(decoded) == 20, "a changed archive is looked at again"
    for file in (tmp_path / "cache").glob("*.json"):
        file.write_text("{")
    assert load(settings, "train").shape == (3, 8, 8), "a damaged index is made anew"


def test_a_cache_that_cannot_be_written_is_only_slower(tmp_path, monkeypatch):
    small_memory(monkeypatch)
    path = write("tar", tmp_path / "tar")
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="cannot be written"):
        assert len(load(DataConfig(path=str(path), cache=str(tmp_path / "file"), held_out=0.0), "train")) == 20


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    monkeypatch.setitem(__import__("sys").modules, "webdataset", None)
    monkeypatch.setitem(__import__("sys").modules, "webdataset.shardlists", None)
    for name in ("hf://someone/birds", str(tmp_path / "shard-{0..3}.tar")):
        with pytest.raises(ValueError, match=r"pip install 'distillkac\[data\]'"):
            load(DataConfig(path=name), "train")
    for made in (write_tar(tmp_path / "tar", samples()), write_npz(tmp_path / "npz", samples())):
        assert len(load(config(made, tmp_path, held_out=0.0), "train")) == 20, "these need neither"
