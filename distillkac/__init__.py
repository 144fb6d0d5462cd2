"""distillkac: train, guide, distil and sample finite-speed (Kac) image generators."""

import os
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

try:
    Path.home()
except RuntimeError:
    # Matplotlib 3.9 fails to import without a home; from a folder that cannot be written it goes on, with a warning.
    os.environ.setdefault("MPLCONFIGDIR", f"{os.devnull}/matplotlib")


def __getattr__(name: str) -> Any:
    """`distillkac.ops` is imported when it is first asked for: version and doctor need no kernels, nor torch."""
    if name == "ops":
        import importlib

        return importlib.import_module("distillkac.ops")
    raise AttributeError(f"module 'distillkac' has no attribute '{name}'")
