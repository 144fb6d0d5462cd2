"""The velocity network: class and guidance embeddings around the U-Net of diffusers, or its transformer."""

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from distillkac.base import backbones
from distillkac.flow import transformer
from distillkac.flow.attention import WrittenOut, is_written_out, written_out
from distillkac.flow.channels_last import with_channels_last
from distillkac.flow.embeddings import embedding_of_number, zero
from distillkac.flow.network_config import AUGMENT_LABELS, NetworkConfig, norm_groups

__all__ = ["NetworkConfig", "VelocityNet", "norm_groups", "recomputed"]

# The sinusoidal features of UNet2DModel expect times in the hundreds; the flow's run from 0 to 1.
TIME_SCALE = 100.0
# On a CPU torch's fused attention is slow backwards in bfloat16: seven times as slow as attention written out at 16 positions,
# twice at 64. At 256 it is the faster one, and needs less memory.
FEW_POSITIONS = 128


class VelocityNet(nn.Module):
    """u(x, t, y): the velocity of the flow for every sample of a batch.

    config: NetworkConfig. shape: (C, H, W) of a sample. num_classes: >= 1; label `null_class` = num_classes means
    "no class" and is what label dropout trains for guidance.
    """

    def __init__(self, config: NetworkConfig, shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        _check(config, shape)
        self.config, self.shape, self.null_class = config, (shape[0], shape[1], shape[2]), num_classes
        self.guidance_embedding, self.interval_embedding = config.guidance_embedding, config.interval_embedding
        self.positions = _positions(config, shape)
        # Both start with every residual branch and the output at zero: first velocities 0, first gradients calm.
        if config.backbone == "dit":
            self.dit = transformer.build(config, shape, num_classes)
            if config.rotary:
                self.register_buffer("rotary", transformer.rotation(config, shape), persistent=False)
        else:
            self._make_unet(config, shape, num_classes)
        if config.checkpointing:
            self.call_blocks_by(recomputed)

    def _make_unet(self, config: NetworkConfig, shape: tuple[int, int, int], num_classes: int) -> None:
        self.unet = _unet(config, shape)
        width = 4 * config.channels[0]
        self.classes = nn.Embedding(num_classes + 1, width)
        if config.guidance_embedding:
            self.guidance = embedding_of_number(width)
        if config.interval_embedding:
            self.interval = embedding_of_number(width)
        if config.augment_embedding:
            self.augment = nn.Linear(AUGMENT_LABELS, width, bias=False)
            zero(self.augment)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        y: Tensor,
        w: Tensor | None = None,
        r: Tensor | None = None,
        augment: Tensor | None = None,
    ) -> Tensor:
        """x: (B, C, H, W). t: (B,) in [0, 1]. y: (B,) int64 in [0, num_classes], num_classes = no class.

        w: (B,) guidance weight, given where the network has `guidance_embedding` and nowhere else. r: (B,) in [0, t], the time
        that a step leads to, given where it has `interval_embedding` and nowhere else: it embeds the length t - r, which
        changes nothing before the first update. augment: (B, AUGMENT_LABELS), what was done to the images, given in training
        where it has `augment_embedding`; by default 0, nothing. Returns the velocity (B, C, H, W), with r its average over
        [r, t].
        """
        for value, taken, name in (
            (w, self.guidance_embedding, "w (guidance"),
            (r, self.interval_embedding, "r (interval"),
        ):
            if (value is not None) != taken:
                raise ValueError(
                    f"the network takes {'' if taken else 'no '}{name}_embedding), got {'none' if value is None else 'one'}"
                )
        if augment is not None and not self.config.augment_embedding:
            raise ValueError(
                "the network takes no augment (augment_embedding), got one: omit it, or train with --augment"
            )
        if self.config.backbone == "dit":
            numbers = ([] if w is None else [w.to(t.dtype)]) + ([] if r is None else [t - r])
            times = torch.stack([TIME_SCALE * t, *numbers], -1) if numbers else TIME_SCALE * t
            with self._attention(x):
                return transformer.velocity(self.dit, x, times, y, getattr(self, "rotary", None))
        embedding = self.classes(y)
        if w is not None:
            embedding = embedding + self.guidance(w[:, None])
        if r is not None:
            embedding = embedding + self.interval((t - r)[:, None].to(x.dtype))
        if self.config.augment_embedding:
            # Of zeros too, which add nothing: so every weight has a gradient in every process that trains a student.
            labels = x.new_zeros(x.shape[0], AUGMENT_LABELS) if augment is None else augment.to(x.dtype)
            embedding = embedding + self.augment(labels)
        # Patches are a matter of the U-Net alone: processes, samplers and losses see the image in its own shape, so the pairs
        # of the planar process are neighbours in the image whatever the patch.
        side = self.config.side
        patches = with_channels_last(x if side == 1 else nn.functional.pixel_unshuffle(x, side))
        with self._attention(x):
            u = self.unet(patches, TIME_SCALE * t, embedding, return_dict=False)[0]
        return (u if side == 1 else nn.functional.pixel_shuffle(u, side)).contiguous()

    def _attention(self, x: Tensor) -> contextlib.AbstractContextManager[object]:
        """Inside, attention is written out where that is faster: in bfloat16 on a CPU, for its gradient, of few positions."""
        slow = x.device.type == "cpu" and torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")
        return written_out() if slow and self.positions <= FEW_POSITIONS else contextlib.nullcontext()

    def call_blocks_by(self, how: Callable[..., object]) -> None:
        """Has residual and transformer blocks called as how(block, *inputs) where gradients are asked for."""
        inner = self.get_submodule("dit" if self.config.backbone == "dit" else "unet")
        inner.enable_gradient_checkpointing(how)  # type: ignore[operator]  # a method of diffusers' networks

    def outer_layers(self) -> list[nn.Module]:
        """Those that images, times, classes and more enter, and the one that the velocity leaves (training/optimizer.py)."""
        if self.config.backbone == "dit":
            times = [f"dit.transformer_blocks.{number}.norm1.emb" for number in range(self.config.layers)]
            names = ["dit.pos_embed", *times, "dit.proj_out_2"]
        else:
            numbers = [
                name for name in ("guidance", "interval", "augment") if getattr(self.config, f"{name}_embedding")
            ]
            names = ["unet.conv_in", "unet.time_embedding", "classes", *numbers, "unet.conv_out"]
        return [self.get_submodule(name) for name in names]

    def feature_layers(self) -> list[nn.Module]:
        """The blocks, whose answers are features of an image (distillation/features.py)."""
        if self.config.backbone == "dit":
            return list(self.get_submodule("dit.transformer_blocks").children())
        down, up = (list(self.get_submodule(name).children()) for name in ("unet.down_blocks", "unet.up_blocks"))
        return [*down, self.get_submodule("unet.mid_block"), *up]


