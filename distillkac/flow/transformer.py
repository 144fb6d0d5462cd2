"""The transformer: diffusers' DiT, with rotary positions and norms of queries and keys out of diffusers' own parts, further
numbers as inputs, and for images of any two sides."""

from typing import Any

import torch
from torch import Tensor, nn

from distillkac.base import backbones
from distillkac.flow.embeddings import embedding_of_number, zero
from distillkac.flow.network_config import NetworkConfig

__all__ = ["build", "check", "rotation", "velocity"]


def build(config: NetworkConfig, shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """The DiT of a config for images of this shape (C, H, W), its blocks and its answer zero at first."""
    dit = backbones.dit_class()(
        num_attention_heads=config.channels[0] // config.head_dim,
        attention_head_dim=config.head_dim,
        in_channels=shape[0],
        out_channels=shape[0],
        num_layers=config.layers,
        dropout=config.dropout,
        sample_size=max(shape[1:]),
        patch_size=config.side,
        num_embeds_ada_norm=num_classes,
    )
    numbers = _numbers(config)
    for block in dit.transformer_blocks:
        zero(block.norm1.linear)  # adaLN-zero: every block starts as the identity
        block.norm1.emb.class_embedder.dropout_prob = 0.0  # the objective drops classes, by its own seed
        if numbers:
            block.norm1.emb = _WithNumbers(block.norm1.emb, config.channels[0], numbers)
        if (
            config.qk_norm
        ):  # layer norms, of which torch has one kernel: those by the mean square took twice the time on a CPU
            block.attn1.norm_q, block.attn1.norm_k = (nn.LayerNorm(config.head_dim) for _ in range(2))
        if config.rotary:
            block.attn1.set_processor(backbones.rotary_attention()())
    zero(dit.proj_out_2)
    if shape[1] != shape[2]:
        _for_rectangles(dit, shape[1] // config.side, shape[2] // config.side)
    return dit


def rotation(config: NetworkConfig, shape: tuple[int, int, int]) -> Tensor:
    """Cosines and sines of rotary positions (2, H W / patch^2, head_dim), half of the channels for rows, half for columns."""
    grid = (shape[1] // config.side, shape[2] // config.side)
    return torch.stack(backbones.rotary_table()(config.head_dim, ((0, 0), grid), grid))


def velocity(dit: nn.Module, x: Tensor, times: Tensor, y: Tensor, rotary: Tensor | None) -> Tensor:
    """What the transformer answers to x (B, C, H, W). times: (B,), or with further numbers (B, 1 + numbers). rotary: the
    `rotation` of a network that has it."""
    further: dict[str, Any] = {}
    if rotary is not None:
        further["cross_attention_kwargs"] = {"image_rotary_emb": (rotary[0], rotary[1])}
    u = dit(x, timestep=times, class_labels=y, return_dict=False, **further)[0]
    return u if x.shape[2] == x.shape[3] else _together(u, x.shape)


def check(config: NetworkConfig, shape: tuple[int, int, int]) -> None:
    """Raises ValueError if there is no such transformer for images of this shape."""
    if len(config.channels) != 1 or config.channels[0] % config.head_dim:
        raise ValueError(
            "network.backbone dit takes one number as network.channels, its width, a multiple of network.head_dim, got "
            f"{config.channels} and {config.head_dim}"
        )
    if config.channels[0] % 4:  # its positions are a sine and a cosine of either coordinate
        raise ValueError(f"network.backbone dit takes a width that is a multiple of 4, got {config.channels[0]}")
    if config.rotary and config.head_dim % 4:  # so are these
        raise ValueError(
            f"network.rotary takes a network.head_dim that is a multiple of 4, got {config.head_dim}: take another, or "
            "omit network.rotary"
        )
    if config.augment_embedding:
        raise ValueError("network.backbone dit does not take labels of augmentation as an input: omit augment")
    if shape[1] % config.side or shape[2] % config.side:
        raise ValueError(
            f"network.backbone dit needs images that network.patch {config.side} divides, got {shape[1]}x{shape[2]}"
        )


def _numbers(config: NetworkConfig) -> list[str]:
    """What stands behind the time in `times`, in order."""
    return [name for name in ("guidance", "interval") if getattr(config, f"{name}_embedding")]


class _WithNumbers(nn.Module):
    """The embedding of time and class of a block of the DiT, with those of further numbers. times: (B, 1 + numbers)."""

    def __init__(self, plain: nn.Module, width: int, names: list[str]) -> None:
        super().__init__()
        self.plain, self.names = plain, names
        for name in names:
            self.add_module(name, embedding_of_number(width))
        self.register_load_state_dict_pre_hook(_from_plain)  # type: ignore[no-untyped-call]  # torch's own

    def forward(self, times: Tensor, y: Tensor, hidden_dtype: torch.dtype) -> Tensor:
        t, *numbers = times.unbind(-1)
        embedding = self.plain(t, y, hidden_dtype=hidden_dtype)
        for name, number in zip(self.names, numbers, strict=True):
            embedding = embedding + self.get_submodule(name)(number[:, None].to(hidden_dtype))
        return embedding


def _from_plain(module: nn.Module, weights: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Before weights are loaded: those of a network without further numbers, a teacher's, are the plain part's."""
    for name in module.get_submodule("plain").state_dict():
        if prefix + name in weights:
            weights[f"{prefix}plain.{name}"] = weights.pop(prefix + name)


def _for_rectangles(dit: Any, rows: int, columns: int) -> None:
    """diffusers' DiT puts patches together as a square. It is given each as an image of its own, and `velocity` does it.

    dit: made for the larger side; rows, columns: of patches.
    """
    embed = dit.pos_embed
    square = embed.pos_embed.unflatten(1, (max(rows, columns), -1))
    embed.pos_embed = square[:, :rows, :columns].flatten(1, 2)
    embed.height, embed.width = rows, columns
    dit.proj_out_2.register_forward_hook(_each_alone)


def _together(patches: Tensor, shape: torch.Size) -> Tensor:
    """Images (B, C, H, W) of this shape from their patches (B rows columns, C, side, side), row by row."""
    side = patches.shape[-1]
    grid = patches.view(shape[0], shape[2] // side, -1, shape[1], side, side)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(shape)


def _each_alone(layer: nn.Module, inputs: object, patches: Tensor) -> Tensor:
    return patches.flatten(0, 1)[:, None]
