"""Nothing grows: neither with the steps of a run nor with the runs that one process makes."""

import gc
import resource

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from distillkac import distill, evaluate, train
from distillkac.runs import checkpoints
from distillkac.training.loop import Trainer
from tests.toys import ToyData, optim, run_config


def resident() -> float:
    """MB of memory of this process."""
    with open("/proc/self/statm", encoding="utf-8") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6


class Affine(nn.Module):
    """The smallest thing with weights: what grows is not hidden by what computes."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.scale * x


@pytest.mark.slow
def test_twenty_thousand_steps_need_no_more_memory_than_two_thousand(tmp_path, monkeypatch):
    config = run_config(steps=20_000, optim=optim(log_every=100, save_every=1000, batch_size=2))
    process, seen = config.noise.build(), []

    def objective(network, batch):
        x_t, u = process.pair(batch.x0, batch.stratified(0, "time"), 1, batch.first)
        return (network(x_t) - u).square().mean()

    append = checkpoints.MetricsLog.append

    def watched(log, values, durable=False):
        append(log, values, durable)
        seen.append((values["step"], resident()))

    monkeypatch.setattr(checkpoints.MetricsLog, "append", watched)
    Trainer(Affine(), objective, ToyData(), tmp_path, config.steps, config.optim, 0, Accelerator(cpu=True)).fit()
    AcceleratorState._reset_state(reset_partial_state=True)
    steps, memory = np.array([pair for pair in seen if pair[0] > 2000]).T
    slope = np.polyfit(steps, memory, 1)[0] * 10_000
    print(f"resident memory {memory[0]:.1f} to {memory[-1]:.1f} MB, {slope:+.3f} MB per 10 000 steps")
    assert slope <= 1


@pytest.mark.slow
def test_run_after_run_in_one_process(tmp_path):
    """What a worker of distillkac.compare does: train, distil, measure, over and over."""
    tiny = ["--network.channels", "16", "--network.head-dim", "8", "--optim.batch-size", "16", "--preview", "4"]
    chain = ["--stages", "2,1", "--steps", "2", "--inverse.steps", "2", "--optim.batch-size", "16"]
    memory, alive = [], []
    for i in range(8):
        run = str(tmp_path / str(i))
        assert train.main(["--run", run, "--steps", "3", *tiny]) == 0
        assert distill.main([run, *chain]) == 0
        assert evaluate.main([run, "--num", "40", "--teacher-steps", "1"]) == 0
        gc.collect()
        alive.append(sum(isinstance(thing, (nn.Module, torch.optim.Optimizer)) for thing in gc.get_objects()))
        memory.append(resident())
    print("resident memory", [round(value) for value in memory], "MB; networks and optimizers alive", alive)
    assert alive[-1] <= alive[2]
    assert memory[-1] - memory[3] <= 20
