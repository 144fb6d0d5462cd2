"""Streams that break off, change, or make no sense."""

import pytest
import torch

from distillkac.data import DataConfig, load, load_training
from tests.data.stream_shards import COUNT, mixed, settings, which, write_shards
from tests.image_sets import encoded, samples, write_table

datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.usefixtures("alone")


# ---------------------------------------------------------------------------------------------------------- what is wrong


def broken(places):
    return [(name, b"no image" if i in places else content, label) for i, (name, content, label) in enumerate(mixed())]


def test_bad_images(tmp_path, monkeypatch):
    path = write_shards(tmp_path / "p", broken({11}))
    with pytest.raises(ValueError, match=r"row 2 of shard 1 of the train split: cannot be read as an image"):
        load_training(settings(path, tmp_path))
    monkeypatch.setattr("distillkac.data.stream.PROBED", 5)  # as if it came later
    data = load_training(settings(path, tmp_path))
    with pytest.raises(ValueError, match=r"row 2 of shard 1 of the train split: cannot be read as an image"):
        data.__getitems__(range(COUNT))
    with pytest.warns(UserWarning, match=r"left out, number 1: .*row 2 of shard 1"):
        x, y = load_training(settings(path, tmp_path, bad_images="skip")).__getitems__(range(COUNT))
    met = which(x)
    assert 11 not in met
    assert set(met) == set(range(COUNT)) - {11}
    assert y.tolist() == [i % 2 for i in met], "the image that stands in has its own class"
    with pytest.raises(ValueError, match="cannot be read"):
        load_training(settings(write_shards(tmp_path / "all", broken(range(30))), tmp_path, bad_images="skip"))


def test_images_of_other_sizes_and_colours(tmp_path):
    from PIL import Image

    made = [(n, encoded(Image.new("L", (9, 8), i)) if i == 15 else c, k) for i, (n, c, k) in enumerate(mixed())]
    path = write_shards(tmp_path / "p", made)
    with pytest.raises(ValueError, match=r"row 6 of shard 1 .* is 9 x 8 but the first image is 8 x 8; .*image-size"):
        load_training(settings(path, tmp_path)).__getitems__(range(COUNT))
    x, _ = load_training(settings(path, tmp_path, image_size=8)).__getitems__(range(COUNT))
    assert x.shape == (COUNT, 3, 8, 8)
    assert load_training(settings(path, tmp_path, image_size=4, channels=1)).shape == (1, 4, 4)


def test_data_that_change_are_noticed(tmp_path, monkeypatch):
    """Where the files' names and dates do not tell, as with a name on the hub."""
    monkeypatch.setattr("distillkac.data.stream.file_identity", lambda path: "the same")
    config = settings(write_shards(tmp_path / "p"), tmp_path)
    load_training(config).__getitems__(range(30))
    write_shards(tmp_path / "p", sizes=(9, 6, 7))
    with pytest.raises(ValueError, match=r"shard 1 .* has 6 images to learn from where it had 7: .* remove .*\.json"):
        load_training(config).__getitems__(range(30))
    next((tmp_path / "cache").glob("*.json")).unlink()
    load_training(config).__getitems__(range(30))


def test_a_stream_that_breaks_off_says_where_and_goes_on(tmp_path, monkeypatch):
    data = load_training(settings(write_shards(tmp_path / "p"), tmp_path))
    expected = load_training(settings(tmp_path / "p", tmp_path)).__getitems__(range(COUNT))[0]
    original, broken = data.shards.part, [True]

    class Breaking:
        num_shards = original.num_shards

        def shard(self, count, index):
            return self

        def skip(self, count):
            return self

        def __iter__(self):
            if broken:
                raise ConnectionError("no route")
            return iter(())

    monkeypatch.setattr(data.shards, "part", Breaking())
    with pytest.raises(
        ValueError, match=r"row 0 of shard \d of the train split: cannot be read \(no route\); .*--resume"
    ):
        data.__getitems__(range(COUNT))
    monkeypatch.setattr(data.shards, "part", original)
    assert torch.equal(data.__getitems__(range(COUNT))[0], expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": None}, "--data.streaming is for Hugging Face data sets .* got the built-in images"),
        ({"path": "folder"}, "--data.streaming is for Hugging Face data sets .* got .*folder"),
        ({"split": "learn"}, "has no split 'learn', only"),
        ({"eval_images": 100, "test_split": None, "path": "alone"}, "no images are left to learn from"),
        ({"label_column": "nothing"}, "has no column 'nothing'"),
    ],
)
def test_streams_that_make_no_sense(tmp_path, options, message):
    write_shards(tmp_path / "p")
    write_shards(tmp_path / "alone", test=0)
    (tmp_path / "folder").mkdir()
    name = options.pop("path", "p")
    config = settings(tmp_path / (name or ""), tmp_path, **options)
    config = config if name else DataConfig(streaming=True)
    for opened in (lambda: load_training(config).__getitems__([0]), lambda: load(config, "train")):
        with pytest.raises(ValueError, match=message):
            opened()


@pytest.mark.parametrize("name", ["shuffle_buffer", "eval_images", "num_classes"])
def test_counts_are_positive(name):
    with pytest.raises(ValueError, match=rf"data.{name} must be at least 1, got 0"):
        DataConfig(**{name: 0})


def test_classes_that_nobody_names(tmp_path):
    """Whole numbers without a list of the classes: how many there are must be said, and holds for every row."""
    made = mixed()
    columns = {"image": [{"bytes": c, "path": None} for _, c, _ in made[:20]], "label": [i % 3 for i in range(20)]}
    path = write_table(tmp_path / "t.parquet", columns)
    with pytest.raises(ValueError, match=r"column 'label' does not say how many classes .*--data.num-classes"):
        load_training(settings(path, tmp_path))
    data = load_training(settings(path, tmp_path, num_classes=3))
    assert data.class_names == ("0", "1", "2")
    x, y = data.__getitems__(range(16))
    assert y.tolist() == [i % 3 for i in which(x)]
    assert load_training(settings(path, tmp_path, unconditional=True)).class_names == ("all",)
    with pytest.raises(ValueError, match=r"--data\.unconditional"):
        load_training(settings(path, tmp_path, num_classes=1))
    with pytest.raises(ValueError, match=r"row \d+ of shard 0 .*must hold classes from 0 to 1, got 2"):
        load_training(settings(path, tmp_path, num_classes=2))
    with pytest.raises(ValueError, match="show 1 of 3 classes, not '0'"):
        load(settings(path, tmp_path, num_classes=3, eval_images=1), "train")


def test_rows_sorted_by_class_are_refused_before_training(tmp_path):
    """Else the run could never be evaluated: its options are fixed by then."""
    path = write_shards(tmp_path / "p", samples(30))  # the classes one after the other
    with pytest.raises(ValueError, match=r"first 4 images show 1 of 2 classes, not '1', .*--data.eval-images"):
        load_training(settings(path, tmp_path))
    assert load_training(settings(path, tmp_path, eval_images=20)).num_classes == 2
    assert load_training(settings(path, tmp_path, unconditional=True)).num_classes == 1


def test_places_outside_the_hub_are_not_asked_for(tmp_path):
    """A table may name files instead of holding bytes: an address in it is not opened."""
    rows = [{"bytes": None, "path": "http://127.0.0.1:9/x.png"}] * 8
    path = write_table(tmp_path / "t.parquet", {"image": rows, "label": [0] * 8})
    with pytest.raises(ValueError, match=r"row 4 of shard 0 .*cannot be read as an image"):
        load_training(settings(path, tmp_path, unconditional=True))
