"""diffusers' networks, without the rest of diffusers.

`from diffusers import UNet2DModel` imports every network and every scheduler that diffusers has, SciPy for these, and torch's
compiler: all of it takes several times as long as torch itself, each time a command starts. Two things are put off:

- the __init__ of the packages that networks lie in, which import all that lie there: they run when something of a package is
  first asked for that is not there yet, so that nothing is missing afterwards.
- torch._dynamo, as long as diffusers itself is imported. Without it diffusers leaves its attention as it is, and a compiler
  that comes later looks into that as into any other module.

What was imported before stays as it is, and all classes are those that diffusers gives.
"""

import contextlib
import importlib
import importlib.util
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGES = ("transformers", "unets")  # of diffusers.models
COMPILER = "torch._dynamo"
_importing = threading.RLock()


def unet_class() -> Any:
    """diffusers' UNet2DModel."""
    return _of("unets.unet_2d", "UNet2DModel")


def dit_class() -> Any:
    """diffusers' DiTTransformer2DModel."""
    return _of("transformers.dit_transformer_2d", "DiTTransformer2DModel")


def rotary_attention() -> Any:
    """diffusers' attention with rotary positions, a processor of its Attention, which has the norms of queries and keys too."""
    return _of("attention_processor", "HunyuanAttnProcessor2_0")


def rotary_table() -> Any:
    """diffusers' function of the cosines and sines of rotary positions on a grid."""
    return _of("embeddings", "get_2d_rotary_pos_embed")


class _Unopened(ModuleType):
    """A package whose __init__ has not run, but whose modules can be imported."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or self.__spec__ is None or self.__spec__.loader is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        self.__class__ = ModuleType  # type: ignore[assignment]  # what it is from now on
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)


def _of(module: str, name: str) -> Any:
    with _importing, _without_compiler():
        importlib.import_module("diffusers")  # says that it is missing even where a part of it is still in memory
        models = importlib.import_module("diffusers.models")
        for package in PACKAGES:
            _leave_unopened(models, package)
        return getattr(importlib.import_module(f"diffusers.models.{module}"), name)


@contextlib.contextmanager
def _without_compiler() -> Iterator[None]:
    if COMPILER in sys.modules:
        yield
        return
    sys.modules[COMPILER] = None  # type: ignore[assignment]  # Python's own sign for what cannot be imported
    try:
        yield
    finally:
        del sys.modules[COMPILER]


def _leave_unopened(above: ModuleType, package: str) -> None:
    """Puts the package below `above`, where it is not imported yet, where Python finds imported ones."""
    name, place = f"{above.__name__}.{package}", Path(above.__path__[0]) / package
    spec = importlib.util.spec_from_file_location(name, place / "__init__.py", submodule_search_locations=[str(place)])
    if name not in sys.modules and spec is not None:
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        module.__class__ = _Unopened
        setattr(above, package, module)
