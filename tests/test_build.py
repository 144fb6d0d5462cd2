"""The build as a user meets it: what the binary says of itself, and one clear sentence when it is missing or stale."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import distillkac
from distillkac import _sources
from distillkac._kernels import native

ROOT = Path(__file__).parents[1]
CUDA_OPS = ("kac_noise", "kac_velocity", "kac_pair", "guided_velocity", "guided_step", "endpoint_loss")


def imported_from(folder):
    """Imports the copy of the package in `folder` in a fresh process."""
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run(
        [sys.executable, "-c", "import distillkac; print(distillkac.__version__)"],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def copy(tmp_path):
    """A tree with the package, its libraries and its kernel sources."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "distillkac", tmp_path / "distillkac", ignore=ignore)
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc", ignore=ignore)
    shutil.copy(ROOT / "CMakeLists.txt", tmp_path)
    return tmp_path


def test_build_information():
    info = native.build_info()
    assert info["compiler"].split()[0] in ("gcc", "clang")
    assert info["source_hash"] == _sources.source_hash()
    assert bool(info["cuda"]) == bool(info["cuda_architectures"])
    assert native.simd_levels()[0] == "portable"
    assert native.simd_level() in native.simd_levels()


def test_a_copy_imports(copy):
    result = imported_from(copy)
    assert result.stdout.strip() == distillkac.__version__, result.stderr


def test_missing_build(copy):
    (copy / "distillkac" / "_C.so").unlink()
    result = imported_from(copy)
    last = result.stderr.strip().splitlines()[-1]
    assert last == "ImportError: distillkac: the kernels are not built; run: pip install --no-build-isolation -e ."


def test_stale_build(copy):
    with open(copy / "csrc" / "kernels.h", "a") as file:
        file.write("// edited\n")
    result = imported_from(copy)
    last = result.stderr.strip().splitlines()[-1]
    assert "csrc/ has changed since the kernels were built; run: pip install" in last


def test_damaged_build(copy):
    (copy / "distillkac" / "_C.so").write_bytes(b"no library")
    result = imported_from(copy)
    last = result.stderr.strip().splitlines()[-1]
    assert "ImportError: distillkac: the kernels do not load" in last
    assert "run: pip install" in last


def test_an_installed_wheel_has_no_sources_to_compare(copy):
    shutil.rmtree(copy / "csrc")
    assert imported_from(copy).returncode == 0


@pytest.mark.skipif(not native.build_info()["cuda"], reason="built without CUDA kernels")
def test_a_cuda_build_holds_every_kernel_and_needs_no_driver():
    """It is loaded here (this test ran), without libcuda; and no kernel keeps registers in memory."""
    library = ROOT / "distillkac" / "_C.so"
    tool = shutil.which("cuobjdump")
    assert "libcuda" not in subprocess.run(["ldd", str(library)], capture_output=True, text=True).stdout
    if tool is None:
        pytest.skip("cuobjdump is not installed")
    usage = subprocess.run([tool, "-res-usage", str(library)], capture_output=True, text=True, check=True).stdout
    for op in CUDA_OPS:
        assert op in usage


@pytest.mark.slow
def test_without_cuda(tmp_path):
    """DISTILLKAC_CUDA=OFF builds a module without CUDA kernels, which refuses CUDA tensors with a clear sentence."""
    command = ["cmake", "-S", str(ROOT), "-B", str(tmp_path / "build"), "-DDISTILLKAC_CUDA=OFF"]
    command += [f"-DPython_EXECUTABLE={sys.executable}", f"-DDISTILLKAC_OUTPUT_DIR={tmp_path / 'distillkac'}"]
    subprocess.run(command, check=True, capture_output=True)
    subprocess.run(["cmake", "--build", str(tmp_path / "build"), "--parallel"], check=True, capture_output=True)
    for source in (ROOT / "distillkac").glob("*.py"):
        shutil.copy(source, tmp_path / "distillkac")
    program = (
        "import torch; from distillkac import ops; from distillkac._kernels import native; "
        "print(repr(native.build_info()['cuda']), ops.kac_noise(torch.ones(2), (3,), 'telegraph', 9., 3., 1).shape)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.stdout.strip() == "'' torch.Size([2, 3])", result.stderr
