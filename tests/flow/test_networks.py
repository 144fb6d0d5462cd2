"""VelocityNet: shapes by configuration, conditioning, the calm start, clear errors."""

from dataclasses import replace

import pytest
import torch

from distillkac.base.random import generator
from distillkac.flow.networks import NetworkConfig, VelocityNet

DIGITS = (1, 8, 8)


def inputs(shape, count=3, classes=10):
    source = generator(0, "inputs")
    return (
        torch.randn(count, *shape, generator=source),
        torch.rand(count, generator=source),
        torch.randint(0, classes + 1, (count,), generator=source),
    )


def woken(network):
    """With weights away from their zero start, so that every input has an influence."""
    source = generator(1, "weights")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=source))
    return network.eval()


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (NetworkConfig(), DIGITS),
        (NetworkConfig(channels=(16, 24, 32), layers=2, attention=(1, 2), head_dim=8), (3, 32, 32)),
        (NetworkConfig(channels=(8,), head_dim=4), (3, 5, 7)),
        (NetworkConfig(channels=(8, 16), middle_attention=False, dropout=0.1), (1, 6, 10)),
        (NetworkConfig(channels=(8, 16), head_dim=8, scale_shift=True), DIGITS),
        (NetworkConfig(patch=2), (1, 12, 20)),
        (NetworkConfig(channels=(8, 16), head_dim=8, patch=4), (3, 32, 32)),
        (NetworkConfig(backbone="dit", channels=(32,), layers=2, head_dim=16), DIGITS),
        (NetworkConfig(backbone="dit", channels=(16,), layers=1, head_dim=16, patch=4), (3, 32, 32)),
        (NetworkConfig(backbone="dit", channels=(16,), layers=2, head_dim=8, patch=4), (1, 12, 20)),
        (NetworkConfig(backbone="dit", channels=(16,), head_dim=8, patch=2, qk_norm=True, rotary=True), (3, 10, 4)),
    ],
)
def test_velocity_is_shaped_like_the_image(config, shape):
    network = VelocityNet(config, shape, 10)
    x, t, y = inputs(shape)
    u = network(x, t, y)
    assert u.shape == x.shape
    assert torch.equal(u, torch.zeros_like(u))  # the start: no velocity, so the first loss is that of the target
    u.square().mean().backward()
    woken(network)
    assert network(x, t, y).abs().max() > 0


def test_default_is_small():
    count = sum(p.numel() for p in VelocityNet(NetworkConfig(), DIGITS, 10).parameters())
    assert 0.5e6 < count < 0.8e6


def test_every_condition_matters_and_rows_do_not_mix():
    network = woken(VelocityNet(NetworkConfig(channels=(8, 16), head_dim=8), DIGITS, 10))
    x, t, y = inputs(DIGITS)
    u = network(x, t, y)
    for changed in (
        network(x, t * 0.5, y),
        network(x, t, torch.full_like(y, network.null_class)),
        network(x * 0.9, t, y),
    ):
        assert not torch.allclose(u, changed)
    torch.testing.assert_close(network(x[1:2], t[1:2], y[1:2]), u[1:2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "config", [NetworkConfig(), NetworkConfig("dit", channels=(32,), layers=2)], ids=["unet", "dit"]
)
def test_guidance_embedding_starts_without_effect(config):
    """A student that is to be conditioned on w starts as its teacher, whatever w."""
    plain = woken(VelocityNet(config, DIGITS, 10))
    conditioned = VelocityNet(replace(config, guidance_embedding=True), DIGITS, 10)
    loaded = conditioned.load_state_dict(plain.state_dict(), strict=False)
    assert not loaded.unexpected_keys
    assert all("guidance" in name for name in loaded.missing_keys)
    x, t, y = inputs(DIGITS)
    w = torch.tensor([0.0, 1.0, 4.0])
    for network, given in ((plain, (w,)), (conditioned, ())):
        with pytest.raises(ValueError, match="guidance_embedding"):
            network(x, t, y, *given)
    torch.testing.assert_close(conditioned.eval()(x, t, y, w), plain(x, t, y))
    woken(conditioned)
    assert not torch.allclose(conditioned(x, t, y, w), conditioned(x, t, y, w + 1))


@pytest.mark.parametrize(
    ("config", "shape", "message"),
    [
        (NetworkConfig(channels=(12,)), DIGITS, "multiples of 8, got"),
        (NetworkConfig(channels=()), DIGITS, "must hold one number or more, got none"),
        (NetworkConfig(), (1, 9, 9), "images of 9x9 cannot be halved 1 times"),
        (NetworkConfig(channels=(8, 8, 8), head_dim=8), (1, 8, 10), "multiple of 4"),
        (NetworkConfig(patch=3), (1, 28, 28), r"patch must divide .* got 3 for 28x28; use another .* a multiple of 6"),
        (NetworkConfig(patch=4), (1, 12, 18), r"patch must divide .* got 4 for 12x18"),
        (
            NetworkConfig(channels=(8, 8, 8), head_dim=8, patch=2),
            (1, 28, 28),
            r"28x28, 14x14 in patches of 2, cannot be halved 2 times .* a smaller network\.patch, .* a multiple of 8",
        ),
        (NetworkConfig(attention=(2,)), DIGITS, "level 2 does not exist in 2 levels"),
        (NetworkConfig(channels=(32, 40)), DIGITS, "head_dim must divide"),
        (NetworkConfig(channels=(40, 64), attention=(0,)), DIGITS, "head_dim must divide"),
    ],
)
def test_impossible_networks_are_explained(config, shape, message):
    with pytest.raises(ValueError, match=message):
        VelocityNet(config, shape, 10)


def gradient_names(answer):
    """Names of all functions that the gradient of an answer goes through."""
    found, waiting = set(), [answer.grad_fn]
    while waiting:
        function = waiting.pop()
        if function is not None and function not in found:
            found.add(function)
            waiting += [before for before, _ in function.next_functions]
    return {function.name() for function in found}


@pytest.mark.parametrize(
    ("config", "shape", "positions"),
    [
        (NetworkConfig(), DIGITS, 16),
        (NetworkConfig(channels=(8, 16), head_dim=8, patch=2), (1, 28, 28), 49),
        (NetworkConfig(channels=(8, 16), head_dim=8, attention=(0,)), (1, 16, 16), 256),
        (NetworkConfig(channels=(8, 16), middle_attention=False), DIGITS, 0),
        (NetworkConfig(backbone="dit", channels=(32,), head_dim=16), DIGITS, 16),
    ],
)
def test_attention_of_few_positions_is_written_out_for_gradients_in_bfloat16(config, shape, positions):
    network = woken(VelocityNet(config, shape, num_classes=10))
    x, t, y = inputs(shape)
    assert network.positions == positions
    try:
        with torch.autocast("cpu", torch.bfloat16):
            half = network(x, t, y)
    except RuntimeError as error:
        if positions > 128 and "avx512" in str(error):
            pytest.skip(f"torch's own attention in bfloat16 fails at this level of its kernels: {error}")
        raise
    fused = [any("ScaledDotProduct" in name for name in gradient_names(answer)) for answer in (half, network(x, t, y))]
    assert fused == [positions > 128, positions > 0]
    with torch.no_grad():
        torch.testing.assert_close(half.float(), network(x, t, y), rtol=0.1, atol=0.1)
