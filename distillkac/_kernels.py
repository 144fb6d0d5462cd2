"""Loads the compiled kernels: `_C.so` registers the torch ops, `_native` is the small module beside it."""

import importlib.metadata
import json
import struct
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import torch

from distillkac._sources import source_hash

HERE = Path(__file__).resolve().parent
# Of an installed package the wheel that pip has kept is the one that does not fit; torch stays as it is.
REINSTALL = "pip install --force-reinstall --no-deps --no-cache-dir distillkac"
BUILD_COMMAND = "pip install --no-build-isolation -e ." if source_hash() else REINSTALL


def _hidden() -> str:
    """A word on the package that is installed and would work, if this source folder is imported in its place."""
    if source_hash() is None:
        return ""
    for found in importlib.metadata.distributions(name="distillkac"):
        # An editable installation says where its sources are; any other has the package beside what describes it.
        origin = json.loads(found.read_text("direct_url.json") or "{}")
        editable = origin.get("dir_info", {}).get("editable", False)
        root = Path(unquote(urlsplit(origin["url"]).path)) if editable else Path(str(found.locate_file("")))
        package = (root / "distillkac").resolve()
        if package != HERE and (package / "_C.so").exists():
            return (
                f" (this folder, {HERE.parent}, hides the distillkac installed in {root}: to use that, start elsewhere)"
            )
    return ""


def _refuse_cut_short(library: Path) -> None:
    """Raises OSError if an ELF library ends before its table of sections, its last part, as an interrupted copy does: loading
    it would end the process by a bus error. What is no such library is left to the loader, which says so."""
    with library.open("rb") as file:
        head = file.read(64)
    if len(head) == 64 and head.startswith(b"\x7fELF\x02"):
        (table,), (size, count) = struct.unpack_from("<Q", head, 40), struct.unpack_from("<HH", head, 58)
        if table + size * count > library.stat().st_size:
            raise OSError(f"{library} is cut short")


def _load() -> ModuleType:
    library = HERE / "_C.so"
    if not library.exists() or not list(HERE.glob("_native*.so")):
        raise ImportError(f"distillkac: the kernels are not built; run: {BUILD_COMMAND}{_hidden()}")
    try:
        for part in (library, *HERE.glob("_native*.so")):
            _refuse_cut_short(part)
        torch.ops.load_library(str(library))
        from distillkac import _native
    except (OSError, ImportError) as error:
        raise ImportError(
            f"distillkac: the kernels do not load with this Python and torch {torch.__version__} ({error.__cause__ or error}); "
            f"run: {BUILD_COMMAND}{_hidden()}"
        ) from error
    try:
        _native.simd_levels()
    except RuntimeError as error:
        raise ImportError(f"{error}; run: {BUILD_COMMAND}{_hidden()}") from error
    current = source_hash()
    if current is not None and _native.build_info()["source_hash"] != current:
        raise ImportError(
            f"distillkac: csrc/ has changed since the kernels were built; run: {BUILD_COMMAND}{_hidden()}"
        )
    return _native


native = _load()
