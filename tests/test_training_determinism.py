"""A training of 50 steps has the same bits for any number of threads, in any process."""

import pytest
import torch

from distillkac import checkpoints, train
from tests.test_crashes import same

OPTIONS = ["--steps", "50", "--network.channels", "8", "--network.head-dim", "8", "--optim.batch-size", "8"]
OPTIONS += ["--optim.log-every", "1", "--preview", "0"]


@pytest.mark.parametrize("process", ["telegraph", "planar"])
def test_fifty_steps_are_the_same_to_the_bit(forked, tmp_path, threads, process):
    def options(name):
        return ["--run", str(tmp_path / name), "--process", process, *OPTIONS]

    for count in (1, 2, 4):
        answer = forked(command="train", argv=options(str(count)), threads=count)
        assert answer["code"] == 0, answer["output"]
    threads(1)
    assert train.main(options("here")) == 0
    states = [checkpoints.load_state(tmp_path / name) for name in ("1", "2", "4", "here")]
    assert all(same(states[0], state) for state in states)
    logs = [[line["loss"] for line in checkpoints.MetricsLog.read(tmp_path / name)] for name in ("1", "2", "4", "here")]
    assert len(logs[0]) == 50
    assert all(log == logs[0] for log in logs)
    assert torch.isfinite(torch.tensor(logs[0])).all()
