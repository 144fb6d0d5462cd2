"""What accelerate, torch and their launchers read from the environment, held against the config of a run.

A run is what its config says: a variable may choose processes and processors, never the training. Every variable that
accelerate 1.15 reads falls under one of these:

    which processes, where     LOCAL_RANK, RANK, WORLD_SIZE, MASTER_ADDR, ..., ACCELERATE_USE_CPU     used as they are
    what the config decides    MIXED_PRECISION, GRADIENT_ACCUMULATION_STEPS, DYNAMO_BACKEND           must say the same
    another way to train       USE_DEEPSPEED, USE_FSDP, USE_MEGATRON_LM, ... and TORCH_DEVICE         refused
    how that way is done       FSDP_*, MEGATRON_LM_*, PARALLELISM_CONFIG_*, FP8_*, DEEPSPEED_*        not read without it
    no effect on results       DEBUG_MODE, CPU_AFFINITY, LOG_LEVEL, ...                               used as they are

`accelerate launch` sets several of them to what changes nothing ("no", "False"): those pass.
"""

import os
import warnings
from typing import Any

import torch

TRUE, FALSE = ("1", "true", "t", "yes", "y", "on"), ("0", "false", "f", "no", "n", "off")
FLAGS = ("ACCELERATE_USE_CPU", "ACCELERATE_DEBUG_MODE", "ACCELERATE_CPU_AFFINITY")
NUMBERS = (  # of torch's launcher and of MPI's
    *("LOCAL_RANK", "RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "PMI_RANK", "PMI_SIZE", "OMPI_COMM_WORLD_RANK"),
    *("OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
)
# What each asks for, and what to do instead.
OTHER_WAYS = {
    "ACCELERATE_USE_DEEPSPEED": ("DeepSpeed", "--optim.shard spreads weights and optimizer over processes"),
    "ACCELERATE_USE_FSDP": ("accelerate's FSDP (--use_fsdp)", "launch without it and add --optim.shard"),
    "ACCELERATE_USE_MEGATRON_LM": ("Megatron-LM", "--optim.shard spreads weights and optimizer over processes"),
    "ACCELERATE_USE_PARALLELISM_CONFIG": ("tensor, context and sequence parallelism", "add --optim.shard"),
    "ACCELERATE_USE_SAGEMAKER": ("SageMaker's own data parallelism", "launch by torchrun"),
}
# Matrix products of float32 in fewer bits, and the values that leave them alone.
FEWER_BITS = {
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": FALSE,
    "NVIDIA_TF32_OVERRIDE": FALSE,
    "ONEDNN_DEFAULT_FPMATH_MODE": ("strict",),
    "DNNL_DEFAULT_FPMATH_MODE": ("strict",),
}
ORIGIN = "(from the shell, the options of `accelerate launch`, or the file that `accelerate config` wrote)"


def flag(name: str) -> bool:
    """Whether a variable says yes; unset is no. Raises ValueError, naming it, if it says neither yes nor no."""
    value = os.environ.get(name, "no").lower()
    if value not in TRUE + FALSE:
        raise ValueError(f"{name}={value} in the environment says neither yes nor no: set it to 1 or 0, or unset it")
    return value in TRUE


def check(optim: Any, device: torch.device) -> None:
    """Raises ValueError naming a variable that asks for another training than `optim` (OptimConfig).

    Warns of those by which libraries below torch round more coarsely than optim.precision says.
    """
    for name in FLAGS:
        flag(name)
    for name in NUMBERS:
        if not (value := os.environ.get(name, "0")).lstrip("-").isdecimal():
            raise ValueError(f"{name}={value} in the environment is no whole number; launchers set it, so unset it")
    for name, (what, instead) in OTHER_WAYS.items():
        if flag(name):
            raise ValueError(f"{what} is not used here: {instead}; {_said(name)}, unset it {ORIGIN}")
    _agree("ACCELERATE_MIXED_PRECISION", ("no", optim.precision), "--optim.precision", optim.precision)
    _agree("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", (str(optim.accumulate),), "--optim.accumulate", optim.accumulate)
    if _set_to_other("ACCELERATE_DYNAMO_BACKEND", ("no",)):
        raise ValueError(
            f"networks are not compiled by a variable, but by --optim.compile: {_said('ACCELERATE_DYNAMO_BACKEND')}, unset it "
            f"{ORIGIN}"
        )
    if _set_to_other("ACCELERATE_FP8_BACKEND", ("no",)):
        raise ValueError(f"there is no training in 8 bits here: {_said('ACCELERATE_FP8_BACKEND')}, unset it {ORIGIN}")
    if _set_to_other("ACCELERATE_TORCH_DEVICE", ("cpu",) if device.type == "cpu" else ()):
        raise ValueError(
            f"{_said('ACCELERATE_TORCH_DEVICE')}, which would put every process on one device: unset it; "
            "CUDA_VISIBLE_DEVICES chooses GPUs, ACCELERATE_USE_CPU=1 the CPU"
        )
    for name, harmless in FEWER_BITS.items():
        if _set_to_other(name, harmless):
            warnings.warn(
                f"{_said(name)}: float32 matrix products may be computed in fewer bits, which the run does not record",
                stacklevel=3,
            )


def _set_to_other(name: str, harmless: tuple[str, ...]) -> bool:
    return name in os.environ and os.environ[name].lower() not in harmless


def _said(name: str) -> str:
    return f"{name}={os.environ[name]} is set in the environment"


def _agree(name: str, accepted: tuple[str, ...], option: str, value: object) -> None:
    if _set_to_other(name, accepted):
        raise ValueError(
            f"{_said(name)} and changes nothing here, where {option} is {value}: give {option}, or unset it {ORIGIN}"
        )
