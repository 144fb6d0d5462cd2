"""Where weights lie in memory."""

import itertools
from typing import TypeVar

from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def in_own_memory(network: Network) -> Network:
    """The network itself, its weights moved to where torch puts new ones: at multiples of 64 bytes.

    Weights that are mapped from a file lie anywhere, and torch's kernels round differently there: of two networks with
    equal weights on one CPU, one would give other bits.
    """
    for tensor in itertools.chain(network.parameters(), network.buffers()):
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()
    return network
