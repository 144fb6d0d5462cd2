"""What a network of ours is, as options. No torch here: help and mistakes of commands come at once."""

from dataclasses import dataclass, replace
from typing import Literal

from distillkac.base.ranges import in_ranges

__all__ = ["MIN_GROUP", "NetworkConfig", "norm_groups", "of_format"]

# What time and class add to a channel is taken away again by a group norm of that channel alone, so no group is smaller.
MIN_GROUP = 4


AUGMENT_LABELS = 9  # numbers that say what was done to an image, see training/augmentation.py


@dataclass(frozen=True)
@in_ranges(
    "network",
    channels="[1, 65536]",
    layers="[1, 1024]",
    patch="[1, 65536]",
    attention="[0, 1024]",
    head_dim="[1, 65536]",
    dropout="[0, 1)",
)
class NetworkConfig:
    """The network. The default suits 8x8 digits; for 32x32 colour try channels 128 256 256, layers 2, attention 1."""

    backbone: Literal["unet", "dit"] = "unet"
    """diffusers' UNet2DModel, or its diffusion transformer (DiT)."""
    channels: tuple[int, ...] = (32, 64)
    """U-Net: channels at each resolution, finest first, multiples of 8; each level halves the image. Its group norms have 8
    groups, or fewer where the least width is below 32. DiT: its width."""
    layers: int = 1
    """U-Net: residual blocks per level. DiT: transformer blocks."""
    scale_shift: bool = False
    """U-Net: time and class scale and shift the features of a residual block, instead of being added to them."""
    patch: int | None = None
    """Side of the square of pixels that becomes one position of the network, whose values are its channels (space to depth).
    It must divide height and width. If not given, 1 for the U-Net (every pixel is a position) and 2 for the DiT."""
    attention: tuple[int, ...] = ()
    """Levels with self-attention, 0 = finest; none by default."""
    middle_attention: bool = True
    """Self-attention between the two residual blocks in the middle of the U-Net."""
    head_dim: int = 32
    """Channels per attention head."""
    dropout: float = 0.0
    """Dropout inside the residual blocks."""
    qk_norm: bool = False
    """DiT: queries and keys go through layer norms, so that attention stays calm at any learning rate."""
    rotary: bool = False
    """DiT: queries and keys are turned by their row and column (rotary positions), so that attention knows how far apart two
    positions are; the table of sines at the entrance stays."""
    checkpointing: bool = False
    """Gradient checkpointing: what the blocks compute on the way is computed once more in the backward pass instead of being
    kept. About half of the memory of a batch, a fifth to a third more time."""
    guidance_embedding: bool = False
    """Takes the guidance weight w as an input, so that one student serves every w."""
    interval_embedding: bool = False
    """Takes the end r of a step as an input and answers with the average velocity over [r, t]. Set by the objective
    average-velocity."""
    augment_embedding: bool = False
    """Takes labels of what was done to an image as an input, 0 where nothing was. Set by --augment."""

    @property
    def side(self) -> int:
        """`patch`, or what it is where it was not given."""
        return self.patch if self.patch is not None else 2 if self.backbone == "dit" else 1


def norm_groups(channels: tuple[int, ...]) -> int:
    """Groups of the U-Net's group norms: of 8, 4, 2 and 1 the most that leave each width MIN_GROUP channels a group."""
    return next(groups for groups in (8, 4, 2, 1) if groups == 1 or min(channels) >= MIN_GROUP * groups)


def of_format(config: NetworkConfig, found: int) -> NetworkConfig:
    """What a config that was written by run format `found` (checkpoints.FORMAT) means today. Raises ValueError if no network of
    today fits its weights.

    Up to format 2 the group norms of every U-Net had 8 groups, so narrow ones ignored time and class. Up to format 3 the U-Net
    had no patches, and a number that was written for them, 2 by default, meant nothing.
    """
    if config.backbone != "unet":
        return config
    if found < 3 and config.channels and norm_groups(config.channels) != 8:
        raise ValueError(
            f"network.channels {config.channels} was trained by an earlier version, whose networks with fewer than "
            f"{8 * MIN_GROUP} channels ignored time and class; its weights do not fit today's network: train it anew"
        )
    return replace(config, patch=None) if found < 4 else config
