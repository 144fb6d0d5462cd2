"""The blocks of diffusers' U-Net, which on a CPU keep the channels of every image last in memory.

Weights, names and, up to rounding, answers are those of diffusers, whose own blocks do the work wherever channels_last.py
leaves it to torch. Import this after `backbones.unet_class()`: the parts of diffusers that are here are in memory then.
"""

from typing import Any

from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.nn import functional

from distillkac.flow.channels_last import group_norm, one_by_one, plain, served, twice

__all__ = ["FirstConvolution", "GroupNormSiLU", "ResidualBlock", "Upsampling", "keep_channels_last"]


class FirstConvolution(nn.Conv2d):
    """Weights of one channel get a gradient with their own strides, by which several processes exchange it."""

    def forward(self, x: Tensor) -> Tensor:
        shape = self.weight.shape
        return self._conv_forward(x, self.weight.flatten(1).unflatten(1, shape[1:]), self.bias)


class GroupNormSiLU(nn.GroupNorm):
    """silu(norm(x)): before the last convolution."""

    def forward(self, x: Tensor) -> Tensor:
        return group_norm(self, x, silu=True)


class ResidualBlock(ResnetBlock2D):
    """diffusers' ResnetBlock2D without changes of size: x + conv(silu(norm(conv(silu(norm(x))) and the embedding)))."""

    def forward(self, x: Tensor, embedding: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not (served(x) and plain(self.nonlinearity, nn.SiLU)):
            return super().forward(x, embedding, *args, **kwargs)
        h = self.conv1(_normed(self.norm1, x, silu=True))
        told = self.time_emb_proj(self.nonlinearity(embedding))[:, :, None, None]
        if self.time_embedding_norm == "scale_shift":
            scale, shift = told.chunk(2, 1)
            h = functional.silu(_normed(self.norm2, h, silu=False) * (1 + scale) + shift)
        else:
            h = _normed(self.norm2, h + told, silu=True)
        h = self.conv2(self.dropout(h))
        return h + (x if self.conv_shortcut is None else _passed(self.conv_shortcut, x))


def _normed(norm: nn.Module, x: Tensor, silu: bool) -> Tensor:
    if plain(norm, nn.GroupNorm):
        return group_norm(norm, x, silu)
    return functional.silu(norm(x)) if silu else norm(x)


def _passed(shortcut: nn.Module, x: Tensor) -> Tensor:
    if plain(shortcut, nn.Conv2d):
        return one_by_one(shortcut, x)
    return shortcut(x)


class Upsampling(Upsample2D):
    """diffusers' Upsample2D: every pixel four times, then a convolution."""

    def forward(self, x: Tensor, output_size: int | None = None, *args: Any, **kwargs: Any) -> Tensor:
        if output_size is not None or not served(x):
            return super().forward(x, output_size, *args, **kwargs)
        return self.conv(twice(x))


OURS: dict[type[nn.Module], type[nn.Module]] = {ResnetBlock2D: ResidualBlock, Upsample2D: Upsampling}


def keep_channels_last(unet: nn.Module) -> None:
    """Has the blocks of a UNet2DModel, in place, work as above. Weights stay where they are."""
    for module in unet.modules():
        module.__class__ = OURS.get(type(module), type(module))
    assert isinstance(unet.conv_in, nn.Conv2d)
    assert isinstance(unet.conv_norm_out, nn.GroupNorm)
    unet.conv_in.__class__ = FirstConvolution
    unet.conv_norm_out.__class__ = GroupNormSiLU
    unet.conv_act = nn.Identity()
