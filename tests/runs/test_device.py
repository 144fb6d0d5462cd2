"""What is done for GPUs alone, as far as a CPU can tell: which weights lie in which order, and what a program gets back."""

import contextlib
import threading
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from distillkac.runs import checkpoints, device
from distillkac.runs.run import build_network, open_run
from distillkac.training import loop
from distillkac.training.loop import Trainer
from distillkac.training.objective import FlowMatching
from tests.toys import ToyData, optim, run_config

MATMUL, CUDA = torch.backends.cuda.matmul, torch.device("cuda")


@pytest.fixture
def foreign_gpu(monkeypatch):
    """Two GPUs that torch can use and none of our kernels was built for; which of them were asked."""
    asked = []

    def velocity(k, *_):
        asked.append(k)
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nCompile with ...")

    build = {"cuda": "13.0", "cuda_architectures": "80-real;90-real"}
    monkeypatch.setattr(device, "native", SimpleNamespace(build_info=lambda: build))
    monkeypatch.setattr(device, "ops", SimpleNamespace(kac_velocity=velocity))
    for name in ("zeros", "ones", "empty"):
        monkeypatch.setattr(torch, name, lambda *_, device: torch.device(device))
    for name, value in (("is_available", True), ("device_count", 2), ("get_device_capability", (7, 5))):
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    device._failure.cache_clear()
    yield asked
    device._failure.cache_clear()


def test_a_gpu_that_the_kernels_were_not_built_for_is_said_and_left(monkeypatch, foreign_gpu):
    with pytest.warns(
        UserWarning, match=r"on the CPU: .* built for 80-real;90-real, .* no kernel image .*CUDAARCHS=75"
    ):
        assert device.device() == torch.device("cpu")
    monkeypatch.setenv("LOCAL_RANK", "3")  # of a second process on this machine, of two on each GPU
    for _ in range(2):
        with pytest.warns(UserWarning, match="CUDAARCHS=75 and build again") as said:
            assert device.device() == torch.device("cpu")
    assert "\n" not in str(said[0].message)
    assert foreign_gpu == [torch.device("cuda", 0), torch.device("cuda", 1)]


def test_a_gpu_that_the_kernels_were_not_built_for_is_refused_where_it_is_asked_for(foreign_gpu):
    with pytest.raises(ValueError, match=r"device 'cuda:1' cannot be used here, .*: set CUDAARCHS=75 and build again"):
        open_run("digits", "cuda:1")


def precision():
    return MATMUL.fp32_precision, MATMUL.allow_tf32


@pytest.fixture
def untouched():
    """As in a new program, before and after."""

    def forget():
        MATMUL.allow_tf32 = False
        MATMUL.fp32_precision = "none"

    forget()
    yield
    forget()


@pytest.mark.usefixtures("untouched")
def test_tf32_is_taken_on_a_gpu_and_given_back():
    before = precision()
    with device.fast_products(torch.device("cpu")):
        assert precision() == before
    with device.fast_products(CUDA):
        assert precision() == ("tf32", True)
        with device.fast_products(CUDA):
            pass
        assert precision() == ("tf32", True)
    assert precision() == before
    with contextlib.suppress(KeyError), device.fast_products(CUDA):
        raise KeyError
    assert precision() == before


@pytest.mark.usefixtures("untouched")
def test_threads_do_not_take_it_from_each_other():
    inside, leave = threading.Event(), threading.Event()

    def other():
        with device.fast_products(CUDA):
            inside.set()
            leave.wait()

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait()
    with device.fast_products(CUDA):
        leave.set()
        thread.join()
        assert precision() == ("tf32", True)
    assert precision() == ("none", False)


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("chosen", [True, False])
def test_a_program_that_has_chosen_keeps_its_choice(chosen):
    MATMUL.allow_tf32 = chosen
    before = precision()
    with device.fast_products(CUDA):
        assert precision() == before
    assert precision() == before


class Beside(nn.Module):
    """An own convolution beside one of our networks, as in a pair of networks."""

    def __init__(self):
        super().__init__()
        self.own, self.ours = nn.Conv2d(4, 4, 3), build_network(run_config())


def test_the_channels_of_our_convolutions_are_last_and_nothing_else_is():
    network = Beside()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    device.channels_last(network)
    last = {n for n, p in network.named_parameters() if p.dim() == 4 and p.stride(1) == 1 and p.shape[1] > 1}
    assert last == {
        n for n, p in network.named_parameters() if n.startswith("ours") and p.dim() == 4 and p.shape[1] > 1
    }
    assert len(last) > 3
    assert network.own.weight.is_contiguous()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_with_channels_last_is_resumed_and_saved_as_any_other(tmp_path, monkeypatch, optimizer):
    """Fused AdamW takes moments in the order in which they lie: those of a checkpoint must lie as the weights do."""
    config = run_config(optim=optim(optimizer=optimizer))

    def made(folder):
        network = build_network(config)
        objective = FlowMatching(config.noise.build(), network.null_class, config.label_drop, config.seed)
        accelerator = Accelerator(cpu=True)
        return Trainer(network, objective, ToyData(), folder, config.steps, config.optim, config.seed, accelerator)

    def placed(network, _):
        device.channels_last(network)
        return network

    made(tmp_path / "plain").fit()
    # Begun on a CPU, gone on with on a GPU, and stopped there once more.
    for number in range(2):
        part = made(tmp_path / "last")
        batches = part.batches()
        for _ in range(4):
            part.advance(batches)
        part.save(tmp_path / "last")
        if number == 0:
            monkeypatch.setattr(loop, "placed", placed)
    fit = made(tmp_path / "last").fit()
    assert any(p.dim() == 4 and not p.is_contiguous() for p in fit.network.parameters())
    one, two = (checkpoints.load_state(tmp_path / name) for name in ("plain", "last"))
    for part in ("model", "ema"):
        for name, value in one[part].items():
            # Convolutions that sum in another order, over twelve steps.
            torch.testing.assert_close(two[part][name], value, rtol=1e-3, atol=1e-4)
            assert two[part][name].is_contiguous()
