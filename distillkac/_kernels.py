"""Loads the compiled kernels: `_C.so` registers the torch ops, `_native` is the small module beside it."""

from pathlib import Path

import torch

from distillkac._sources import source_hash

HERE = Path(__file__).resolve().parent
# Of an installed package the wheel that pip has kept is the one that does not fit; torch stays as it is.
REINSTALL = "pip install --force-reinstall --no-deps --no-cache-dir distillkac"
BUILD_COMMAND = "pip install --no-build-isolation -e ." if source_hash() else REINSTALL


def _load():
    library = HERE / "_C.so"
    if not library.exists() or not list(HERE.glob("_native*.so")):
        raise ImportError(f"distillkac: the kernels are not built; run: {BUILD_COMMAND}")
    try:
        torch.ops.load_library(str(library))
        from distillkac import _native
    except (OSError, ImportError) as error:
        raise ImportError(
            f"distillkac: the kernels do not load with this Python and torch {torch.__version__} ({error.__cause__ or error}); "
            f"run: {BUILD_COMMAND}"
        ) from error
    current = source_hash()
    if current is not None and _native.build_info()["source_hash"] != current:
        raise ImportError(f"distillkac: csrc/ has changed since the kernels were built; run: {BUILD_COMMAND}")
    return _native


native = _load()
