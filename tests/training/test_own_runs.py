"""Runs that stay in Python: which weights are distilled, late Ctrl-C, and what the caller's program keeps."""

import dataclasses
import os
import signal

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import nn

from distillkac.distillation import chain, distill
from distillkac.runs import RunConfig, open_run
from distillkac.training import config_for, train
from distillkac.training import fit as fitting
from tests.toys import ToyData, optim
from tests.training.test_own_configs import CONFIG, PLAN
from tests.training.test_own_networks import Net


@pytest.fixture(autouse=True)
def no_precision_stays():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


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


def test_the_callers_accelerate_is_left_as_it_was(tmp_path):
    mine = Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=4)
    network = mine.prepare(torch.nn.Linear(2, 2))
    run = train(tmp_path / "run", ToyData(), Net(2), CONFIG)
    distill(run, ToyData(), config=PLAN)
    assert mine.mixed_precision == "bf16"
    assert mine.gradient_accumulation_steps == 4
    steps = []
    for _ in range(4):
        with mine.accumulate(network):
            mine.backward(network(torch.ones(1, 2)).float().sum())
            steps.append(mine.sync_gradients)
    assert steps == [False, False, False, True]


def test_training_finds_gradients_where_the_caller_has_them_off(tmp_path):
    with torch.no_grad():
        run = train(tmp_path / "run", ToyData(), Net(2), CONFIG)
        (student,) = distill(run, ToyData(), config=PLAN)
        assert not torch.is_grad_enabled()
    assert (student.folder / "ema.safetensors").exists()


def test_inference_mode_is_refused_by_name(tmp_path):
    with torch.inference_mode(), pytest.raises(ValueError, match=r"under torch.inference_mode\(\)"):
        train(tmp_path / "run", ToyData(), Net(2), CONFIG)
    assert not (tmp_path / "run").exists()


def test_rows_that_are_not_finite_are_named(tmp_path):
    data = ToyData(count=200)
    config = dataclasses.replace(CONFIG, steps=12)
    (late,) = data.order(config.seed)(80, 81).tolist()  # the first 64 are looked at before training; 8 a step
    data.x[late] = float("nan")
    with pytest.raises(FloatingPointError, match=rf"in step 11; .* The data are not finite in row {late}: mend"):
        train(tmp_path / "run", data, Net(2), config)


@pytest.mark.parametrize("parts", [None, 1])
def test_fit_run_takes_a_path_as_text_and_refuses_a_loss_of_many_numbers(tmp_path, parts):
    network, data = Net(2), ToyData()
    optim = dataclasses.replace(CONFIG.optim, exact_parts=parts)
    config = config_for(data, network, dataclasses.replace(CONFIG, optim=optim))
    accelerator = fitting.accelerator_for(optim)

    def losses(network, batch):
        return network(batch.x0, batch.y.float(), batch.y).square().mean((1, 2, 3))

    arguments = str(tmp_path / "run"), config, network
    with pytest.raises(ValueError, match=r"must return one number, .* got of shape \(8,\)"):
        fitting.fit_run(*arguments, losses, data, accelerator, "own", go_on=False)
    fit = fitting.fit_run(*arguments, lambda *given: losses(*given).mean(), data, accelerator, "own", go_on=False)
    assert fit.finished


class Grouped(nn.Module):
    """A network of somebody else's, with groups of its own."""

    null_class = 2

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 1, 3, padding=1))
        self.scale = nn.Parameter(torch.ones(3))

    def param_groups(self):
        return [{"params": list(self.layers.parameters())}, {"params": [self.scale], "lr_scale": 0.0}]

    def forward(self, x, t, y):
        return self.layers(x) * self.scale[y].view(-1, 1, 1, 1)


def test_an_own_network_may_learn_its_weights_too(tmp_path):
    config = RunConfig(steps=3, preview=0, weight="learned", optim=optim())
    network = Grouped()
    run = train(tmp_path, ToyData(), network, config)
    assert isinstance(run.network, Grouped)
    assert torch.equal(network.scale, torch.ones(3))  # its own rate, 0, is kept
    assert not torch.equal(network.layers[0].weight, Grouped().layers[0].weight)
    again = train(tmp_path, ToyData(), Grouped(), dataclasses.replace(config, steps=4), resume=True)
    assert again.config.weight == "learned"
    assert open_run(tmp_path, "cpu", Grouped()).network.layers[0].weight.shape == (8, 1, 3, 3)


@pytest.mark.parametrize("kind", ["channels_last", "transposed", "float64"])
def test_exact_parts_of_weights_that_lie_otherwise_in_memory(tmp_path, kind):
    """Fused optimizers go through weights and gradients as they lie there."""
    found = []
    for parts in (None, 1):
        network = Net(2)
        if kind == "channels_last":
            network.to(memory_format=torch.channels_last)
        elif kind == "transposed":
            network.classes.weight = nn.Parameter(network.classes.weight.detach().t().contiguous().t())
        else:
            network.classes.double().register_forward_hook(lambda module, given, answer: answer.float())
        config = dataclasses.replace(CONFIG, optim=dataclasses.replace(CONFIG.optim, lr=1e-2, exact_parts=parts))
        train(tmp_path / str(parts), ToyData(), network, config)
        found.append(network.state_dict())
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-4, atol=1e-6)


def test_a_network_is_called_as_before_when_its_training_is_over(tmp_path):
    def half(config):
        return dataclasses.replace(config, optim=dataclasses.replace(config.optim, precision="bf16"))

    network, seen = Net(2), set()
    network.last.register_forward_hook(lambda module, given, answer: seen.add(answer.dtype))
    run = train(tmp_path / "half", ToyData(), network, half(CONFIG))
    assert torch.bfloat16 in seen
    assert not {"forward", "_original_forward"} & vars(network).keys()
    seen.clear()
    train(tmp_path / "whole", ToyData(), network, CONFIG)
    assert seen == {torch.float32}
    seen.clear()
    opened = open_run(tmp_path / "half", network=network).network
    given = torch.zeros(2, 1, 4, 4), torch.ones(2), torch.tensor([0, 1])
    # To the rounding of convolutions; bfloat16 is further off by far.
    torch.testing.assert_close(opened(*given), run.network(*given), rtol=0, atol=1e-5)
    # And as the caller has it called, whose own wrapper it may be; if it fails, too.
    own = network.forward
    network.forward = lambda x, t, y: own(x, t, y)
    mine = network.forward
    data, config = ToyData(count=200), half(dataclasses.replace(CONFIG, steps=12))
    data.x[data.order(config.seed)(80, 81)] = float("nan")  # in step 11: the first 64 are looked at before training
    with pytest.raises(FloatingPointError, match="in step 11; "):
        train(tmp_path / "broken", data, network, config)
    assert network.forward is mine
