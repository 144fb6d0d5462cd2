"""The same command twice makes the same files, byte for byte, in processes that order their dictionaries otherwise."""

import json
import os
import subprocess
import sys
import zipfile

import pytest
import torch
from safetensors import safe_open

from distillkac import train
from distillkac.runs import checkpoints

TINY = "['--network.channels', '8', '--network.head-dim', '8', '--optim.batch-size', '16', '--preview', '4']"
WORK = f"""
import sys
from distillkac import distill, evaluate, sample, train
from distillkac.evaluation import classifier
classifier.STEPS = 5
assert train.main(["--run", "run", "--steps", "4", "--optim.save-every", "2", "--optim.keep", "2", "--data.flip", *{TINY}]) == 0
assert distill.main(["run", "--stages", "2,1", "--steps", "2", "--optim.batch-size", "16"]) == 0
assert sample.main(["run", "--steps", "1", "--num", "4", "--out", "run/x.npz"]) == 0
assert evaluate.main(["run", "--num", "8", "--teacher-steps", "1"]) == 0
"""
TIMES = ("samples_per_second", "images_per_second")


def timeless(value):
    if isinstance(value, dict):
        return {name: timeless(item) for name, item in value.items() if name not in TIMES}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def content(path):
    if path.suffix == ".jsonl":
        return [timeless(json.loads(line)) for line in path.read_text().splitlines()]
    return timeless(json.loads(path.read_text())) if path.name == "evaluation.json" else path.read_bytes()


def test_two_equal_trainings_in_two_processes_give_equal_files(tmp_path):
    found = []
    for seed in ("1", "2"):
        folder = tmp_path / seed
        folder.mkdir()
        environment = os.environ | {"PYTHONHASHSEED": seed, "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(
            [sys.executable, "-c", WORK], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        # .lock holds the number of the process.
        files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}
        found.append(files)
    assert found[0].keys() == found[1].keys()
    for name in ("run/config.json", "run/checkpoints/step-000002/state/training.pt", "run/classifier.safetensors"):
        assert name in found[0]
    assert [name for name, path in found[0].items() if content(path) != content(found[1][name])] == []


@pytest.mark.parametrize("count", [0, 1, 7])
def test_metadata_is_sorted_and_tensors_stay_aligned(tmp_path, count):
    """What the library itself writes, but for the order of the metadata; names may be anything."""
    weights = {f"lay\u00e9r.{i}": torch.arange(i + 3, dtype=torch.float32) for i in range(count)}
    weights["half"] = torch.ones(3, dtype=torch.bfloat16)
    words = {f"k{i}": f"v\u00e9{i}" for i in range(12)}
    made = [checkpoints.to_safetensors(weights, dict(order)) for order in (words.items(), reversed(words.items()))]
    assert made[0] == made[1]
    size = int.from_bytes(made[0][:8], "little")
    assert size % 8 == 0
    header = json.loads(made[0][8 : 8 + size])
    assert list(header["__metadata__"]) == sorted(words)
    (tmp_path / "x.safetensors").write_bytes(made[0])
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        assert file.metadata() == words
        assert set(file.keys()) == set(weights)
        assert all(torch.equal(file.get_tensor(name), value) for name, value in weights.items())


@pytest.mark.one_alignment
def test_a_run_that_was_continued_has_the_checkpoint_of_one_that_was_not(tmp_path):
    options = ["--network.channels", "8", "--network.head-dim", "8", "--optim.batch-size", "8", "--preview", "0"]
    options += ["--optim.lr-end", "1", "--optim.warmup", "0"]  # a rate that does not depend on the number of steps
    assert train.main(["--run", str(tmp_path / "whole"), "--steps", "4", *options]) == 0
    for steps in ("2", "4"):
        assert train.main(["--run", str(tmp_path / "parts"), "--steps", steps, "--resume", *options]) == 0
    whole, parts = (zipfile.ZipFile(tmp_path / run / checkpoints.STATE) for run in ("whole", "parts"))
    with whole, parts:
        assert whole.read("archive/data.pkl") == parts.read("archive/data.pkl")
    assert (tmp_path / "whole" / checkpoints.STATE).read_bytes() == (
        tmp_path / "parts" / checkpoints.STATE
    ).read_bytes()
