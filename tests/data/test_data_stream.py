"""Hugging Face data that are read while they arrive: the same images, an order that is a function of the index, resuming."""

import threading
import time
from types import SimpleNamespace

import pytest
import torch

from distillkac import distill, encode, evaluate, train
from distillkac.data import load, load_training, read
from distillkac.data.stream import WindowOrder
from distillkac.evaluation import classifier
from distillkac.runs import checkpoints
from tests.data.stream_shards import COUNT, settings, which, write_shards
from tests.data.test_data_sources import TINY, batches
from tests.image_sets import CLASSES
from tests.toys import optim, refusal, run_config, trainer

datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.usefixtures("alone")


# ------------------------------------------------------------------------------------------------------------ the order


def test_every_image_is_met_once_an_epoch_with_its_class(tmp_path):
    data = load_training(settings(write_shards(tmp_path / "p"), tmp_path))
    assert (data.shape, data.class_names) == ((3, 8, 8), CLASSES)
    epochs = []
    for epoch in range(4):
        x, y = data.__getitems__(range(epoch * COUNT, (epoch + 1) * COUNT))
        assert x.dtype == torch.uint8
        epochs.append(which(x))
        assert sorted(epochs[-1]) == list(range(COUNT))
        assert y.tolist() == [i % 2 for i in epochs[-1]]
    assert len({tuple(epoch) for epoch in epochs}) > 1, "the shards come in the same order every epoch"


def test_the_order_shuffles_within_windows():
    order = WindowOrder(5, seed=3)
    whole = order(0, 23)
    assert [sorted(part.tolist()) for part in whole.split(5)[:4]] == [list(range(k, k + 5)) for k in (0, 5, 10, 15)]
    assert torch.equal(torch.cat([order(a, b) for a, b in ((0, 3), (3, 3), (3, 12), (12, 23))]), whole)
    assert not torch.equal(WindowOrder(5, seed=4)(0, 20), whole[:20])
    assert len({tuple((part - part.min()).tolist()) for part in whole.split(5)[:4]}) > 1


@pytest.mark.parametrize("flip", [False, True])
def test_a_record_depends_on_its_index_alone(tmp_path, flip):
    """Read in order, or anywhere, by one that knows the lengths of the shards or by one that knows nothing."""
    path = write_shards(tmp_path / "p")
    config = settings(path, tmp_path, flip=flip)
    data = load_training(config)
    x, y = data.__getitems__(range(80))
    some = torch.tensor([61, 7, 7, 30, 79, 0, 33, 12])
    fresh = settings(path, tmp_path, cache="other", flip=flip)
    for other in (data, load_training(config), load_training(fresh)):
        for rows in (some, some.flip(0), torch.tensor([50]), torch.tensor([], dtype=torch.int64)):
            got = other.__getitems__(rows)
            assert torch.equal(got[0], x[rows])
            assert torch.equal(got[1], y[rows])
    if flip:
        plain = load_training(settings(path, tmp_path)).__getitems__(range(80))[0]
        mirrored = (x != plain).flatten(1).any(1)
        assert 20 < mirrored.sum() < 60
        assert torch.equal(x[mirrored], plain[mirrored].flip(-1))


def test_what_is_known_is_not_read_again(tmp_path, monkeypatch):
    config = settings(write_shards(tmp_path / "p"), tmp_path)
    x, _ = load_training(config).__getitems__(range(2 * COUNT))
    data, opened = load_training(config), []
    original = data.shards.read
    monkeypatch.setattr(data.shards, "read", lambda shard, start=0: opened.append(shard) or original(shard, start))
    got, _ = data.__getitems__([COUNT + 1])
    data._fetcher.shutdown()  # the window that it reads ahead
    assert torch.equal(got[0], x[COUNT + 1])
    assert len(opened) <= 2, "a whole epoch was read to pass over it"


def test_a_run_resumes_in_the_middle_of_an_epoch_with_the_same_batches(tmp_path):
    config = settings(write_shards(tmp_path / "p"), tmp_path, flip=True)
    made = run_config(shape=(3, 8, 8), class_names=CLASSES, optim=optim())
    whole = batches(trainer(tmp_path / "whole", made, data=load_training(config)))
    first = batches(trainer(tmp_path / "cut", made, data=load_training(config)), stop=5)
    fresh = settings(tmp_path / "p", tmp_path, cache="other machine", flip=True)
    second = batches(trainer(tmp_path / "cut", made, data=load_training(fresh)))
    assert (len(first), len(second)) == (5, 7)
    for (x, y), (x_whole, y_whole) in zip(first + second, whole, strict=True):
        assert torch.equal(x, x_whole)
        assert torch.equal(y, y_whole)


@pytest.mark.parametrize("workers", [None, 0, 3])
def test_processes_share_the_rows_of_one(tmp_path, workers):
    config = settings(write_shards(tmp_path / "p"), tmp_path)
    made = run_config(shape=(3, 8, 8), class_names=CLASSES, steps=6, optim=optim(workers=workers))
    met = {}
    for processes, index in ((1, 0), (2, 0), (2, 1)):
        job = trainer(tmp_path / f"{processes}-{index}", made, data=load_training(config))
        job.rows = made.optim.batch_size // processes
        job.accelerator = SimpleNamespace(process_index=index, num_processes=processes, device=torch.device("cpu"))
        met[processes, index] = list(job.batches())
    for whole, first, second in zip(met[1, 0], met[2, 0], met[2, 1], strict=True):
        assert torch.equal(torch.cat([first.x0, second.x0]), whole.x0)
        assert torch.equal(torch.cat([first.y, second.y]), whole.y)


