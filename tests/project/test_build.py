"""The build as a user meets it: what the binary says of itself, and one clear sentence when it is missing or stale."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch

import distillkac
from distillkac import _kernels, _sources
from distillkac._kernels import native
from tests.places import ROOT

CUDA_OPS = ("kac_noise", "kac_velocity", "kac_pair", "guided_velocity", "guided_step", "endpoint_loss")


def imported_from(folder):
    """Imports the copy of the package in `folder` in a fresh process."""
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run(
        [sys.executable, "-c", "from distillkac import ops; import distillkac; print(distillkac.__version__)"],
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
    assert set(native.simd_levels()) <= {"portable", "neon", "avx2", "avx512"}  # one alone by DISTILLKAC_CPU=NATIVE
    assert native.simd_level() in native.simd_levels()


def test_a_copy_imports(copy):
    result = imported_from(copy)
    assert result.stdout.strip() == distillkac.__version__, result.stderr


def test_missing_build(copy):
    (copy / "distillkac" / "_C.so").unlink()
    result = imported_from(copy)
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "ImportError: distillkac: the kernels are not built; run: pip install --no-build-isolation -e ."
    )


def test_stale_build(copy):
    with open(copy / "csrc" / "kernels.h", "a", encoding="utf-8") as file:
        file.write("// edited\n")
    result = imported_from(copy)
    last = result.stderr.strip().splitlines()[-1]
    assert "csrc/ has changed since the kernels were built; run: pip install" in last


def test_kernels_of_another_processor_alone(monkeypatch):
    def refuse():
        raise RuntimeError("distillkac: the kernels were built for another processor alone")

    monkeypatch.setattr(native, "simd_levels", refuse)
    with pytest.raises(ImportError, match=r"for another processor alone; run: pip install --no-build-isolation -e \."):
        _kernels._load()


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


@pytest.fixture
def build(tmp_path, monkeypatch):
    """setup.py as a module, with folders of its own, nothing asked for in the environment, and a torch with CUDA."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    for name in ("DISTILLKAC_CUDA", "CUDAARCHS", "CUDACXX", "CUDA_HOME", "CUDA_PATH", "MAX_JOBS"):
        monkeypatch.delenv(name, raising=False)
    spec = importlib.util.spec_from_file_location("setup_of_distillkac", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    spec.loader.exec_module(module)
    return module


def program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


def run_cmake(build, folder):
    folder.mkdir(exist_ok=True)
    build.CMakeBuild._run_cmake(None, folder)


CMAKE = """#!/bin/sh
# Stands for CMake: finds an nvcc if NVCC is set, and where CUDA was not turned off, fails as COMPLAINT says.
[ "$1" = --version ] && echo "cmake version 3.31.0" && exit
if [ "$1" = -S ]; then
  printf '%s\\n' "$@" > arguments
  printf 'DISTILLKAC_NVCC:FILEPATH=%s\\n' "${NVCC:-DISTILLKAC_NVCC-NOTFOUND}" > "$4/CMakeCache.txt"
  exit 0
fi
grep -q CUDA=OFF arguments && [ -z "$ALWAYS" ] && exit 0
[ -z "$COMPLAINT" ] || { echo "[1/30] Building"; echo "$COMPLAINT"; exit 1; }
"""


@pytest.fixture
def pretended(build, tmp_path, monkeypatch):
    cmake = program(tmp_path / "cmake", CMAKE)
    monkeypatch.setattr(build.build_backend, "find_tool", lambda name: str(cmake) if name == "cmake" else None)
    monkeypatch.chdir(tmp_path)
    return build


@pytest.mark.parametrize(
    ("complaint", "said"),
    [
        ("nvcc fatal   : Unsupported gpu architecture 'compute_100'", "(nvcc fatal   : Unsupported gpu architecture"),
        ("host_config.h(143): error: #error -- unsupported GNU version! gcc 15", "unsupported GNU version! gcc 15"),
        ("Killed", "the compiler says nothing more"),
    ],
)
def test_an_nvcc_that_cannot_build_costs_the_cuda_kernels_only(
    pretended, tmp_path, monkeypatch, capsys, complaint, said
):
    monkeypatch.setenv("NVCC", "/opt/cuda/bin/nvcc")
    monkeypatch.setenv("COMPLAINT", complaint)
    run_cmake(pretended, tmp_path / "build")
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("distillkac: warning: /opt/cuda/bin/nvcc cannot build the CUDA kernels (")
    assert said in last
    assert "DISTILLKAC_CUDA" in last
    assert "CUDAARCHS" in last
    arguments = (tmp_path / "arguments").read_text(encoding="utf-8").splitlines()
    assert "-DDISTILLKAC_CUDA=OFF" in arguments
    told = next(word for word in arguments if word.startswith("-DDISTILLKAC_CUDA_PROBLEM="))
    assert said in told
    assert not set(';"\\$') & set(told)


def test_cuda_that_was_asked_for_is_built_or_an_error(pretended, tmp_path, monkeypatch):
    monkeypatch.setenv("NVCC", "/opt/cuda/bin/nvcc")
    monkeypatch.setenv("COMPLAINT", "nvcc fatal : old")
    monkeypatch.setenv("DISTILLKAC_CUDA", "ON")
    with pytest.raises(pretended.CompileError, match=r"nvcc fatal : old, with DISTILLKAC_CUDA=ON; CUDAARCHS chooses"):
        run_cmake(pretended, tmp_path / "build")


@pytest.mark.parametrize(("asked", "built"), [("", "OFF"), ("auto", "OFF"), ("ON", "ON"), ("OFF", "OFF")])
def test_no_cuda_kernels_for_a_torch_that_cannot_run_them(pretended, tmp_path, monkeypatch, asked, built):
    """Unless they are asked for; doctor repeats the reason, but where the user has turned CUDA off."""
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setenv("NVCC", "/opt/cuda/bin/nvcc")
    monkeypatch.setenv("DISTILLKAC_CUDA", asked)
    run_cmake(pretended, tmp_path / "build")
    arguments = (tmp_path / "arguments").read_text(encoding="utf-8").splitlines()
    assert f"-DDISTILLKAC_CUDA={built}" in arguments
    reason = f"torch {torch.__version__}, beside which this was built, is without CUDA"
    told = reason if asked in ("", "auto") else ""
    assert f"-DDISTILLKAC_CUDA_PROBLEM={told}" in arguments


@pytest.mark.parametrize(("asked", "built"), [("", "ALL"), ("NATIVE", "NATIVE")])
def test_a_build_is_told_for_which_processors(pretended, tmp_path, monkeypatch, asked, built):
    monkeypatch.setenv("DISTILLKAC_CPU", asked)
    run_cmake(pretended, tmp_path / "build")
    assert f"-DDISTILLKAC_CPU={built}" in (tmp_path / "arguments").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("nvcc", ["", "/opt/cuda/bin/nvcc"])
def test_a_build_that_fails_without_cuda_too_blames_nobody_else(pretended, tmp_path, monkeypatch, nvcc):
    monkeypatch.setenv("NVCC", nvcc)
    monkeypatch.setenv("ALWAYS", "1")
    monkeypatch.setenv("COMPLAINT", "simd.h:3: fatal error: immintrin.h: No such file or directory")
    with pytest.raises(pretended.CompileError, match=r"^distillkac: the kernels could not be built \(simd.h:3: fatal"):
        run_cmake(pretended, tmp_path / "build")


@pytest.mark.parametrize("how", ["PATH", "CUDACXX"])
def test_a_broken_nvcc_on_the_path(build, tmp_path, monkeypatch, capsys, how):
    """CMake itself, which is asked to configure only."""
    cmake = build.build_backend.find_tool("cmake")
    if cmake is None:
        pytest.skip("cmake is not installed")
    program(tmp_path / "bin" / "nvcc", "#!/bin/sh\necho 'nvcc fatal : broken' >&2\nexit 1\n")
    wrapper = program(tmp_path / "cmake", f'#!/bin/sh\n[ "$1" = --build ] || exec "{cmake}" "$@"\n')
    if how == "PATH":
        monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    else:
        monkeypatch.setenv("CUDACXX", str(tmp_path / "bin" / "nvcc"))
    find = build.build_backend.find_tool
    monkeypatch.setattr(build.build_backend, "find_tool", lambda name: str(wrapper) if name == "cmake" else find(name))
    run_cmake(build, tmp_path / "build")
    printed = capsys.readouterr().out
    assert f"distillkac: warning: {tmp_path}/bin/nvcc cannot build the CUDA kernels (" in printed
    assert "(message)" not in printed.splitlines()[-1]  # the reason, not where CMake says it
    cache = (tmp_path / "build" / "CMakeCache.txt").read_text(encoding="utf-8")
    assert re.search(r"^DISTILLKAC_CUDA:STRING=OFF$", cache, re.MULTILINE)
    assert "nvcc cannot build" in re.search(r"^DISTILLKAC_CUDA_PROBLEM:STRING=(.*)$", cache, re.MULTILINE)[1]
    monkeypatch.setenv("DISTILLKAC_CUDA", "perhaps")
    with pytest.raises(build.CompileError, match="DISTILLKAC_CUDA must be ON, OFF or AUTO, got 'PERHAPS'"):
        run_cmake(build, tmp_path / "build")


def test_the_reason_is_stamped_into_the_build(tmp_path):
    """As C++ reads it, whatever is in it."""
    script = ROOT / "distillkac" / "_sources.py"
    for words, expected in (([], '""'), (['a "b" \\ c'], '"a \\"b\\" \\\\ c"')):
        subprocess.run([sys.executable, script, tmp_path / "stamp.h", *words], check=True)
        assert f"#define DISTILLKAC_CUDA_PROBLEM {expected}\n" in (tmp_path / "stamp.h").read_text(encoding="utf-8")


def test_a_cmake_that_does_not_run_is_replaced_by_the_one_of_its_package(build, tmp_path, monkeypatch):
    """The script of the cmake wheel, where pip's isolation hides the package from it."""
    backend = build.build_backend
    program(
        tmp_path / "scripts" / "cmake", "#!/bin/sh\necho \"ModuleNotFoundError: No module named 'cmake'\" >&2\nexit 1\n"
    )
    inside = program(tmp_path / "site" / "cmake" / "bin" / "cmake", "#!/bin/sh\necho cmake version 3.31.0\n")
    (tmp_path / "site" / "cmake" / "__init__.py").write_text(
        f"CMAKE_BIN_DIR = {str(inside.parent)!r}\n", encoding="utf-8"
    )
    monkeypatch.setenv("PATH", str(tmp_path / "scripts"))
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
    monkeypatch.delitem(sys.modules, "cmake", raising=False)
    assert backend.find_tool("cmake") == str(inside)
    assert not [name for name in backend._missing() if name.startswith("cmake")]
    inside.write_text("#!/bin/sh\necho cmake version 3.19.8\n", encoding="utf-8")  # too old
    assert backend.find_tool("cmake") is None
    assert "cmake>=3.20" in backend._missing()
    monkeypatch.setitem(sys.modules, "cmake", None)
    assert backend.find_tool("cmake") is None


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
