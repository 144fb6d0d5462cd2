"""What is looked at in a checkpoint before it is used: checksums, form, values."""

import os
import zipfile
from pathlib import Path
from typing import BinaryIO

import torch


def check_archive(file: BinaryIO) -> None:
    """Raises ValueError or BadZipFile if the archive is damaged, or claims to be larger than the file is.

    torch.load does not look at the checksums that torch.save writes, nor at the sizes that entries claim.
    """
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
        if not stored or sum(entry.file_size for entry in entries) > os.fstat(file.fileno()).st_size:
            raise ValueError("its entries are larger than the file")
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"the checksum of its entry {damaged} is wrong")


def check_state(path: Path, state) -> None:
    """Raises ValueError if what a checkpoint file holds is no state of a training."""
    if not isinstance(state, dict):
        raise ValueError(f"{path}: not a checkpoint of distillkac, or damaged (it holds no dict)")
    for name in ("step", "ema_updates"):
        if type(state.get(name)) is not int or not 0 <= state[name] < 2**62:
            raise ValueError(f"{path}: {name} must be a whole number of at least 0, got {state.get(name)!r}")
    for name in ("model", "ema", "optimizer"):
        if not isinstance(state.get(name), dict):
            raise ValueError(f"{path}: {name} must be a dict, got {type(state.get(name)).__name__}")
    moments = state["optimizer"].get("state")
    if not isinstance(moments, dict) or not all(isinstance(values, dict) for values in moments.values()):
        raise ValueError(f"{path}: optimizer holds no state of an optimizer")
    for part in ("model", "ema"):
        check_tensors(path, state[part], f"{part}.")
    averages = state.get("averages", {})
    if not isinstance(averages, dict) or not all(isinstance(values, dict) for values in averages.values()):
        raise ValueError(f"{path}: averages must be dicts of weights by name")
    for name, values in averages.items():
        check_tensors(path, values, f"averages.{name}.")
    for number, values in moments.items():
        check_tensors(path, values, f"optimizer.state.{number}.")


def check_tensors(path: Path, values: dict, prefix: str = "") -> None:
    """Raises ValueError naming the entry that is no dense tensor of finite values."""
    for name, value in values.items():
        if type(value) is not torch.Tensor or value.layout != torch.strided or value.is_meta:
            raise ValueError(f"{path}: {prefix}{name} must be a dense tensor, got {type(value).__name__}")
        # Strides of 0 would let a file of a few bytes ask for any amount of memory.
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(f"{path}: {prefix}{name} has shape {tuple(value.shape)} but fewer values than that")
        if not is_finite(value):
            raise ValueError(
                f"{path}: {prefix}{name} holds values that are not finite: damaged, or of a run that diverged"
            )


def is_finite(value: torch.Tensor) -> bool:
    return not value.is_floating_point() or bool(torch.isfinite(value).all())
