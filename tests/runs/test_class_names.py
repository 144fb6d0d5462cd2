"""A class is the same class in every interface, whichever way it is written; file names and arrays carry its name."""

import dataclasses

import numpy as np
import pytest
import torch

from distillkac import sample
from distillkac.pipeline import KacPipeline
from distillkac.runs import class_names
from distillkac.runs.class_names import file_names, find, find_all
from distillkac.runs.config import RunConfig, save_config
from distillkac.runs.run import open_run
from distillkac.runs.sampling import SamplerConfig, class_labels, generate
from distillkac.web.engine import Demo
from tests.toys import run_config, trainer

NUMBERS = ("0", "1", "10", "2")  # place 2 is the class called 10
WORDS = ("cat", "dog", "2")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A network of four classes that are called by numbers, whose places are others."""
    folder = tmp_path_factory.mktemp("runs") / "numbers"
    config = run_config(steps=2, class_names=NUMBERS)
    trainer(folder, config).fit()
    save_config(folder, config)
    return folder


@pytest.mark.parametrize(
    ("label", "names", "place"),
    [
        ("10", NUMBERS, 2),
        (10, NUMBERS, 2),
        (2, NUMBERS, 3),  # the name wins over the place
        (np.int64(2), NUMBERS, 3),
        (np.uint8(2), NUMBERS, 3),
        (torch.tensor(2), NUMBERS, 3),
        ("2", WORDS, 2),
        (0, WORDS, 0),
        ("0", WORDS, 0),
        (2, WORDS, 2),
        ("2", ("2", "b", "c"), 0),
        ("7", ("05", "07"), 1),
        (7, ("05", "07"), 1),
        (-1, ("-1", "1"), 0),
        ("cafe\u0301", ("caf\xe9", "tea"), 0),  # typed on a system that writes the accent apart
        ("cat,dog", ("cat,dog", "x"), 0),
    ],
)
def test_a_number_or_a_word_is_one_class(label, names, place):
    assert find(label, names) == place


@pytest.mark.parametrize(
    ("label", "names"),
    [
        (3, NUMBERS),  # all classes are called by numbers, so 3 is no place
        ("3", NUMBERS),
        (True, NUMBERS),
        (np.bool_(True), NUMBERS),
        (torch.tensor(True), NUMBERS),
        (1.0, NUMBERS),
        (np.float32(1), NUMBERS),
        (-1, WORDS),
        ("-1", WORDS),
        (3, WORDS),
        ("\xb2", NUMBERS),  # a digit to Python's isdigit
        ("9" * 5000, WORDS),
        ("", WORDS),
        (None, WORDS),
        (b"cat", WORDS),
        (["cat"], WORDS),
    ],
)
def test_what_is_no_class_is_refused(label, names):
    with pytest.raises(ValueError, match=rf"class .* is unknown; the {len(names)} classes are {names[0]}") as refused:
        find(label, names)
    assert len(str(refused.value)) < 300


def test_one_class_or_a_list_of_them_in_every_form():
    for labels in (["1", 10], (1, "10"), np.array([1, 10]), torch.tensor([1, 10]), iter([1, 10])):
        assert find_all(labels, NUMBERS) == [1, 2]
    for label in ("10", 10, np.int64(10), torch.tensor(10), np.array(10), range(10, 11)):
        assert find_all(label, NUMBERS) == [2]
    for wrong in ([], (), range(0), np.array([], np.int64), torch.tensor([], dtype=torch.int64)):
        with pytest.raises(ValueError, match="no class is named"):
            find_all(wrong, NUMBERS)
    for wrong in (torch.tensor([[1]]), np.array([[1, 2]]), {"1": 1}, {"1"}):
        with pytest.raises(ValueError, match="one class or a list of them"):
            find_all(wrong, NUMBERS)


@pytest.mark.parametrize("label", ["0", "1", "2", "10"])
def test_command_line_pipeline_and_page_draw_the_same_class(run, tmp_path, label):
    """The label that reaches the network; `--classes 1` and the pipeline's 1 were different classes."""
    place = NUMBERS.index(label)
    out = tmp_path / "x.npz"
    assert sample.main([str(run), "--classes", label, "--num", "3", "--steps", "2", "--out", str(out)]) == 0
    with np.load(out) as arrays:
        assert arrays["labels"].tolist() == [place] * 3
        assert arrays["class_names"][place] == label
    assert class_labels(open_run(run, CPU).config, 2, (label,)).tolist() == [place] * 2
    assert class_labels(open_run(run, CPU).config, 2, (int(label),)).tolist() == [place] * 2
    pipeline, seen = KacPipeline.from_pretrained(run, 2), []
    forward = pipeline.unet.forward
    pipeline.unet.forward = lambda x, t, y, w=None: (seen.append(y.tolist()), forward(x, t, y, w))[1]
    for given in (label, int(label), [int(label)], torch.tensor(int(label)), np.int64(label)):
        pipeline(given)
    assert seen == [[place]] * 10
    page = Demo((run,), CPU)
    drawn = [page.generate("telegraph", [2], classes=[given], num=1)[0] for given in (label, int(label))]
    expected = page.generate("telegraph", [2], classes=[NUMBERS[place]], num=1)[0]
    assert all(choice.frames[-1].tobytes() == expected.frames[-1].tobytes() for choice in drawn)


def test_a_class_with_a_long_name_can_be_asked_for_on_the_page(run, tmp_path):
    long = "a" * 150
    config = dataclasses.replace(run_config(steps=2), class_names=(long, "b"))
    trainer(tmp_path / "long", config).fit()
    save_config(tmp_path / "long", config)
    assert not Demo((tmp_path / "long",), CPU).generate("telegraph", [1], classes=[long], num=1)[0].error


def test_labels_out_of_range_are_refused_by_the_sampler(run):
    loaded = open_run(run, CPU)
    for labels in ([5], [-1]):
        with pytest.raises(ValueError, match="labels must be numbers of classes, 0 to 3"):
            generate(loaded, torch.tensor(labels), SamplerConfig(steps=1))


def test_file_names_are_safe_and_different():
    names = ("dog", "Dog", "a/b", "a b", "a-b", "..", "", " ", "日本", "x" * 300, "x" * 299, "caf\udce9", "a:b\n")
    made = file_names(names)
    assert len(set(made)) == len(names)
    assert made[:2] == ["dog", "Dog"]
    assert made[4] == "a-b"  # a name that needs no change keeps it
    assert made[8] == "日本"
    for word in made:
        assert word
        assert not set(word) & set('/\\:*?"<>|\n\0 ')
        assert len(word.encode()) <= class_names.LONGEST + 4


def test_single_pngs_carry_the_names(tmp_path):
    config = dataclasses.replace(run_config(steps=2), class_names=("my cat", "my/cat"))
    trainer(tmp_path / "run", config).fit()
    save_config(tmp_path / "run", config)
    assert sample.main([str(tmp_path / "run"), "--num", "3", "--steps", "1", "--out", str(tmp_path / "out")]) == 0
    found = sorted(path.name for path in (tmp_path / "out").glob("*.png"))
    assert found == ["00000-class-my-cat.png", "00001-class-my-cat-1.png", "00002-class-my-cat.png"]


def test_labels_still_cycle_and_mean_what_they_meant():
    config = dataclasses.replace(RunConfig(), class_names=WORDS)
    assert class_labels(config, 4).tolist() == [0, 1, 2, 0]
    assert class_labels(config, 3, ("dog", "0", "2")).tolist() == [1, 0, 2]
