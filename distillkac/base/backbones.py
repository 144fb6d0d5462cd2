"""diffusers' networks, without the rest of diffusers.

`from diffusers import UNet2DModel` imports every network and every scheduler that diffusers has, SciPy for these, and torch's
compiler: several times what torch itself takes to import, each time a command starts. One network needs a twentieth of
that. Two things are kept away while it is imported, and only then:

- the __init__ of the packages that networks lie in, which import all that lie there. They run when somebody asks for them.
- torch._dynamo, without which diffusers has code of its own: its attention is then traced like any other module when
  somebody compiles the network, instead of being left as one call.

What was imported before stays as it is, and so does what is imported afterwards: the classes are the same objects.
"""

import contextlib
import importlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["dit_class", "unet_class"]

COMPILER = "torch._dynamo"
PACKAGES = ("transformers", "unets")  # of diffusers.models, whose __init__ import all that lie in them
_importing = threading.RLock()


def unet_class() -> Any:
    """diffusers' UNet2DModel."""
    return _of("unets.unet_2d", "UNet2DModel")


def dit_class() -> Any:
    """diffusers' DiTTransformer2DModel."""
    return _of("transformers.dit_transformer_2d", "DiTTransformer2DModel")


def _of(module: str, name: str) -> Any:
    with _importing, _kept_away({COMPILER: None}):  # None is Python's own sign for what cannot be imported
        places = [Path(place) / "models" for place in importlib.import_module("diffusers").__path__]
        bare: dict[str, ModuleType | None] = {}
        for package in PACKAGES:
            bare[f"diffusers.models.{package}"] = made = ModuleType(f"diffusers.models.{package}")
            made.__path__ = [str(place / package) for place in places]
        with _kept_away(bare):
            return getattr(importlib.import_module(f"diffusers.models.{module}"), name)


@contextlib.contextmanager
def _kept_away(modules: dict[str, ModuleType | None]) -> Iterator[None]:
    """Inside, these stand in place of the modules of their names, but of those that are imported already."""
    new = {name: module for name, module in modules.items() if name not in sys.modules}
    sys.modules.update(new)  # type: ignore[arg-type]  # that of None
    try:
        yield
    finally:
        for name in new:
            del sys.modules[name]
            above, _, last = name.rpartition(".")
            if above in sys.modules:
                vars(sys.modules[above]).pop(last, None)
