"""What the ops weigh in whole steps: their share of a step, images per second, memory, and ways to run the network.

All threads that torch has. A rival named "... alone" is a part of the step: its ratio is that part's share of our step.
"""

import copy
import os
import subprocess
import sys
from functools import partial

import pytest
import torch

from benchmarks import baselines
from benchmarks.steps import CIFAR, MODELS, Steps, peak_memory
from distillkac import ops

# The large network on a CPU: two rounds must do, and what takes minutes is left to --long.
CIFAR_ROUNDS, CIFAR_MEMORY = 2, 16e9


@pytest.fixture(scope="module", params=MODELS.values(), ids=MODELS.keys())
def steps(request, device):
    """The steps of one model; pytest runs all tests of a model before it builds the next."""
    if request.param is CIFAR and device.type == "cpu":
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
        if memory < CIFAR_MEMORY:
            pytest.skip(f"needs {CIFAR_MEMORY / 1e9:.0f} GB of memory")
    return Steps(request.param, device)


@pytest.fixture
def contest(race, steps):
    """race for whole steps."""
    limits = {"rounds": CIFAR_ROUNDS} if large_on_cpu(steps) else {"seconds": 1.5}
    return partial(race, **limits, model=steps.model.name, batch=len(steps.x0))


def large_on_cpu(steps) -> bool:
    return steps.model is CIFAR and steps.device.type == "cpu"


@pytest.fixture
def long(pytestconfig, device):
    """For what takes minutes on a CPU."""
    if device.type == "cpu" and not pytestconfig.getoption("--long"):
        pytest.skip("takes minutes on a CPU; run with --long")


@pytest.fixture
def long_if_large(request, steps):
    """For what takes minutes on a CPU with the large network."""
    if large_on_cpu(steps):
        request.getfixturevalue("long")


def test_sampling_step(contest, steps):
    results = torch.randn(3, *steps.x0.shape, generator=torch.Generator().manual_seed(2)).to(steps.device)
    torch.testing.assert_close(steps.advance(*results), steps.eager_advance(*results), rtol=1e-5, atol=1e-5)
    rivals = {
        "with eager guidance": partial(steps.sampling, steps.eager_advance),
        "guided_step alone": partial(steps.advance, *results),
        "eager guidance alone": partial(steps.eager_advance, *results),
    }
    contest(partial(steps.sampling, steps.advance), rivals, op="sampling step")


@pytest.mark.parametrize("num_steps", [1, 2, 4])
def test_images_of_few_steps(contest, steps, num_steps):
    rivals = {} if large_on_cpu(steps) else {"torch.randn, eager steps": partial(steps.eager_images, num_steps)}
    contest(partial(steps.images, num_steps), rivals, op="images", steps=num_steps)


@pytest.mark.parametrize("num_steps", [20, 100])
def test_images_of_many_steps(contest, steps, long_if_large, num_steps):
    rivals = {"torch.randn, eager steps": partial(steps.eager_images, num_steps)} if num_steps == 20 else {}
    contest(partial(steps.images, num_steps), rivals, op="images", steps=num_steps)


def forward(steps, network, x):
    with torch.no_grad():
        network(x, steps.t, steps.y)


def training(steps, network, x):
    network(x, steps.t, steps.y).float().square().mean().backward()
    network.zero_grad()


@pytest.mark.parametrize("run", [forward, training], ids=lambda run: run.__name__)
def test_ways_to_run_the_network(contest, steps, run):
    """channels_last and bfloat16 autocast beside plain eager torch, whose time is `median`."""
    run = partial(run, steps)
    last = copy.deepcopy(steps.network).to(memory_format=torch.channels_last)
    x_last = steps.x0.to(memory_format=torch.channels_last)

    def bfloat16(*arguments):
        with torch.autocast(steps.device.type, torch.bfloat16):
            run(*arguments)

    rivals = {
        "channels_last": partial(run, last, x_last),
        "bf16 autocast": partial(bfloat16, steps.network, steps.x0),
        "channels_last + bf16 autocast": partial(bfloat16, last, x_last),
    }
    contest(partial(run, steps.network, steps.x0), rivals, op=f"network {run.func.__name__}")


def race_compiled(contest, steps, run):
    compiled = torch.compile(steps.network, dynamic=False)
    rivals = {"torch.compile": partial(run, steps, compiled, steps.x0)}
    contest(partial(run, steps, steps.network, steps.x0), rivals, op=f"network {run.__name__}", series="compile")


def test_compiled_network_forward(contest, steps, long_if_large):
    race_compiled(contest, steps, forward)


def test_compiled_network_training(contest, steps, long):
    race_compiled(contest, steps, training)


def test_training_step(contest, steps):
    steps.start_training()
    rivals = {
        "with the public pipeline": partial(steps.training, steps.public_pair),
        "kac_pair alone": steps.pair,
        "public pipeline alone": steps.public_pair,
    }
    contest(partial(steps.training, steps.pair), rivals, op="training step")


def test_distillation_iteration(contest, steps, long_if_large):
    steps.start_training()
    u, delta = steps.u_prev, torch.full_like(steps.t, 0.05)
    rivals = {
        f"{name} alone": partial(baselines.endpoint_loss_and_gradient, steps.x0, u, steps.x0, delta, loss=loss)
        for name, loss in (("endpoint_loss", ops.endpoint_loss), ("eager loss", baselines.endpoint_loss))
    }
    contest(partial(steps.distilling, steps.distillation()), rivals, op="distillation iteration")


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_peak_memory(measure, pytestconfig, device, model):
    """MB at the peak of a training step; on a CPU that of a process of its own, torch and diffusers included."""
    large = model is CIFAR and device.type == "cpu" and not pytestconfig.getoption("--long")

    def peak(name):
        if device.type == "cuda":
            return peak_memory(model, device, name == "ours")
        command = [sys.executable, "-m", "benchmarks.steps", model.name, name]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])

    def peaks():
        return {f"{name}_MB": peak(name) for name in ("ours", "public")[: 1 if large else 2]}

    measure(peaks, op="training step", model=model.name, series="memory")
