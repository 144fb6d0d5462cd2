"""A small autoencoder, in place of one of hundreds of megabytes."""

import torch
from diffusers import AutoencoderKL
from torch import nn


def autoencoder(seed: int = 0, channels: int = 4) -> nn.Module:
    """Random weights; halves height and width once; latents of so many channels, which are shifted by 0.2 and scaled by 0.7."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=channels,
            norm_num_groups=4,
            scaling_factor=0.7,
            shift_factor=0.2,
        ).eval()
