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
import importlib.util
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
    with _importing, _alone():
        return getattr(importlib.import_module(f"diffusers.models.{module}"), name)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Inside, a network of diffusers is imported without the others."""
    found = importlib.util.find_spec("diffusers")
    places = [Path(place) / "models" for place in (found and found.submodule_search_locations) or ()]
    kept: dict[str, ModuleType | None] = {COMPILER: None}  # Python's own sign for what cannot be imported
    for package in PACKAGES:
        bare = kept[f"diffusers.models.{package}"] = ModuleType(f"diffusers.models.{package}")
        bare.__path__ = [str(place / package) for place in places]
    kept = {name: module for name, module in kept.items() if name not in sys.modules}
    sys.modules.update(kept)  # type: ignore[arg-type]  # that of None
    try:
        yield
    finally:
        models = sys.modules.get("diffusers.models")
        for name in kept:
            del sys.modules[name]
            if models is not None:
                vars(models).pop(name.rpartition(".")[2], None)
