"""Where in memory weights lie: torch's kernels round differently off alignment, so weights that were loaded lie on it."""

import dataclasses

import pytest
import torch
from accelerate.state import AcceleratorState

from distillkac.base.memory import in_own_memory
from distillkac.data.vae import load_vae
from distillkac.flow.networks import NetworkConfig
from distillkac.pipeline import KacNet, KacPipeline
from distillkac.runs.config import save_config
from distillkac.runs.run import build_network, load_network
from distillkac.scheduler import KacScheduler
from tests.closeness import assert_same
from tests.misaligned import VECTOR, Misalignment, misaligned
from tests.toys import SHAPE, TINY, optim, run_config, trainer


@pytest.fixture(autouse=True)
def fresh_accelerate():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def offsets(network) -> set[int]:
    return {tensor.data_ptr() % VECTOR for tensor in [*network.parameters(), *network.buffers()] if tensor.numel()}


def shifted(network, offset: int):
    for parameter in network.parameters():
        parameter.data = misaligned(parameter.data, offset)
    return network


def answer(network):
    x = torch.linspace(-1, 1, 5 * 16).reshape(5, *SHAPE)
    with torch.no_grad():
        return network(x, torch.linspace(0, 1, 5), torch.arange(5) % 2)


@pytest.fixture
def network():
    network = build_network(run_config(network=NetworkConfig(channels=(16, 24), head_dim=8))).eval()
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=source))
    return network


@pytest.mark.one_alignment
@pytest.mark.parametrize("offset", [4, 20, 36, 60])
def test_moved_weights_answer_alike_and_the_same_when_moved_back(network, offset):
    aligned = answer(network)
    names = {name: parameter for name, parameter in network.named_parameters()}
    assert offsets(shifted(network, offset)) == {offset}
    assert_same(answer(network), aligned)
    assert in_own_memory(network) is network
    assert offsets(network) == {0}
    assert all(parameter is names[name] for name, parameter in network.named_parameters())
    assert torch.equal(answer(network), aligned)  # one CPU, one number of threads, and now one alignment


def test_strides_are_kept():
    value = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    moved = misaligned(value, 12)
    assert (moved.data_ptr() % VECTOR, moved.stride()) == (12, value.stride())
    assert torch.equal(moved, value)
    layer = in_own_memory(torch.nn.ParameterList([moved]))[0]
    assert (layer.data_ptr() % VECTOR, layer.stride()) == (0, value.stride())
    assert misaligned(torch.ones(3, dtype=torch.float64), 4).data_ptr() % VECTOR == 8


@pytest.mark.one_alignment
def test_what_is_loaded_lies_as_torch_puts_it(tmp_path):
    """Run folders, saved pipelines and autoencoders: their files are mapped, at addresses that follow from a header."""
    from diffusers import AutoencoderKL

    config = run_config(steps=1)
    trainer(tmp_path / "run", config).fit()
    save_config(tmp_path / "run", config)
    assert offsets(load_network(tmp_path / "run", config)) == {0}
    AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4).save_pretrained(tmp_path / "vae")
    vae = load_vae(str(tmp_path / "vae"), torch.device("cpu"))
    assert offsets(vae) == {0}
    unet = KacNet(dataclasses.asdict(TINY), SHAPE, ("dark", "bright"))
    KacPipeline(unet, KacScheduler(), 2, vae).save_pretrained(tmp_path / "pipeline")
    again = KacPipeline.from_pretrained(tmp_path / "pipeline")
    assert offsets(again.unet) == offsets(again.vae) == {0}


@pytest.mark.one_alignment
def test_a_training_has_the_same_bits_wherever_its_network_lay(tmp_path):
    weights = []
    for offset in (0, 20):
        job = trainer(tmp_path / str(offset), run_config(steps=3, optim=optim(batch_size=4)))
        network = shifted(build_network(run_config()), offset)
        job = type(job)(network, job.objective, job.dataset, job.folder, 3, job.optim, 0, job.accelerator)
        assert offsets(network) == {0}
        job.fit()
        weights.append(network.state_dict())
        AcceleratorState._reset_state(reset_partial_state=True)
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.one_alignment
def test_the_option_of_the_suite_moves_every_weight(network):
    move = Misalignment()
    for module in network.modules():
        move(module, ())
    assert move.moved == len(list(network.parameters()))
    assert 0 not in offsets(network)
    assert len(offsets(network)) > 5
