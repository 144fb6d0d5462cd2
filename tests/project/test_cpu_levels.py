"""Which levels of the CPU kernels are built (DISTILLKAC_CPU), and which of those a processor is given."""

import platform
import re
import shutil
import subprocess
import sys

import pytest

import build_backend
from distillkac.ops import _native as native
from tests.places import ROOT

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64" or shutil.which("g++") is None,
    reason="of x86-64, by the words that gcc has for its processors",
)

CMAKE = build_backend.find_tool("cmake")

# In place of a processor: it has what is named in FEATURES.
PROCESSOR = """
#include <cpuid.h>
#include <cstring>
#define __builtin_cpu_init()
#define __builtin_cpu_supports(feature) (std::strstr(FEATURES, " " feature " ") != nullptr)
#define __get_cpuid(leaf, a, b, c, d) (*(a) = *(b) = *(d) = 0, *(c) = std::strstr(FEATURES, " f16c ") ? bit_F16C : 0, 1)
"""
MAIN = """
#include <cstdio>
#include <stdexcept>
#include "binding/simd_dispatch.h"
#include "kernels.h"
#define STAND_IN(level) namespace distillkac::level { extern const CpuKernels kKernels{}; }
STAND_IN(portable) STAND_IN(avx2) STAND_IN(avx512)
int main() {
  try {
    for (const auto& name : distillkac::simd_levels()) std::printf("%s ", name.c_str());
    std::printf("%s", distillkac::simd_level().c_str());
    distillkac::cpu_kernels();
  } catch (const std::runtime_error& error) { std::printf("%s", error.what()); }
}
"""
AVX2 = "avx2 fma f16c"
AVX512 = f"{AVX2} avx512f avx512bw avx512dq avx512vl"


def compiled(folder, source, features, levels=()):
    """What a program of ours says or ends with, on a processor with these features."""
    (folder / "processor.h").write_text(PROCESSOR, encoding="utf-8")
    (folder / "main.cpp").write_text(MAIN, encoding="utf-8")
    defined = [f"-DDISTILLKAC_LEVEL_{level.upper()}" for level in levels]
    files = [ROOT / "csrc" / "binding" / source, *([folder / "main.cpp"] if levels else [])]
    words = ["-std=c++20", f'-DFEATURES=" {features} "', "-include", folder / "processor.h", f"-I{ROOT / 'csrc'}"]
    subprocess.run(["g++", *words, *defined, *files, "-o", folder / "program"], check=True)
    return subprocess.run([folder / "program"], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("built", "features", "said"),
    [
        (("portable", "avx2", "avx512"), AVX512, "portable avx2 avx512 avx512"),
        (("portable", "avx2", "avx512"), AVX2, "portable avx2 avx2"),
        (("portable", "avx2", "avx512"), "avx2 fma", "portable portable"),
        (("portable", "avx2", "avx512"), AVX512.replace(" avx512vl", ""), "portable avx2 avx2"),
        (("avx2",), AVX512, "avx2 avx2"),
        (("avx512",), AVX512, "avx512 avx512"),
        (("avx512",), AVX2, None),
        (("avx2",), "", None),
    ],
)
def test_the_best_level_that_build_and_processor_have(tmp_path, built, features, said):
    """Where there is none it is said in a sentence, and nothing is run that would end the process."""
    found = compiled(tmp_path, "simd_dispatch.cpp", features, built)
    assert found.returncode == 0
    if said is None:
        assert "built for another processor alone (DISTILLKAC_CPU=NATIVE)" in found.stdout
    else:
        assert found.stdout == said


@pytest.mark.parametrize(("features", "place"), [(AVX512, 2), (AVX2, 1), ("", 0)])
def test_the_best_level_of_a_processor(tmp_path, features, place):
    assert compiled(tmp_path, "best_level.cpp", features).returncode == place


def configured(folder, cpu):
    """What CMake makes of DISTILLKAC_CPU, and the levels that it would compile."""
    options = [f"-DDISTILLKAC_CPU={cpu}", "-DDISTILLKAC_CUDA=OFF", "-DTORCH_INCLUDE_DIRS=/nowhere"]
    words = [CMAKE, "-G", "Unix Makefiles", "-S", ROOT, "-B", folder, f"-DPython_EXECUTABLE={sys.executable}"]
    result = subprocess.run([*words, *options], capture_output=True, text=True)
    files = [path.read_text(encoding="utf-8") for path in folder.glob("CMakeFiles/_C.dir/link.txt")]
    return result.stderr if result.returncode else "", sorted(set(re.findall(r"kernels_(\w+)\.dir", "".join(files))))


@pytest.mark.skipif(CMAKE is None or shutil.which("make") is None, reason="cmake or make is not installed")
def test_a_build_for_one_processor_has_its_best_level(tmp_path):
    assert configured(tmp_path / "native", "native") == ("", native.simd_levels()[-1:])
    assert configured(tmp_path / "all", "ALL") == ("", ["avx2", "avx512", "portable"])
    assert "DISTILLKAC_CPU must be ALL or NATIVE, got 'SSE9'" in configured(tmp_path / "other", "sse9")[0]
