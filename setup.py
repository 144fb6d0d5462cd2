"""Builds distillkac/_C.so and distillkac/_native.*.so by CMake; everything else is in pyproject.toml.

From the environment: DISTILLKAC_CUDA (AUTO, ON, OFF), DISTILLKAC_CPU (ALL, NATIVE), CUDAARCHS, CUDA_HOME and MAX_JOBS;
docs/install.md explains them.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))
import build_backend  # noqa: E402

# Where a compiler says what is wrong, the most telling first.
COMPLAINTS = (
    r"(nvcc fatal.*)",
    r"(.*(?:fatal error|error:|#error).*)",
    r"CMake Error.*\s+(.*)",
    r"(.*error.*)",
)
HELP = "CUDAARCHS chooses what to build for and CUDA_HOME another CUDA, DISTILLKAC_CUDA=OFF leaves CUDA out (docs/install.md)"


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
        """With an nvcc that cannot build what is asked for, or a torch that could not run it, the CPU kernels alone, unless
        DISTILLKAC_CUDA=ON."""
        import torch
        from torch.utils import cpp_extension

        arguments = [
            f"-DTORCH_INCLUDE_DIRS={';'.join(cpp_extension.include_paths())}",
            f"-DTORCH_LIBRARY_DIRS={';'.join(cpp_extension.library_paths())}",
            f"-DDISTILLKAC_OUTPUT_DIR={folder}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DDISTILLKAC_CPU={os.environ.get('DISTILLKAC_CPU') or 'ALL'}",
            "-DCMAKE_SKIP_BUILD_RPATH=ON",  # torch is loaded first; a wheel must not search this machine's folders
        ]
        if ninja := build_backend.find_tool("ninja"):  # named each time: the cache may hold one of an isolated build
            arguments += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
        cuda = os.environ.get("DISTILLKAC_CUDA") or "AUTO"
        useless = torch.version.cuda is None and cuda.upper() == "AUTO"
        told = f"torch {torch.__version__}, beside which this was built, is without CUDA" if useless else ""
        chosen = [f"-DDISTILLKAC_CUDA={'OFF' if useless else cuda}", f"-DDISTILLKAC_CUDA_PROBLEM={told}"]
        problem = build(folder, [*arguments, *chosen])
        if problem is None:
            return
        failed = f"{nvcc} cannot build the CUDA kernels ({problem})" if (nvcc := nvcc_of(folder)) else None
        if failed and cuda.upper() == "AUTO":
            problem = build(folder, [*arguments, "-DDISTILLKAC_CUDA=OFF", f"-DDISTILLKAC_CUDA_PROBLEM={failed}"])
            if problem is None:
                print(f"distillkac: warning: {failed}, so the CPU kernels alone were built; {HELP}", flush=True)
                return
        elif failed:
            problem += f", with DISTILLKAC_CUDA={cuda}; {HELP}"
        raise CompileError(f"distillkac: the kernels could not be built ({problem})")


def build(folder, arguments):
    """Configures and builds; returns what is wrong, in the compiler's words, or None."""
    cmake, jobs = build_backend.find_tool("cmake"), os.environ.get("MAX_JOBS") or str(os.cpu_count())
    if cmake is None:
        return "cmake >= 3.20 is not installed: pip install cmake"
    # --fresh would need CMake 3.24; a cache from another Python or torch is simply thrown away.
    (folder / "CMakeCache.txt").unlink(missing_ok=True)
    for command in (["-S", str(ROOT), "-B", str(folder), *arguments], ["--build", str(folder), "--parallel", jobs]):
        lines = []
        with subprocess.Popen(
            [cmake, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            for line in process.stdout:
                print(line, end="", flush=True)
                lines.append(line)
        if process.returncode:
            return complaint("".join(lines))
    return None


def nvcc_of(folder):
    """The nvcc that CMake found for the build in `folder`, None if it found or looked for none."""
    cache = folder / "CMakeCache.txt"
    found = re.search(
        r"^DISTILLKAC_NVCC:\w+=(.*)$", cache.read_text(encoding="utf-8") if cache.exists() else "", re.MULTILINE
    )
    return found[1] if found and not found[1].endswith("NOTFOUND") else None


def complaint(output):
    """The first telling line of what a compiler or CMake printed, short and without what would break a definition."""
    found = (match for pattern in COMPLAINTS if (match := re.search(pattern, output, re.IGNORECASE)))
    line = next((match[1] for match in found), "the compiler says nothing more")
    return re.sub(r"[^ -~]|[;\"\\$]", " ", line).strip()[:200]


if __name__ == "__main__":
    setup(
        ext_modules=[Extension("distillkac._C", sources=[]), Extension("distillkac._native", sources=[])],
        cmdclass={"build_ext": CMakeBuild},
    )
