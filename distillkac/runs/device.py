"""Where a run is trained and sampled, and what is faster there."""

import contextlib
import functools
import os
import threading
import warnings
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import nn

from distillkac import ops
from distillkac._kernels import native
from distillkac.base import launch_settings

Network = TypeVar("Network", bound=nn.Module)


def device() -> torch.device:
    """The GPU, if torch can use one, it runs our kernels, and the launcher was not told to leave it (ACCELERATE_USE_CPU).

    Warns where only the kernels are missing, or made for other GPUs.
    """
    if launch_settings.flag("ACCELERATE_USE_CPU") or not torch.cuda.is_available():
        return torch.device("cpu")
    rank = os.environ.get("LOCAL_RANK", "")  # each process asks its own GPU: on another it would only take memory
    problem = gpu_problem(torch.device("cuda", int(rank) % torch.cuda.device_count() if rank.isdecimal() else 0))
    if problem is None:
        return torch.device("cuda")
    warnings.warn(f"computing on the CPU: torch can use a GPU, but {problem}", stacklevel=2)
    return torch.device("cpu")


def gpu_problem(device: torch.device) -> str | None:
    """Why our kernels cannot run on this GPU, which torch can use, and what to do; None if they can."""
    build = native.build_info()
    if not build["cuda"]:
        why = build["cuda_problem"] or "it was built without"
        return f"distillkac has no CUDA kernels ({why}): docs/install.md says how to build them"
    if failure := _failure(device):
        architecture = "".join(map(str, torch.cuda.get_device_capability(device)))
        return (
            f"the CUDA kernels of distillkac, built for {build['cuda_architectures']}, do not run on it ({failure}): set "
            f"CUDAARCHS={architecture} and build again (docs/install.md)"
        )
    return None


@functools.cache
def _failure(device: torch.device) -> str:
    """What one small op says where it cannot run on this GPU, else nothing. Each GPU is asked once."""
    try:
        ops.kac_velocity(torch.zeros(1, 1, device=device), torch.ones(1, device=device), "telegraph", 1.0, 1.0).cpu()
    except torch.OutOfMemoryError:  # no matter of the kernels: what needs the memory will say so
        return ""
    except RuntimeError as error:
        return (str(error).splitlines() or [""])[0]
    return ""


def placed(network: Network, device: torch.device) -> Network:
    """The network itself, moved to the device. On a GPU the convolutions of our U-Nets have their weights with the channels
    last in memory, as its fast kernels want them; values, names and files are the same. Own networks stay as they are: they
    may count on the order of what a convolution answers."""
    network = network.to(device)
    if device.type == "cuda":
        channels_last(network)
    return network


def channels_last(network: nn.Module) -> None:
    """Orders the memory of the convolution weights of the U-Nets of VelocityNet and AdoptedNet, in place."""
    from distillkac.flow.adopted import AdoptedNet
    from distillkac.flow.networks import VelocityNet

    ours = [part for part in network.modules() if isinstance(part, VelocityNet | AdoptedNet)]
    unets = [part for net in ours for part in net.modules() if type(part).__name__ == "UNet2DModel"]
    for layer in (layer for unet in unets for layer in unet.modules()):
        if isinstance(layer, nn.Conv2d):
            layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's types do not know it


class _FastProducts:
    """Who asks for TF32 now: the first sets it, the last takes it back. Paths are made by a thread of their own."""

    def __init__(self) -> None:
        self._lock, self._users, self._set = threading.Lock(), 0, False

    def begin(self) -> None:
        with self._lock:
            self._users += 1
            # "none" is what torch begins with; whoever has said something keeps it.
            if self._users == 1 and torch.backends.cuda.matmul.fp32_precision == "none":
                torch.backends.cuda.matmul.allow_tf32 = self._set = True

    def end(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._set:
                torch.backends.cuda.matmul.allow_tf32 = self._set = False
                torch.backends.cuda.matmul.fp32_precision = "none"


_FAST = _FastProducts()


@contextlib.contextmanager
def fast_products(device: torch.device) -> Iterator[None]:
    """Inside, float32 matrix products on a GPU take TF32: factors of 10 bits, sums of float32, as torch's convolutions have it
    by default. Afterwards it is as it was; a program that has chosen by itself keeps its choice. Nothing on a CPU."""
    if device.type != "cuda":
        yield
        return
    _FAST.begin()
    try:
        yield
    finally:
        _FAST.end()
