"""Names of a package that are imported when they are first asked for."""

import importlib
import sys
from collections.abc import Callable


def importer(
    package: str, modules: dict[str, tuple[str, ...]]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` for the __init__ of a package. modules: of each module below it the names that the package
    offers."""
    places = {name: module for module, names in modules.items() for name in names}

    def __getattr__(name: str) -> object:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{places[name]}"), name)

    def __dir__() -> list[str]:
        return sorted({*vars(sys.modules[package]), *places})

    return __getattr__, __dir__
