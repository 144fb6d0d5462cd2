"""Which images are copies of training images: nearer to one than a third of the distance to the second nearest.

The share of generated images that are is compared with the share of held-out images that are, against the same training
images: that is what the data's own duplicates come to, where nothing is copied (Yoon et al. 2023; Carlini et al. 2023).
"""

import math

import torch

from distillkac.data import ImageDataset, read
from distillkac.evaluation.classifier import CHUNK
from distillkac.evaluation.metrics import subset

RATIO = 1 / 3
HELD_OUT = 2000
VALUES = 2**28
"""Pixels of training images that are held in memory (1 GiB): of more a fixed random part is looked through."""
CANDIDATES = 4
"""Nearest images by a fast distance, whose rounding the two nearest are safe from; these are then measured exactly."""


class Copies:
    """Finds copies among images. train, test: the two splits, of the same shape; train has at least two images.

    held_out: (copies, images) of the held-out split, of at most 2000 chosen by a fixed seed.
    """

    def __init__(self, train: ImageDataset, test: ImageDataset):
        most = max(2, VALUES // math.prod(train.shape))
        rows = subset(len(train), most, "copies of") if len(train) > most else torch.arange(len(train))
        # By parts: a data set of files decodes what it is asked for.
        self.train = torch.cat([read(train, part)[0].flatten(1) for part in rows.split(CHUNK)])
        # What all images have in common would only cost digits of the fast distance.
        self.mean = self.train.mean(0)
        self.train -= self.mean
        self.squares = self.train.square().sum(1)
        held_out = subset(len(test), HELD_OUT, "copies held out")
        self.held_out = sum(self.count(read(test, part)[0]) for part in held_out.split(CHUNK)), len(held_out)

    @torch.no_grad()
    def count(self, images: torch.Tensor) -> int:
        """How many of these images (n, C, H, W) are copies."""
        return sum(int(self._are(part.flatten(1)).sum()) for part in images.float().cpu().clamp(-1, 1).split(CHUNK))

    def _are(self, x: torch.Tensor) -> torch.Tensor:
        x = x - self.mean
        # |x|^2 is the same for all: it does not change which are nearest.
        near = (self.squares - 2 * x @ self.train.T).topk(min(CANDIDATES, len(self.train)), largest=False).indices
        distances = (self.train[near] - x[:, None]).square().sum(2).sqrt().sort(1).values
        return distances[:, 0] < RATIO * distances[:, 1]

    def __call__(self, images: torch.Tensor) -> dict[str, float]:
        """copying: share of copies. copying_held_out: of the held-out images. copying_p: see `chance`."""
        found, (known, many) = self.count(images), self.held_out
        return {
            "copying": found / len(images),
            "copying_held_out": known / many,
            "copying_p": chance(found, len(images), known, many),
        }


def chance(found: int, images: int, known: int, held_out: int) -> float:
    """The probability of at least `found` copies among the images, if copies were as likely among the held-out ones, of which
    `known` are: Fisher's exact test, of one side."""
    total = found + known
    ways = math.comb(images + held_out, total)
    more = sum(math.comb(images, k) * math.comb(held_out, total - k) for k in range(found, min(images, total) + 1))
    return more / ways
