"""Which files and splits of tables are learned: all that is not used is named."""

import warnings

import pytest
import torch

from distillkac.data import DataConfig, load, load_training, read
from tests.data.table_files import config
from tests.image_sets import samples, table, write_parquet, write_table

datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.usefixtures("alone")


def write_files(root, files):
    """files: name -> which of 20 samples, whose classes are in turn."""
    made = [(name, content, i % 2) for i, (name, content, _) in enumerate(samples(20))]
    for name, part in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        table(made[part]).to_parquet(root / name)
    return root


def numbers(settings, tmp_path):
    """(which of the 20 samples are learned, which are measured against)."""
    whole = load(config(write_files(tmp_path / "whole", {"x.parquet": slice(0, 20)}), tmp_path), "train")
    truth, found = whole.__getitems__(range(20))[0], []
    for split in ("train", "test"):
        try:
            data = load(settings, split)
        except ValueError as error:
            assert split == "test" and "no images are held out" in str(error)  # noqa: PT017, PT018
            found.append([])
            continue
        images = data.__getitems__(range(len(data)))[0]
        found.append([int((truth == image).flatten(1).all(1).nonzero()) for image in images])
    return tuple(found)


A, B, C = slice(0, 10), slice(10, 16), slice(16, 20)
FIRST, SECOND, THIRD = list(range(10)), list(range(10, 16)), list(range(16, 20))


# ------------------------------------------------------------------------------------------- which files, which splits


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cats.parquet": A, "dogs.parquet": B}, (FIRST + SECOND, [])),
        ({"0000.parquet": A, "deep/er/0001.PARQUET": B}, (FIRST + SECOND, [])),
        ({"cats.parquet": A, "birds_test.parquet": B}, (FIRST, SECOND)),
        ({"Train/0.parquet": A, "TEST/0.parquet": B}, (FIRST, SECOND)),
        ({"data/training-00000-of-00001.parquet": A, "data/val-00000-of-00001.parquet": B}, (FIRST, SECOND)),
        ({"all.train.v2.parquet": A, "all.Valid.v2.parquet": B}, (FIRST, SECOND)),
        ({"contest.parquet": A, "trainer.parquet": B}, (FIRST + SECOND, [])),
        ({"part-00000-of-00002.parquet": A, "part-00001-of-00002.parquet": B}, (FIRST + SECOND, [])),
    ],
)
@pytest.mark.filterwarnings("error:.*left out")
def test_every_file_of_a_folder_is_read(tmp_path, files, expected):
    root = write_files(tmp_path / "set", files)
    assert tuple(map(sorted, numbers(config(root, tmp_path), tmp_path))) == expected
    if not expected[1]:
        stream = load_training(config(root, tmp_path, streaming=True, eval_images=2))
        assert len({tuple(x) for x in stream.__getitems__(range(14))[0].flatten(1).tolist()}) == 14


@pytest.mark.parametrize(
    ("files", "expected", "message"),
    [
        ({"extra_train.parquet": A, "cats.parquet": B, "dogs.parquet": C}, (FIRST, []), r"2 of 3 files.*cats.*dogs"),
        ({"train.parquet": A, "test.parquet": B, "validation.parquet": C}, (FIRST, SECOND), r"splits .*: validation$"),
        (
            {"train/0.parquet": A, "test/0.parquet": B, "._0.parquet": C},
            (FIRST, SECOND),
            r"1 hidden tables .*\._0",
        ),
        ({"a.parquet": A, "__MACOSX/a.parquet": B}, (FIRST, []), r"1 hidden tables .*__MACOSX"),
        (
            {f"data/{name}-00000-of-00001.parquet": k for name, k in (("train", A), ("test", B), ("extra", C))},
            (FIRST, SECOND),
            r"splits .*: extra$",
        ),
    ],
)
def test_files_that_are_not_read_are_named(tmp_path, files, expected, message):
    root = write_files(tmp_path / "set", files)
    with pytest.warns(UserWarning, match=f"left out {message}"):
        assert numbers(config(root, tmp_path), tmp_path) == expected


def test_files_are_of_the_split_that_is_asked_for(tmp_path):
    files = {f"{name}-00000-of-00001.parquet": k for name, k in (("train", A), ("test", B), ("extra", C))}
    root = write_files(tmp_path / "set", files)
    assert numbers(config(root, tmp_path, split="extra", test_split="train"), tmp_path) == (THIRD, FIRST)
    with pytest.raises(ValueError, match=r"has no split 'Extra', only .*--data\.split"):
        load(config(root, tmp_path, split="Extra"), "train")


@pytest.mark.parametrize("name", ["train/test.parquet", "train_test.parquet", "train/val/0.parquet"])
def test_a_file_of_two_splits_is_refused(tmp_path, name):
    root = write_files(tmp_path / "set", {name: A})
    (root / "x.parquet").write_bytes((root / name).read_bytes())
    with pytest.raises(ValueError, match=r"its name says 'train' and '(test|val)'.*rename"):
        load(config(root, tmp_path), "train")


