"""Archives: every member is read, or counted and named; of a label only what says the class decides."""

import json
import tarfile
import warnings

import pytest
import torch

from distillkac.data import DataConfig, load, records
from tests.image_sets import add, samples, write_tar

pytestmark = pytest.mark.usefixtures("alone")
IMAGES = [content for _, content, _ in samples(20)]


def config(path, tmp_path, **options):
    return DataConfig(path=str(path), cache=str(tmp_path / "cache"), **{"held_out": 0.0} | options)


def write(path, members):
    """members: name -> bytes, or which of IMAGES."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            add(archive, name, IMAGES[content] if isinstance(content, int) else content)
    return path


# ----------------------------------------------------------------------------------------------------------- members


def which(settings, tmp_path, split="train"):
    """The numbers of the images of a split among IMAGES, sorted."""
    if not (tmp_path / "whole.tar").exists():
        write(tmp_path / "whole.tar", {f"{i}.png": i for i in range(20)})
    truth = load(config(tmp_path / "whole.tar", tmp_path), "train").__getitems__(range(20))[0]
    data = load(settings, split)
    images = data.__getitems__(range(len(data)))[0]
    return sorted(int((truth == image).flatten(1).all(1).nonzero()) for image in images)


@pytest.mark.parametrize(
    "names",
    [
        ["a.png", "b.png", "c.png", "img.v2.png"],
        ["2024.05.01-1.png", "2024.05.01-2.png", "2024.05.01-3.png", "2024.05.02-1.png"],
        ["dir.v1/a.png", "dir.v1/b.1.PNG", "./c.2.jpeg", "x/y.z/c.2.jpeg"],
    ],
)
@pytest.mark.filterwarnings("error")
def test_images_whose_names_have_dots_are_read(tmp_path, names):
    members = {name: i for i, name in enumerate(names)}
    plain = write(tmp_path / "x.tar", members)
    assert which(config(plain, tmp_path, unconditional=True), tmp_path) == [0, 1, 2, 3]
    members |= {f"{name.rpartition('.')[0]}.cls": str(i % 2).encode() for i, name in enumerate(names)}
    data = load(config(write(tmp_path / "y.tar", members), tmp_path), "train")
    assert (data.class_names, data.labels.tolist()) == (("0", "1"), [0, 1, 0, 1])


def test_a_label_of_the_sample_is_that_of_an_image_with_a_dot(tmp_path):
    """As WebDataset writes samples whose images are called left.png."""
    members = {"a.left.png": 0, "a.right.png": 1, "a.cls": b"1", "b.left.png": 2, "b.cls": b"0"}
    data = load(config(write(tmp_path / "x.tar", members), tmp_path), "train")
    assert data.labels.tolist() == [1, 1, 0]


LITTER = {
    "a.seg.png": 5,
    "a.txt": b"x",
    "b.npy": b"x",
    "._c.png": 6,
    "__MACOSX/c.png": 7,
    "@eaDir/c.jpg/SYNOPHOTO_THUMB_M.jpg": 8,
    ".hidden/c.png": 9,
}


@pytest.mark.parametrize("again", [False, True])
def test_members_that_are_not_read_are_counted_and_named_in_one_warning(tmp_path, again):
    path = write(tmp_path / "x.tar", LITTER | {"a.png": 0, "b.png": 1})
    with tarfile.open(path, "a") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
            member = tarfile.TarInfo(f"{kind.decode()}.png")
            member.type, member.linkname = kind, "a.png"
            archive.addfile(member)
    if again:  # from the index that was kept
        with pytest.warns(UserWarning, match="left out"):
            load(config(path, tmp_path), "train")
    with pytest.warns(UserWarning, match="left out") as told:
        assert which(config(path, tmp_path), tmp_path) == [0, 1]
    (text,) = {str(warning.message) for warning in told}
    for part in (
        r"1 images that come second to the one of their sample that is called KEY.jpg, such as x.tar: a.seg.png",
        "2 members that are neither images nor classes, such as x.tar: a.txt, x.tar: b.npy",
        "4 hidden members and thumbnails, such as x.tar: ._c.png, x.tar: __MACOSX/c.png, x.tar: @eaDir",
        "3 links and devices, such as x.tar: 2.png",
    ):
        assert part in text


def test_two_images_of_one_key_are_named_and_cost_nothing_else(tmp_path):
    path = write(tmp_path / "x.tar", {"a.png": 0, "a.jpg": 1, "b.png": 2})
    with pytest.raises(ValueError, match=r"x\.tar: has two images called a \(a\.png and a\.jpg\)"):
        load(config(path, tmp_path), "train")
    with pytest.warns(UserWarning, match=r"left out 1 of 3 images: .*x\.tar: has two images called a"):
        data = load(config(path, tmp_path, bad_images="skip"), "train")
    assert which(config(path, tmp_path, bad_images="skip"), tmp_path) == [0, 2]
    assert len(data.left_out) == 1


# ------------------------------------------------------------------------------------------------------------ labels


def labelled(path, labels):
    """labels: of each image (suffix, content) or None."""
    members = {f"{i}.png": i for i in range(len(labels))}
    members |= {f"{i}.{label[0]}": label[1] for i, label in enumerate(labels) if label}
    return write(path, members)


def says(value, encoding="utf-8"):
    return ("json", json.dumps({"label": value, "by": "Jos\u00e9"}, ensure_ascii=False).encode(encoding))


@pytest.mark.parametrize(
    "odd",
    [
        says(1, "utf-8-sig"),
        says(1, "latin-1"),
        says(1, "utf-16"),
        says(1, "utf-32"),
        says(1.0),
        says(True),
        says("1"),
        ("json", b"1"),
        ("cls", b"\xef\xbb\xbf1\r\n"),
        ("cls", "1".encode("utf-16")),
        ("CLS", b"1"),
        ("cls", b"1.0"),
        ("cls", b"0001"),
        ("cls", b"1\0\0"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_class_is_read_however_it_is_written(tmp_path, odd):
    path = labelled(tmp_path / "x.tar", [says(0), odd, ("cls", b"1"), says(1)])
    data = load(config(path, tmp_path), "train")
    assert (data.class_names, data.labels.tolist()) == (("0", "1"), [0, 1, 1, 1])


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (("cls", b"caf\xe9"), r"1\.cls: does not say a class \('caf\\udce9' is not written in UTF-8\)"),
        (("cls", b""), r"1\.cls: does not say a class \(it is empty\)"),
        (says("caf\u00e9", "latin-1"), r"1\.json: does not say a class .* is not written in UTF-8"),
        (says(None), "null is no class"),
        (says(0.5), r"0\.5 is no class"),
        (says([1]), r"\[1\] is no class"),
        (says(float("nan")), "nan is no class"),
        (says(""), "it is empty"),
        (says("9" * 5000), "it has 5000 characters, too many"),
        (("json", b"{"), r"1\.json: does not say a class \(Expecting"),
        (("json", b"[" * 100_000), r"1\.json: does not say a class"),
        (("json", b'{"label": 0, "x": "' + b"x" * (1 << 20) + b'"}'), r"1\.json: has \d+ bytes, too many"),
    ],
)
def test_what_says_no_class_condemns_its_own_image_alone(tmp_path, bad, reason):
    path = labelled(tmp_path / "x.tar", [says(0), bad, ("cls", b"1"), says(1)])
    with pytest.raises(ValueError, match=rf"x\.tar: .*{reason}.*--data\.unconditional"):
        load(config(path, tmp_path), "train")
    skipping = config(path, tmp_path, bad_images="skip")
    for _ in range(2):
        with pytest.warns(UserWarning, match=rf"left out 1 of 4 images: .*{reason}"):
            data = load(skipping, "train")
        assert (data.labels.tolist(), len(data.left_out)) == ([0, 1, 1], 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load(config(path, tmp_path, unconditional=True), "train")
    assert (data.class_names, data.labels.tolist()) == (("all",), [0] * 4)


def test_a_damaged_json_beside_a_class_does_not_decide(tmp_path):
    members = {"a.png": 0, "a.json": b"\xff{", "a.cls": b"1", "b.png": 1, "b.cls": b"0", "b.json": b"{"}
    data = load(config(write(tmp_path / "x.tar", members), tmp_path), "train")
    assert data.labels.tolist() == [1, 0]


def test_an_entry_that_no_json_has_is_refused(tmp_path):
    path = write_tar(tmp_path / "set", samples(8), label="json")
    assert load(config(path, tmp_path, label_column="label"), "train").num_classes == 2
    with pytest.raises(
        ValueError, match=r"no \.json of these shards has an entry 'lable'; correct --data\.label-column"
    ):
        load(config(path, tmp_path, label_column="lable"), "train")
    for entry, message in (("note", None), ("x", "no .json")):
        settings = config(path, tmp_path, label_column=entry)
        if message is None:
            assert load(settings, "train").class_names == ("x",)
        else:
            with pytest.raises(ValueError, match=message):
                load(settings, "train")


def test_an_entry_that_was_asked_for_comes_before_a_cls(tmp_path):
    members = {"a.png": 0, "a.cls": b"0", "a.json": b'{"k": "x"}', "b.png": 1, "b.cls": b"0", "b.json": b'{"k": "y"}'}
    path = write(tmp_path / "x.tar", members)
    assert load(config(path, tmp_path, label_column="k"), "train").class_names == ("x", "y")
    with pytest.raises(ValueError, match=r"no \.json of these shards has an entry 'cls'"):
        load(config(path, tmp_path, label_column="cls"), "train")
    del members["b.json"]
    path = write(tmp_path / "y.tar", members)
    with pytest.raises(ValueError, match=r"b has no class but others have; add an entry 'k' to its \.json"):
        load(config(path, tmp_path, label_column="k"), "train")


def test_classes_of_words_are_sorted_as_people_count_and_in_one_unicode_form(tmp_path):
    words = ["n10", "n9", "n1", "\u00e9", "e\u0301"]
    path = labelled(tmp_path / "x.tar", [("cls", word.encode()) for word in words])
    data = load(config(path, tmp_path), "train")
    assert data.class_names == ("n1", "n9", "n10", "\u00e9")
    assert data.labels.tolist() == [2, 1, 0, 3, 3]


def test_folders_inside_archives_are_no_classes_in_silence(tmp_path):
    path = write(
        tmp_path / "x.tar", {"pets/cat/a.png": 0, "pets/cat/b.png": 1, "pets/dog/a.png": 2, "pets/dog/b.png": 3}
    )
    with pytest.warns(UserWarning, match=r"no classes to learn; if the folders inside \(cat, dog\) are .* unpack"):
        assert load(config(path, tmp_path), "train").class_names == ("all",)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load(config(path, tmp_path, unconditional=True), "train").class_names == ("all",)
        assert len(load(config(write(tmp_path / "y.tar", {"d/a.png": 0, "d/b.png": 1}), tmp_path), "train")) == 2


def test_whether_classes_are_wanted_is_part_of_what_is_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "MEMORY_LIMIT", 100)
    path = write_tar(tmp_path / "set", samples(8))
    for options, count in (({}, 2), ({"unconditional": True}, 1), ({}, 2)):
        assert load(config(path, tmp_path, **options), "train").num_classes == count


# ------------------------------------------------------------------------------------------------------------ splits


@pytest.mark.parametrize(
    ("names", "train", "test", "message"),
    [
        (["a.tar", "b.tar"], [0, 1], [], None),
        (["TRAIN-0.tar", "Test-0.tar"], [0], [1], None),
        (["training.tar", "x_valid.tar"], [0], [1], None),
        (["a.tar", "testing/b.tar"], [0], [1], None),
        (["contest.tar", "interval.tar"], [0, 1], [], None),
        (["train.tar", "test.tar", "val.tar"], [0], [1], r"1 shards of splits that are not used \(val\): .*val\.tar"),
        (["train.tar", "cats.tar", "dogs.tar"], [0], [], r"2 of 3 files, because beside train\.tar .*cats\.tar"),
    ],
)
def test_shards_are_of_the_split_that_their_names_say(tmp_path, names, train, test, message):
    for i, name in enumerate(names):
        write(tmp_path / "set" / name, {f"{i}.png": i})
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        settings = config(tmp_path / "set", tmp_path)
        assert which(settings, tmp_path) == train
        if test:
            assert which(settings, tmp_path, "test") == test
    texts = {str(warning.message) for warning in told}
    if message is None:
        assert not texts
    else:
        with pytest.warns(UserWarning, match=f"left out {message}"):
            load(settings, "train")


def test_a_folder_of_nothing_but_test_shards_is_learned_with_a_word(tmp_path):
    for i, name in enumerate(["test-0.tar", "test-1.tar"]):
        write(tmp_path / "set" / name, {f"{i}.png": i})
    with pytest.warns(UserWarning, match=r"all shards are called test, so they are what is learned from"):
        assert which(config(tmp_path / "set", tmp_path), tmp_path) == [0, 1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert which(config(tmp_path / "set" / "test-1.tar", tmp_path), tmp_path) == [1], "asked for by its own name"


def test_pixels_are_those_of_the_members(tmp_path):
    """Also behind long names, which take more than one header."""
    members = {f"{'x' * 300}/{i:03d}.png": i for i in range(20)}
    data = load(config(write(tmp_path / "x.tar", members), tmp_path), "train")
    expected = load(config(write(tmp_path / "y.tar", {f"{i:03d}.png": i for i in range(20)}), tmp_path), "train")
    assert torch.equal(data.__getitems__(range(20))[0], expected.__getitems__(range(20))[0])
