"""The training loop: exact resume, the average that is saved, stopping, the objective, the draws."""

import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn

from distillkac.base.random import derive_seed
from distillkac.flow.networks import NetworkConfig
from distillkac.flow.processes import Telegraph
from distillkac.runs import checkpoints
from distillkac.runs.run import build_network, load_network
from distillkac.training.batches import Batch
from distillkac.training.ema import EMA
from distillkac.training.learning_rate import learning_rate
from distillkac.training.objective import FlowMatching
from distillkac.training.stop_signal import StopSignal
from tests.toys import SHAPE, ToyData, optim, run_config, trainer


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """Accelerate keeps one state per process; each test may choose its own precision and accumulation."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def stopping_at(step, number, objective):
    """The objective, with one signal arriving in the middle of the given step."""

    def wrapped(network, batch):
        if batch.step == step and batch.row == 0:
            os.kill(os.getpid(), number)
        return objective(network, batch)

    return wrapped


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(("number", "patch"), [(signal.SIGINT, None), (signal.SIGTERM, None), (signal.SIGINT, 2)])
@pytest.mark.one_alignment
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path, number, patch):
    # Dropout and accumulation are on: they too must follow from seed and step alone.
    network = NetworkConfig(channels=(8,), head_dim=8, middle_attention=False, dropout=0.2, patch=patch)
    config = run_config(network=network, optim=optim(accumulate=2))
    whole = trainer(tmp_path / "whole", config)
    assert whole.fit().finished
    cut = trainer(tmp_path / "cut", config)
    cut.objective = stopping_at(6, number, cut.objective)
    fit = cut.fit()
    assert (fit.step, fit.finished) == (7, False)
    torch.manual_seed(12345)  # whatever the global state is when we come back
    fit = trainer(tmp_path / "cut", config).fit()
    assert (fit.step, fit.finished) == (12, True)
    one, two = (checkpoints.load_state(tmp_path / name) for name in ("whole", "cut"))
    assert same(one["model"], two["model"])
    assert same(one["ema"], two["ema"])
    assert one["ema_updates"] == two["ema_updates"] == 12
    for key, moments in one["optimizer"]["state"].items():
        assert same(moments, two["optimizer"]["state"][key])
    other = trainer(tmp_path / "other", replace(config, seed=1))
    other.fit()
    assert not same(one["model"], checkpoints.load_state(tmp_path / "other")["model"])


def test_the_average_is_what_is_saved_returned_and_loaded(tmp_path):
    config = run_config(optim=optim(ema=0.8))
    job = trainer(tmp_path, config)
    average = {name: weight.clone() for name, weight in job.ema.weights.items()}
    objective, seen = job.objective, []

    def watching(network, batch):
        seen.append({k: v.detach().clone() for k, v in job.accelerator.unwrap_model(network).state_dict().items()})
        return objective(network, batch)

    job.objective = watching
    fit = job.fit()
    seen.append(checkpoints.load_state(tmp_path)["model"])
    # By hand: after update k the decay is min(.8, (1 + k) / (10 + k)).
    for k, weights in enumerate(seen[1:], start=1):
        decay = min(0.8, (1 + k) / (10 + k))
        average = {name: decay * average[name] + (1 - decay) * weights[name] for name in average}
    exported, step = checkpoints.load_weights(tmp_path)
    assert step == 12
    for name, value in average.items():
        torch.testing.assert_close(exported[name], value)
    assert same(exported, fit.network.state_dict())
    assert same(exported, load_network(tmp_path, config).state_dict())
    assert not same(exported, checkpoints.load_weights(tmp_path, checkpoints.MODEL)[0])
    assert not fit.network.training


def test_loss_falls_and_the_log_tells(tmp_path):
    config = run_config(steps=120, optim=optim(batch_size=32, log_every=20))
    trainer(tmp_path, config).fit()
    lines = checkpoints.MetricsLog.read(tmp_path)
    assert [line["step"] for line in lines] == [20, 40, 60, 80, 100, 120]
    assert lines[-1]["loss"] < 0.6 * lines[0]["loss"]
    assert all({"loss", "lr", "grad_norm", "samples_per_second"} <= line.keys() for line in lines)


def test_resume_drops_log_lines_after_the_checkpoint(tmp_path):
    config = run_config(optim=optim(log_every=2, save_every=8))
    job = trainer(tmp_path, config)
    job.objective = stopping_at(7, signal.SIGINT, job.objective)
    job.fit()
    with open(
        tmp_path / checkpoints.METRICS, "a", encoding="utf-8"
    ) as file:  # a crash after the checkpoint: more lines, the last one cut
        file.write(json.dumps({"step": 10, "loss": 1.0}) + '\n{"step": 12, "lo')
    trainer(tmp_path, config).fit()
    assert [line["step"] for line in checkpoints.MetricsLog.read(tmp_path)] == [2, 4, 6, 8, 10, 12]


def test_micro_batches_make_the_same_steps(tmp_path):
    """Same rows, noise and times however a step is split: losses and gradient norms agree up to rounding."""
    logs = []
    for accumulate in (1, 4):
        config = run_config(steps=4, optim=optim(log_every=1, accumulate=accumulate))
        trainer(tmp_path / str(accumulate), config).fit()
        logs.append(checkpoints.MetricsLog.read(tmp_path / str(accumulate)))
        AcceleratorState._reset_state(reset_partial_state=True)
    for step, (plain, split) in enumerate(zip(*logs, strict=True)):
        # The first step sees equal weights; after it Adam magnifies rounding where a gradient is almost 0.
        tolerance = 1e-5 if step == 0 else 1e-3
        assert split["loss"] == pytest.approx(plain["loss"], rel=tolerance)
        assert split["grad_norm"] == pytest.approx(plain["grad_norm"], rel=10 * tolerance)


@pytest.mark.one_alignment
def test_reading_threads_change_nothing(tmp_path):
    for workers in (0, 3):
        trainer(tmp_path / str(workers), run_config(optim=optim(workers=workers))).fit()
    one, two = (checkpoints.load_weights(tmp_path / name)[0] for name in ("0", "3"))
    assert same(one, two)


def test_bfloat16_autocast_trains_float32_weights(tmp_path):
    trainer(tmp_path, run_config(optim=optim(precision="bf16"))).fit()
    lines = checkpoints.MetricsLog.read(tmp_path)
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert all(value.dtype == torch.float32 for value in checkpoints.load_weights(tmp_path)[0].values())


def test_a_diverged_run_stops_and_keeps_its_last_checkpoint(tmp_path):
    job = trainer(tmp_path, run_config(optim=optim(log_every=2, save_every=4)))
    objective = job.objective
    job.objective = lambda network, batch: objective(network, batch) * (float("nan") if batch.step == 6 else 1.0)
    with pytest.raises(FloatingPointError, match=r"loss is nan .* in step 7"):
        job.fit()
    state = checkpoints.load_state(tmp_path)
    assert state["step"] == 4
    assert all(torch.isfinite(v).all() for v in state["model"].values())


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    trainer(tmp_path, run_config(steps=1)).fit()
    wider = run_config(network=NetworkConfig(channels=(16,), head_dim=8))
    with pytest.raises(ValueError, match="does not fit the network"):
        trainer(tmp_path, wider)
    with pytest.raises(ValueError, match="does not fit the network"):
        load_network(tmp_path, wider)


def test_batch_size_must_split_evenly(tmp_path):
    with pytest.raises(ValueError, match="not a multiple of accumulate"):
        optim(batch_size=10, accumulate=4)


def test_flow_matching_is_the_mean_squared_velocity_error():
    """Against the definition, with the process, the times and the dropped labels taken apart."""
    process, seed = Telegraph(9.0, 3.0), 5
    data = ToyData()
    batch = Batch(data.x[:20], data.y[:20], step=3, row=20, total=40)
    seen = {}

    def network(x, t, y):
        seen.update(x=x, t=t, y=y)
        return 0.5 * x

    loss = FlowMatching(process, null_class=2, label_drop=0.3, seed=seed)(network, batch)
    x_t, u = process.pair(batch.x0, seen["t"], derive_seed(seed, "noise"), offset=3 * 40 + 20)
    assert torch.equal(seen["x"], x_t)
    torch.testing.assert_close(loss, ((0.5 * x_t - u) ** 2).mean())
    dropped = seen["y"] == 2
    assert torch.equal(dropped, batch.uniform(seed, "label") < 0.3)
    assert 0 < dropped.sum() < 20
    assert torch.equal(seen["y"][~dropped], batch.y[~dropped])


def test_draws_of_a_step_do_not_depend_on_its_split():
    x, y = torch.zeros(12, *SHAPE), torch.zeros(12, dtype=torch.int64)
    whole = Batch(x, y, 5, 0, 12)
    for draw in ("uniform", "stratified"):
        parts = [getattr(Batch(x[a:b], y[a:b], 5, a, 12), draw)(1, "t") for a, b in ((0, 3), (3, 12))]
        assert torch.equal(getattr(whole, draw)(1, "t"), torch.cat(parts))
        assert not torch.equal(getattr(whole, draw)(1, "t"), getattr(whole, draw)(1, "other"))
        assert not torch.equal(getattr(whole, draw)(1, "t"), getattr(Batch(x, y, 6, 0, 12), draw)(1, "t"))
    cells = (whole.stratified(1, "t") * 12).long()
    assert sorted(cells.tolist()) == list(range(12))
    assert Batch(x[:4], y[:4], 5, 8, 12).first == 5 * 12 + 8


def test_learning_rate_warms_up_and_follows_the_cosine():
    settings = optim(lr=1.0, warmup=10, lr_end=0.1)
    assert learning_rate(0, 100, settings) == pytest.approx(0.1)
    assert learning_rate(50, 100, settings) == pytest.approx(0.55)
    assert learning_rate(100, 100, settings) == pytest.approx(0.1)
    assert learning_rate(0, 100, optim(lr=1.0, warmup=0)) == pytest.approx(1.0)
    # Down to nothing, but only after the last step: each of them moves the weights.
    rates = [learning_rate(step, 100, optim(lr=1.0, warmup=10, lr_end=0.0)) for step in range(101)]
    assert rates[100] == pytest.approx(0.0, abs=1e-12)
    assert 0 < rates[99] < 3e-4
    assert rates[50] == pytest.approx(0.5)


def test_weights_follow_from_the_seed_and_leave_the_global_state_alone():
    before = torch.get_rng_state()
    one, two, other = (build_network(run_config(seed=seed)).state_dict() for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert same(one, two)
    assert not same(one, other)


def test_second_ctrl_c_acts_at_once():
    # A shell starts background jobs with SIGINT ignored; the test needs Python's own handler.
    outside = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with StopSignal() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.requested
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, outside)


def test_ema_starts_fast():
    network = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        network.weight.fill_(0.0)
        ema = EMA(network, 0.999)
        network.weight.fill_(1.0)
    ema.update(network)
    assert ema.weights["weight"].item() == pytest.approx(1 - 2 / 11)


def test_ema_keeps_no_more_than_its_decay():
    ema, kept = EMA(nn.Linear(1, 1), 0.5), []
    for ema.updates in (1, 7, 8, 9, 1000):
        kept.append(ema.kept())
    assert kept == pytest.approx([2 / 11, 8 / 17, 0.5, 0.5, 0.5])


def test_a_gradient_that_no_optimizer_has_does_not_add_up(tmp_path, monkeypatch):
    """Of parameters that param_groups leaves out: it would weigh in the norm by which all gradients are clipped."""
    config = run_config()

    def all_but_the_first(network):
        return [{"params": list(network.parameters())[1:]}]

    monkeypatch.setattr(type(build_network(config)), "param_groups", all_but_the_first, raising=False)
    made = trainer(tmp_path, config)
    first = next(made.raw.parameters())
    assert all(first is not parameter for group in made.optimizer.param_groups for parameter in group["params"])
    made.advance(made.batches())
    assert first.grad is None
