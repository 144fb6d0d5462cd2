"""Group norms with channels last, and what torch says of them in float64."""

import copy

import torch
from torch import nn
from torch.nn import functional

from distillkac.base.random import generator
from distillkac.flow.channels_last import group_norm

# (batch, channels, height, width, groups): whole vectors, eights, single channels; blocks of positions and parts of them.
SHAPES = [(3, 48, 7, 5, 8), (2, 26, 3, 3, 2), (1, 7, 33, 31, 1), (4, 8, 1, 1, 4), (2, 96, 16, 17, 32)]
# Of the largest number: float32 sums of that many, and one rounding to 16 bits.
ROUNDING = {torch.float32: 3e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}


def problem(shape, dtype=torch.float32, mean=0.5, deviation=2.0, seed=0):
    """x, its gradient's cotangent, and a norm with weights of its own."""
    batch, channels, height, width, groups = shape
    source = generator(seed, "norm")
    x = (deviation * torch.randn(batch, channels, height, width, generator=source) + mean).to(dtype)
    norm = nn.GroupNorm(groups, channels)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(channels, generator=source))
        norm.bias.copy_(torch.randn(channels, generator=source))
    return x, torch.randn(x.shape, generator=source).to(dtype), norm


def exact(x, cotangent, norm, silu):
    """Answer and gradients in float64 by torch."""
    norm, x = copy.deepcopy(norm).double(), x.double().requires_grad_()
    y = norm(x)
    y = functional.silu(y) if silu else y
    return y, *torch.autograd.grad(y, [x, norm.weight, norm.bias], cotangent.double())


def ours(x, cotangent, norm, silu):
    x = x.clone().requires_grad_()
    y = group_norm(norm, x, silu)
    return y, *torch.autograd.grad(y, [x, norm.weight, norm.bias], cotangent)


def assert_near(got, wanted, rounding):
    for one, two in zip(got, wanted, strict=True):
        assert one.shape == two.shape
        error = (one.double() - two).abs().max() / two.abs().max().clamp(min=1e-3)
        assert error <= rounding, f"{error:.1e}"
