"""The CPU kernels under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer, and proof that these see.

A program without torch (tests/kernels/sanitizers/driver.cpp) runs every kernel over arrays of exactly the right size, at every
SIMD level, with one thread and four. The op tests are run with the sanitized torch extension too. All of it takes minutes to
compile, so it is slow: `make sanitize`. The CUDA kernels are in tests/kernels/test_cuda_on_cpu.py (emulated) and
tests/gpu/test_compute_sanitizer.py.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from distillkac import ops
from tests import standalone
from tests.places import ROOT

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
LEVELS = ops._native.simd_levels()
QUICK = LEVELS[1:2] or LEVELS  # AVX2 alone: has vectors and tails, and compiles fastest
DRIVER = Path(__file__).parent / "sanitizers" / "driver.cpp"
ADDRESS = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
THREAD = ("-O1", "-fsanitize=thread")


def build(folder, sanitizer, levels, mutate=lambda name, text: text):
    folder.mkdir(parents=True, exist_ok=True)
    named = " ".join(f"LEVEL({level})" for level in levels)
    return standalone.build(folder, DRIVER, levels, (*sanitizer, f"-DLEVELS={named}"), mutate)


def run(driver, kind):
    # The fixed addresses of ThreadSanitizer's shadow memory may be taken where the kernel randomises all 32 bits.
    fixed = ["setarch", "--addr-no-randomize"] if shutil.which("setarch") else []
    return subprocess.run([*fixed, str(driver), kind], capture_output=True, text=True, cwd=driver.parent)


def assert_clean(result, least):
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    assert "ERROR" not in result.stderr
    assert "WARNING" not in result.stderr
    count, failures = int(result.stdout.split()[0]), int(result.stdout.split()[2])
    assert count >= least
    assert failures == 0


def planted(file, old, new):
    """A mutate() that must find its place."""

    def mutate(name, text):
        assert name != file or old in text
        return text.replace(old, new) if name == file else text

    return mutate


# One element too many is written at the end of a row; a work unit writes into its neighbour's; a shift by the width.
BEYOND = planted(
    "guided_velocity.cpp", "(chunk.begin, chunk.end, [&](auto lanes", "(chunk.begin, chunk.end + 1, [&](auto lanes"
)
UNDEFINED = planted(
    "guided_velocity.cpp", "float(args.limit.most);", "float(args.limit.most) + float(1 << (32 + args.rows.count % 1));"
)
RACE = planted(
    "kac_velocity.cpp",
    "bool inside = true;\n  for (int64_t unit",
    "static bool inside; inside = true;\n  for (int64_t unit",
)


@pytest.fixture(scope="module")
def quick_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sanitized")


@pytest.mark.slow
def test_no_access_outside_the_arrays(quick_folder):
    assert_clean(run(build(quick_folder, ADDRESS, QUICK), "quick"), least=1000)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bug", "report"), [(BEYOND, "AddressSanitizer"), (UNDEFINED, "runtime error: shift exponent 32")]
)
def test_planted_bugs_are_found(quick_folder, bug, report):
    """Where the build of the test before lies, only the file with the bug is compiled."""
    result = run(build(quick_folder, ADDRESS, QUICK, bug), "quick")
    assert result.returncode != 0
    assert report in result.stderr


@pytest.mark.slow
def test_every_level_and_shape(tmp_path):
    assert_clean(run(build(tmp_path, ADDRESS, LEVELS), "full"), least=10_000)


@pytest.mark.slow
def test_no_data_races(tmp_path):
    assert_clean(run(build(tmp_path, THREAD, LEVELS), "threads"), least=1000)
    result = run(build(tmp_path, THREAD, LEVELS, RACE), "threads")
    assert "ThreadSanitizer: data race" in result.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cmake") is None or shutil.which("ninja") is None, reason="needs cmake and ninja")
def test_op_tests_with_the_sanitized_extension(tmp_path):
    """The whole path of an op, from torch's dispatcher to the kernels: the tests of values, errors and aliasing."""
    root = ROOT
    for name in ("csrc", "distillkac", "tests"):
        shutil.copytree(root / name, tmp_path / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("CMakeLists.txt", "pyproject.toml"):
        shutil.copy(root / name, tmp_path)
    configure = ["cmake", "-S", ".", "-B", "build", "-G", "Ninja", "-DDISTILLKAC_CUDA=OFF", "-DCMAKE_BUILD_TYPE=None"]
    configure += ["-DDISTILLKAC_SANITIZE=address,undefined", f"-DPython_EXECUTABLE={sys.executable}"]
    for command in (configure, ["cmake", "--build", "build"]):
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    libraries = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    environment = os.environ | {
        "LD_PRELOAD": ":".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0",  # CPython and torch keep memory until the end
        "UBSAN_OPTIONS": "halt_on_error=1",
        "PYTHONPATH": str(tmp_path),
        "DISTILLKAC_FUZZ_MEMORY": "unlimited",  # the shadow memory alone is terabytes of addresses
    }
    tests = [f"tests/ops/test_{name}.py" for name in ("ops", "op_errors", "op_fuzzing")]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "not slow", "-s", *tests]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    output = result.stdout[-4000:] + result.stderr[-4000:]
    assert result.returncode == 0, output
    assert "passed" in result.stdout
    assert "runtime error" not in output
    assert Path(tmp_path / "distillkac" / "_C.so").exists()
