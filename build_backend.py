"""setuptools' build backend, without a second copy of torch.

pip builds in an isolated environment. Asking for torch there would fetch gigabytes, maybe of another version, and fail
offline. So what is installed beside pip's own interpreter is put at the end of the path, and only what is missing is asked
for. (`python -m build` isolates more: give it --no-isolation to build with the torch that is installed.)
"""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig

for _key in ("purelib", "platlib"):
    if sysconfig.get_path(_key) not in sys.path:
        sys.path.append(sysconfig.get_path(_key))
os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", ""), sysconfig.get_path("scripts")])

TOOLS = {"cmake": "CMAKE_BIN_DIR", "ninja": "BIN_DIR"}  # in the packages of these names
CMAKE = (3, 20)
SETUPTOOLS = 77  # the first that knows `license = "Apache-2.0"`


def _missing_for_sdist(config_settings=None):
    try:
        enough = int(importlib.metadata.version("setuptools").split(".")[0]) >= SETUPTOOLS
    except importlib.metadata.PackageNotFoundError:
        enough = False
    return [] if enough else [f"setuptools>={SETUPTOOLS}"]


def find_tool(name):
    """The path of cmake or ninja, one that runs and is new enough; None if there is none.

    Where pip isolates, the scripts that their wheels put beside Python fail: they import what the isolation hides from every
    process but this one, which finds the program itself inside the package.
    """
    found = [shutil.which(name, path=folder) for folder in os.environ["PATH"].split(os.pathsep)]
    with contextlib.suppress(ImportError, AttributeError):
        found.append(os.path.join(getattr(importlib.import_module(name), TOOLS[name]), name))
    return next((path for path in found if path and _runs(name, path)), None)


def _runs(name, path):
    try:
        told = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return False
    version = re.search(r"(\d+)\.(\d+)", told)
    return name != "cmake" or (version is not None and (int(version[1]), int(version[2])) >= CMAKE)


def _missing(config_settings=None):
    needed = _missing_for_sdist()
    if importlib.util.find_spec("torch") is None:
        needed.append("torch>=2.11")
    if not find_tool("cmake"):
        needed.append("cmake>={}.{}".format(*CMAKE))
    if not (find_tool("ninja") or shutil.which("make")):
        needed.append("ninja")
    return needed


def _forward(name):
    def hook(*args, **kwargs):
        from setuptools import build_meta

        return getattr(build_meta, name)(*args, **kwargs)

    return hook


for _kind in ("wheel", "editable", "sdist"):
    globals()[f"get_requires_for_build_{_kind}"] = _missing_for_sdist if _kind == "sdist" else _missing
    globals()[f"build_{_kind}"] = _forward(f"build_{_kind}")
    if _kind != "sdist":
        globals()[f"prepare_metadata_for_build_{_kind}"] = _forward(f"prepare_metadata_for_build_{_kind}")
