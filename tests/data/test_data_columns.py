"""Hugging Face tables: columns, splits, sets by name."""

import pytest
import torch
from PIL import Image

from distillkac.data import DataConfig, load
from tests.data.sources_tools import config, splits
from tests.image_sets import (
    encoded,
    samples,
    table,
    write_parquet,
    write_saved,
    write_table,
)

pytestmark = pytest.mark.usefixtures("alone")


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
        ({"label": [None, *[1] * 19]}, "is empty for 1 images"),
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
