"""A tracker that fails ends no training: one sentence, and on without it."""

import json

import pytest

from distillkac import train
from distillkac.runs import checkpoints
from distillkac.training import trackers
from tests.toys import TINY_OPTIONS, optim, run_config, trainer


class Tracker:
    """Keeps what it is shown; from a step on it fails."""

    def __init__(self, name, fails_at=None):
        self.name, self.fails_at, self.shown, self.finished = name, fails_at, [], 0

    def log(self, values, step):
        self.shown.append((step, values["loss"]))
        if step == self.fails_at:
            raise OSError(28, "No space left on device\nand more")

    def finish(self):
        self.finished += 1
        if self.name == "closes badly":
            raise ConnectionError("the network is gone")


def test_the_training_goes_on_without_it(tmp_path, capsys):
    config = run_config(optim=optim(log_every=1), steps=4)
    plain = trainer(tmp_path / "plain", config)
    plain.fit()
    tracked = trainer(tmp_path / "tracked", config)
    broken, good = Tracker("wandb", fails_at=2), Tracker("tensorboard")
    tracked.accelerator.trackers = [broken, good]
    capsys.readouterr()
    assert tracked.fit().finished
    streams = capsys.readouterr()
    said = (
        "step 2: --track wandb failed, the training goes on without it: OSError: [Errno 28] No space left on device\n"
    )
    assert (streams.out + streams.err).count(said) == (streams.out + streams.err).count("wandb") == 1
    assert [step for step, _ in broken.shown] == [1, 2]
    written = [json.loads(line) for line in (tmp_path / "tracked" / checkpoints.METRICS).read_text().splitlines()]
    assert good.shown == [(line["step"], line["loss"]) for line in written]
    assert len(good.shown) == 4
    usual = [json.loads(line)["loss"] for line in (tmp_path / "plain" / checkpoints.METRICS).read_text().splitlines()]
    assert [loss for _, loss in good.shown] == pytest.approx(usual, rel=1e-4)  # of torch's products
    trackers.finish(tracked.accelerator)
    assert (broken.finished, good.finished) == (0, 1)
    assert tracked.accelerator.trackers == []


def test_one_that_cannot_be_closed_is_said_and_the_others_are_closed(tmp_path, capsys):
    made = trainer(tmp_path, run_config())
    bad, good = Tracker("closes badly"), Tracker("tensorboard")
    made.accelerator.trackers = [bad, good]
    trackers.finish(made.accelerator)
    streams = capsys.readouterr()
    assert (
        streams.out + streams.err == "--track closes badly could not be closed: ConnectionError: the network is gone\n"
    )
    assert good.finished == 1


def test_the_command_ends_well(tmp_path, monkeypatch, capsys):
    """With the real tracker, whose disk is full in the first line of the log and at the end."""
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SummaryWriter, "add_scalar", full)
    monkeypatch.setattr(SummaryWriter, "close", full)
    words = ["--steps", "2", "--preview", "0", "--optim.log-every", "1", "--optim.batch-size", "8", *TINY_OPTIONS]
    assert train.main(["--run", str(tmp_path), "--track", "tensorboard", *words]) == 0
    assert checkpoints.load_weights(tmp_path)[1] == 2
    streams = capsys.readouterr()
    assert (streams.out + streams.err).count("--track tensorboard failed, the training goes on without it") == 1
