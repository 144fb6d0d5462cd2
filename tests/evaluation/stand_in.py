"""A stand-in for the Inception network."""

import torch
from torch import nn


class Stand(nn.Module):
    """An extractor of 6 features: means of the image's thirds in two channels, of 8-bit pixels."""

    name, resize, num_features = "stand-in", "none", 6

    def __init__(self, sha256: str = "0"):
        super().__init__()
        self.sha256, self.calls, self.images = sha256, 0, 0

    def forward(self, images):
        assert images.dtype == torch.uint8
        assert images.shape[1] == 3
        self.calls, self.images = self.calls + 1, self.images + len(images)
        return nn.functional.adaptive_avg_pool2d(images[:, :2].float() / 64, (3, 1)).flatten(1)
