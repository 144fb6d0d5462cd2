"""The velocity network: class and guidance embeddings around the U-Net of diffusers, or its transformer."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from distillkac.base import backbones

__all__ = ["NetworkConfig", "VelocityNet", "check_format", "norm_groups"]

# The sinusoidal features of UNet2DModel expect times in the hundreds; the flow's run from 0 to 1.
TIME_SCALE = 100.0
# What time and class add to a channel is taken away again by a group norm of that channel alone, so no group is smaller.
MIN_GROUP = 4


@dataclass(frozen=True)
class NetworkConfig:
    """The network. The default suits 8x8 digits; for 32x32 colour try channels 128 256 256, layers 2, attention 1."""

    backbone: Literal["unet", "dit"] = "unet"
    """diffusers' UNet2DModel, or its diffusion transformer (DiT) for square images."""
    channels: tuple[int, ...] = (32, 64)
    """U-Net: channels at each resolution, finest first, multiples of 8; each level halves the image. Its group norms have 8
    groups, or fewer where the least width is below 32. DiT: its width."""
    layers: int = 1
    """U-Net: residual blocks per level. DiT: transformer blocks."""
    scale_shift: bool = False
    """U-Net: time and class scale and shift the features of a residual block, instead of being added to them."""
    patch: int = 2
    """DiT: side of the square of pixels that makes a token."""
    attention: tuple[int, ...] = ()
    """Levels with self-attention, 0 = finest; none by default."""
    middle_attention: bool = True
    """Self-attention between the two residual blocks in the middle of the U-Net."""
    head_dim: int = 32
    """Channels per attention head."""
    dropout: float = 0.0
    """Dropout inside the residual blocks."""
    guidance_embedding: bool = False
    """Takes the guidance weight w as an input, so that one student serves every w."""


class VelocityNet(nn.Module):
    """u(x, t, y): the velocity of the flow for every sample of a batch.

    config: NetworkConfig. shape: (C, H, W) of a sample. num_classes: >= 1; label `null_class` = num_classes means
    "no class" and is what label dropout trains for guidance.
    """

    def __init__(self, config: NetworkConfig, shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        _check(config, shape)
        self.config, self.shape, self.null_class = config, (shape[0], shape[1], shape[2]), num_classes
        self.guidance_embedding = config.guidance_embedding
        # Both start with every residual branch and the output at zero: first velocities 0, first gradients calm.
        if config.backbone == "dit":
            self.dit = _dit(config, shape, num_classes)
            return
        self.unet = _unet(config, shape)
        width = 4 * config.channels[0]
        self.classes = nn.Embedding(num_classes + 1, width)
        if config.guidance_embedding:
            self.guidance = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width))
            _zero(self.guidance[-1])

    def forward(self, x: Tensor, t: Tensor, y: Tensor, w: Tensor | None = None) -> Tensor:
        """x: (B, C, H, W). t: (B,) in [0, 1]. y: (B,) int64 in [0, num_classes], num_classes = no class.

        w: (B,) guidance weight, given where the network has `guidance_embedding` and nowhere else. Returns the velocity
        (B, C, H, W).
        """
        if (w is not None) != self.guidance_embedding:
            raise ValueError(
                f"the network takes {'' if self.guidance_embedding else 'no '}w (guidance_embedding), got "
                f"{'none' if w is None else 'one'}"
            )
        if self.config.backbone == "dit":
            return self.dit(x, timestep=TIME_SCALE * t, class_labels=y, return_dict=False)[0]
        embedding = self.classes(y)
        if w is not None:
            embedding = embedding + self.guidance(w[:, None])
        return self.unet(x, TIME_SCALE * t, embedding, return_dict=False)[0]


def norm_groups(channels: tuple[int, ...]) -> int:
    """Groups of the U-Net's group norms: of 8, 4, 2 and 1 the most that leave each width MIN_GROUP channels a group."""
    return next(groups for groups in (8, 4, 2, 1) if groups == 1 or min(channels) >= MIN_GROUP * groups)


def check_format(config: NetworkConfig, found: int) -> None:
    """Raises ValueError if weights of run format `found` (checkpoints.FORMAT) belong to another network than this one.

    Up to format 2 the group norms of every U-Net had 8 groups, so narrow ones ignored time and class.
    """
    if found < 3 and config.backbone == "unet" and config.channels and norm_groups(config.channels) != 8:
        raise ValueError(
            f"network.channels {config.channels} was trained by an earlier version, whose networks with fewer than "
            f"{8 * MIN_GROUP} channels ignored time and class; its weights do not fit today's network: train it anew"
        )