# ------------------------------------------------------------------------------------------------- splits and evaluation


def test_images_to_measure_against_are_never_learned(tmp_path):
    path = write_shards(tmp_path / "p", sizes=(3, 9, 8), test=0)
    config = settings(path, tmp_path, eval_images=5)
    test, some = (which(load(config, split).images) for split in ("test", "train"))
    learned = which(load_training(config).__getitems__(range(60))[0])
    assert (test, some) == ([0, 1, 2, 3, 4], [5, 6, 7, 8, 9])
    assert sorted(set(learned)) == list(range(5, 20))
    assert sorted(learned[:15]) == list(range(5, 20))


def test_a_test_split_is_the_one_to_measure_against(tmp_path):
    config = settings(write_shards(tmp_path / "p"), tmp_path, eval_images=6)
    assert which(load(config, "test").images) == list(range(23, 29))
    assert which(load(config, "train").images) == list(range(6))
    x, y = read(load(config, "train"), [1, 2])
    assert (x.dtype, y.tolist()) == (torch.float32, [1, 0])


def test_commands_with_a_stream(tmp_path, monkeypatch, capsys):
    """By name as well: a repository that lies in a folder."""
    write_shards(tmp_path / "repository" / "data")
    run, cache = str(tmp_path / "run"), ["--data.cache", str(tmp_path / "cache")]
    options = ["--data.path", f"hf://{tmp_path}/repository", "--data.streaming", "--data.eval-images", "6", *cache]
    assert train.main(["--run", run, "--steps", "2", *options, *TINY]) == 0
    # As on another machine.
    assert train.main(["--run", run, "--resume", "--steps", "3", "--data.cache", str(tmp_path / "elsewhere")]) == 0
    assert [line["step"] for line in checkpoints.MetricsLog.read(tmp_path / "run")] == [1, 2, 3]
    assert distill.main([run, "--stages", "2,1", "--steps", "1", "--optim.batch-size", "4"]) == 0
    monkeypatch.setattr(classifier, "STEPS", 5)
    assert evaluate.main([run, "--num", "8", "--teacher-steps", "2"]) == 0
    capsys.readouterr()
    assert "encode reads every image once" in refusal(
        encode, ["--vae", "x", "--out", str(tmp_path / "latents"), *options], capsys
    )


def test_shards_without_rows_are_passed_over(tmp_path):
    """As pyarrow and pandas write an empty table: with one row group, of no rows."""
    import pyarrow.parquet

    for streaming in (True, False):
        root = write_shards(tmp_path / f"p{streaming}", sizes=(0, 9, 0, 7, 7))
        for path in (root / "train-00000-of-00005.parquet", root / "train-00002-of-00005.parquet"):
            pyarrow.parquet.write_table(pyarrow.parquet.read_table(path), path, row_group_size=1)
            assert pyarrow.parquet.ParquetFile(path).num_row_groups == 1
        whole = {"streaming": False, "shuffle_buffer": 1000, "eval_images": 5000}
        config = settings(root, tmp_path, **({} if streaming else whole))
        x, _ = load_training(config).__getitems__(range(COUNT))
        assert sorted(which(x)) == list(range(COUNT))


@pytest.mark.parametrize("workers", [0, 1])
def test_nobody_waits_for_a_window_that_nobody_wants(tmp_path, monkeypatch, workers):
    """A run that ends or is interrupted leaves the window that is on its way: over a slow network it may take minutes."""
    config = settings(write_shards(tmp_path / "p"), tmp_path, shuffle_buffer=40)
    made = run_config(shape=(3, 8, 8), class_names=CLASSES, steps=2, optim=optim(workers=workers))
    data, come, more = load_training(config), [], threading.Semaphore(52)
    original = data.shards.read

    def slowly(shard, start=0):
        for record in original(shard, start):
            more.acquire()
            come.append(record.name)
            yield record

    monkeypatch.setattr(data.shards, "read", slowly)
    job = trainer(tmp_path / "run", made, data=data)
    source = job.batches()
    first = next(source)
    while len(come) < 52:  # a window of 40, and some of the next
        time.sleep(0.01)
    stopped = data._stopped
    # The record that is on its way comes after nobody wants it any more, and not before.
    threading.Thread(target=lambda: stopped.wait(30) and more.release(), daemon=True).start()
    source.close()
    data._fetcher.submit(int).result(timeout=30)  # it has nothing else to do now
    assert len(come) == 53
    more.release(1000)
    assert torch.equal(next(trainer(tmp_path / "run", made, data=data).batches()).x0, first.x0)


def test_many_readers_do_not_read_the_stream_again(tmp_path, monkeypatch):
    data, seen = load_training(settings(write_shards(tmp_path / "p"), tmp_path, shuffle_buffer=1)), []
    original = data.shards.read
    monkeypatch.setattr(
        data.shards, "read", lambda shard, start=0: (seen.append(r) or r for r in original(shard, start))
    )
    made = run_config(shape=(3, 8, 8), class_names=CLASSES, steps=5, optim=optim(workers=8))
    assert len(list(trainer(tmp_path / "run", made, data=data).batches())) == 5
    assert 60 <= len(seen) <= 62  # and the window after the last
