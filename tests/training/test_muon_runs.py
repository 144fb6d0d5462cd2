"""Runs with Muon: the same bits when resumed, cut into parts or sharded; what may change; what they cost."""

import json
from dataclasses import replace

import pytest
import torch
from accelerate.state import AcceleratorState

from distillkac import train
from distillkac.runs import checkpoints
from distillkac.runs.config import load_config
from distillkac.runs.run import build_network
from distillkac.training import optimizer
from distillkac.training.cost import cost
from tests.toys import TINY_OPTIONS, optim, refusal, run_config, trainer
from tests.training.test_crashes import same
from tests.training.test_distributed import agree, on_a_cpu, processes
from tests.training.test_training_determinism import equal

MUON = ["--optim.optimizer", "muon"]


@pytest.fixture(autouse=True)
def fresh_accelerate():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.one_alignment
def test_a_run_that_was_cut_short_ends_with_the_same_bits(tmp_path):
    config = run_config(optim=optim(optimizer="muon", save_every=5))
    assert trainer(tmp_path / "whole", config).fit().finished
    cut = trainer(tmp_path / "cut", config)
    batches = cut.batches()
    for _ in range(5):
        cut.advance(batches)
    cut.save(tmp_path / "cut")
    cut.advance(batches)
    cut.rewind()
    assert cut.step == 5
    assert trainer(tmp_path / "cut", config).fit().finished
    one, two = (checkpoints.load_state(tmp_path / name) for name in ("whole", "cut"))
    assert same(one, two)
    kinds = [set(moments) for moments in one["optimizer"]["state"].values()]
    assert {"momentum_buffer"} in kinds
    assert {"step", "exp_avg", "exp_avg_sq"} in kinds


def test_rates_and_decay_of_a_resumed_run_are_those_of_its_options(tmp_path):
    config = run_config(optim=optim(optimizer="muon", weight_decay=0.1))
    trainer(tmp_path, config).fit()
    again = trainer(tmp_path, replace(config, steps=20, optim=replace(config.optim, weight_decay=0.2)))
    assert {group["weight_decay"] for group in again.optimizer.param_groups} == {0.2}


def test_the_optimizer_of_a_run_stays(tmp_path, capsys):
    options = ["--run", str(tmp_path), *TINY_OPTIONS, "--optim.batch-size", "8", "--preview", "0"]
    assert train.main([*options, "--steps", "1", *MUON]) == 0
    said = refusal(train, ["--run", str(tmp_path), "--resume", "--steps", "2", "--optim.optimizer", "adamw"], capsys)
    assert "was trained with --optim.optimizer muon, which --resume cannot change to --optim.optimizer adamw" in said
    assert train.main(["--run", str(tmp_path), "--resume", "--steps", "2"]) == 0
    assert load_config(tmp_path).optim.optimizer == "muon"


def test_a_run_of_an_earlier_version_is_one_of_adamw(tmp_path):
    options = ["--run", str(tmp_path), *TINY_OPTIONS, "--optim.batch-size", "8", "--preview", "0"]
    assert train.main([*options, "--steps", "1"]) == 0
    content = json.loads((tmp_path / checkpoints.CONFIG).read_text())
    assert content["optim"].pop("optimizer") == "adamw"
    (tmp_path / checkpoints.CONFIG).write_text(json.dumps(content))
    assert train.main(["--run", str(tmp_path), "--resume", "--steps", "2"]) == 0


@pytest.mark.parametrize("kinds", [("adamw", "muon"), ("muon", "adamw")])
def test_the_state_of_another_optimizer_does_not_fit(tmp_path, kinds):
    before, now = (run_config(steps=1, optim=optim(optimizer=kind)) for kind in kinds)
    trainer(tmp_path, before).fit()
    with pytest.raises(ValueError, match=r"does not fit the network of config\.json: optimizer state"):
        trainer(tmp_path, now)


def test_memory_counts_one_number_of_a_matrix_where_adamw_has_two():
    config = run_config()
    adamw, muon = (
        cost(replace(config, optim=optim(optimizer=kind)), torch.device("cpu")) for kind in ("adamw", "muon")
    )
    network = build_network(config)
    kept = optimizer.build(network, optim(optimizer="muon"))
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    kept.step()
    state = sum(value.numel() for values in kept.state.values() for value in values.values() if value.ndim)
    assert adamw["weight_bytes"] == 20 * adamw["parameters"]
    assert muon["weight_bytes"] == 4 * (3 * muon["parameters"] + state) < adamw["weight_bytes"]


def test_it_learns(tmp_path):
    config = run_config(steps=60, optim=optim(optimizer="muon", batch_size=32, log_every=20))
    trainer(tmp_path, config).fit()
    lines = checkpoints.MetricsLog.read(tmp_path)
    assert lines[-1]["loss"] < 0.6 * lines[0]["loss"]


def test_exact_parts_are_the_same_for_any_number_of_threads(forked, tmp_path):
    """The matrices are wide enough that torch would share their products out to threads."""
    options = ["--optim.batch-size", "8", "--optim.log-every", "1", "--optim.exact-parts", "4", "--steps", "4", *MUON]
    for count in (1, 2, 4):
        argv = ["--run", str(tmp_path / str(count)), "--preview", "0", *options]
        answer = forked(command="train", argv=argv, threads=count)
        assert answer["code"] == 0, answer["output"]
    equal(tmp_path / "1", tmp_path / "2")
    equal(tmp_path / "1", tmp_path / "4")


@on_a_cpu
def test_two_processes_and_two_with_sharded_weights_go_on_as_one(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    options = [*TINY_OPTIONS, "--preview", "0", "--optim.batch-size", "16", "--optim.log-every", "1", *MUON]
    options += ["--optim.lr", "0.02", "--optim.warmup", "0"]  # else what is wrong would be as small as what is rounded
    for steps in ("2", "4", "5"):
        go_on = ["--resume"] if one.exists() else []
        assert train.main(["--run", str(one), "--steps", steps, *options, *go_on]) == 0
    processes(2, "distillkac.train", "--run", str(two), "--steps", "2", *options)
    processes(2, "distillkac.train", "--run", str(two), "--resume", "--steps", "4", "--optim.shard")
    states = [checkpoints.load_state(folder)["optimizer"]["state"] for folder in (one, two)]
    shapes = [{n: {k: v.shape for k, v in moments.items()} for n, moments in state.items()} for state in states]
    assert shapes[0] == shapes[1]
    assert train.main(["--run", str(two), "--resume", "--steps", "5"]) == 0
    agree(one, two)
