"""The U-Net's blocks that keep channels last in memory on a CPU: what diffusers' own blocks answer, and their gradients."""

import copy
import pickle
import threading

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from distillkac.base import backbones
from distillkac.base.random import generator
from distillkac.flow import channels_last, unet_blocks
from distillkac.flow.attention import written_out
from distillkac.flow.networks import NetworkConfig, VelocityNet
from tests.closeness import assert_other, assert_same

CONFIGS = [
    (NetworkConfig(channels=(16, 32), head_dim=8), (1, 8, 8)),
    (NetworkConfig(channels=(16, 24), head_dim=8, patch=2, attention=(0,), layers=2), (1, 16, 8)),
    (NetworkConfig(channels=(16, 32), head_dim=8, scale_shift=True, interval_embedding=True), (3, 8, 8)),
    (NetworkConfig(channels=(8, 8, 16), head_dim=8, checkpointing=True, augment_embedding=True), (2, 8, 12)),
]


def network_of(config, shape):
    """With weights away from their start, where every velocity is zero."""
    network, source = VelocityNet(config, shape, 10), generator(1, "weights")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=source))
    return network


def answers(network, batch, dtype, keep=False):
    """Velocity, and its gradients to the images and every weight."""
    source = generator(2, "images")
    x = torch.randn(batch, *network.shape, generator=source).requires_grad_()
    t, y = torch.rand(batch, generator=source), torch.randint(0, 11, (batch,), generator=source)
    further = {"r": t / 2} if network.interval_embedding else {}
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        u = network(x, t, y, **further)
    used = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return u, *torch.autograd.grad(u.float().square().mean(), [x, *used], allow_unused=True, retain_graph=keep)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("batch", [3, 65])  # diffusers changes the order of memory from 64 images on
@pytest.mark.parametrize(("config", "shape"), CONFIGS)
def test_the_network_is_that_of_diffusers(config, shape, batch, dtype, monkeypatch):
    network = network_of(config, shape)
    got = answers(network, batch, dtype)
    for module in (channels_last, unet_blocks):
        monkeypatch.setattr(module, "served", lambda x: False)
    wanted = answers(network, batch, dtype)
    assert got[0].is_contiguous()
    # Beside the largest gradient: that of a key's bias, to which a softmax is blind, is nothing but rounding.
    least = 1e-3 * max(value.double().norm() for value in wanted if value is not None)
    for one, two in zip(got, wanted, strict=True):
        assert (one is None) == (two is None)
        if one is not None:
            gap = (one.double() - two.double()).norm() / two.double().norm().clamp(min=least)
            # bfloat16 rounds at 2**-9, some thirty times between image and velocity.
            assert gap <= (1e-4 if dtype is torch.float32 else 0.05), f"{gap:.1e}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("config", "shape"), CONFIGS)
def test_gradients_lie_in_memory_as_their_weights_do(config, shape, dtype):
    """Else several processes, which gather gradients in buckets of the weights' strides, copy each, and torch warns."""
    network = network_of(config, shape)
    u, *_ = answers(network, 5, dtype, keep=True)
    u.float().square().mean().backward()
    for name, weight in network.named_parameters():
        assert weight.grad is None or weight.grad.stride() == weight.stride(), name


def test_every_convolution_has_its_channels_last(monkeypatch):
    network, seen = network_of(*CONFIGS[1]), []
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):
            module.register_forward_hook(
                lambda _, given, answer, name=name: seen.append(
                    (name, *(x.is_contiguous(memory_format=torch.channels_last) for x in (given[0], answer)))
                )
            )
    network.train()
    answers(network, 65, torch.float32)
    assert len(seen) > 20
    assert [name for name, before, after in seen if not (before and after)] == []


def test_the_blocks_keep_diffusers_names_and_can_be_copied():
    network = network_of(*CONFIGS[0])
    config = {name: value for name, value in network.unet.config.items() if not name.startswith("_")}
    plain = backbones.unet_class()(**config)
    assert plain.state_dict().keys() == network.unet.state_dict().keys()
    assert {type(m).__name__ for m in network.unet.modules()} >= {"ResidualBlock", "Upsampling", "GroupNormSiLU"}
    x, t, y = torch.randn(2, 1, 8, 8), torch.rand(2), torch.tensor([0, 10])
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert_same(other(x, t, y), network(x, t, y))


