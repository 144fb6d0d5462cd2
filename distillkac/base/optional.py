"""Packages that come with an extra: imported, found to be the real ones, or one sentence that says what to install.

A folder `wandb/` or a file `datasets.py` where a command is started has the name of a package too. Without an __init__.py the
folder is imported where the package is not installed; a file, or a folder with one, even where it is.
"""

import importlib
import importlib.metadata
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Literal

Tracker = Literal["tensorboard", "wandb"]
"""Where the losses of a training may be shown."""

# Module: what to install, and something that only the real one has.
PACKAGES = {
    "datasets": ("distillkac[data]", "load_dataset"),
    "webdataset": ("distillkac[data]", "shardlists"),
    "onnx": ("distillkac[export]", "ModelProto"),
    "onnxscript": ("distillkac[export]", "script"),
    "onnxruntime": ("distillkac[export]", "InferenceSession"),
    "torchmetrics": ("distillkac[eval]", "Metric"),
    "gradio": ("distillkac[demo]", "Blocks"),
    "tensorboard": ("distillkac[track]", "program"),
    "wandb": ("wandb", "init"),
}


def load(name: str, purpose: str) -> ModuleType:
    """The package `name`. Raises ValueError: `purpose` ("reading tables", ...) needs it, what is wrong, what to install."""
    wanted, attribute = PACKAGES[name]
    install = f"pip install '{wanted}'" if "[" in wanted else f"pip install {wanted}"
    try:
        module = importlib.import_module(name)
    # One that is installed but broken, or of another NumPy, fails in its own way.
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            raise ValueError(f"{purpose} needs the package {name}, which is not installed: {install}") from None
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(
            f"{purpose} needs the package {name}, which cannot be imported ({reason}); install it anew: {install}"
        ) from None
    file = getattr(module, "__file__", None)
    if file is not None and hasattr(module, attribute):
        return module
    if file is None:
        sys.modules.pop(name, None)  # a notebook that installs the package and asks again finds it
        folder = next(iter(getattr(module, "__path__", [])), "a folder")
        raise ValueError(
            f"{purpose} needs the package {name}, which is not installed (the folder {folder} has its name but is no package): "
            f"{install}"
        )
    place = Path(file)
    place = place.parent if place.name == "__init__.py" else place
    also = "" if _installed(name) else f", and {install}"
    raise ValueError(
        f"{purpose} needs the package {name}, but {place} has its name and is imported instead: start in another folder or "
        f"rename it{also}"
    )


def _installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def file_of(package: str, name: Path) -> Path | None:
    """A file that comes with a package, which is not imported; None where the package, or the file in it, is not there."""
    found = importlib.util.find_spec(package)
    places = [Path(folder) / name for folder in (found and found.submodule_search_locations) or ()]
    return next(filter(Path.is_file, places), None)
