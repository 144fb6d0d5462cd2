"""Train, distil and evaluate end to end on a tiny run."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from distillkac import distill, evaluate, report, sample, train
from distillkac.base import files
from distillkac.evaluation import evaluators
from distillkac.runs import checkpoints, pictures
from distillkac.runs.config import RunConfig, load_config, save_config
from distillkac.runs.run import open_run, students
from distillkac.runs.sampling import SamplerConfig, choose, class_labels, generate
from tests.commands.tiny import CHAIN, TINY, arrays


def test_train_and_distill_fill_the_run_folder(run):
    for folder, steps in ((run, 6), (run / "student-2", 3), (run / "student-1", 3)):
        for name in (
            "config.json",
            "model.safetensors",
            "ema.safetensors",
            "state/training.pt",
            "metrics.jsonl",
            "curves.png",
        ):
            assert (folder / name).stat().st_size > 0
        assert checkpoints.load_state(folder)["step"] == load_config(folder).steps == steps
    assert load_config(run).student is None
    assert load_config(run / "student-1").student.teacher_steps == 2


@pytest.mark.one_alignment
def test_every_checkpoint_leaves_samples_of_the_averaged_network(tmp_path):
    options = ["--steps", "4", "--optim.save-every", "2", *TINY]
    assert train.main(["--run", str(tmp_path / "run"), "--preview", "12", *options]) == 0
    grids = sorted((tmp_path / "run" / "samples").iterdir())
    assert [path.name for path in grids] == ["step-000002.png", "step-000004.png"]
    run = open_run(tmp_path / "run", torch.device("cpu"))
    expected = pictures.grid_image(generate(run, class_labels(run.config, 12), SamplerConfig(steps=20)).images)
    with Image.open(grids[1]) as drawn:
        assert np.array_equal(np.asarray(drawn), np.asarray(expected))
    assert train.main(["--run", str(tmp_path / "blind"), "--preview", "0", *options]) == 0
    assert not (tmp_path / "blind" / "samples").exists()
    names = [checkpoints.load_weights(tmp_path / name)[0] for name in ("run", "blind")]
    assert all(torch.equal(names[0][key], names[1][key]) for key in names[0])  # looking changes nothing


@pytest.mark.one_alignment
def test_a_chain_ends_with_inverse_distillation_and_resumes(run, tmp_path):
    options = [str(run), *CHAIN, "--inverse.steps", "2", "--out", str(tmp_path)]
    assert distill.main(options) == 0
    weights = {name: checkpoints.load_weights(tmp_path / name)[0] for name in ("student-1", "student-1-inverse")}
    moved = [(weights["student-1"][k] - v).abs().max() for k, v in weights["student-1-inverse"].items()]
    assert 0 < max(moved) < 0.05
    assert set(checkpoints.load_state(tmp_path / "student-1-inverse")["model"]) == {
        f"{part}.{name}" for part in ("generator", "fake") for name in weights["student-1"]
    }
    config = load_config(tmp_path / "student-1-inverse")
    assert (config.student.method, config.student.num_steps, config.steps) == ("inverse", 1, 2)
    assert distill.main([*options, "--resume"]) == 0
    # One longer run from the student alone, stopped and resumed, is that run.
    alone = [str(run), "--stages", "1", "--start", str(tmp_path / "student-1"), "--seed", "0", *CHAIN[-2:]]
    assert distill.main([*alone, "--inverse.steps", "2", "--out", str(tmp_path / "again")]) == 0
    again, _ = checkpoints.load_weights(tmp_path / "again" / "student-1-inverse")
    assert all(torch.equal(value, again[name]) for name, value in weights["student-1-inverse"].items())
    assert [path.name for path in students(tmp_path)] == ["student-2", "student-1-inverse", "student-1"]
    assert choose(tmp_path, SamplerConfig(steps=1)) == tmp_path / "student-1-inverse"
    assert sample.main([str(tmp_path / "student-1-inverse"), "--steps", "1", "--num", "4"]) == 0


@pytest.mark.parametrize(
    "options",
    [
        ["--backward", "0.5", "--exact-start"],
        ["--method", "reconstruction", "--reconstruction.steps", "2"],
        ["--w", "2", "--backward", "1"],
        ["--w-max", "2", "--backward", "1"],
    ],
)
def test_every_method_distils_and_its_students_sample(run, tmp_path, options):
    assert distill.main([str(run), *CHAIN, *options, "--out", str(tmp_path)]) == 0
    for folder in students(tmp_path):
        steps = load_config(folder).student.num_steps
        out = str(tmp_path / f"{steps}.npz")
        assert sample.main([str(folder), "--steps", str(steps), "--num", "4", "--out", out]) == 0
        assert np.load(out)["images"].std() > 0


def test_tensorboard_gets_the_metrics(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert train.main(["--run", str(tmp_path), "--steps", "4", "--track", "tensorboard", *TINY]) == 0
    events = EventAccumulator(str(tmp_path / "distillkac")).Reload()
    lines = [json.loads(line) for line in (tmp_path / checkpoints.METRICS).read_text().splitlines()]
    shown = [(event.step, event.value) for event in events.Scalars("loss")]
    assert shown == [(line["step"], pytest.approx(line["loss"])) for line in lines]
    assert len(shown) == 2


def test_report_is_one_file_with_everything_in_it(run, tmp_path):
    assert evaluate.main([str(run), "--num", "30", "--teacher-steps", "2"]) == 0
    assert report.main([str(run), "--out", str(tmp_path / "r.html")]) == 0
    page = (tmp_path / "r.html").read_text()
    for word in ("telegraph (a 25, c 2)", "student-2", "Fréchet", "optim.batch_size", "samples/overview.png"):
        assert word in page
    assert page.count("data:image/png;base64,") >= 5
    digest = json.loads((run / "evaluation.json").read_text())["evaluator"]["digest"]
    assert f"Evaluator: digits, shipped, {digest[:12]}" in page
    assert "http" not in page  # nothing is loaded from anywhere
    assert report.main([str(tmp_path)]) == 1


def test_students_start_from_their_teacher(run):
    """Three small steps leave a student close to its teacher, and not equal to it."""
    teacher, student, other = (checkpoints.load_weights(f)[0] for f in (run, run / "student-2", run / "student-1"))
    drift = max((teacher[k] - student[k]).abs().max().item() for k in teacher)
    assert 0 < drift < 5e-3
    assert 0 < max((other[k] - student[k]).abs().max().item() for k in teacher) < 5e-3


def test_evaluate_measures_a_student_alone(run, capsys):
    assert evaluate.main([str(run / "student-2"), "--num", "60"]) == 0
    names = [line.split()[:2] for line in capsys.readouterr().out.splitlines() if line.startswith("student")]
    assert names == [["student-2", "2"]]
    assert (run / "student-2" / "samples" / "trajectory.png").stat().st_size > 0


def test_evaluate_writes_the_table(run, capsys):
    assert evaluate.main([str(run), "--num", "60", "--teacher-steps", "2"]) == 0
    printed = capsys.readouterr().out
    report = json.loads((run / "evaluation.json").read_text())
    rows = [(row["name"], row.get("steps"), row.get("nfe")) for row in report["rows"]]
    digest = json.loads((evaluators.FOLDER / "index.json").read_text())["digits"]["digest"]
    assert report["evaluator"] == {"name": "digits, shipped", "digest": digest}
    assert printed.startswith(f"evaluator: digits, shipped, {digest[:12]}; 9")
    assert not list(run.glob("classifier.*"))
    assert rows == [("real train images", None, None), ("teacher", 2, 2), ("student-2", 2, 2), ("student-1", 1, 1)]
    for row in report["rows"][1:]:
        assert f"{row['frechet']:.3f}" in printed
        assert {"accuracy", "worst_class_accuracy", "diversity", "nn_ratio", "images_per_second"} <= row.keys()
    for name in ("teacher-steps-2", "student-2-steps-2", "student-1-steps-1", "trajectory"):
        with Image.open(run / "samples" / f"{name}.png") as picture:
            assert min(picture.size) > 8


def test_conditioned_students_serve_every_w(run, tmp_path):
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    for name in (checkpoints.CONFIG, checkpoints.EMA):
        (teacher / name).write_bytes((run / name).read_bytes())
    assert distill.main([str(teacher), *CHAIN, "--w-max", "3"]) == 0
    plain = arrays(teacher, tmp_path, "--steps", "1", "--num", "4")[0]
    guided = arrays(teacher, tmp_path, "--steps", "1", "--num", "4", "--w", "3")[0]
    assert plain.shape == guided.shape
    assert sample.main([str(teacher), "--steps", "1", "--w", "4", "--model", "student"]) == 1
    with pytest.warns(UserWarning, match=r"the teacher is sampled in 1 step: .*distilled for w up to 3"):
        assert sample.main([str(teacher), "--steps", "1", "--w", "4", "--num", "4"]) == 0


def test_resumed_chain_skips_what_is_done(run, capsys):
    before = (run / "student-2" / checkpoints.EMA).read_bytes()
    assert distill.main([str(run), *CHAIN, "--resume"]) == 0
    assert (run / "student-2" / checkpoints.EMA).read_bytes() == before


def test_ctrl_c_saves_and_resume_goes_on(tmp_path):
    """The command as a user runs it, stopped by SIGINT, then resumed without repeating its options."""
    folder = tmp_path / "run"
    argv = ["--run", str(folder), "--process", "planar", "--steps", "100000", *TINY]
    process = subprocess.Popen(
        [sys.executable, "-m", "distillkac.train", *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    log = folder / checkpoints.METRICS
    while not (log.exists() and log.stat().st_size) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "--resume continues" in out
    assert "Traceback" not in error
    assert re.search(r"step \d+/100000, loss \d+\.\d+, \d+ samples/s", error)  # no bar: this is no terminal
    step = checkpoints.load_state(folder)["step"]
    assert f"saved at step {step} of 100000" in out
    assert train.main(["--run", str(folder), "--resume", "--steps", str(step + 3)]) == 0
    assert checkpoints.load_state(folder)["step"] == step + 3
    assert load_config(folder).noise.process == "planar"


def test_config_round_trip(tmp_path):
    config = RunConfig(shape=(3, 8, 8), class_names=("a", "b"), steps=7)
    save_config(tmp_path, config)
    assert load_config(tmp_path) == config
    content = json.loads((tmp_path / "config.json").read_text())
    files.write_json(tmp_path / "config.json", content | {"flavour": 1})
    with pytest.raises(ValueError, match=r"config\.json: not a config of this version.*flavour"):
        load_config(tmp_path)
    files.write_json(tmp_path / "config.json", [1])
    with pytest.raises(ValueError, match="not a config of this version"):
        load_config(tmp_path)
