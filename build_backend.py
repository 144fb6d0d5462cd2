"""setuptools' build backend, without a second copy of torch.

pip builds in an isolated environment. Asking for torch there would fetch gigabytes, maybe of another version, and fail
offline. So what is installed beside pip's own interpreter is put at the end of the path, and only what is missing is asked
for. (`python -m build` isolates more: give it --no-isolation to build with the torch that is installed.)
"""

import importlib.metadata
import importlib.util
import os
import shutil
import sys
import sysconfig

for _key in ("purelib", "platlib"):
    if sysconfig.get_path(_key) not in sys.path:
        sys.path.append(sysconfig.get_path(_key))
os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", ""), sysconfig.get_path("scripts")])

SETUPTOOLS = 77  # the first that knows `license = "Apache-2.0"`


def _missing_for_sdist(config_settings=None):
    try:
        enough = int(importlib.metadata.version("setuptools").split(".")[0]) >= SETUPTOOLS
    except importlib.metadata.PackageNotFoundError:
        enough = False
    return [] if enough else [f"setuptools>={SETUPTOOLS}"]


def _missing(config_settings=None):
    needed = _missing_for_sdist()
    if importlib.util.find_spec("torch") is None:
        needed.append("torch>=2.11")
    if not shutil.which("cmake"):
        needed.append("cmake>=3.20")
    if not (shutil.which("ninja") or shutil.which("make")):
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
