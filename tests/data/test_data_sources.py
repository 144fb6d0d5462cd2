"""Every source gives the same images, order and splits, resumes and is shared out in the same way, and trains."""

import json
import tarfile
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
from tests.image_sets import (
    CLASSES,
    WRITERS,
    add,
    encoded,
    pixels,
    samples,
    table,
    write_npz,
    write_parquet,
    write_saved,
    write_table,
    write_tar,
)
from tests.toys import TINY_OPTIONS, optim, run_config, trainer

pytestmark = pytest.mark.usefixtures("alone")
LIBRARY = {"parquet": "datasets", "saved": "datasets"}
SOURCES = list(WRITERS)
TINY = [*TINY_OPTIONS, "--preview", "0", "--optim.batch-size", "8", "--optim.log-every", "1"]


def write(kind, root, made=None):
    if kind in LIBRARY:
        pytest.importorskip(LIBRARY[kind])
    return WRITERS[kind](root, samples() if made is None else made)


def config(path, tmp_path, **options):
    return DataConfig(path=str(path), cache=str(tmp_path / "cache"), **options)


def splits(settings):
    return [read(part, range(len(part))) for part in (load(settings, "train"), load(settings, "test"))]


def small_memory(monkeypatch):
    monkeypatch.setattr(records, "MEMORY_LIMIT", 100)


# ------------------------------------------------------------------------------------------------- one set, five forms


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("kind", SOURCES)
def test_all_sources_give_the_same_tensors(tmp_path, monkeypatch, kind, large):
    if large:
        small_memory(monkeypatch)
    settings = config(write(kind, tmp_path / kind), tmp_path, held_out=0.2)
    made = load(settings, "train")
    assert made.class_names == CLASSES
    assert isinstance(made.images, torch.Tensor) == (not large or kind == "npz")
    assert made.__getitems__([0])[0].dtype == torch.uint8
    (x, y), (x_test, y_test) = splits(settings)
    # Against the pixels themselves: every image is in one split, none in both.
    truth = torch.from_numpy(pixels()).permute(0, 3, 1, 2).float() / 127.5 - 1
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
    assert (load_config(tmp_path / "run").shape, load_config(tmp_path / "run").class_names) == ((3, 8, 8), CLASSES)
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


# -------------------------------------------------------------------------------------------------------- WebDataset


def test_what_webdataset_writes_is_read_as_it_reads_it(tmp_path, monkeypatch):
    small_memory(monkeypatch)
    webdataset = pytest.importorskip("webdataset")
    images = pixels(12)
    with webdataset.ShardWriter(str(tmp_path / "part-%06d.tar"), maxcount=5, verbose=0) as sink:
        for i, image in enumerate(images):
            sink.write({"__key__": f"dir.v1/x{i:02d}", "png": Image.fromarray(image), "cls": i % 2, "json": {"a": i}})
    pattern = str(tmp_path / "part-{000000..000002}.tar")
    data = load(config(pattern, tmp_path, held_out=0.0), "train")
    theirs = list(webdataset.WebDataset(pattern, shardshuffle=False).decode("rgb8"))
    assert [str(sample["__key__"]) for sample in theirs] == [member.key for _, member in data.images.records.members]
    got, labels = data.__getitems__(range(12))
    assert torch.equal(got, torch.from_numpy(np.stack([s["png"] for s in theirs])).permute(0, 3, 1, 2))
    assert labels.tolist() == [sample["cls"] for sample in theirs]
    with pytest.raises(ValueError, match=r"part-000003\.tar: is missing"):
        load(config(str(tmp_path / "part-{000000..000003}.tar"), tmp_path), "train")


def test_labels_of_shards(tmp_path):
    expected = splits(config(write("tar", tmp_path / "cls"), tmp_path))
    got = splits(config(write_tar(tmp_path / "json", samples(), label="json"), tmp_path))
    assert torch.equal(got[0][1], expected[0][1])
    with tarfile.open(tmp_path / "words.tar", "w") as archive:
        for i, (name, content, label) in enumerate(samples()):
            add(archive, f"a/{name}", content)
            add(archive, f"a/{i:03d}.json", json.dumps({"kind": ("dog", "ant")[label]}).encode())
    words = load(config(tmp_path / "words.tar", tmp_path, label_column="kind"), "train")
    assert words.class_names == ("ant", "dog")
    assert read(words, [0])[1].tolist() == [1]
    with pytest.warns(UserWarning, match=r"no \.json of these shards has an entry 'label', so there are no classes"):
        plain = load(config(tmp_path / "words.tar", tmp_path), "train")
    assert plain.class_names == ("all",), "a .json without a label is no label"


