"""Runs that stay in Python: which weights are distilled, late Ctrl-C."""

import os
import signal

import pytest
import torch

from distillkac.distillation import chain, distill
from distillkac.training import fit as fitting
from distillkac.training import train
from tests.toys import ToyData
from tests.training.test_own_configs import CONFIG, PLAN
from tests.training.test_own_networks import Net


@pytest.fixture
def run(tmp_path):
    return train(tmp_path / "run", ToyData(), Net(2), CONFIG)


def test_weights_that_are_not_the_folders_are_not_distilled(run):
    with torch.no_grad():
        next(run.network.parameters()).add_(1)
    with pytest.raises(ValueError, match=r"run.network has other weights than .*run has now"):
        distill(run, ToyData(), config=PLAN)
    assert not list(run.folder.glob("student-*"))


def test_a_relative_folder_stays_where_it_was(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    run = train("run", ToyData(), Net(2), CONFIG)
    monkeypatch.chdir(tmp_path / "elsewhere")
    (student,) = distill(run, ToyData(), config=PLAN)
    assert student.folder == tmp_path / "run" / "student-1"
    assert not list((tmp_path / "elsewhere").iterdir())


def interrupt_at_end(monkeypatch, steps):
    """Ctrl-C comes while the pictures of the last step are drawn."""
    monkeypatch.setattr(
        fitting, "draw", lambda run, step: os.kill(os.getpid(), signal.SIGINT) if step == steps else None
    )


def test_ctrl_c_during_the_last_pictures_is_heard(tmp_path, monkeypatch, capsys):
    interrupt_at_end(monkeypatch, CONFIG.steps)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", ToyData(), Net(2), CONFIG)
    assert "stopped: saved at step 2 of 2" in capsys.readouterr().out
    monkeypatch.undo()
    assert train(tmp_path / "run", ToyData(), Net(2), CONFIG, resume=True).folder == tmp_path / "run"


def test_ctrl_c_at_the_end_of_a_stage_stops_the_chain(run, monkeypatch):
    plan = chain.DistillConfig(stages=(4, 2, 1), steps=(2, 2), optim=PLAN.optim)
    interrupt_at_end(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt, match="stopped at student-2"):
        distill(run, ToyData(), config=plan)
    assert not (run.folder / "student-1").exists()
