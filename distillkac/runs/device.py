"""Where a run is trained and sampled."""

import warnings

import torch

from distillkac._kernels import native
from distillkac.base import launch_settings


def device() -> torch.device:
    """The GPU, if torch can use one, there are kernels for it, and the launcher was not told to leave it (ACCELERATE_USE_CPU).

    Warns where only the kernels are missing.
    """
    if launch_settings.flag("ACCELERATE_USE_CPU") or not torch.cuda.is_available():
        return torch.device("cpu")
    build = native.build_info()
    if build["cuda"]:
        return torch.device("cuda")
    why = build["cuda_problem"] or "it was built without"
    warnings.warn(
        f"torch can use a GPU, but distillkac has no CUDA kernels ({why}): computing on the CPU; docs/install.md says how to "
        "build them",
        stacklevel=2,
    )
    return torch.device("cpu")
