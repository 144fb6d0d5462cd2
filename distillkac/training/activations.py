"""What autograd keeps of a forward pass, in bytes: the memory of a batch."""

from collections.abc import Callable

import torch

from distillkac.flow.networks import VelocityNet, recomputed


class _Kept:
    """Counts, within `counting`, the memory that is kept for the backward pass, every piece once; parameters are no part."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.bytes, self._known = 0, {p.untyped_storage().data_ptr() for p in network.parameters()}

    def counting(self) -> torch.autograd.graph.saved_tensors_hooks:
        return torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor)

    def _keep(self, tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in self._known:
            self._known.add(place)
            self.bytes += tensor.untyped_storage().nbytes()
        return tensor


def activation_bytes(network: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> int:
    """What is in memory at most for the gradient of `loss`, beside weights and gradients.

    With gradient checkpointing (VelocityNet, config.checkpointing) what is kept, and what the largest block keeps while it is
    computed once more.
    """
    kept = _Kept(network)
    with kept.counting():
        value = loss()
    value.backward()
    if not isinstance(network, VelocityNet) or not network.config.checkpointing:
        return kept.bytes
    return kept.bytes + _largest_block(network, loss)


def _largest_block(network: VelocityNet, loss: Callable[[], torch.Tensor]) -> int:
    """Bytes that the block keeps which keeps most, when it is computed."""
    kept, largest = _Kept(network), 0

    def noted(block: torch.nn.Module, *inputs: torch.Tensor | None) -> object:
        nonlocal largest
        before = kept.bytes
        answer = block(*inputs)
        largest = max(largest, kept.bytes - before)
        return answer

    network.call_blocks_by(noted)
    try:
        with kept.counting():
            value = loss()  # held while it is counted: freed memory would be counted once for two
    finally:
        network.call_blocks_by(recomputed)
    del value
    return largest
