"""Shapes, types and places of tensors, that every room needs."""

import contextlib
import math
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def float32_by_default() -> Iterator[None]:
    """Inside, torch makes numbers float32 where nothing is said, whatever the default dtype of the program is."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def column(t: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """One value a row, shaped to act on whole rows. t: (B,). like: (B, ...). Returns (B, 1, ..., 1) of the dtype of t."""
    return t.reshape(-1, *[1] * (like.dim() - 1))


def flat_rows(x: torch.Tensor) -> torch.Tensor:
    """(B, ...) -> (B, n): all of each row, also of rows of one value, (B,)."""
    return x.reshape(len(x), math.prod(x.shape[1:]))  # batched gradients have no rule for flatten


def sent(value: torch.Tensor, device: torch.device | str | None) -> torch.Tensor:
    """The values on a device, for which the program does not wait: those of ordinary memory are copied aside at once. For
    those that go from a GPU to the CPU it waits, which would read them before they are there."""
    return value.to(device, non_blocking=device is None or torch.device(device).type != "cpu")
