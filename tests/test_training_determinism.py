"""A training of 50 steps has the same bits in any process. With another number of threads torch sums in another order."""

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

    for name, count in (("fresh", 1), ("two", 2)):
        answer = forked(command="train", argv=options(name), threads=count)
        assert answer["code"] == 0, answer["output"]
    threads(1)
    assert train.main(options("here")) == 0
    states = {name: checkpoints.load_state(tmp_path / name) for name in ("fresh", "two", "here")}
    assert same(states["fresh"], states["here"])
    for name, value in states["here"]["ema"].items():
        torch.testing.assert_close(states["two"]["ema"][name], value, rtol=1e-2, atol=1e-3)
    logs = {
        name: torch.tensor([line["loss"] for line in checkpoints.MetricsLog.read(tmp_path / name)]) for name in states
    }
    assert len(logs["here"]) == 50
    assert torch.equal(logs["fresh"], logs["here"])
    torch.testing.assert_close(logs["two"], logs["here"], rtol=1e-4, atol=0)
    assert torch.isfinite(logs["here"]).all()
