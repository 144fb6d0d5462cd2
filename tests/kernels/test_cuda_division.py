"""Divisions and square roots of the CUDA kernels, which go without the slow path that nvcc adds for operands far out: they
are correctly rounded, and the GPU executes what nvcc has for __fdiv_rn and __fsqrt_rn where the slow path is not taken."""

import shutil
import subprocess
import sys

import pytest

from tests.places import CSRC, ROOT

sys.path.insert(0, str(CSRC / "tools"))

import control_flow
import sass

EVERY = r"""
#include <cuda_runtime.h>
#include "lanes/scalar.h"
#include <cstdio>
using Scalar = distillkac::cuda::Scalar;
float from(uint32_t bits) { float x; memcpy(&x, &bits, 4); return x; }
uint32_t bits(float x) { uint32_t b; memcpy(&b, &x, 4); return b; }
int main() {
  long roots = 0, quotients = 0;
  uint64_t state = 1;
  const auto random = [&] { return uint32_t((state = state * 6364136223846793005u + 1442695040888963407u) >> 41); };
  for (uint32_t b = bits(1.f); b < bits(4.f); ++b) roots += Scalar::sqrt_normal(from(b)) != __builtin_sqrtf(from(b));
  for (uint32_t m = 0; m < 1u << 23; ++m) {
    const float b = from(0x3f800000u | m), q = from(0x3f800000u | random());
    const float any = from(0x3f800000u | random()), hard = float((double(q) + 0x1p-24) * b);  // hard: between two floats
    for (float a : {any, hard}) quotients += Scalar::divide_normal(a, b) != a / b;
  }
  for (uint32_t m = 0; m < 1u << 16; ++m)  // far out: as the velocity has them at lambda = 1e9
    for (int shift : {-90, -30, 30, 90}) {
      const float b = __builtin_ldexpf(from(0x3f800000u | random()), 120), a = __builtin_ldexpf(1 + m * 0x1p-16f, shift);
      quotients += Scalar::divide_normal(a, b) != a / b;
      roots += Scalar::sqrt_normal(a) != __builtin_sqrtf(a);
    }
  std::printf("%ld %ld", roots, quotients);
}
"""


def wrong(folder, mutate=lambda text: text):
    """(square roots, quotients) that are not correctly rounded, of every root's mantissa and every divisor's."""
    folder.mkdir()
    header = folder / "lanes" / "scalar.h"
    shutil.copytree(CSRC / "lanes", folder / "lanes")
    shutil.copy(CSRC / "kernels.h", folder)
    header.write_text(mutate(header.read_text()))
    (folder / "every.cpp").write_text(EVERY)
    command = ["g++", "-std=c++17", "-O2", "-ffp-contract=off", "-w", "-DDISTILLKAC_ARCH=cuda", f"-I{folder}"]
    command += [f"-I{ROOT / 'tests/kernels/cuda_on_cpu'}", str(folder / "every.cpp"), "-o", str(folder / "every")]
    subprocess.run(command, check=True)
    return tuple(map(int, subprocess.run([str(folder / "every")], capture_output=True, check=True).stdout.split()))


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_they_are_correctly_rounded(tmp_path):
    assert wrong(tmp_path / "as_they_are") == (0, 0)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.parametrize("ulp", [-2, -1, 1, 2])
def test_quotients_stay_so_whatever_the_estimate(tmp_path, ulp):
    """A GPU's estimate of 1 / b is wrong by up to 1 ulp."""

    def off(text):
        text = text.replace(
            "{ return 1.f / x; }", f"{{ return bit_cast<float>(bit_cast<uint32_t>(1.f / x) + ({ulp})); }}"
        )
        assert f"({ulp})" in text
        return text

    assert wrong(tmp_path / "off", off)[1] == 0


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_a_missing_correction_is_noticed(tmp_path):
    def without(text):
        return text.replace("fma(fma(-b, quotient, a), inverse, quotient)", "quotient").replace(
            "fma(fma(-root, root, x), 0.5f * estimate, root)", "root"
        )

    assert min(wrong(tmp_path / "without", without)) > 100_000


BOTH = """
#include "lanes/scalar.h"
using Scalar = distillkac::cuda::Scalar;
extern "C" __global__ void ours_sqrt(float* x) { x[0] = Scalar::sqrt_normal(x[1]); }
extern "C" __global__ void nvcc_sqrt(float* x) { x[0] = __fsqrt_rn(x[1]); }
extern "C" __global__ void ours_divide(float* x) { x[0] = Scalar::divide_normal(x[1], x[2]); }
extern "C" __global__ void nvcc_divide(float* x) { x[0] = __fdiv_rn(x[1], x[2]); }
"""


@pytest.mark.skipif(sass.missing() is not None, reason=str(sass.missing()))
@pytest.mark.parametrize("architecture", sass.ARCHITECTURES)
def test_the_gpu_executes_what_nvcc_has(tmp_path, architecture):
    """For square roots this is the proof: the estimate may be 2 ulp off, and then a few in 16 million would be rounded wrongly,
    but for those that the GPU makes NVIDIA promises a correct result of these instructions."""
    source, cubin = tmp_path / "both.cu", tmp_path / "both.cubin"
    source.write_text(BOTH)
    command = [str(sass.find_nvcc()), *sass.FLAGS, f"-I{CSRC}", f"-arch=sm_{architecture}", "-cubin"]
    subprocess.run([*command, str(source), "-o", str(cubin)], check=True)

    def arithmetic(name):
        code = control_flow.functions(sass.disassemble(cubin))[name]
        names = [
            x.name for x in code[: code.index(next(x for x in code if "EXIT" in str(x)))] if not isinstance(x, str)
        ]
        return [x for x in names if x in ("MUFU", "FMUL", "FFMA")]

    assert arithmetic("ours_sqrt") == arithmetic("nvcc_sqrt") == ["MUFU", "FMUL", "FMUL", "FFMA", "FFMA"]
    assert len(arithmetic("ours_divide")) == 6
    assert sorted(n.replace("FMUL", "FFMA") for n in arithmetic("ours_divide")) == sorted(arithmetic("nvcc_divide"))