@pytest.mark.parametrize(
    "names", [("train/a.tar", "test/a.tar"), ("train-0.tar", "val-0.tar"), ("a.tar", "a_test.tar")]
)
def test_test_shards_are_the_split(tmp_path, names):
    made = samples()
    for name, part in zip(names, (made[:15], made[5:15:3]), strict=True):
        write_tar(tmp_path / "x", part, shards=1)
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / "shard-0.tar").rename(tmp_path / "set" / name)
    (x, _), (x_test, _) = splits(config(tmp_path / "set", tmp_path))
    assert (len(x), len(x_test)) == (15, 4)
    assert torch.equal(x_test, x[5:15:3])
    if names[0] == "train/a.tar":
        pytest.importorskip("webdataset")
        by_pattern = splits(config(tmp_path / "set" / "{train,test}" / "a.tar", tmp_path))
        assert torch.equal(by_pattern[1][0], x_test)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.txt": b"x"}, "holds no images"),
        ({"a.png": None, "b.png": None, "a.cls": b"0"}, "b has no class but others have"),
        ({"a.png": None, "a.jpg": None}, "two images called a"),
        ({"a.png": None, "a.cls": b"0", "b.png": None, "b.cls": b"dog"}, "some classes are words"),
        ({"a.png": None, "a.cls": b"\xff\xfe"}, "a.cls: does not say a class"),
    ],
)
def test_shards_that_make_no_sense(tmp_path, members, message):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, content in members.items():
            add(archive, name, samples(2)[0][1] if content is None else content)
    with pytest.raises(ValueError, match=message) as error:
        load(config(tmp_path / "x.tar", tmp_path, held_out=0.0), "train")
    assert "x.tar" in str(error.value)


def test_links_in_an_archive_are_not_followed(tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(samples()[0][1])
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        archive.addfile(link)
        for name, content, _ in samples(4):
            add(archive, f"../../{name}", content)
    with pytest.warns(UserWarning, match=r"left out 1 links and devices, such as x\.tar: link\.png"):
        assert len(load(config(tmp_path / "x.tar", tmp_path, held_out=0.0), "train")) == 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "secret.png", "x.tar"], "nothing is unpacked"


# ------------------------------------------------------------------------------------------------------ Hugging Face


def test_columns_are_found_by_type_or_chosen(tmp_path):
    datasets = pytest.importorskip("datasets")
    made = samples()
    one = [{"bytes": content, "path": None} for _, content, _ in made]
    two = [{"bytes": encoded(Image.new("RGB", (8, 8), (i, i, i))), "path": None} for i in range(20)]
    features = {
        "img": datasets.Image(),
        "other": datasets.Image(),
        "fine": datasets.ClassLabel(names=["a", "b", "c", "d"]),
        "coarse": datasets.ClassLabel(names=["x", "y"]),
    }
    rows = {"img": one, "other": two, "fine": [i % 4 for i in range(20)], "coarse": [i % 2 for i in range(20)]}
    datasets.Dataset.from_dict(rows, features=datasets.Features(features)).save_to_disk(tmp_path / "set")
    with pytest.raises(ValueError, match=r"several columns of images \(img, other\).*image-column"):
        load(config(tmp_path / "set", tmp_path), "train")
    with pytest.raises(ValueError, match=r"several columns of classes.*label-column: fine, coarse"):
        load(config(tmp_path / "set", tmp_path, image_column="img"), "train")
    chosen = {"image_column": "other", "label_column": "coarse", "held_out": 0.0}
    data = load(config(tmp_path / "set", tmp_path, **chosen), "train")
    assert data.class_names == ("x", "y")
    assert data.__getitems__([3])[0].unique().tolist() == [3]
    for wrong in ({"image_column": "fine"}, {"image_column": "img", "label_column": "gone"}):
        with pytest.raises(ValueError, match=r"no column"):
            load(config(tmp_path / "set", tmp_path, **wrong), "train")


def test_parquet_of_other_writers(tmp_path):
    pytest.importorskip("datasets")
    contents, labels = [content for _, content, _ in samples()], [label for *_, label in samples()]
    expected = splits(config(write_saved(tmp_path / "saved", samples()), tmp_path))
    forms = {
        "structs": {"image": [{"bytes": c, "path": "x.png"} for c in contents], "label": labels},
        "bytes": {"jpg": contents, "cls": labels},
        "words": {"image": contents, "label": [str(label) for label in labels]},
    }
    for name, columns in forms.items():
        got = splits(config(write_table(tmp_path / f"{name}.parquet", columns), tmp_path))
        for a, b in zip((*got[0], *got[1]), (*expected[0], *expected[1]), strict=True):
            assert torch.equal(a, b), name
    lone = write_table(tmp_path / "lone.parquet", {"picture": contents, "size": labels})
    with pytest.warns(UserWarning, match=r"none of its columns is called label.*size \(int64\)"):
        assert load(config(lone, tmp_path), "train").class_names == ("all",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": None}, "no column of images"),
        ({"label": [None, *[1] * 19]}, "says nothing for 1 images"),
        ({"label": [0.5] * 20}, "row 0 of the training split: column 'label': 0.5 is no class"),
    ],
)
def test_tables_that_make_no_sense(tmp_path, change, message):
    pytest.importorskip("datasets")
    columns = {"image": [content for _, content, _ in samples()], "label": [0, 1] * 10, "n": [1] * 20} | change
    path = write_table(tmp_path / "x.parquet", {k: v for k, v in columns.items() if v is not None})
    with pytest.raises(ValueError, match=message) as error:
        load(config(path, tmp_path), "train")
    assert "x.parquet" in str(error.value)


