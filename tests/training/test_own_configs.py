"""Configs and arguments given in Python: what no config.json may hold is refused by name before anything is trained."""

import dataclasses

import numpy as np
import pytest

from distillkac.data import DataConfig
from distillkac.distillation import DistillConfig, distill
from distillkac.flow import Telegraph
from distillkac.runs import OptimConfig, ProcessConfig, RunConfig, checkpoints, load_config
from distillkac.runs.config import save_config
from distillkac.training import config_for, train
from tests.toys import TINY, ToyData
from tests.training.test_own_networks import Net

OPTIM = OptimConfig(batch_size=8, warmup=2)
CONFIG = RunConfig(steps=2, optim=OPTIM, preview=0)
PLAN = DistillConfig(stages=(2, 1), steps=(2,), optim=OPTIM)


def optim(**options):
    return {"optim": dataclasses.replace(OPTIM, **options)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"noise": ProcessConfig("plannar")},
            "config.noise.process must be one of 'telegraph', 'planar', 'quad', 'gaussian'",
        ),
        ({"noise": "planar"}, r"config.noise must be an object \(ProcessConfig\), got 'planar'"),
        ({"noise": Telegraph()}, r"config.noise must be an object \(ProcessConfig\), got Telegraph"),
        (optim(precision="fp16"), "config.optim.precision must be one of 'no', 'bf16', got 'fp16'"),
        (optim(save_every=2.5), "config.optim.save_every must be of type int, got 2.5"),
        (optim(batch_size=8.0), "config.optim.batch_size must be of type int, got 8.0"),
        (optim(lr=np.float32(0.5)), r"config.optim.lr must be of type float, got .*0.5"),
        ({"seed": 1.5}, "config.seed must be of type int, got 1.5"),
        ({"seed": np.int64(1)}, "config.seed must be of type int, got .*1"),
        ({"steps": 2.5}, "config.steps must be of type int, got 2.5"),
    ],
)
def test_values_that_no_file_may_hold_are_refused(tmp_path, changes, words):
    config = dataclasses.replace(CONFIG, **changes)
    with pytest.raises(ValueError, match=words):
        train(tmp_path / "run", ToyData(), Net(2), config)
    with pytest.raises(ValueError, match=words):
        config_for(ToyData(), Net(2), config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("noise", "words"),
    [
        (ProcessConfig("gaussian", a=9.0), "a 9 is of process telegraph or planar or quad, got gaussian: omit a"),
        (ProcessConfig("gaussian", c=3.0), "c 3 is of process telegraph or planar or quad"),
        (ProcessConfig("quad", sigma=0.4), "sigma 0.4 is of process gaussian, got quad"),
        (ProcessConfig("planar", tau_max=0.9), "tau_max 0.9 is of process gaussian, got planar: omit tau_max"),
    ],
    ids=str,
)
def test_numbers_of_another_process_are_refused(tmp_path, noise, words):
    """But where a run has them already, as of earlier versions, which is opened and goes on."""
    config = dataclasses.replace(CONFIG, noise=noise)
    with pytest.raises(ValueError, match=words):
        train(tmp_path / "run", ToyData(), Net(2), config)
    assert not (tmp_path / "run").exists()
    train(tmp_path / "run", ToyData(), Net(2), dataclasses.replace(CONFIG, noise=ProcessConfig(noise.process)))
    saved = dataclasses.replace(load_config(tmp_path / "run"), noise=noise)
    save_config(tmp_path / "run", saved)
    assert train(tmp_path / "run", ToyData(), Net(2), config, resume=True).config.noise == noise


@pytest.mark.parametrize("network", ["own", "ours", "unsaid"])
def test_what_is_resumed_without_a_config_has_that_of_the_run(tmp_path, network):
    """A run of two steps, which is taken up at its first: the library's usual 3000 steps and rates are not meant."""
    given = {"own": Net(2), "ours": TINY, "unsaid": None}[network]
    config = dataclasses.replace(CONFIG, seed=3, noise=ProcessConfig("planar"), **optim(lr=3e-4, ema=0.9, save_every=1))
    ours = dataclasses.replace(config, network=TINY) if network == "unsaid" else config
    train(tmp_path / "run", ToyData(), given, dataclasses.replace(ours, steps=1))
    saved = dataclasses.replace(load_config(tmp_path / "run"), steps=2)
    save_config(tmp_path / "run", saved)
    run = train(tmp_path / "run", ToyData(), given, resume=True)
    assert load_config(tmp_path / "run") == saved == run.config
    assert checkpoints.described(tmp_path / "run")[0] == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"config": {"steps": 2}}, "config must be a RunConfig, got {'steps': 2}"),
        ({"config": OPTIM}, "config must be a RunConfig, got OptimConfig"),
        ({"folder": None}, "folder must be a path, the run folder to write, got None"),
        ({"track": "wandb"}, r'track must be a tuple of names, such as \("wandb",\)'),
        (
            {"dataset": DataConfig(builtin="digit")},
            "config.data.builtin must be one of 'digits', 'patches', got 'digit'",
        ),
    ],
)
def test_arguments_of_another_kind_are_refused(tmp_path, arguments, words):
    with pytest.raises(ValueError, match=words):
        train(**{"folder": tmp_path / "run", "dataset": ToyData(), "network": Net(2), "config": CONFIG} | arguments)
    assert not (tmp_path / "run").exists()


def test_distillation_takes_configs_by_the_same_reader(tmp_path):
    run = train(tmp_path / "run", ToyData(), Net(2), CONFIG)
    for config, words in (
        (dataclasses.replace(PLAN, method="recon"), "config.method must be one of 'endpoint', 'reconstruction'"),
        (dataclasses.replace(PLAN, seed=1.5), "config.seed must be of type int"),
        (dataclasses.replace(PLAN, **optim(precision="fp16")), "config.optim.precision must be one of"),
        (CONFIG, "config must be a DistillConfig, got RunConfig"),
        ({}, "config must be a DistillConfig"),
    ):
        with pytest.raises(ValueError, match=words):
            distill(run, ToyData(), config=config)
    assert not list((tmp_path / "run").glob("student-*"))


def test_a_whole_number_for_a_float_is_read_back_as_it_was_trained(tmp_path):
    run = train(tmp_path / "run", ToyData(), Net(2), dataclasses.replace(CONFIG, noise=ProcessConfig(a=9, c=1)))
    assert load_config(tmp_path / "run") == run.config
    assert type(run.config.noise.a) is float


def test_an_unknown_process_is_never_built():
    with pytest.raises(ValueError, match="process must be telegraph, planar, quad or gaussian, got 'plannar'"):
        ProcessConfig("plannar").build()
