"""Every command end to end on a tiny run, and the sentence that each mistake of a user gets."""

import dataclasses
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
from tests.toys import TINY_OPTIONS, refusal

TINY = [*TINY_OPTIONS, "--optim.batch-size", "16", "--optim.log-every", "2"]
CHAIN = ["--stages", "4,2,1", "--steps", "3", "3", "--optim.batch-size", "16"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained teacher with students of 2 and 1 steps."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert train.main(["--run", str(folder), "--steps", "6", *TINY]) == 0
    assert distill.main([str(folder), *CHAIN]) == 0
    return folder


def arrays(run, tmp_path, *options):
    out = tmp_path / "samples.npz"
    assert sample.main([str(run), "--out", str(out), *options]) == 0
    with np.load(out) as loaded:
        return loaded["images"], loaded["labels"]


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
def test_recipe_ends_with_inverse_distillation_and_resumes(run, tmp_path):
    options = [str(run), "--recipe", "best", *CHAIN, "--inverse.steps", "2", "--out", str(tmp_path)]
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


def test_animation_ends_with_the_images(run, tmp_path):
    options = ["--steps", "2", "--num", "4", "--columns", "2"]
    assert sample.main([str(run), *options, "--out", str(tmp_path / "way.gif")]) == 0
    assert sample.main([str(run), *options, "--out", str(tmp_path / "end.png")]) == 0
    with Image.open(tmp_path / "way.gif") as way, Image.open(tmp_path / "end.png") as end:
        assert way.n_frames == 3
        way.seek(2)
        last, expected = np.asarray(way.convert("L")).astype(int), np.asarray(end.convert("L")).astype(int)
        assert np.abs(last - expected).max() <= 2  # a GIF has 256 levels of its own


def test_report_is_one_file_with_everything_in_it(run, tmp_path):
    assert evaluate.main([str(run), "--num", "30", "--teacher-steps", "2"]) == 0
    assert report.main([str(run), "--out", str(tmp_path / "r.html")]) == 0
    page = (tmp_path / "r.html").read_text()
    for word in ("telegraph (a = 25, c = 2)", "student-2", "Fréchet", "optim.batch_size", "samples/overview.png"):
        assert word in page
    assert page.count("data:image/png;base64,") >= 5
    digest = json.loads((run / "evaluation.json").read_text())["evaluator"]["digest"]
    assert f"Evaluator: digits, shipped, {digest[:12]}" in page
    assert "http" not in page  # nothing is loaded from anywhere
    assert report.main([str(tmp_path)]) == 1


@pytest.mark.one_alignment
def test_restarts_take_any_number_of_steps_and_change_the_images(run, tmp_path):
    chain, _ = arrays(run / "student-2", tmp_path, "--steps", "2", "--num", "8")
    half, _ = arrays(run / "student-2", tmp_path, "--steps", "2", "--restart", "0.5", "--num", "8")
    three, _ = arrays(run / "student-2", tmp_path, "--steps", "3", "--restart", "1", "--num", "8")
    few, _ = arrays(run / "student-2", tmp_path, "--steps", "3", "--restart", "1", "--num", "3")
    assert (chain != half).any()
    assert (half != three).any()
    assert (few == three[:3]).all()


def test_students_start_from_their_teacher(run):
    """Three small steps leave a student close to its teacher, and not equal to it."""
    teacher, student, other = (checkpoints.load_weights(f)[0] for f in (run, run / "student-2", run / "student-1"))
    drift = max((teacher[k] - student[k]).abs().max().item() for k in teacher)
    assert 0 < drift < 5e-3
    assert 0 < max((other[k] - student[k]).abs().max().item() for k in teacher) < 5e-3


@pytest.mark.parametrize("steps", ["1", "4"])
@pytest.mark.one_alignment
def test_same_seed_same_images_whatever_the_batch_size(run, tmp_path, steps):
    one = arrays(run, tmp_path, "--steps", steps, "--num", "23", "--batch-size", "23")
    for size in ("1", "7"):
        again = arrays(run, tmp_path, "--steps", steps, "--num", "23", "--batch-size", size)
        assert np.array_equal(one[0], again[0])
        assert np.array_equal(one[1], again[1])
    other = arrays(run, tmp_path, "--steps", steps, "--num", "23", "--seed", "1")
    assert not np.array_equal(one[0], other[0])
    fewer = arrays(run, tmp_path, "--steps", steps, "--num", "5")
    assert np.array_equal(fewer[0], one[0][:5])


def test_samples_are_those_of_the_averaged_network(run, tmp_path):
    images, labels = arrays(run, tmp_path, "--steps", "1", "--num", "6")
    network = open_run(run / "student-1", torch.device("cpu"))
    weights = checkpoints.load_weights(run / "student-1", checkpoints.EMA)[0]
    assert all(torch.equal(value, weights[name]) for name, value in network.network.state_dict().items())
    x1 = generate(network, torch.from_numpy(labels), SamplerConfig(steps=1), path=True).path[0]
    with torch.no_grad():
        x0 = x1 - network.network(x1, torch.ones(6), torch.from_numpy(labels))
    want = ((x0.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    assert np.abs(images.astype(int) - want.astype(int)).max() <= 1


def test_sample_says_which_network_and_how_many_evaluations(run, tmp_path, capsys):
    for options, words in (
        (["--steps", "2"], ("student-2", "nfe 2,")),
        (["--steps", "4"], ("teacher", "nfe 4,")),
        (["--steps", "2", "--model", "teacher"], ("teacher", "nfe 2,")),
        (["--steps", "2", "--integrator", "heun"], ("teacher", "nfe 4,")),
        (["--steps", "4", "--w", "2"], ("teacher", "nfe 8,")),
        (["--steps", "4", "--w", "2", "--interval", "0.2", "0.6"], ("teacher", "nfe 6,")),
    ):
        arrays(run, tmp_path, "--num", "2", *options)
        line = capsys.readouterr().out
        assert line.startswith(words[0])
        assert words[1] in line


@pytest.mark.one_alignment
def test_output_forms(run, tmp_path, capsys):
    images, labels = arrays(run, tmp_path, "--steps", "1", "--num", "5", "--classes", "3", "7")
    assert images.shape == (5, 8, 8, 1)
    assert images.dtype == np.uint8
    assert labels.tolist() == [3, 7, 3, 7, 3]
    options = ["--steps", "1", "--num", "5", "--classes", "3", "7"]
    assert sample.main([str(run), *options, "--out", str(tmp_path / "single")]) == 0
    files = sorted((tmp_path / "single").glob("*.png"))
    assert [f.name for f in files] == [f"{i:05d}-class-{k}.png" for i, k in enumerate([3, 7, 3, 7, 3])]
    assert all(np.array_equal(np.asarray(Image.open(f)), image[..., 0]) for f, image in zip(files, images, strict=True))
    assert sample.main([str(run), *options, "--out", str(tmp_path / "single")]) == 0, "the same images"
    other = ["--steps", "1", "--num", "3", "--classes", "3", "7", "--out", str(tmp_path / "single")]
    assert sample.main([str(run), *other]) == 1
    assert "holds 5 images of this sampling already, more than --num 3" in capsys.readouterr().err
    assert len(list((tmp_path / "single").glob("*.png"))) == 5
    assert sample.main([str(run), *options]) == 0
    with Image.open(run / "samples" / "steps-1.png") as grid:
        assert min(grid.size) > 8


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
    assert sample.main([str(teacher), "--steps", "1", "--w", "4"]) == 1


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


@pytest.mark.parametrize("module", [train, distill, sample, evaluate], ids=lambda m: m.__name__)
def test_help_reads_well(module, capsys):
    with pytest.raises(SystemExit) as stop:
        module.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert f"python -m {module.__name__}" in text
    # Every option is explained: a line with nothing but a default would show a missing docstring.
    assert not re.search(r"│ --\S+[^│]*│\n│\s+\(default", text)


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


def test_labels_cycle_through_the_classes():
    config = dataclasses.replace(RunConfig(), class_names=("cat", "dog", "2"))
    assert class_labels(config, 5).tolist() == [0, 1, 2, 0, 1]
    assert class_labels(config, 3, ("dog", "0", "2")).tolist() == [1, 0, 2]


@pytest.mark.parametrize(
    ("module", "argv", "sentence"),
    [
        (train, ["--run", "RUN", "--steps", "6"], "already holds a checkpoint: add --resume"),
        (
            train,
            ["--run", "RUN", "--resume", "--seed", "1"],
            "was trained with --seed 0, which --resume cannot change to --seed 1",
        ),
        (train, ["--run", "RUN", "--resume", "--process", "planar"], "was trained with --process telegraph"),
        (train, ["--run", "TMP", "--a", "-1"], "telegraph: a must be positive"),
        (train, ["--run", "TMP", "--steps", "0"], "steps must be at least 1"),
        (train, ["--run", "TMP", "--label-drop", "1.5"], "label_drop must lie in"),
        (train, ["--run", "TMP", "--network.channels", "12"], "multiples of 8"),
        (train, ["--run", "TMP", "--data.path", "TMP/nothing"], "nothing"),
        (train, ["--run", "TMP", "--optim.lr", "0"], "optim.lr must be positive"),
        (distill, ["TMP"], "is no run folder"),
        (distill, ["RUN", *CHAIN], "already holds a checkpoint"),
        (distill, ["RUN", *CHAIN, "--resume", "--w", "1"], "was trained with --w 0"),
        (distill, ["RUN/student-1"], "is itself a student"),
        (distill, ["RUN", "--stages", "20", "3", "--steps", "1"], "must divide"),
        (distill, ["RUN", "--inverse.steps", "2", "--w-max", "1"], "leave w_max away"),
        (distill, ["RUN", "--stages", "4,2", "--steps", "3", "--inverse.steps", "2"], "end stages with 1"),
        (distill, ["RUN", "--backward", "2"], "fraction of the training states"),
        (sample, ["RUN", "--restart", "2"], "restart is the share"),
        (sample, ["RUN", "--restart", "0.5", "--integrator", "ab2"], "restarts take Euler steps"),
        (sample, ["TMP"], "is no run folder"),
        (sample, ["RUN", "--steps", "0"], "steps must be at least 1"),
        (sample, ["RUN", "--classes", "ten"], "class 'ten' is unknown"),
        (sample, ["RUN", "--num", "0"], "num must be at least 1"),
        (sample, ["RUN", "--batch-size", "0"], "batch_size must be at least 1"),
        (sample, ["RUN", "--out", "TMP/x.jpg"], "must end in .png, .gif or .npz"),
        (sample, ["RUN", "--steps", "3", "--model", "student"], "has no student for 3 steps"),
        (sample, ["RUN", "--steps", "1", "--w", "2"], "was distilled with w = 0.0 folded in"),
        (sample, ["RUN/student-1", "--steps", "7"], "is a student of 1 Euler steps"),
        (sample, ["RUN", "--steps", "4", "--w", "-1"], "w must be finite and at least 0"),
        (evaluate, ["TMP"], "is no run folder"),
        (evaluate, ["RUN", "--num", "1"], "num must be at least 2"),
    ],
)
def test_mistakes_get_one_sentence(run, tmp_path, capsys, module, argv, sentence):
    argv = [word.replace("RUN", str(run)).replace("TMP", str(tmp_path)) for word in argv]
    assert sentence in refusal(module, argv, capsys)