def recomputed(block: nn.Module, *inputs: Tensor | None) -> object:
    """block(*inputs), of which nothing is kept for the backward pass but the inputs and the state of the random numbers, so
    that dropout is the same in the second computation. An exported graph has no backward pass."""
    if torch.compiler.is_exporting():
        return block(*inputs)
    if not is_written_out():
        return checkpoint(block, *inputs, use_reentrant=False)
    # What is computed again, after the call of the network, must be what was computed.
    return checkpoint(block, *inputs, use_reentrant=False, context_fn=lambda: (contextlib.nullcontext(), WrittenOut()))


def _positions(config: NetworkConfig, shape: tuple[int, int, int]) -> int:
    """Of the finest level that has attention; 0 without any."""
    positions = shape[1] * shape[2] // config.side**2
    if config.backbone == "dit":
        return positions
    levels = [*config.attention, *[len(config.channels) - 1] * config.middle_attention]
    return positions // 4 ** min(levels) if levels else 0


def _unet(config: NetworkConfig, shape: tuple[int, int, int]) -> nn.Module:
    levels, values = range(len(config.channels)), shape[0] * config.side**2
    unet = backbones.unet_class()(
        sample_size=(shape[1] // config.side, shape[2] // config.side),
        in_channels=values,
        out_channels=values,
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
            zero(module.conv2)
    zero(unet.conv_out)
    from distillkac.flow import unet_blocks  # only here: it imports diffusers

    unet_blocks.keep_channels_last(unet)
    return unet


def _check(config: NetworkConfig, shape: tuple[int, int, int]) -> None:
    if config.backbone == "dit":
        transformer.check(config, shape)
    else:
        _check_unet(config, shape)


def _check_unet(config: NetworkConfig, shape: tuple[int, int, int]) -> None:
    if not config.channels:
        raise ValueError("network.channels must hold one number or more, got none")
    if any(width % 8 or width < 8 for width in config.channels):
        raise ValueError(f"network.channels must be multiples of 8, got {config.channels}")
    side, halvings = config.side, len(config.channels) - 1
    image, multiple = f"{shape[1]}x{shape[2]}", side * 2**halvings
    if shape[1] % side or shape[2] % side:
        raise ValueError(
            f"network.patch must divide height and width of the images, got {side} for {image}; use another (1 for no "
            f"patches), or --data.image-size with a multiple of {multiple}"
        )
    if shape[1] % multiple or shape[2] % multiple:
        grid = f", {shape[1] // side}x{shape[2] // side} in patches of {side}," if side > 1 else ""
        raise ValueError(
            f"images of {image}{grid} cannot be halved {halvings} times for the {halvings + 1} levels of network.channels; "
            f"use fewer levels, {'a smaller network.patch, ' if side > 1 else ''}or --data.image-size with a multiple of "
            f"{multiple}"
        )
    for name in ("qk_norm", "rotary"):
        if getattr(config, name):
            raise ValueError(f"network.{name} is of the transformer, got network.backbone unet: omit it")
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
