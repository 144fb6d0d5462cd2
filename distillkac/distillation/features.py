"""What the blocks of a velocity network see in images: a loss between two images in the features of the teacher itself, and
heads that tell real from generated images in those of the fake model of inverse distillation."""

import copy

import torch
from torch import nn

TIME = 0.05
"""Where the teacher is asked: late, when it looks at detail."""
EPS = 1e-4
HEAD_WIDTH = 32


class BlockAnswers:
    """What the blocks of a velocity network answered in its last forward, in `seen`, in their order.

    Raises ValueError if it has no `feature_layers()` (VelocityNet's are its blocks). option: what needs them, for the sentence.
    """

    def __init__(self, network: nn.Module, option: str):
        if not callable(getattr(network, "feature_layers", None)):
            raise ValueError(
                f"{option} needs the network's blocks, and {type(network).__name__} does not name them: give it a method "
                f"feature_layers() that returns a list of its modules, or leave {option} at 0"
            )
        self.seen: list[torch.Tensor] = []
        self._layers: list[nn.Module] = network.feature_layers()  # type: ignore[operator]  # a method, see above
        for layer in self._layers:
            layer.register_forward_hook(self._keep)

    def _keep(self, layer, inputs, answer) -> None:
        if layer is self._layers[0]:
            self.seen = []
        self.seen.append((answer[0] if isinstance(answer, tuple) else answer).float())


class FeatureLoss:
    """Mean square difference of what the blocks of a network answer for two images, each block's answer divided by its root
    mean square for each image, so that all weigh the same.

    network: a velocity network with `feature_layers()`, of which a copy is kept. Raises ValueError if it has none.
    """

    def __init__(self, network: nn.Module):
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._answers = BlockAnswers(self.network, "pairs.features")

    def features(self, images: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
        """(B, values) of every block. images: (B, C, H, W)."""
        self.network(images, torch.full((len(images),), TIME, dtype=torch.float32, device=images.device), y)
        flat = [answer.flatten(1) for answer in self._answers.seen]
        return [answer / (answer.detach().square().mean(1, keepdim=True).sqrt() + EPS) for answer in flat]

    def __call__(self, images: torch.Tensor, targets: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            wanted = self.features(targets, y)
        found = self.features(images, y)
        parts = [(a - b).square().mean() for a, b in zip(found, wanted, strict=True)]
        return torch.stack(parts).mean()


class Heads(nn.Module):
    """Tells real from generated images by the answers of a network's blocks: one small head a block, read at every position.

    sizes: channels of each block's answer. Answers are (B, C, H, W), or (B, positions, C) of a transformer.
    """

    def __init__(self, sizes: list[int]):
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(size), nn.Linear(size, HEAD_WIDTH), nn.SiLU(), nn.Linear(HEAD_WIDTH, 1))
            for size in sizes
        )

    def forward(self, answers: list[torch.Tensor]) -> torch.Tensor:
        """(B, blocks): logits, above 0 for real."""
        rows = [answer.flatten(2).mT if answer.dim() == 4 else answer for answer in answers]
        logits = [head(row).flatten(1).mean(1) for head, row in zip(self.heads, rows, strict=True)]
        return torch.stack(logits, 1)


def channels_of(answers: list[torch.Tensor]) -> list[int]:
    """Of each block's answer, see Heads."""
    return [answer.shape[1] if answer.dim() == 4 else answer.shape[-1] for answer in answers]
