"""The moving average of a network's weights."""

import torch
from torch import nn

from distillkac.training.sharding import like, local


class EMA:
    """Average of the parameters, sharded as they are; the decay after k updates is min(decay, (1 + k) / (10 + k))."""

    def __init__(self, network: nn.Module, decay: float):
        self.weights = {name: p.detach().clone() for name, p in network.named_parameters()}
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        self.updates += 1
        mine = [local(weight) for weight in self.weights.values()]
        torch._foreach_lerp_(mine, [local(p) for p in network.parameters()], 1 - self.kept())

    def kept(self) -> float:
        """The share of the average before that the update now being made keeps."""
        return min(self.decay, (1 + self.updates) / (10 + self.updates))

    def state_dict(self, network: nn.Module) -> dict[str, torch.Tensor]:
        """A state dict of `network` with the averages in place of its parameters."""
        return network.state_dict() | self.weights

    @torch.no_grad()
    def load(self, weights: dict[str, torch.Tensor], updates: int) -> None:
        """Takes up what `state_dict` gave, as whole tensors. Raises KeyError or RuntimeError if it does not fit."""
        for name, mine in self.weights.items():
            mine.copy_(like(weights[name], mine))
        self.updates = updates
