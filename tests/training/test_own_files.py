"""Folders that hold the user's own files: nothing of a run is written over them, and a run that died early begins again."""

import shutil

import pytest

from distillkac.distillation import distill
from distillkac.runs import kept
from distillkac.training import train
from tests.toys import ToyData
from tests.training.test_own_configs import CONFIG, PLAN
from tests.training.test_own_networks import Net

HUGGING_FACE = b'{"architectures": ["UNet2DModel"], "in_channels": 3}'


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fit(folder):
    return train(folder, ToyData(), Net(2), CONFIG)


@pytest.mark.parametrize(
    ("held", "words"),
    [
        (
            {"config.json": HUGGING_FACE, "model.safetensors": b"mine"},
            r"model.safetensors, config.json \(.*no field arch",
        ),
        ({"config.json": HUGGING_FACE}, r"config.json \("),
        ({"model.safetensors": b"mine"}, "model.safetensors; choose"),
        ({"metrics.jsonl": b"{}"}, "metrics.jsonl; choose"),
        ({"curves.png": b"mine"}, "curves.png; choose"),
        ({"samples/step-000002.png": b"mine"}, "samples/step-000002.png; choose"),
    ],
)
def test_files_of_others_are_refused_and_stay(tmp_path, held, words):
    folder = tmp_path / "mine"
    for name, content in held.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"holds files that are not of a run: {words}"):
        fit(folder)
    assert {name: content for name, content in contents(folder).items() if name != ".lock"} == held


def test_a_student_is_not_written_over_them_either(tmp_path):
    run = fit(tmp_path / "run")
    mine = tmp_path / "run" / "student-1" / "model.safetensors"
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"holds files that are not of a run: model.safetensors"):
        distill(run, ToyData(), config=PLAN)
    assert mine.read_bytes() == b"mine"


def test_a_run_that_died_before_its_first_checkpoint_begins_again(tmp_path):
    run = fit(tmp_path / "run")
    for name in ("model.safetensors", "ema.safetensors"):
        (run.folder / name).unlink()
    shutil.rmtree(run.folder / "state")
    assert (run.folder / "metrics.jsonl").exists()
    again = fit(tmp_path / "run")
    assert (again.folder / "ema.safetensors").exists()


def test_only_half_written_files_of_a_run_are_removed(tmp_path):
    ours = [".config.json.tmp", ".metrics.jsonl.tmp", ".curves.png.tmp", "state/.training.pt.tmp"]
    ours += [".model.safetensors.tmp", ".ema.safetensors.tmp", "samples/.step-000002.png.tmp"]
    users = [".mine.tmp", "state/.notes.tmp", "samples/.steps.png.tmp", "config.json.tmp"]
    for name in (*ours, *users):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"half")
    kept.clean(tmp_path)
    assert contents(tmp_path).keys() == set(users)
