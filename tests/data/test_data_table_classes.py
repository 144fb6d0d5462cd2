"""Classes in the columns of tables: every type, several columns, names, streams."""

import warnings

import pytest

from distillkac.data import load, load_training
from tests.data.table_files import config
from tests.image_sets import samples, write_parquet, write_table

datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.usefixtures("alone")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("second", ["train-1.parquet", "test-0.parquet"])
def test_files_that_name_classes_differently_are_refused(tmp_path, second, streaming):
    """One number would be two classes."""
    for name, names in (("train-0.parquet", ["cat", "dog"]), (second, ["dog", "cat"])):
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
        rows = {"image": [{"bytes": content, "path": None} for _, content, _ in samples(4)], "label": [0, 1] * 2}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / name)
    options = {"streaming": True, "eval_images": 2} if streaming else {}
    with pytest.raises(ValueError, match=r"names? the classes of 'label' (otherwise|differently)"):
        load_training(config(tmp_path, tmp_path, **options))


# ------------------------------------------------------------------------------------------------------------- classes


def write_labels(path, labels, name="label"):
    return write_table(path, {"image": [content for _, content, _ in samples(len(labels))], name: labels})


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        ([0.0, 1.0, 1.0, 0.0], ("0", "1"), [0, 1, 1, 0]),
        ([True, False, False, True], ("0", "1"), [1, 0, 0, 1]),
        (["z", "a", "z", "a"], ("a", "z"), [1, 0, 1, 0]),
        (["b10", "b9", "b1", "b10"], ("b1", "b9", "b10"), [2, 1, 0, 2]),
        (["e\u0301", "\u00e9", "f", "f"], ("f", "\u00e9"), [1, 1, 0, 0]),
        ([7, 7, 5, 9], ("5", "7", "9"), [1, 1, 0, 2]),
    ],
)
@pytest.mark.filterwarnings("ignore:.*numbered anew")
def test_classes_in_every_type(tmp_path, labels, names, expected):
    data = load(config(write_labels(tmp_path / "x.parquet", labels), tmp_path), "train")
    assert (data.class_names, data.labels.tolist()) == (names, expected)


def test_classes_of_a_pandas_category(tmp_path):
    import pyarrow

    labels = pyarrow.array(["b", "a", "b", "a"]).dictionary_encode()
    data = load(config(write_labels(tmp_path / "x.parquet", labels), tmp_path), "train")
    assert (data.class_names, data.labels.tolist()) == (("a", "b"), [1, 0, 1, 0])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.0, 1.5, 1.0, 0.0], r"row 1 of the training split: column 'label': 1\.5 is no class"),
        ([0.0, float("nan"), 1.0, 0.0], r"row 1 .*nan is no class"),
        ([0, 1, None, 0], r"is empty for 1 images, such as row 2 of the training split; .*unconditional"),
        (["a", " ", "b", "b"], r"row 1 .*it is empty"),
        ([0, -1, 1, 1], r"numbered from 0, got -1; .*unconditional"),
        ([[0], [1], [0], [1]], r"column 'label' must hold classes as whole numbers or words"),
    ],
)
def test_what_is_no_class_is_refused_by_name(tmp_path, labels, message):
    path = write_labels(tmp_path / "x.parquet", labels)
    with pytest.raises(ValueError, match=message):
        load(config(path, tmp_path), "train")
    data = load(config(path, tmp_path, unconditional=True), "train")
    assert (data.class_names, data.labels.tolist()) == (("all",), [0] * 4)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("names", [("label", "class"), ("Label", "label"), ("kind", "labels")])
def test_of_two_columns_that_may_be_the_classes_none_is_chosen_in_silence(tmp_path, names, streaming):
    datasets = pytest.importorskip("datasets")
    columns = {"image": [{"bytes": content, "path": None} for _, content, _ in samples(4)]}
    columns |= {name: [i % 2, 0, 1, 1] for i, name in enumerate(names)}
    kinds = {name: datasets.ClassLabel(names=["a", "b"]) for name in names if name != "class"}
    features = datasets.Features({"image": datasets.Image(), "class": datasets.Value("int64")} | kinds)
    features = datasets.Features({name: features[name] for name in columns})
    if names[0] == "kind":
        features["labels"] = datasets.Value("int64")
    datasets.Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "x.parquet")
    options = {"streaming": True, "eval_images": 1} if streaming else {}
    with pytest.raises(ValueError, match=rf"several columns of classes.*label-column: {', '.join(names)}"):
        load_training(config(tmp_path / "x.parquet", tmp_path, **options))
    chosen = load(config(tmp_path / "x.parquet", tmp_path, label_column=names[0]), "train")
    assert chosen.labels.tolist() == [0, 0, 1, 1]


