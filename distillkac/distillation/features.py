"""A loss in the features of the teacher itself: how differently its blocks see two images that are nearly free of noise."""

import copy
from collections.abc import Callable

import torch
from torch import nn

TIME = 0.05
"""Where the teacher is asked: late, when it looks at detail."""
EPS = 1e-4


class FeatureLoss:
    """Mean square difference of what the blocks of a network answer for two images, each block's answer divided by its root
    mean square for each image, so that all weigh the same.

    network: a velocity network with `feature_layers()` (VelocityNet's are its blocks), of which a copy is kept. Raises
    ValueError if it has none.
    """

    def __init__(self, network: nn.Module):
        if not callable(getattr(network, "feature_layers", None)):
            raise ValueError(
                f"pairs.features needs the network's blocks, and {type(network).__name__} does not name them: give it a method "
                "feature_layers() that returns a list of its modules, or leave pairs.features at 0"
            )
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._seen: list[torch.Tensor] = []
        layers: Callable[[], list[nn.Module]] = self.network.feature_layers  # type: ignore[assignment]  # a method, see above
        for layer in layers():
            layer.register_forward_hook(self._keep)

    def _keep(self, layer, inputs, answer) -> None:
        answer = answer[0] if isinstance(answer, tuple) else answer
        flat = answer.float().flatten(1)
        self._seen.append(flat / (flat.detach().square().mean(1, keepdim=True).sqrt() + EPS))

    def features(self, images: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
        """(B, values) of every block. images: (B, C, H, W)."""
        self._seen = []
        self.network(images, torch.full((len(images),), TIME, device=images.device), y)
        return self._seen

    def __call__(self, images: torch.Tensor, targets: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            wanted = self.features(targets, y)
        found = self.features(images, y)
        parts = [(a - b).square().mean() for a, b in zip(found, wanted, strict=True)]
        return torch.stack(parts).mean()
