"""The sentence that each mistake of a user gets."""

import re
import shutil
from dataclasses import replace

import pytest

from distillkac import distill, evaluate, sample, train
from distillkac.runs import load_config, shipped
from distillkac.runs.config import save_config
from tests.commands.tiny import CHAIN
from tests.toys import refusal

LONE = ["RUN", "--out", "TMP/lone", "--stages", "1", "--inverse.steps", "1", "--optim.batch-size", "16"]


@pytest.mark.parametrize("module", [train, distill, sample, evaluate], ids=lambda m: m.__name__)
def test_help_reads_well(module, capsys):
    with pytest.raises(SystemExit) as stop:
        module.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert f"python -m {module.__name__}" in text
    # Every option is explained: a line with nothing but a default would show a missing docstring.
    assert not re.search(r"│ --\S+[^│]*│\n│\s+\(default", text)


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
        (train, ["--run", "TMP", "--a", "-1"], "a must be positive"),
        (train, ["--run", "TMP", "--sigma", "0.4"], "sigma 0.4 is of process gaussian, got telegraph: omit sigma"),
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
        (distill, ["RUN", "--inverse.steps", "2", "--w-max", "1"], "omit w_max"),
        (distill, ["RUN", "--stages", "4,2", "--steps", "3", "--inverse.steps", "2"], "end stages with 1"),
        (
            distill,
            ["RUN", "--start", "RUN/student-1"],
            "is of inverse distillation alone, and of pairs.by start: give stages 1 or pairs.by start, or omit start",
        ),
        (
            distill,
            [*LONE, "--start", "RUN/student-1", "--inverse.start", "teacher"],
            "is not used where inverse.start is teacher: omit one",
        ),
        (
            distill,
            [*LONE, "--start", str(shipped.FOLDER / "digits" / "student-1-inverse")],
            "has not the network of the teacher",
        ),
        (
            distill,
            [*LONE, "--start", str(shipped.FOLDER / "fashion" / "student-1-pairs")],
            "has not the process of the",
        ),
        (train, ["--run", "TMP/x", "--network.guidance-embedding"], "omit it, and distil with --w-max"),
        (train, ["--run", "TMP/x", "--init", "--steps", "1"], "Missing value for argument '--init'"),
        (distill, ["RUN", "--backward", "2"], "backward must lie in [0, 1], got 2"),
        (sample, ["RUN", "--restart", "2"], "restart must lie in [0, 1], got 2"),
        (sample, ["RUN", "--restart", "0.5", "--integrator", "ab2"], "restarts take Euler steps"),
        (sample, ["TMP"], "is no run folder"),
        (sample, ["RUN", "--steps", "0"], "steps must be at least 1"),
        (sample, ["RUN", "--classes", "ten"], "class 'ten' is unknown"),
        (sample, ["RUN", "--num", "0"], "num must be at least 1"),
        (sample, ["RUN", "--batch-size", "0"], "batch_size must be at least 1"),
        (sample, ["RUN", "--out", "TMP/x.jpg"], "must end in .png, .gif or .npz"),
        (sample, ["RUN", "--out", "TMP/x.npz", "--columns", "4"], "--columns is of a grid"),
        (sample, ["RUN", "--out", "TMP/folder", "--columns", "4"], "--columns is of a grid"),
        (sample, ["RUN", "--steps", "3", "--model", "student"], "has no student for 3 steps"),
        (sample, ["RUN", "--steps", "1", "--w", "2", "--model", "student"], "was distilled with w = 0.0 folded in"),
        (sample, ["RUN/student-1", "--steps", "7"], "is a student of 1 Euler steps"),
        (sample, ["RUN", "--steps", "4", "--w", "-1"], "w must lie in [0, 1e4], got -1"),
        (evaluate, ["TMP"], "is no run folder"),
        (evaluate, ["RUN", "--num", "1"], "num must be at least 2"),
    ],
)
def test_mistakes_get_one_sentence(run, tmp_path, capsys, module, argv, sentence):
    argv = [word.replace("RUN", str(run)).replace("TMP", str(tmp_path)) for word in argv]
    assert sentence in refusal(module, argv, capsys)


def test_a_student_of_other_images_is_no_beginning(run, tmp_path, capsys):
    other = shutil.copytree(run / "student-1", tmp_path / "other")
    config = load_config(other)
    save_config(other, replace(config, class_names=config.class_names[::-1]))
    argv = [word.replace("RUN", str(run)).replace("TMP", str(tmp_path)) for word in [*LONE, "--start", str(other)]]
    assert "has not the images of the teacher" in refusal(distill, argv, capsys)
