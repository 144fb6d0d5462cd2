"""Several gloo processes on one machine: the same noise, data and losses as one process, up to rounding."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from distillkac import distill, train
from distillkac.runs import checkpoints
from tests.places import ROOT
from tests.toys import TINY_OPTIONS
from tests.training import own_script

TINY = [*TINY_OPTIONS, "--preview", "0", "--optim.batch-size", "16", "--optim.log-every", "1"]
DISTIL = ["--stages", "2,1", "--steps", "2", "--backward", "0.5", "--inverse.steps", "2", "--optim.log-every", "1"]


def launched(count: int, module: str, *options: str) -> subprocess.CompletedProcess[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count), "--master-port", "0"]
    launch += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "-m", "--", module, *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(launch, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def processes(count: int, module: str, *options: str) -> None:
    done = launched(count, module, *options)
    assert done.returncode == 0, done.stderr[-2000:]


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / checkpoints.METRICS).read_text().splitlines()]


def agree(first: Path, second: Path) -> None:
    assert losses(second) == pytest.approx(losses(first), rel=1e-3, abs=1e-9)
    expected, _ = checkpoints.load_weights(first)
    for name, value in checkpoints.load_weights(second)[0].items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-5)


STUDENTS = ("student-1", "student-1-inverse")
on_a_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="compares processes on a CPU")


@on_a_cpu
def test_two_processes_train_and_distil_as_one(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    assert train.main(["--run", str(one), "--steps", "3", *TINY]) == 0
    processes(2, "distillkac.train", "--run", str(two), "--steps", "3", *TINY)
    agree(one, two)
    assert distill.main([str(one), *DISTIL]) == 0
    processes(2, "distillkac.distill", str(one), *DISTIL, "--out", str(two / "students"))
    for student in STUDENTS:
        agree(one / student, two / "students" / student)


@on_a_cpu
def test_two_processes_train_and_distil_an_own_network_as_one(tmp_path):
    """One script: what ends with the training must not take the processes from the distillation."""
    own_script.main(tmp_path / "one")
    processes(2, "tests.training.own_script", str(tmp_path / "two"))
    for student in (".", "student-1"):
        agree(tmp_path / "one" / student, tmp_path / "two" / student)


@on_a_cpu
@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_then_two_with_sharded_weights_then_one_go_on_as_one(tmp_path, count):
    """Micro-batches, the number of processes and sharding change nothing, and each goes on with the others' checkpoint."""
    one, many = tmp_path / "one", tmp_path / "many"
    for steps in ("2", "4", "5"):
        assert train.main(["--run", str(one), "--steps", steps, *TINY, "--resume"][: None if steps > "2" else -1]) == 0
    processes(count, "distillkac.train", "--run", str(many), "--steps", "2", *TINY, "--optim.accumulate", "2")
    processes(2, "distillkac.train", "--run", str(many), "--resume", "--steps", "4", "--optim.shard")
    state = checkpoints.load_state(many)
    assert {type(v) for v in state["model"].values()} == {torch.Tensor}
    assert state["model"].keys() == checkpoints.load_state(one)["model"].keys()
    assert train.main(["--run", str(many), "--resume", "--steps", "5", "--optim.accumulate", "1"]) == 0
    agree(one, many)


@pytest.mark.slow
@on_a_cpu
def test_sharded_distillation_is_distillation(tmp_path):
    """The generator and the fake model of inverse distillation, too, spread over two processes."""
    one, students = tmp_path / "one", tmp_path / "students"
    assert train.main(["--run", str(one), "--steps", "3", *TINY]) == 0
    assert distill.main([str(one), *DISTIL]) == 0
    processes(2, "distillkac.distill", str(one), *DISTIL, "--optim.shard", "--out", str(students))
    for student in STUDENTS:
        agree(one / student, students / student)


@on_a_cpu
def test_processes_that_begin_with_other_weights_are_refused(tmp_path):
    processes(2, "tests.training.unlike_script", str(tmp_path / "run"))
    for rank in (0, 1):
        assert "the processes begin with networks of different weights" in (tmp_path / f"run-{rank}.txt").read_text()