def test_dropout_follows_the_seed():
    config, shape = CONFIGS[0]
    network = network_of(NetworkConfig(**vars(config) | {"dropout": 0.5}), shape).train()
    torch.manual_seed(3)
    first = answers(network, 4, torch.float32)[0]
    torch.manual_seed(4)
    assert not torch.allclose(first, answers(network, 4, torch.float32)[0], atol=1e-3)
    torch.manual_seed(3)
    assert_same(first, answers(network, 4, torch.float32)[0])


def test_threads_of_a_program_may_share_a_network():
    network, results = network_of(*CONFIGS[0]).eval(), {}

    def call(number):
        with torch.no_grad():
            results[number] = network(torch.full((2, 1, 8, 8), number / 4), torch.full((2,), 0.5), torch.tensor([1, 2]))

    for number in range(4):
        call(number)
    alone = dict(results)
    results.clear()
    team = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join()
    assert_other(alone[0], alone[3])
    for number in range(4):
        assert_same(results[number], alone[number])


def test_hooks_run_and_wrappers_are_called():
    """Of every module, on the way that the kernel takes as on torch's own."""
    network, seen = network_of(*CONFIGS[0]), set()
    hooks = [
        module.register_forward_hook(lambda *_, name=name: seen.add(name)) for name, module in network.named_modules()
    ]
    answers(network, 3, torch.float32)
    layers = (nn.GroupNorm, nn.Conv2d, nn.Linear)
    assert seen >= {name for name, module in network.named_modules() if isinstance(module, layers)}
    for hook in hooks:
        hook.remove()
    block = network.unet.up_blocks[0].resnets[0]
    before = answers(network, 3, torch.float32)[0]
    block.conv_shortcut = Doubled(block.conv_shortcut)
    doubled = answers(network, 3, torch.float32)[0]
    assert_other(doubled, before)
    block.conv_shortcut = block.conv_shortcut.base
    prune.identity(block.conv_shortcut, "weight")
    with torch.no_grad():
        block.conv_shortcut.weight_orig.mul_(2)  # the weight itself is made of it by a hook, before each call
        block.conv_shortcut.bias.mul_(2)
    assert_same(answers(network, 3, torch.float32)[0], doubled)


def test_what_replaces_the_call_of_a_layer_is_called():
    """As offloading does: a `forward` of the instance. And another nonlinearity of a block."""
    network = network_of(*CONFIGS[0])
    before, norm = answers(network, 3, torch.float32)[0], network.unet.up_blocks[0].resnets[0].norm1
    own = norm.forward
    norm.forward = lambda x: 50 * own(x)
    assert_other(answers(network, 3, torch.float32)[0], before)
    del norm.forward
    assert_same(answers(network, 3, torch.float32)[0], before)
    block = network.unet.up_blocks[0].resnets[0]
    block.nonlinearity, silu = Louder(), block.nonlinearity
    assert_other(answers(network, 3, torch.float32)[0], before)
    block.nonlinearity = silu
    assert_same(answers(network, 3, torch.float32)[0], before)


class Louder(nn.Module):
    def forward(self, x):
        return 50 * x


class Doubled(nn.Module):
    """As adapters wrap a layer: its weights can be seen, and are not all."""

    def __init__(self, base):
        super().__init__()
        self.base = base

    @property
    def weight(self):
        return self.base.weight

    @property
    def bias(self):
        return self.base.bias

    def forward(self, x):
        return 2 * self.base(x)


def test_threads_leave_torchs_attention_as_it_was():
    """What chooses among torch's kernels is one setting for all threads: the last one to leave must put it back."""
    inside, first_may_leave = threading.Barrier(2), threading.Event()

    def first():
        with written_out():
            inside.wait()
            first_may_leave.wait()

    def second():
        with written_out():
            inside.wait()
            first_may_leave.set()
            team[0].join()
            settings.append(attention())

    settings, before = [], attention()
    team = [threading.Thread(target=first), threading.Thread(target=second)]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join()
    assert settings == [(False, False, True)]  # while one is inside
    assert attention() == before == (True, True, True)


def attention():
    cuda = torch.backends.cuda
    return cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled()
