"""`evaluate` with the sampler's options: what is measured, what the rows say, which files they go to, and what is refused."""

import json
import re
import warnings

import pytest

from distillkac import distill, evaluate, train
from distillkac.evaluation.metrics import Evaluator
from distillkac.runs.config import load_config
from distillkac.runs.run import open_run
from distillkac.runs.run_data import RunData
from distillkac.runs.sampling import SamplerConfig, class_labels, generate
from tests.commands.tiny import TINY
from tests.toys import refused

NUM = 40


def rows_of(path):
    return json.loads(path.read_text())["rows"][1:]


@pytest.mark.parametrize(
    ("options", "file", "settled"),
    [
        ({"rho": 1.5}, "evaluation-rho-1.5.json", {"rho": 1.5, "integrator": "ab2", "gamma": None}),
        ({"integrator": "heun"}, "evaluation-integrator-heun.json", {"rho": 1.0, "integrator": "heun", "nfe": 4}),
        (
            {"gamma": 0.5, "max_speed": 3.0},
            "evaluation-max-speed-3-gamma-0.5.json",
            {"integrator": "gamma", "gamma": 0.5, "max_speed": 3.0, "restart": 0.0},
        ),
        ({"launch": 0.2}, "evaluation-launch-0.2.json", {"launch": 0.2, "landing": 0.0}),
        ({"restart": 0.5}, "evaluation-restart-0.5.json", {"restart": 0.5, "integrator": "euler"}),
    ],
    ids=str,
)
def test_a_row_is_what_sample_would_draw_and_says_how(run, options, file, settled):
    assert evaluate.main([str(run), "--num", str(NUM), "--teacher-steps", "2", "--model", "teacher"]) == 0
    plain = (run / "evaluation.json").read_bytes()
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    asked = [str(run), "--num", str(NUM), "--teacher-steps", "2", "--model", "teacher", *words]
    assert evaluate.main(asked) == 0
    (row,) = rows_of(run / file)
    assert {name: row[name] for name in settled} == settled
    assert (row["name"], row["steps"]) == ("teacher", 2)
    assert (run / "evaluation.json").read_bytes() == plain  # the table of the defaults is as it was
    pictures = {path.name for path in (run / "samples").iterdir()}
    assert {file.replace("evaluation", name)[:-5] + ".png" for name in ("overview", "teacher-steps-2")} <= pictures

    opened, images = open_run(run, "cpu"), RunData(run, load_config(run))
    evaluator = Evaluator(images.load_pixels("train"), images.load_pixels("test"), run)
    labels = class_labels(opened.config, NUM)
    expected = evaluator(generate(opened, labels, SamplerConfig(2, **options)).images, labels)
    assert row["frechet"] == pytest.approx(expected["frechet"], rel=1e-9)  # the same images
    (other,) = rows_of(run / "evaluation.json")
    assert other["frechet"] != pytest.approx(row["frechet"], rel=1e-7)
    assert (other["rho"], other["integrator"]) == (1.0, "ab2")


