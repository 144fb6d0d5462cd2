"""The models that distillkac carries: named wherever a run is read, whole or refused, and written by nobody."""

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch

from distillkac import distill, doctor, evaluate, export, report, train
from distillkac.data import DataConfig
from distillkac.distillation.chain import Chain, DistillConfig
from distillkac.evaluation import model_card
from distillkac.flow.networks import NetworkConfig
from distillkac.runs import SamplerConfig, checkpoints, choose, load_config, open_run, shipped
from distillkac.runs.run import students
from distillkac.runs.sampling import usual_steps
from distillkac.scheduler import KacScheduler
from distillkac.training import train as train_in_python
from tests.toys import TINY_OPTIONS

NAMES = list(shipped.index())


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A current folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def copies(tmp_path, monkeypatch):
    """The shipped models, to be spoilt."""
    folder = shutil.copytree(shipped.FOLDER, tmp_path / "shipped")
    monkeypatch.setattr(shipped, "FOLDER", folder)
    return folder


# ------------------------------------------------------------------------------------------------------ what is shipped


def test_digits_are_there_and_all_are_small():
    assert "digits" in NAMES
    assert shipped.names() == NAMES
    assert shipped.problems() == []
    sizes = [path.stat().st_size for path in shipped.FOLDER.glob(f"*/*/{checkpoints.EMA}")]
    assert sum(sizes) <= shipped.LIMIT <= 4_000_000


@pytest.mark.parametrize("name", NAMES)
def test_the_index_knows_every_file_and_the_card_is_its_text(name):
    entry = shipped.index()[name]
    folder = shipped.FOLDER / name
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert there == set(entry["files"])
    assert entry["bytes"] == sum(path.stat().st_size for path in folder.glob(f"*/{checkpoints.EMA}"))
    assert (folder / shipped.CARD).read_text(encoding="utf-8") == model_card.card(name, entry)
    assert [load_config(path).student.num_steps for path in students(folder)] == [4, 1]


@pytest.mark.parametrize("name", NAMES)
def test_every_student_opens_and_is_what_the_index_says(name):
    entry = shipped.index()[name]
    for steps in (4, 1):
        run = open_run(choose(name, SamplerConfig(steps)), "cpu")
        assert run.config.student.num_steps == steps
        assert list(run.config.shape) == entry["shape"]
        assert list(run.config.class_names) == entry["classes"]
        assert {value.dtype for value in run.network.state_dict().values()} == {torch.float32}


# ------------------------------------------------------------------------------------------------------------- by name


def test_a_name_is_its_student_of_most_steps(elsewhere):
    assert open_run("digits", "cpu").folder == shipped.FOLDER / "digits" / "student-4-consistency"
    assert open_run("digits/student-1-inverse", "cpu").config.student.num_steps == 1
    assert usual_steps(shipped.FOLDER / "digits") == usual_steps("digits") == 4
    assert usual_steps(shipped.FOLDER / "digits" / "student-1-inverse") == 1
    assert KacScheduler.from_pretrained("digits").config.restart == 0.5  # of a student of any number of steps


def test_a_folder_without_students_of_its_own_has_the_usual_steps(toy_run):
    assert usual_steps(toy_run) == SamplerConfig().steps


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"steps": 20}, r"^digits has no student for 20 steps \(students: 4, 1\); it comes with distillkac, without"),
        ({"steps": 4, "model": "teacher"}, "^digits comes with distillkac without its teacher"),
        ({"steps": 4, "w": 2.0}, "^digits/student-4-consistency was distilled with w = 0.0"),
        ({"steps": 20, "model": "student"}, "^digits has no student for 20 steps"),
    ],
)
def test_what_its_students_cannot_do_is_refused(elsewhere, asked, sentence):
    with pytest.raises(ValueError, match=sentence):
        choose("digits", SamplerConfig(**asked))


def test_a_run_of_that_name_goes_before_the_model_and_says_so(elsewhere, toy_run):
    shutil.copytree(toy_run, "digits")
    with pytest.warns(
        UserWarning, match=r"^digits is a run in this folder and digits also a model .*: the run is taken"
    ):
        assert open_run("digits", "cpu").config.student is None
    with pytest.warns(UserWarning, match="the run is taken"):
        assert choose("digits", SamplerConfig(20)).absolute() == elsewhere / "digits"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_run(elsewhere / "digits", "cpu").config.student is None  # no name but a path


def test_a_folder_of_that_name_that_is_no_run_does_not_hide_the_model(elsewhere):
    (elsewhere / "digits").mkdir()  # images that were sampled to it, say
    (elsewhere / "digits" / "00000-class-0.png").touch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_run("digits", "cpu").name == "student-4-consistency"


