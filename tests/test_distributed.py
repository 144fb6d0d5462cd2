"""Two gloo processes on one machine: the same noise, the same data, the same losses as one process, up to rounding."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from distillkac import checkpoints, distill, train

TINY = ["--network.channels", "8", "--network.head-dim", "8", "--optim.batch-size", "16", "--optim.log-every", "1"]
DISTIL = ["--stages", "2,1", "--steps", "2", "--backward", "0.5", "--inverse.steps", "2", "--optim.log-every", "1"]


def two_processes(module: str, *options: str) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
    launch += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "-m", "--", module, *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        launch, env=environment, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / checkpoints.METRICS).read_text().splitlines()]


@pytest.mark.skipif(torch.cuda.is_available(), reason="compares processes on a CPU")
def test_two_processes_train_and_distil_as_one(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    assert train.main(["--run", str(one), "--steps", "3", *TINY]) == 0
    two_processes("distillkac.train", "--run", str(two), "--steps", "3", *TINY)
    assert distill.main([str(one), *DISTIL]) == 0
    two_processes("distillkac.distill", str(one), *DISTIL, "--out", str(two / "students"))
    for first, second in (
        (one, two),
        (one / "student-1", two / "students" / "student-1"),
        (one / "student-1-inverse", two / "students" / "student-1-inverse"),
    ):
        assert losses(second) == pytest.approx(losses(first), rel=1e-3, abs=1e-9)
        expected, _ = checkpoints.load_weights(first)
        for name, value in checkpoints.load_weights(second)[0].items():
            torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-5)
