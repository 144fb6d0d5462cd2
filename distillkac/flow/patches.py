"""What moves together, in images: pairs of a row (planar), patches of 2x2 pixels (quad).

The ops group neighbours of the last axis. Of a row of numbers (D,) these are pairs or fours as they come. Of images (..., H, W)
the quad process takes 2x2 patches, which lie apart in memory: `gathered` brings each patch together for the ops, `scattered`
puts it back.
"""

import torch

from distillkac import ops
from distillkac.flow.fields import SpeedNorm, Weight

__all__ = [
    "check_shape",
    "gathered",
    "guided_step",
    "guided_velocity",
    "lengths",
    "repeated",
    "scattered",
    "size_of_groups",
]


def check_shape(norm: SpeedNorm, size: tuple[int, ...]) -> None:
    """Raises ValueError if samples of this size (no batch) do not fall into the groups of that process."""
    if norm == "planar" and size[-1] % 2:
        raise ValueError(
            f"planar: pairs neighbouring pixels of a row, so the image width must be even, got {size[-1]}; "
            "resize the images or use the telegraph process"
        )
    if norm == "quad" and len(size) > 1 and (size[-1] % 2 or size[-2] % 2):
        raise ValueError(
            f"quad: moves patches of 2x2 pixels, so height and width must be even, got {size[-2]}x{size[-1]}; "
            "resize the images (--data.image-size) or use the telegraph process"
        )
    if norm == "quad" and len(size) == 1 and size[0] % 4:
        raise ValueError(
            f"quad: moves four neighbouring numbers of a row, so their number must be divisible by 4, got {size[0]}; "
            "use the telegraph process"
        )


def gathered(x: torch.Tensor) -> torch.Tensor:
    """(B, ..., H, W) -> (B, ..., H / 2, 2 W): each 2x2 patch becomes four neighbours of the last axis. (B, D): as it is."""
    check_shape("quad", tuple(x.shape[1:]))
    if x.dim() < 3:
        return x
    *first, height, width = x.shape
    patches = x.reshape(*first, height // 2, 2, width // 2, 2).transpose(-3, -2)
    return patches.reshape(*first, height // 2, 2 * width)


def scattered(x: torch.Tensor) -> torch.Tensor:
    """The inverse of `gathered`: (B, ..., H / 2, 2 W) -> (B, ..., H, W)."""
    if x.dim() < 3:
        return x
    *first, height, width = x.shape
    patches = x.reshape(*first, height, width // 4, 2, 2).transpose(-3, -2)
    return patches.reshape(*first, 2 * height, width // 2)


def size_of_groups(norm: SpeedNorm, size: tuple[int, ...]) -> tuple[int, ...]:
    """How many groups a sample of this size (no batch) has along each axis, such as (C, H / 2, W / 2)."""
    if norm == "telegraph":
        return size
    if norm == "planar":
        return (*size[:-1], size[-1] // 2)
    return (size[0] // 4,) if len(size) == 1 else (*size[:-2], size[-2] // 2, size[-1] // 2)


def repeated(values: torch.Tensor, norm: SpeedNorm) -> torch.Tensor:
    """One value for each group, (B, *size_of_groups), given to each of its elements: (B, *size)."""
    if norm == "telegraph":
        return values
    if norm == "planar":
        return values.repeat_interleave(2, -1)
    if values.dim() < 3:
        return values.repeat_interleave(4, -1)
    return values.repeat_interleave(2, -2).repeat_interleave(2, -1)


def lengths(u: torch.Tensor, norm: SpeedNorm) -> torch.Tensor:
    """What a speed limit limits, |u| of each group: (B, *size) -> (B, *size_of_groups)."""
    if norm == "telegraph":
        return u.abs()
    if norm == "planar":
        return u.unflatten(-1, (-1, 2)).norm(dim=-1)
    return gathered(u).unflatten(-1, (-1, 4)).norm(dim=-1)


def guided_velocity(
    u_cond: torch.Tensor, u_uncond: torch.Tensor, w: Weight, max_speed: float | None, norm: SpeedNorm
) -> torch.Tensor:
    """`ops.guided_velocity` with the groups of images."""
    if max_speed is None or norm != "quad":
        return ops.guided_velocity(u_cond, u_uncond, w, max_speed, norm)
    return scattered(ops.guided_velocity(gathered(u_cond), gathered(u_uncond), w, max_speed, norm))


def guided_step(
    x: torch.Tensor,
    u_cond: torch.Tensor,
    u_uncond: torch.Tensor | None,
    u_prev: torch.Tensor | None,
    w: Weight | None,
    h: Weight,
    h_prev: Weight | None,
    max_speed: float | None,
    norm: SpeedNorm,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`ops.guided_step` with the groups of images."""
    if max_speed is None or norm != "quad":
        return ops.guided_step(x, u_cond, u_uncond, u_prev, w, h, h_prev, max_speed, norm)
    uncond, prev = (None if v is None else gathered(v) for v in (u_uncond, u_prev))
    x_next, u = ops.guided_step(gathered(x), gathered(u_cond), uncond, prev, w, h, h_prev, max_speed, norm)
    return scattered(x_next), scattered(u)
