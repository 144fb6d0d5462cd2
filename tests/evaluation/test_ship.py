"""Making a shipped model of a run: what is packed, measured and written, and which runs do not fit."""

import json
import re
import shutil

import pytest

from distillkac import distill, evaluate
from distillkac.base import files
from distillkac.evaluation import model_card, ship
from distillkac.runs import SamplerConfig, choose, open_run, shipped


@pytest.fixture(scope="module")
def measured(digits_run, tmp_path_factory):
    """A run that was evaluated; only read."""
    folder = shutil.copytree(digits_run, tmp_path_factory.mktemp("measured") / "run")
    assert evaluate.main([str(folder), "--num", "60", "--teacher-steps", "2"]) == 0
    return folder


@pytest.fixture
def run(measured, tmp_path, monkeypatch):
    """A copy that may be spoilt, whose only student has 2 steps."""
    monkeypatch.setattr(ship, "WORSE", 1.5)  # it has hardly learned
    return shutil.copytree(measured, tmp_path / "run")


def make(run, name="mine", *more):
    words = [
        str(run),
        name,
        "--made-by",
        "a test",
        "--title",
        "toy digits",
        "--source",
        "scikit-learn.",
        "--steps",
        "2",
    ]
    return ship.main([*words, "--commit", "abc", "--out", str(run.parent / "out"), *more])


def test_a_model_is_made_that_opens_by_its_name(run, monkeypatch, capsys):
    assert make(run) == 0
    out = run.parent / "out"
    assert capsys.readouterr().out.endswith(" bytes)\n")
    assert {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} == {
        "index.json",
        "mine/card.md",
        "mine/student-2/config.json",
        "mine/student-2/ema.safetensors",
    }
    monkeypatch.setattr(shipped, "FOLDER", out)
    assert shipped.problems() == []
    entry = shipped.index()["mine"]
    assert (out / "mine" / "card.md").read_text(encoding="utf-8") == model_card.card("mine", entry)
    known = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    assert entry["evaluator"] == known["evaluator"]
    assert (entry["num"], entry["commit"], entry["made_by"]) == (60, "abc", "a test")
    assert [row["name"] for row in entry["rows"]] == ["real train images", "teacher", "student-2"]
    assert entry["trained"] == [{k: v for k, v in known["rows"][-1].items() if k != "images_per_second"}]
    opened, before = open_run(choose("mine", SamplerConfig(2)), "cpu"), open_run(run / "student-2", "cpu")
    assert opened.config == before.config
    assert "It draws images of 8 × 8 pixels, grey, in 2 steps." in (out / "mine" / "card.md").read_text(
        encoding="utf-8"
    )
    gaps = [
        (value - before.network.state_dict()[name]).abs().max() / value.abs().max().clamp(min=1e-6)
        for name, value in opened.network.state_dict().items()
    ]
    assert 0 < max(gaps) < 0.3


def test_another_model_joins_the_index_and_one_is_made_again(run):
    assert make(run) == 0
    assert make(run, "yours", "--grain", "0.3") == 0
    assert make(run, "yours", "--grain", "0.05") == 0
    index = files.read_json(run.parent / "out" / "index.json")
    assert list(index) == ["mine", "yours"]
    assert index["mine"]["bytes"] < index["yours"]["bytes"]
    assert index["yours"]["grain"] == 0.05


def test_one_student_for_any_number_of_steps_is_shipped_for_all_of_them(run, monkeypatch):
    shutil.rmtree(run / "student-2")
    options = ["--method", "consistency", "--consistency.steps", "1", "--consistency.num-steps", "2"]
    assert distill.main([str(run), *options, "--optim.batch-size", "16"]) == 0
    assert evaluate.main([str(run), "--num", "60", "--teacher-steps", "2"]) == 0
    assert make(run, "any", "--steps", "2", "1") == 0
    out = run.parent / "out"
    rows = files.read_json(out / "index.json")["any"]["rows"]
    name = "student-2-consistency"
    assert [(row["name"], row["nfe"]) for row in rows[2:]] == [(name, 2), (name, 1)]
    assert "distillkac sample any --steps 1" in (out / "any" / "card.md").read_text(encoding="utf-8")
    monkeypatch.setattr(shipped, "FOLDER", out)
    assert all(choose("any", SamplerConfig(steps)).name == name for steps in (1, 2))


def spoil(run, how):
    path = run / "evaluation.json"
    known = json.loads(path.read_text(encoding="utf-8"))
    if how == "no evaluation":
        path.unlink()
    elif how == "no student":
        shutil.rmtree(run / "student-2")
    elif how == "not measured":
        files.write_json(path, known | {"rows": known["rows"][:-1]})
    elif how == "other evaluator":
        files.write_json(path, known | {"evaluator": {"name": "trained here", "digest": "0" * 32}})
    elif how == "worse":
        rows = [row | {"frechet": row["frechet"] / 2} for row in known["rows"]]
        files.write_json(path, known | {"rows": rows})


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("no evaluation", r"has no evaluation\.json: measure it first"),
        ("no student", "has no student-2: distil it first"),
        ("not measured", "has no figures of student-2: evaluate the run again"),
        ("other evaluator", r"evaluation\.json is of another evaluator than digits, shipped"),
        ("worse", r"student-2 is worse when it is packed \(frechet .*lower --grain"),
    ],
)
def test_a_run_that_does_not_fit_is_refused_and_nothing_is_left(run, capsys, how, sentence):
    assert make(run, "there") == 0
    before = {path: path.read_bytes() for path in (run.parent / "out").rglob("*") if path.is_file()}
    spoil(run, how)
    for name in ("there", "new"):
        capsys.readouterr()
        assert make(run, name) == 1
        assert re.search(sentence, capsys.readouterr().err)
    assert {path: path.read_bytes() for path in (run.parent / "out").rglob("*") if path.is_file()} == before


def test_a_student_a_strange_name_and_too_many_bytes_are_refused(run, capsys, monkeypatch):
    assert make(run / "student-2") == 1
    assert "is itself a student: name the run of its teacher" in capsys.readouterr().err
    for name in ("two words", "../up", "zwölf", ""):
        assert make(run, name) == 1
        assert "name must be one word" in capsys.readouterr().err
    assert make(run, "small") == 0
    size = files.read_json(run.parent / "out" / "index.json")["small"]["bytes"]
    monkeypatch.setattr(shipped, "LIMIT", size)
    assert make(run, "small") == 0  # made again, it is not counted twice
    assert make(run, "more") == 1
    assert (
        f"all models would have {2 * size} bytes, at most {size} are shipped: raise --grain" in capsys.readouterr().err
    )
    assert not (run.parent / "out" / "more").exists()