def test_no_column_of_classes_is_needed_or_found_in_silence(tmp_path):
    path = write_labels(tmp_path / "x.parquet", [0, 1, 0, 1], name="Kind")
    with pytest.warns(UserWarning, match=r"no classes to learn; there are Kind \(int64\).*--data\.unconditional"):
        assert load(config(path, tmp_path), "train").class_names == ("all",)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load(config(path, tmp_path, unconditional=True), "train").class_names == ("all",)
    named = write_labels(tmp_path / "y.parquet", [0, 1, 0, 1], name="Label")
    assert load(config(named, tmp_path), "train").class_names == ("0", "1")


def test_names_of_a_class_label_keep_their_order_in_one_unicode_form(tmp_path):
    def write(root, names):
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
        images = [{"bytes": content, "path": None} for _, content, _ in samples(4)]
        rows = {"image": images, "label": [0, 1, 0, 1]}
        datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / root)
        datasets.load_from_disk(tmp_path / root).to_parquet(tmp_path / f"{root}.parquet")

    write("good", ["z", "e\u0301"])
    write("bad", ["e\u0301", "\u00e9"])
    for name in ("good", "good.parquet"):
        assert load(config(tmp_path / name, tmp_path), "train").class_names == ("z", "\u00e9")
    stream = {"streaming": True, "eval_images": 2}
    assert load_training(config(tmp_path / "good.parquet", tmp_path, **stream)).class_names == ("z", "\u00e9")
    for options in ({}, stream):
        with pytest.raises(ValueError, match="column 'label' calls two classes '\u00e9'"):
            load_training(config(tmp_path / "bad.parquet", tmp_path, **options))


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (["a", "b"], {}, r"holds words, and a stream is not read .*--data\.unconditional"),
        (["a", "b"], {"num_classes": 2}, r"holds words"),
        ([1, 3], {"num_classes": 2}, "must hold classes from 0 to 1, got 3"),
        ([0, 2], {"num_classes": 3}, "show 2 of 3 classes, not '1'"),
        ([0, 1], {"num_classes": 1}, r"learn without classes with --data\.unconditional"),
        ([0.5, 1.0], {"num_classes": 2}, r"0\.5 is no class"),
        ([0, 1], {"num_classes": 2, "unconditional": True}, r"omit .*--data\.num-classes"),
    ],
)
def test_streams_number_classes_as_other_sources_or_not_at_all(tmp_path, labels, options, message):
    path = write_labels(tmp_path / "x.parquet", labels * 8)
    with pytest.raises(ValueError, match=message):
        load_training(config(path, tmp_path, streaming=True, eval_images=4, **options))


@pytest.mark.parametrize("labels", [[0.0, 1.0], [False, True], [0, 1]])
def test_streams_take_the_types_of_other_sources(tmp_path, labels):
    path = write_labels(tmp_path / "x.parquet", labels * 8)
    stream = load_training(config(path, tmp_path, streaming=True, eval_images=4, num_classes=2))
    whole = load(config(path, tmp_path), "train")
    assert stream.class_names == whole.class_names == ("0", "1")
    x, y = stream.__getitems__(range(12))
    truth, classes = whole.__getitems__(range(16))
    assert y.tolist() == [int(classes[(truth == image).flatten(1).all(1)]) for image in x]


def test_a_number_of_classes_that_the_set_denies_is_refused(tmp_path):
    path = write_parquet(tmp_path / "p", samples())
    with pytest.raises(ValueError, match="has 2 classes, not 3"):
        load_training(config(path, tmp_path, streaming=True, eval_images=20, num_classes=3))
