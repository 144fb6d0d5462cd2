"""Builds distillkac/_C.so and distillkac/_native.*.so by CMake; everything else is in pyproject.toml."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


class CMakeBuild(build_ext):
    """Both extensions from one CMake build: _C is loaded by torch (no Python ABI in its name), _native by Python."""

    def get_ext_filename(self, fullname):
        if fullname.endswith("_C"):
            return os.path.join(*fullname.split(".")) + ".so"
        return super().get_ext_filename(fullname)

    def build_extension(self, ext):
        folder = ROOT / "build" / "cmake"
        name = ext.name.rsplit(".", 1)[1]
        if name == "_C":
            self._run_cmake(folder)
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        # Never write into a library that a running program has mapped: replace the file.
        fresh = target.with_name(target.name + ".new")
        shutil.copyfile(folder / f"{name}.so", fresh)
        os.replace(fresh, target)

    def _run_cmake(self, folder):
        from torch.utils import cpp_extension

        arguments = [
            f"-DTORCH_INCLUDE_DIRS={';'.join(cpp_extension.include_paths())}",
            f"-DTORCH_LIBRARY_DIRS={';'.join(cpp_extension.library_paths())}",
            f"-DDISTILLKAC_OUTPUT_DIR={folder}",
            f"-DDISTILLKAC_CUDA={os.environ.get('DISTILLKAC_CUDA', 'AUTO')}",
            f"-DPython_EXECUTABLE={sys.executable}",
            "-DCMAKE_SKIP_BUILD_RPATH=ON",  # torch is loaded first; a wheel must not search this machine's folders
        ]
        if ninja := shutil.which("ninja"):  # named each time: the cache may hold one from a past isolated build
            arguments += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
        jobs = os.environ.get("MAX_JOBS", str(os.cpu_count()))
        # --fresh would need CMake 3.24; a cache from another Python or torch is simply thrown away.
        (folder / "CMakeCache.txt").unlink(missing_ok=True)
        subprocess.check_call(["cmake", "-S", str(ROOT), "-B", str(folder), *arguments])
        subprocess.check_call(["cmake", "--build", str(folder), "--parallel", jobs])


setup(
    ext_modules=[Extension("distillkac._C", sources=[]), Extension("distillkac._native", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