def test_paths_that_only_begin_like_a_name_are_paths(elsewhere):
    for place in (
        "digits/student-2",
        "digits/..",
        "digits/student-4-consistency/state",
        "runs/digits",
        "./x/digits",
        ".",
        "",
    ):
        assert shipped.folder_of(place) == Path(place)
    with pytest.raises(ValueError, match=r"digist is no run folder: .*did you mean digits"):
        open_run("digist", "cpu")


# --------------------------------------------------------------------------------------------------------------- whole


@pytest.mark.parametrize("file", ["student-4-consistency/ema.safetensors", "student-1-inverse/config.json", "card.md"])
@pytest.mark.parametrize("damage", ["bit", "cut", "missing"])
def test_a_damaged_file_is_refused_by_name(copies, elsewhere, capsys, file, damage):
    path = copies / "digits" / file
    content = path.read_bytes()
    if damage == "bit":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "cut":
        path.write_bytes(content[:100])
    else:
        path.unlink()
    sentence = f"{path} is {'missing' if damage == 'missing' else 'damaged, or was replaced'}; .* install it again"
    for use in (open_run, usual_steps, lambda name: choose(name, SamplerConfig(4))):
        with pytest.raises(ValueError, match=sentence):
            use("digits")
    assert doctor.models() == shipped.problems() != []
    assert "models        damaged" in capsys.readouterr().out


def test_weights_are_checked_by_their_own_digest_too(copies):
    """Where the folder is given, not the name."""
    path = copies / "digits" / "student-4-consistency" / checkpoints.EMA
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"student-4-consistency/ema\.safetensors: .*damaged"):
        open_run(path.parent, "cpu")


@pytest.mark.parametrize("content", [None, "{", "no JSON"])
def test_a_damaged_index_spoils_the_models_alone(copies, toy_run, content):
    path = copies / shipped.INDEX
    path.unlink() if content is None else path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"index\.json is missing or damaged .*install it again"):
        open_run("digits")
    assert open_run(toy_run, "cpu").config.student is None
    assert doctor.models() != []


def test_a_model_that_is_not_in_the_index_is_refused(copies):
    shutil.copytree(copies / "digits", copies / "letters")
    with pytest.raises(ValueError, match=r"letters is not in index\.json"):
        open_run("letters")


def test_doctor_names_the_models(capsys):
    assert doctor.models() == []
    assert capsys.readouterr().out == f"models        {', '.join(NAMES)}\n"


# ------------------------------------------------------------------------------------------------------------ read only


REFUSED = "is a model that comes with distillkac, students alone and read only: "


@pytest.mark.parametrize(
    "place", ["digits", "digits/student-4-consistency", "FOLDER/digits", "FOLDER/digits/student-4-consistency"]
)
@pytest.mark.parametrize(
    ("main", "options", "why"),
    [
        (train.main, ["--run", "PLACE", *TINY_OPTIONS], "train and distil in a folder of another name"),
        (train.main, ["--run", "PLACE", "--resume"], "train and distil in a folder of another name"),
        (distill.main, ["PLACE"], "there is no teacher to distil"),
        (evaluate.main, ["PLACE"], "distillkac models digits --measure measures it"),
        (report.main, ["PLACE"], "its model card is what there is to report: distillkac models digits"),
    ],
)
def test_nothing_is_written_into_a_model(copies, elsewhere, capsys, place, main, options, why):
    place = place.replace("FOLDER", str(copies))
    before = {path: path.stat().st_mtime_ns for path in copies.rglob("*")}
    assert main([place if word == "PLACE" else word for word in options]) == 1
    told = capsys.readouterr().err
    assert REFUSED + why in told
    assert told.startswith("error: digits")
    assert {path: path.stat().st_mtime_ns for path in copies.rglob("*")} == before
    assert [path.name for path in elsewhere.iterdir()] == ["shipped"]


def test_python_does_not_write_into_a_model_either(elsewhere):
    with pytest.raises(ValueError, match=REFUSED):
        train_in_python("digits", DataConfig(), NetworkConfig())
    chain = Chain(Path("runs/demo"), Path("digits"), None, DistillConfig(), *[None] * 7)
    with pytest.raises(ValueError, match=REFUSED):
        next(chain())
    with pytest.raises(ValueError, match=REFUSED):  # it would stand before the model, though that has none of 2 steps
        shipped.refuse("digits/student-2", "elsewhere")
    shipped.refuse("digits/mine", "never said")
    assert list(elsewhere.iterdir()) == []


def test_a_run_that_has_the_name_already_goes_on(elsewhere, toy_run):
    shutil.copytree(toy_run, "digits")
    for place in ("digits", "digits/student-4-consistency", "digits/student-2"):
        shipped.refuse(place, "never said")
    assert json.loads((elsewhere / "digits" / "config.json").read_text(encoding="utf-8"))["student"] is None


def test_export_takes_a_model(elsewhere, capsys):
    assert export.main(["digits", "--out", "one.pt2"]) == 0
    assert capsys.readouterr().out.startswith("student-1-inverse in 1 steps -> one.pt2")