def _unet(config: NetworkConfig, shape: tuple[int, int, int]) -> nn.Module:
    levels = range(len(config.channels))
    unet = backbones.unet_class()(
        sample_size=tuple(shape[1:]),
        in_channels=shape[0],
        out_channels=shape[0],
        block_out_channels=tuple(config.channels),
        layers_per_block=config.layers,
        down_block_types=tuple("AttnDownBlock2D" if i in config.attention else "DownBlock2D" for i in levels),
        up_block_types=tuple("AttnUpBlock2D" if i in config.attention else "UpBlock2D" for i in reversed(levels)),
        add_attention=config.middle_attention,
        attention_head_dim=config.head_dim,
        norm_num_groups=norm_groups(config.channels),
        dropout=config.dropout,
        resnet_time_scale_shift="scale_shift" if config.scale_shift else "default",
        class_embed_type="identity",
    )
    for module in unet.modules():
        if type(module).__name__ == "ResnetBlock2D":
            _zero(module.conv2)
    _zero(unet.conv_out)
    return unet


def _dit(config: NetworkConfig, shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    dit = backbones.dit_class()(
        num_attention_heads=config.channels[0] // config.head_dim,
        attention_head_dim=config.head_dim,
        in_channels=shape[0],
        out_channels=shape[0],
        num_layers=config.layers,
        dropout=config.dropout,
        sample_size=shape[1],
        patch_size=config.patch,
        num_embeds_ada_norm=num_classes,
    )
    for block in dit.transformer_blocks:
        _zero(block.norm1.linear)  # adaLN-zero: every block starts as the identity
        block.norm1.emb.class_embedder.dropout_prob = 0.0  # the objective drops classes, by its own seed
    _zero(dit.proj_out_2)
    return dit


def _zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def _check(config: NetworkConfig, shape: tuple[int, int, int]) -> None:
    for name, low, high in (("channels", 1, 2**16), ("layers", 1, 2**10), ("head_dim", 1, 2**16), ("patch", 1, 2**16)):
        value = getattr(config, name)
        if not all(low <= number <= high for number in (value if isinstance(value, tuple) else (value,))):
            raise ValueError(f"network.{name} must lie in [{low}, {high}], got {value}")
    if not 0 <= config.dropout < 1:
        raise ValueError(f"network.dropout must lie in [0, 1), got {config.dropout}")
    if config.backbone == "dit":
        _check_dit(config, shape)
    else:
        _check_unet(config, shape)


def _check_dit(config: NetworkConfig, shape: tuple[int, int, int]) -> None:
    if len(config.channels) != 1 or config.channels[0] % config.head_dim:
        raise ValueError(
            "network.backbone dit takes one number as network.channels, its width, a multiple of network.head_dim, got "
            f"{config.channels} and {config.head_dim}"
        )
    if config.channels[0] % 4:  # its positions are a sine and a cosine of either coordinate
        raise ValueError(f"network.backbone dit takes a width that is a multiple of 4, got {config.channels[0]}")
    if shape[1] != shape[2] or shape[1] % config.patch:
        raise ValueError(
            f"network.backbone dit needs square images that network.patch {config.patch} divides, got "
            f"{shape[1]}x{shape[2]}"
        )
    if config.guidance_embedding:
        raise ValueError("network.backbone dit does not take w as an input; distil with a fixed --w")


def _check_unet(config: NetworkConfig, shape: tuple[int, int, int]) -> None:
    if not config.channels or any(width % 8 or width < 8 for width in config.channels):
        raise ValueError(f"network.channels must be multiples of 8, got {config.channels}")
    factor = 2 ** (len(config.channels) - 1)
    if shape[1] % factor or shape[2] % factor:
        raise ValueError(
            f"images of {shape[1]}x{shape[2]} cannot be halved {len(config.channels) - 1} times for the "
            f"{len(config.channels)} levels of network.channels; use fewer levels, or --data.image-size with a "
            f"multiple of {factor}"
        )
    for level in config.attention:
        if not 0 <= level < len(config.channels):
            raise ValueError(f"network.attention: level {level} does not exist in {len(config.channels)} levels")
        if config.channels[level] % config.head_dim:
            raise ValueError(
                f"network.head_dim must divide the channels of every attention level, got {config.head_dim} for "
                f"{config.channels[level]} channels"
            )
    if config.middle_attention and config.channels[-1] % config.head_dim:
        raise ValueError(f"network.head_dim must divide the last of network.channels, got {config.head_dim}")
