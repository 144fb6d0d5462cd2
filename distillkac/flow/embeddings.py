"""What networks of either kind embed numbers by."""

from torch import nn

__all__ = ["embedding_of_number", "zero"]


def embedding_of_number(width: int) -> nn.Sequential:
    """(B, 1) -> (B, width), at first 0."""
    layers = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width))
    zero(layers[-1])
    return layers


def zero(layer: nn.Module) -> None:
    """Sets all parameters of a layer to 0."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
