"""`python -m distillkac.doctor` runs with whatever is missing, broken or of other sources, and says what it is."""

import importlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

import distillkac
from distillkac import _kernels, doctor, ops
from tests.places import ROOT


@pytest.fixture
def checkout(tmp_path):
    """A tree with the package and its kernel sources, and no libraries."""
    root = tmp_path / "checkout"
    for name, ignored in (("distillkac", "*.so"), ("csrc", "tools")):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", ignored))
    for name in ("CMakeLists.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, root)
    return root


def run(root, *command, path=()):
    """Python in that tree, in a process of its own. path: folders that come first where modules are looked for."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (*path, root))), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *command], cwd=root, env=environment, capture_output=True, text=True)


def told(capsys, code=1):
    assert doctor.main([]) == code
    return capsys.readouterr().out


@pytest.mark.parametrize("name", ["diffusers", "tyro", "sklearn", "PIL"])
def test_a_package_that_is_missing(monkeypatch, capsys, name):
    monkeypatch.setitem(sys.modules, name, None)
    assert re.search(rf"\nwrong +{name} cannot be imported: ModuleNotFoundError: .*; run: pip install", told(capsys))


def test_a_package_that_is_broken(monkeypatch, capsys):
    def import_module(name):
        if name == "accelerate":
            raise OSError("libnccl.so.2: cannot open shared object file\nand more")
        return importlib.import_module(name)

    monkeypatch.setattr(doctor, "importlib", SimpleNamespace(import_module=import_module, metadata=importlib.metadata))
    assert "accelerate cannot be imported: OSError: libnccl.so.2: cannot open shared object file; run: pip" in told(
        capsys
    )


def test_a_self_test_that_raises(monkeypatch, capsys):
    def broken(*_, **__):
        raise RuntimeError("illegal instruction set")

    monkeypatch.setattr(ops, "kac_noise", broken)
    assert "FAILED on cpu: RuntimeError: illegal instruction set" in told(capsys)


def test_why_there_are_no_cuda_kernels():
    build = {
        "cuda": "",
        "cuda_architectures": "",
        "cuda_problem": "nvcc cannot build the CUDA kernels (nvcc fatal: old)",
    }
    assert doctor._cuda_kernels(build) == "not built: nvcc cannot build the CUDA kernels (nvcc fatal: old)"
    assert "no nvcc, or DISTILLKAC_CUDA=OFF" in doctor._cuda_kernels(build | {"cuda_problem": ""})


def test_without_torch_the_rest_is_told(checkout, tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(
        "raise OSError('libtorch_cpu.so: cannot open shared object file')\n"
    )
    result = run(checkout, "-m", "distillkac.doctor", path=[tmp_path])
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "torch cannot be imported: OSError: libtorch_cpu.so: cannot open shared object file" in result.stdout
    assert re.search(r"\nself-test +not run", result.stdout)
    for row in ("python", "packages", "environment", "[export]"):
        assert f"\n{row}" in result.stdout


def test_the_version_needs_no_kernels_and_no_torch(checkout):
    program = "import sys, distillkac; print(distillkac.__version__, 'torch' in sys.modules)"
    assert run(checkout, "-c", program).stdout.split()[1] == "False"
    asked = run(checkout, "-c", "from distillkac import ops")
    assert asked.stderr.splitlines()[-1].startswith("ImportError: distillkac: the kernels are not built")
    with pytest.raises(AttributeError, match="module 'distillkac' has no attribute 'opps'"):
        distillkac.opps  # noqa: B018


@pytest.mark.parametrize("left", [1000, 100_000])
def test_kernels_that_were_copied_in_part_are_told(checkout, left):
    """The loader maps what is not there, and the process would end by a bus error."""
    for library in (ROOT / "distillkac").glob("_*.so"):
        shutil.copy(library, checkout / "distillkac")
    cut = checkout / "distillkac" / "_C.so"
    cut.write_bytes(cut.read_bytes()[:left])
    result = run(checkout, "-m", "distillkac.doctor")
    assert result.returncode == 1, result.returncode
    assert re.search(
        r"wrong +distillkac: the kernels do not load .*_C\.so is cut short\); run: pip install", result.stdout
    )
    assert "\nthreads" in result.stdout


def test_a_folder_that_hides_the_installed_package_says_so(checkout, tmp_path):
    """An unbuilt checkout is the current folder, and the package is installed, with its kernels."""
    site = tmp_path / "site"
    described(site, None)
    (site / "distillkac").mkdir()
    (site / "distillkac" / "_C.so").touch()
    result = run(checkout, "-m", "distillkac.doctor", path=[checkout, site])
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert re.search(r"wrong +distillkac: the kernels are not built; run: pip install", result.stdout)
    assert (
        f"this folder, {checkout}, hides the distillkac installed in {site}: to use that, start elsewhere"
        in result.stdout
    )
    assert "\nthreads" in result.stdout


def described(site, origin):
    """What pip writes of an installed distillkac."""
    folder = site / "distillkac-0.1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: distillkac\nVersion: 0.1.0\n")
    if origin is not None:
        (folder / "direct_url.json").write_text(json.dumps(origin))


def test_an_editable_installation_elsewhere_is_found(tmp_path, monkeypatch):
    sources = tmp_path / "other sources"
    (sources / "distillkac").mkdir(parents=True)
    described(tmp_path / "site", {"url": sources.as_uri(), "dir_info": {"editable": True}})
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site")])
    monkeypatch.setattr(_kernels, "source_hash", lambda: "0123")
    assert _kernels._hidden() == ""  # it is not built either
    (sources / "distillkac" / "_C.so").touch()
    assert f"hides the distillkac installed in {sources}" in _kernels._hidden()
    monkeypatch.setattr(_kernels, "HERE", sources / "distillkac")
    assert _kernels._hidden() == ""  # that is the one which was imported