def test_linked_folders_are_read_once_and_dangling_links_named(tmp_path):
    write_files(tmp_path / "elsewhere", {"a.parquet": A})
    root = write_files(tmp_path / "set", {"b.parquet": B})
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "round").symlink_to(root)
    (root / "gone.parquet").symlink_to(tmp_path / "nowhere")
    with pytest.warns(UserWarning, match=r"left out 1 links that lead to no file, such as gone\.parquet"):
        assert sorted(numbers(config(root, tmp_path), tmp_path)[0]) == FIRST + SECOND


def test_splits_of_a_set_are_found_in_any_case(tmp_path):
    made = samples()
    for first, second in (("Train", "TEST"), ("training", "Valid")):
        root = tmp_path / first
        datasets.DatasetDict({first: table(made), second: table(made[5:15])}).save_to_disk(root)
        settings = config(root, tmp_path)
        assert (len(load(settings, "train")), len(load(settings, "test"))) == (20, 10)
    with pytest.raises(ValueError, match="has no split 'TRAIN', only Train, TEST"):
        load(config(tmp_path / "Train", tmp_path, split="TRAIN"), "train")


def test_splits_of_a_hub_set_that_are_not_read_are_named(tmp_path, monkeypatch):
    made = samples()
    loaded = datasets.DatasetDict({"train": table(made), "test": table(made[5:15]), "validation": table(made[8:12])})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: loaded)
    with pytest.warns(UserWarning, match=r"left out splits .*: validation$"):
        assert len(load(config("hf://a/b", tmp_path), "test")) == 10
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load(config("hf://a/b", tmp_path, test_split="validation"), "test")) == 4


def test_files_of_other_columns_are_named(tmp_path):
    contents = [content for _, content, _ in samples()]
    write_table(tmp_path / "a.parquet", {"image": contents, "label": [0, 1] * 10})
    write_table(tmp_path / "b.parquet", {"image": contents, "klass": [0, 1] * 10})
    with pytest.raises(ValueError, match=r"b\.parquet: has columns image, klass but .*a\.parquet has image, label"):
        load(config(tmp_path, tmp_path), "train")
    (tmp_path / "b.parquet").write_bytes(b"PAR1" + bytes(100))
    with pytest.raises(ValueError, match=r"cannot be opened as a Hugging Face data set \(.*b\.parquet: "):
        load(config(tmp_path, tmp_path), "train")


# --------------------------------------------------------------------------------------------------------------- cache


def test_a_cache_that_cannot_be_written_costs_time_alone(tmp_path):
    path = write_parquet(tmp_path / "p", samples())
    (tmp_path / "file").write_text("")
    settings = DataConfig(path=str(path), cache=str(tmp_path / "file"), held_out=0.0)
    with pytest.warns(UserWarning, match=r"file: cannot be written .*--data\.cache"):
        assert len(load(settings, "train")) == 20


def test_a_file_system_without_locks_is_no_matter(tmp_path, monkeypatch):
    import filelock

    def refuse(self):
        raise NotImplementedError("no locks here")

    monkeypatch.setattr(filelock.FileLock, "_acquire", refuse)
    assert len(load(config(write_parquet(tmp_path / "p", samples()), tmp_path), "train")) == 20


def test_a_conversion_that_breaks_off_leaves_nothing(tmp_path, monkeypatch):
    import pyarrow

    path, written = write_parquet(tmp_path / "p", samples()), []

    def full(self, table):
        written.append(table)
        raise OSError(28, "No space left on device")

    class Writer:
        def __init__(self, *_):
            pass

        write_table = full

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

    with monkeypatch.context() as patch:
        patch.setattr(pyarrow.ipc, "new_stream", Writer)
        with pytest.raises(ValueError, match=r"cannot be written .*No space left.*--data\.cache"):
            load(config(path, tmp_path), "train")
    assert written
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]
    first = read(load(config(path, tmp_path), "train"), range(20))[0]
    assert torch.equal(read(load(config(path, tmp_path), "train"), range(20))[0], first)


@pytest.mark.parametrize("damage", ["first batch alone", "half", "nothing", "zeros"])
def test_a_damaged_cache_is_made_again(tmp_path, damage):
    import pyarrow

    path, cache = write_parquet(tmp_path / "p", samples(120)), tmp_path / "cache"
    first = read(load(config(path, tmp_path), "train"), range(120))[0]
    file = next(cache.glob("*.arrow"))
    whole = file.read_bytes()
    source = pyarrow.BufferReader(whole)
    pyarrow.ipc.open_stream(source).read_next_batch()  # of 100 rows: what follows is a table too
    kept = {"first batch alone": whole[: source.tell()], "half": whole[: len(whole) // 2], "nothing": b""}
    file.write_bytes(kept.get(damage, bytes(len(whole))))
    with pytest.warns(UserWarning, match=r"\.arrow: is damaged, so it is made again"):
        again = load(config(path, tmp_path), "train")
    assert torch.equal(read(again, range(120))[0], first)
    assert file.read_bytes() == whole
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load(config(path, tmp_path), "train")) == 120


def test_what_a_killed_conversion_left_goes_with_the_next(tmp_path):
    path, cache = write_parquet(tmp_path / "p", samples()), tmp_path / "cache"
    load(config(path, tmp_path), "train")
    file = next(cache.glob("*.arrow"))
    file.rename(left := cache / f".{file.name}.tmp")
    load(config(path, tmp_path), "train")
    assert file.is_file()
    assert not left.exists()
