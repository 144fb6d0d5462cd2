"""The same bits from another compiler and another processor: clang, and 64-bit ARM (portable and NEON) under qemu.

The program of tests/kernels/sanitizers/driver.cpp runs every kernel over many shapes and prints a digest of all results. The
schedules take cos, sin and exp of the C library (csrc/README.md), which is glibc for both processors.
"""

import re
import shutil
import subprocess

import pytest

from distillkac import ops
from tests import standalone
from tests.kernels.test_sanitizers import DRIVER

pytestmark = pytest.mark.slow  # each program compiles for half a minute and more
ARM = ("aarch64-linux-gnu-g++", "qemu-aarch64")
FAST = ("-O1",)  # bits do not depend on it, and it compiles in a third of the time


def digest(folder, levels, compiler="g++", runner=(), flags=FAST, mutate=lambda name, text: text):
    """What the driver prints; all levels of one program have the same bits."""
    folder.mkdir(parents=True, exist_ok=True)
    named = " ".join(f"LEVEL({level})" for level in levels)
    program = standalone.build(folder, DRIVER, levels, (*flags, f"-DLEVELS={named}"), mutate, compiler)
    run = subprocess.run([*runner, str(program), "quick"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    assert re.search(r"\b0 failures, levels:(.*)", run.stdout)[1].split() == list(levels)
    return re.search(r"digest (\w+)", run.stdout)[1]


def needs(*tools):
    lost = [tool for tool in tools if shutil.which(tool) is None]
    return pytest.mark.skipif(bool(lost), reason=f"needs {' and '.join(lost)}")


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The digest of g++'s portable kernels."""
    return digest(tmp_path_factory.mktemp("here"), ["portable"])


@needs("g++", "clang++")
def test_clang_has_the_bits_of_gcc(here, tmp_path):
    assert digest(tmp_path, ops._native.simd_levels(), "clang++") == here


@needs("g++", *ARM)
def test_arm_has_the_bits_of_x86(here, tmp_path):
    """Portable and with NEON."""
    runner = (ARM[1], "-L", "/usr/aarch64-linux-gnu")
    assert digest(tmp_path, ["portable", "neon"], ARM[0], runner) == here


@needs("g++")
def test_a_fused_multiplication_is_noticed(here, tmp_path):
    """What the compiler of another processor may do by itself, unless told not to."""

    def fused(name, text):
        old = "V::fma(dg, v, df * x0)"
        return (
            text.replace(old, "V::fma(dg, v, V::fma(df, x0, V::splat(0x1p-24f) * v))") if name == "kac_pair.h" else text
        )

    assert digest(tmp_path, ["portable"], mutate=fused) != here
