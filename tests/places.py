"""Where things are, for tests in any room."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE, CSRC = ROOT / "distillkac", ROOT / "csrc"
GOLDEN = json.loads((ROOT / "tests" / "golden" / "telegraph.json").read_text(encoding="utf-8"))["rows"]

# Fashion-MNIST, for tests marked `fashion`: where Debian's package puts it, or where the variable says.
FASHION = Path(os.environ.get("FASHION_MNIST") or "/usr/share/datasets/fashion-mnist")
FASHION_FILES = [
    FASHION / f"{part}-{name}-ubyte.gz" for part in ("train", "t10k") for name in ("images-idx3", "labels-idx1")
]

# By the beginning of an example's name: what it needs beyond the package.
NEEDS = {"flow_matching_": ("flow_matching",), "torchcfm_": ("torchcfm", "ot", "torchdiffeq")}


def skip_without_packages(text: str) -> None:
    """Skips a test of text that names an example whose packages are not installed."""
    for beginning, packages in NEEDS.items():
        for package in packages if beginning in text else ():
            pytest.importorskip(package, reason=f"{package} is not installed; docs/recipes.md says how to install it")


def without_fashion() -> str | None:
    """Why Fashion-MNIST cannot be read here; None if it can."""
    if all(path.is_file() for path in FASHION_FILES):
        return None
    return f"no Fashion-MNIST in {FASHION}: apt-get install dataset-fashion-mnist, or say FASHION_MNIST=FOLDER"


def skip_unless_may_become(uid: int) -> None:
    """Skips a test that becomes another user: for root alone, and not where a container has no other users."""
    if os.getuid() != 0:
        pytest.skip("needs root, to become another user")
    tried = subprocess.run([sys.executable, "-c", f"import os; os.setuid({uid})"], capture_output=True)
    if tried.returncode:
        pytest.skip(f"root may not become user {uid} here, as in a user namespace that has no such user")


def script(path: Path) -> ModuleType:
    """The module of a script, which finds its neighbours as it does when it is run."""
    skip_without_packages(path.name)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(path.parent)
        return importlib.import_module(path.stem)


def outside_make() -> dict[str, str]:
    """The environment without what make hands on: the ARGS of `make test ARGS=...` are of no other target."""
    own = ("ARGS", "RUN", "PRECISION", "CPU_LEVELS")
    return {name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name not in own}
