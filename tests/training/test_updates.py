"""What one update does and what the log says of it: clipping, rates, losses, and what is random inside a network."""

from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState

from distillkac.runs import checkpoints
from distillkac.training import loop
from distillkac.training.learning_rate import learning_rate
from tests.toys import optim, run_config, trainer


@pytest.fixture(autouse=True)
def fresh_accelerate():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def logged(folder, settings, objective=None) -> list[dict]:
    trainer(folder, run_config(steps=4, optim=settings), objective).fit()
    return checkpoints.MetricsLog.read(folder)


@pytest.mark.parametrize("clip", [0.01, 1e6])
def test_gradients_are_clipped_to_what_is_asked_and_the_norm_is_that_before(tmp_path, clip):
    made, used = trainer(tmp_path, run_config(optim=optim(clip=clip))), []

    def norm_of_all(*_):
        used.append(float(torch.cat([p.grad.flatten() for p in made.raw.parameters() if p.grad is not None]).norm()))

    made.optimizer.optimizer.register_step_pre_hook(norm_of_all)
    ((_, norm),) = made.advance(made.batches())
    assert 0.01 < norm.item() < 1e6
    assert used == [pytest.approx(min(norm.item(), clip), rel=1e-4)]


def test_the_log_has_the_rate_of_the_step_that_was_made(tmp_path):
    settings = optim(log_every=1, lr=1e-3, warmup=4)
    rates = [line["lr"] for line in logged(tmp_path, settings)]
    assert rates == pytest.approx([learning_rate(step, 4, settings) for step in range(4)])


def test_of_several_updates_a_step_the_log_has_the_loss_of_the_last(tmp_path):
    class Two:
        updates = 2

        def __call__(self, network, batch):
            return sum(p.sum() for p in network.parameters()) * 0 + float(batch.step % 2)

    assert [line["loss"] for line in logged(tmp_path, optim(log_every=1), Two())] == [1.0] * 4


def test_the_rate_is_of_steps_that_were_made_and_of_their_time_alone(tmp_path, monkeypatch):
    """Begun in no time, as on a GPU, whose four steps are waited for 10 s by the report; a checkpoint then takes 100 s, a
    snapshot between two reports 5 s, which cannot be told from the steps that it waits for."""
    made, now = trainer(tmp_path, run_config(steps=8, optim=optim(log_every=4, save_every=4))), [0.0]

    def taking(owner, name, seconds):
        function = getattr(owner, name)

        def slow(*args):
            now[0] += seconds
            return function(*args)

        monkeypatch.setattr(owner, name, slow)

    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(made.averages, "due", lambda step: step == 6)
    monkeypatch.setattr(made.averages, "snapshot", lambda *_: None)
    taking(made, "failed", 10.0)
    taking(made, "_checkpoint", 100.0)
    taking(made.averages, "snapshot", 5.0)
    made.fit()
    rates = [line["samples_per_second"] for line in checkpoints.MetricsLog.read(tmp_path)]
    assert rates == [4 * 12 / 10, 4 * 12 / 15]


def test_each_step_and_each_process_has_dropout_of_its_own(tmp_path, monkeypatch):
    made, seeds = trainer(tmp_path, run_config()), []
    batches = made.batches()
    monkeypatch.setattr(torch, "manual_seed", seeds.append)
    for process in (0, 1):
        monkeypatch.setattr(type(made.accelerator), "process_index", process)
        for made.step in (0, 1):
            made.advance(batches)
    assert len(set(seeds)) == 4