def test_splits_of_a_table(tmp_path):
    datasets = pytest.importorskip("datasets")
    made = samples()
    parts = {"train": made, "validation": made[8:12], "extra": made[::4]}
    datasets.DatasetDict({name: table(part) for name, part in parts.items()}).save_to_disk(tmp_path / "set")
    with pytest.warns(UserWarning, match=r"left out splits .*: extra$"):
        (x, _), (x_test, _) = splits(config(tmp_path / "set", tmp_path))
    assert torch.equal(x_test, x[8:12])
    (x_extra, _), (x_train, _) = splits(config(tmp_path / "set", tmp_path, split="extra", test_split="train"))
    assert torch.equal(x_extra, x[::4])
    assert torch.equal(x_train, x)
    with pytest.raises(ValueError, match=r"no split 'dev', only train, validation, extra.*--data.test-split"):
        load(config(tmp_path / "set", tmp_path, test_split="dev"), "train")
    with pytest.raises(ValueError, match="both 'train'"):
        load(config(tmp_path / "set", tmp_path, test_split="train"), "train")


def test_a_split_without_rows_is_no_split_to_measure_with(tmp_path):
    """As a filter leaves it: save_to_disk writes no file for it."""
    datasets = pytest.importorskip("datasets")
    made = table(samples())
    datasets.DatasetDict({"train": made, "test": made.select([])}).save_to_disk(tmp_path / "set")
    settings = config(tmp_path / "set", tmp_path, held_out=0.2)
    assert len(load(settings, "train")) + len(load(settings, "test")) == 20
    with pytest.raises(ValueError, match="the split 'test' is empty"):
        load(config(tmp_path / "set", tmp_path, test_split="test"), "train")


@pytest.mark.parametrize("name", ["hf://", "hf://@main"])
def test_a_data_set_of_the_hub_has_a_name(tmp_path, name):
    pytest.importorskip("datasets")
    with pytest.raises(ValueError, match=r"it has no name: give hf://NAME"):
        load(DataConfig(path=name, cache=str(tmp_path)), "train")


def test_test_files_of_parquet_are_the_split(tmp_path):
    pytest.importorskip("datasets")
    write_parquet(tmp_path / "set" / "data", samples())
    table(samples()[5:15]).to_parquet(tmp_path / "set" / "data" / "test-00000-of-00001.parquet")
    (x, _), (x_test, _) = splits(config(tmp_path / "set", tmp_path))
    assert (len(x), len(x_test)) == (20, 10)
    assert torch.equal(x_test, x[5:15])


def test_sets_by_name(tmp_path, monkeypatch):
    """The library's own loading by name, of a repository that lies in a folder; then what it is asked for."""
    datasets = pytest.importorskip("datasets")
    expected = splits(config(write_saved(tmp_path / "saved", samples()), tmp_path))
    repository = write_parquet(tmp_path / "repository" / "data", samples()).parent
    got = splits(config(f"hf://{repository}", tmp_path))
    assert torch.equal(got[0][0], expected[0][0])
    with pytest.raises(ValueError, match=r"hf://.*missing: cannot be opened"):
        load(config(f"hf://{tmp_path}/missing", tmp_path), "train")
    asked = []
    loaded = datasets.DatasetDict({"train": table(samples())})
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: asked.append((args, options)) or loaded)
    load(config("hf://someone/birds@v2", tmp_path, subset="small"), "train")
    assert asked == [(("someone/birds", "small"), {"revision": "v2", "cache_dir": str(tmp_path / "cache")})]


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    monkeypatch.setitem(__import__("sys").modules, "webdataset", None)
    monkeypatch.setitem(__import__("sys").modules, "webdataset.shardlists", None)
    for name in ("hf://someone/birds", str(tmp_path / "shard-{0..3}.tar")):
        with pytest.raises(ValueError, match=r"pip install 'distillkac\[data\]'"):
            load(DataConfig(path=name), "train")
    for made in (write_tar(tmp_path / "tar", samples()), write_npz(tmp_path / "npz", samples())):
        assert len(load(config(made, tmp_path, held_out=0.0), "train")) == 20, "these need neither"
