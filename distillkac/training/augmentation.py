"""Augmentation that does not leak into samples (Karras et al. 2022, EDM, appendix F.2; docs/method.md, section 10).

Images are mirrored, turned, scaled, stretched and moved before noise is added, and the network is told what was done by labels
that are all 0 where nothing was. Sampled with labels 0 it makes images as they are, having learned from many more.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distillkac.base.tensors import sent
from distillkac.flow.network_config import AUGMENT_LABELS
from distillkac.runs.augmentation_config import AugmentationConfig
from distillkac.training.batches import Batch


@dataclass(frozen=True)
class Augmentation:
    """Changes the images of a batch. probability: of each change, independently. The draws follow from seed, step and row."""

    probability: float
    config: AugmentationConfig
    seed: int

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(images like batch.x0, labels (B, AUGMENT_LABELS)). Rows to which nothing was done are the same to the bit."""
        config = self.config
        across, down = (self._coin(batch, name) for name in ("mirror", "upside_down"))
        size, stretch, right, below = (self._normal(batch, name) for name in ("scale", "stretch", "right", "below"))
        turn = self._tried(batch, "rotate") * (2 * self._draw(batch, "angle") - 1)
        angle, along = math.radians(config.rotate) * turn, 2 * math.pi * self._draw(batch, "direction")
        # In units of the strengths, so that the network hears gentle changes as well as strong ones.
        half_turns = config.rotate / 180 or 1.0
        numbers = (
            *(across, down, size, (angle.cos() - 1) / half_turns, angle.sin() / half_turns),
            *(stretch * along.cos(), stretch * along.sin(), right, below),
        )
        assert len(numbers) == AUGMENT_LABELS
        size, stretch = config.scale * size, config.stretch * stretch
        moved = config.translate * torch.stack([right, below], 1)
        # From where in the image each pixel comes: what was done last is undone first.
        back = _diagonal(1 - 2 * across, 1 - 2 * down) @ _diagonal(2**-size, 2**-size) @ _turn(-angle)
        # Half of the angle, as a direction and its opposite are the same to a stretch: no two labels mean one.
        back = back @ _turn(along / 2) @ _diagonal(2**-stretch, 2**stretch) @ _turn(-along / 2)
        images = _resampled(batch.x0, back, moved)
        labels = torch.stack(numbers, 1)
        return torch.where(labels.eq(0).all(1).view(-1, 1, 1, 1), batch.x0, images), labels

    def _draw(self, batch: Batch, name: str) -> Tensor:
        return batch.uniform(self.seed, f"augment {name}")

    def _tried(self, batch: Batch, name: str) -> Tensor:
        """(B,) 1 where this change is made, else 0."""
        return (self._draw(batch, f"{name} at all") < self.probability).float()

    def _coin(self, batch: Batch, name: str) -> Tensor:
        return self._tried(batch, name) * (self._draw(batch, name) < getattr(self.config, name)).float()

    def _normal(self, batch: Batch, name: str) -> Tensor:
        """(B,) standard normal numbers where this change is made and has a strength, else 0."""
        group = "translate" if name in ("right", "below") else name
        made = self._tried(batch, group) * float(getattr(self.config, group) > 0)
        return made * torch.special.ndtri(self._draw(batch, name).clamp(min=2**-25))


def _diagonal(first: Tensor, second: Tensor) -> Tensor:
    return torch.diag_embed(torch.stack([first, second], 1))


def _turn(angle: Tensor) -> Tensor:
    """(B,) -> (B, 2, 2): by this angle from the first axis to the second, (right, down)."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)


def _resampled(x: Tensor, back: Tensor, moved: Tensor) -> Tensor:
    """The image whose pixel at p, from the middle, is that of x at back (p - moved). back: (B, 2, 2), of pixels. moved: (B, 2),
    as shares of width and height. What lies outside is mirrored in."""
    height, width = x.shape[2:]
    # torch counts from -1 to 1 in both directions, whatever the sides.
    sides = sent(torch.tensor([width, height], dtype=x.dtype) / 2, x.device)
    matrix = back * sides / sides[:, None]
    offset = -(matrix @ (2 * moved)[..., None])
    grid = nn.functional.affine_grid(torch.cat([matrix, offset], 2), list(x.shape), align_corners=False)
    # Cubic, since the mean of two pixels would blur small images, and so it may go beyond what the pixels are.
    image = nn.functional.grid_sample(x, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
    return image.clamp(-1, 1)