def test_students_are_measured_with_what_they_can_do(run):
    assert evaluate.main([str(run), "--num", str(NUM), "--model", "student", "--gamma", "0.25"]) == 0
    found = [
        (row["name"], row["steps"], row["gamma"], row["rho"]) for row in rows_of(run / "evaluation-gamma-0.25.json")
    ]
    assert found == [("student-2", 2, 0.25, 1.5), ("student-1", 1, 0.25, 1.5)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--rho", "1"], "got rho = 1; .*--model teacher measures .* without its students"),
        (["--launch", "0.1"], "launch and landing are for a teacher .*--model teacher measures"),
        (["--model", "student", "--integrator", "ab2"], "takes Euler steps: omit integrator 'ab2'"),
        (["--gamma", "2"], "gamma must lie in"),
        (["--gamma", "0.5", "--restart", "0.5"], "give one of them"),
        (["--max-speed", "-1"], "max_speed must be positive"),
        (["--interval", "0.2", "0.8"], "there is none to act"),
        (["--ema", "all", "--rho", "1"], "omit --rho"),
        (["--ema", "all", "--model", "teacher"], "omit --model"),
        (["--ema", "all", "--teacher-steps", "4", "2"], "at one number of steps"),
        (["--model", "student", "--teacher-steps", "4"], "which --model student leaves out"),
        (["--reference", "train"], "--reference is of --metrics fid, kid, precision-recall: name one"),
        (["--reference-num", "100"], "omit --reference-num"),
        (["--inception", "download"], "omit --inception"),
        (["--metrics", "classifier", "fid", "--k", "5"], "--k is of --metrics precision-recall"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_means_nothing_is_refused_before_anything_is_drawn(run, capsys, monkeypatch, options, said):
    monkeypatch.setattr(evaluate, "measure_with_classifier", lambda *_: pytest.fail("went on"))
    found = refused(evaluate, [run, "--num", NUM, *options], capsys)
    assert re.search(said, found.replace("\n", " ")), found


def test_averages_are_measured_by_no_launcher(run, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, "measure_averages", lambda *_: pytest.fail("went on"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "start it without a launcher" in refused(evaluate, [run, "--num", NUM, "--ema", "all"], capsys)


def test_a_run_that_has_no_such_network_says_so(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, "measure_with_classifier", lambda *_: pytest.fail("went on"))
    alone = tmp_path / "quad"
    assert train.main(["--run", str(alone), "--steps", "2", *TINY, "--process", "quad"]) == 0
    capsys.readouterr()
    assert "has no students to measure" in refused(evaluate, [alone, "--model", "student"], capsys)
    assert "draw a share of each step anew by restart" in refused(evaluate, [alone, "--gamma", "0.5"], capsys)
    assert "is itself a student" in refused(evaluate, [run / "student-2", "--model", "teacher"], capsys)


def test_a_weight_that_students_have_folded_in_is_said_and_guides_no_average(tmp_path):
    folder = tmp_path / "run"
    assert train.main([*TINY, "--run", str(folder), "--steps", "2", "--optim.decays", "0.5"]) == 0
    assert distill.main([str(folder), "--stages", "4,2", "--steps", "2", "--w", "2", "--optim.batch-size", "16"]) == 0
    measured = [str(folder), "--num", str(NUM), "--teacher-steps", "2"]
    with pytest.warns(
        UserWarning, match=r"run is sampled with w = 2, which its students have folded in \(--w 0: without\)"
    ):
        assert evaluate.main(measured) == 0
    guided = [(row["name"], row["w"], row["nfe"]) for row in rows_of(folder / "evaluation.json")]
    assert guided == [("teacher", 2.0, 4), ("student-2", 2.0, 2)]
    with pytest.warns(UserWarning, match="student-2 was distilled with w = 2 folded in, which --w 1 does not change"):
        assert evaluate.main([*measured, "--w", "1"]) == 0
    assert [row["w"] for row in rows_of(folder / "evaluation-w-1.json")] == [1.0, 2.0]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*folded in")
        assert evaluate.main([*measured, "--w", "2"]) == 0
        assert evaluate.main([*measured, "--model", "teacher"]) == 0
    assert evaluate.main([str(folder), "--ema", "all", "--num", str(NUM), "--teacher-steps", "2"]) == 0
    table = (folder / "averages.json").read_bytes()
    assert [row["nfe"] for row in json.loads(table)["rows"]] == [2, 2]
    asked = ["--ema", "all", "--num", str(NUM), "--teacher-steps", "2", "--w", "1.5"]
    assert evaluate.main([str(folder), *asked]) == 0
    report = json.loads((folder / "averages-w-1.5.json").read_text())
    assert ([row["nfe"] for row in report["rows"]], report["w"]) == ([4, 4], 1.5)
    assert (folder / "averages.json").read_bytes() == table
