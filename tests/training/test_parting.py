"""Processes that trained together part before Python ends, whatever became of their peers."""

import os
import subprocess
import sys

from tests.places import ROOT

# Each process writes a file of its own: lines printed by two processes may be mixed with each other.
PARTED = """
import atexit, os, torch, torch.distributed
from distillkac.runs import OptimConfig
from distillkac.training.fit import accelerator_for

told = open(f"{os.path.dirname(__file__)}/rank-{os.environ['RANK']}", "w", buffering=1)
# What is registered first runs last.
atexit.register(lambda: print("in a group:", torch.distributed.is_initialized(), file=told))
accelerator = accelerator_for(OptimConfig())
accelerator_for(OptimConfig())
print(accelerator.reduce(torch.ones(1)).item(), file=told)
"""
# The other process never answers: its exchange is under way when this one ends.
LEFT_ALONE = """
import torch, torch.distributed
from distillkac.base import processes
from distillkac.runs import OptimConfig
from distillkac.training.fit import accelerator_for

processes.SECONDS = 0.5
accelerator = accelerator_for(OptimConfig())
if accelerator.process_index:
    work = torch.distributed.all_reduce(torch.ones(1), async_op=True)
    raise ValueError("a mistake of this process")
import time; time.sleep(300)
"""


def launched(code, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(code)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
    launch += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", str(script)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    return subprocess.run(launch, env=environment, capture_output=True, text=True, timeout=240, check=False)


def test_the_group_is_left_before_python_ends(tmp_path):
    done = launched(PARTED, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    for rank in range(2):
        assert (tmp_path / f"rank-{rank}").read_text().splitlines() == ["2.0", "in a group: False"]


def test_a_mistake_ends_its_process_though_the_others_never_answer(tmp_path):
    done = launched(LEFT_ALONE, tmp_path)
    assert done.returncode == 1
    assert "ValueError: a mistake of this process" in done.stderr
