"""Shapes that every room needs."""

import torch


def column(t: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """One value a row, shaped to act on whole rows. t: (B,). like: (B, ...). Returns (B, 1, ..., 1) of the dtype of t."""
    return t.reshape(-1, *[1] * (like.dim() - 1))
