"""`pytest --misalign`: the weights of every network lie 4 to 60 bytes off the addresses that torch gives them.

torch's kernels load full vectors where they can and finish the rest one by one, so where a tensor begins decides how its
sums round. Weights mapped from a file begin anywhere. Nothing may depend on it: before a module is first called, each of its
parameters moves to an offset of its own, another one for every parameter and every network, so that two networks with equal
weights do not round alike. Tests marked `one_alignment` say that bits are equal where networks lie alike: for them nothing
moves. Processes that a test starts are not reached either.
"""

import random

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

VECTOR = 64  # bytes; what torch's allocator gives is a multiple of it


class Misalignment:
    """Moves the parameters of a module that is called, unless `paused`."""

    def __init__(self):
        self.source, self.paused, self.moved = random.Random(0), False, 0

    def __call__(self, module: nn.Module, _inputs) -> None:
        if self.paused or torch.compiler.is_compiling():
            return
        for parameter in module.parameters(recurse=False):
            plain = type(parameter.data) is torch.Tensor and parameter.layout == torch.strided
            if plain and parameter.device.type == "cpu" and parameter.data_ptr() % VECTOR == 0 and parameter.numel():
                parameter.data = misaligned(parameter.data, self.source.randrange(4, VECTOR, 4))
                self.moved += 1


def misaligned(value: torch.Tensor, offset: int) -> torch.Tensor:
    """A copy of the dense tensor, strides kept, `offset` bytes after a multiple of 64; rounded up to whole elements."""
    size = value.element_size()
    span = 1 + sum((n - 1) * stride for n, stride in zip(value.shape, value.stride(), strict=True))
    memory = torch.empty(span + 2 * VECTOR // size, dtype=value.dtype)
    start = (-memory.data_ptr() % VECTOR + offset + size - 1) // size
    return torch.as_strided(memory, value.shape, value.stride(), start).copy_(value)


def pytest_addoption(parser):
    parser.addoption("--misalign", action="store_true", help="move the weights of all networks off alignment")


def pytest_configure(config):
    if config.getoption("--misalign"):
        config.misalignment = Misalignment()
        register_module_forward_pre_hook(config.misalignment)


def pytest_runtest_setup(item):
    if item.config.getoption("--misalign"):
        item.config.misalignment.paused = item.get_closest_marker("one_alignment") is not None
