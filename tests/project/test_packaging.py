"""What a release is made of: metadata, the sdist, and a wheel built from the sdist that runs in a fresh environment."""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from torch.utils import cpp_extension

import distillkac
from distillkac import doctor
from tests.places import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINNED = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if "==" in line
)
EVALUATORS = sorted(path for path in (ROOT / "distillkac" / "evaluation" / "evaluators").iterdir() if path.is_file())
# Of the models: cards, configs, weights and the index.
MODELS = sorted(
    path.relative_to(ROOT / "distillkac")
    for path in (ROOT / "distillkac" / "runs" / "shipped").rglob("*")
    if path.is_file() and path.suffix in (".md", ".json", ".safetensors")
)
TYPES = ("py.typed", "_native.pyi")  # without the first, type checkers do not look at an installed package
CACHES = ("__pycache__", ".*_cache")
BUILT = ("build", ".venv", ".git", "runs", "dist", "*.egg-info", "site")  # of the root alone: distillkac/runs is a room


def test_version_is_stated_once():
    assert "version" not in PROJECT
    assert PROJECT["dynamic"] == ["version"]
    package = ast.parse((ROOT / "distillkac" / "__init__.py").read_text(encoding="utf-8"))
    stated = [node.value.value for node in package.body if isinstance(node, ast.Assign)]
    assert stated == [distillkac.__version__]
    assert re.fullmatch(r"\d+\.\d+\.\d+", distillkac.__version__)


def test_dependencies_have_tried_lower_bounds_and_the_tested_set_is_inside():
    requirements = [Requirement(line) for line in PROJECT["dependencies"]]
    assert len(requirements) <= 10
    for requirement in requirements:
        operators = {specifier.operator for specifier in requirement.specifier}
        assert operators == {">="}, f"{requirement}: a lower bound, and no upper one without a known incompatibility"
        assert requirement.specifier.contains(PINNED[requirement.name]), requirement
    assert SpecifierSet(PROJECT["requires-python"]).contains("{}.{}".format(*sys.version_info))


def test_what_is_installed_satisfies_the_metadata():
    for line in PROJECT["dependencies"]:
        requirement = Requirement(line)
        found = importlib.metadata.version(requirement.name)
        assert requirement.specifier.contains(found, prereleases=True), f"{line}: {found} is installed"


def test_doctor_knows_every_requirement(capsys):
    assert doctor.main([]) == 0
    printed = capsys.readouterr().out
    for extra, wanted in PROJECT["optional-dependencies"].items():
        assert f"[{extra}]" in printed
        for line in wanted:
            assert re.search(rf"{Requirement(line).name} (\d|not installed)", printed), line
    for word in (distillkac.__version__, "commit", "compiler", "threads", "GPU", "processor", "self-test     passed"):
        assert word in printed


def left_out(folder, names):
    patterns = CACHES + BUILT if Path(folder) == ROOT else CACHES
    return shutil.ignore_patterns(*patterns)(folder, names)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """Made from a copy of this tree as it stands, libraries that were built in it included."""
    tree, out = tmp_path_factory.mktemp("tree") / "distillkac", tmp_path_factory.mktemp("sdist")
    shutil.copytree(ROOT, tree, ignore=left_out)
    assert list((tree / "distillkac").glob("*.so"))
    return out / backend(tree, "sdist", out)


def backend(tree, kind, out):
    """Runs a hook of the build backend as a frontend does: in a process of its own, in the project's folder."""
    program = (
        f"import build_backend as b; print(b.get_requires_for_build_{kind}()); print(b.build_{kind}({str(out)!r}))"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=tree, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    lines = result.stdout.strip().splitlines()
    assert "[]" in lines, f"the backend asks for something that is not installed: {lines[0]}"
    return lines[-1]


def test_sdist_holds_the_sources_and_nothing_built(sdist):
    if shutil.which("git") and (ROOT / ".git").exists():
        listed = subprocess.run(
            ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split()
        wanted = {name for name in listed if not name.startswith((".ci", ".github", ".gitignore"))}
    else:
        wanted = {f"csrc/{name}" for name in ("binding/bindings.cpp", "kernels.h", "telegraph/quantile_table.bin")}
    wanted |= {"CMakeLists.txt", "build_backend.py", "setup.py", "constraints.txt", "csrc/telegraph/quantile_table.bin"}
    with tarfile.open(sdist) as archive:
        files = {name.partition("/")[2] for name in archive.getnames()}
    assert sdist.name == f"distillkac-{distillkac.__version__}.tar.gz"
    assert not {name for name in wanted if (ROOT / name).exists()} - files
    assert not [name for name in files if name.endswith((".so", ".pyc")) or "__pycache__" in name]


def test_sdist_and_what_is_installed_from_it_hold_evaluators_models_and_types(sdist, tmp_path):
    """The wheel's Python part, without its compiled one."""
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (tree,) = tmp_path.iterdir()
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path / "lib")]
    subprocess.run(command, cwd=tree, check=True, capture_output=True)
    there = tmp_path / "lib" / "distillkac" / "evaluation" / "evaluators"
    assert len(EVALUATORS) == 9  # two modules, the index, three classifiers and the moments of each
    assert len(MODELS) >= 6
    for path in MODELS:
        assert (tmp_path / "lib" / "distillkac" / path).read_bytes() == (ROOT / "distillkac" / path).read_bytes()
    assert all((tmp_path / "lib" / "distillkac" / name).is_file() for name in TYPES)
    assert {path.name: path.read_bytes() for path in EVALUATORS} == {p.name: p.read_bytes() for p in there.iterdir()}


@pytest.mark.slow
def test_wheel_from_the_sdist_runs_in_a_fresh_environment(sdist, tmp_path):
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (tree,) = tmp_path.iterdir()
    wheel = tmp_path / backend(tree, "wheel", tmp_path)
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert re.fullmatch(rf"distillkac-{distillkac.__version__}-{python}-{python}-linux_\w+\.whl", wheel.name)
    names = zipfile.ZipFile(wheel).namelist()
    libraries = sorted(name for name in names if ".so" in name)
    assert libraries[0] == "distillkac/_C.so"
    assert re.fullmatch(r"distillkac/_native\.cpython-\d+-[\w-]+\.so", libraries[1])
    assert len(libraries) == 2  # torch's are not bundled
    # Nor looked for where they were at build time, a folder that is someone else's on another machine (RUNPATH).
    torch_folders = [os.fsencode(folder) + b"\0" for folder in cpp_extension.library_paths()]
    for library in libraries:
        assert not [folder for folder in torch_folders if folder in zipfile.ZipFile(wheel).read(library)], library
    assert all(name.startswith(("distillkac/", f"distillkac-{distillkac.__version__}.dist-info/")) for name in names)
    assert {f"distillkac/{path.name}" for path in (ROOT / "distillkac").glob("*.py")} < set(names)
    assert {f"distillkac/evaluation/evaluators/{path.name}" for path in EVALUATORS} < set(names)
    assert {f"distillkac/{path}" for path in (*TYPES, *MODELS)} < set(names)

    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    (site,) = environment.glob("lib/python*/site-packages")
    # What torch and the others are installed in is put behind the environment's own packages: no network is needed.
    (site / "base.pth").write_text(
        "\n".join(path for path in sys.path if path.endswith("site-packages")) + "\n", encoding="utf-8"
    )
    install = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    program = (
        "import distillkac, torch; from distillkac import ops; "
        "x, u = ops.kac_pair(torch.zeros(2, 8), torch.ones(2), 'telegraph', 9.0, 3.0, seed=1); "
        "print(distillkac.__file__, x.abs().max().item() <= 3, u.shape)"
    )
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    python = environment / "bin" / "python"
    for command in (["-c", program], ["-m", "distillkac.doctor"]):
        result = subprocess.run([python, *command], cwd=tmp_path / "venv", env=clean, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        if command[0] == "-c":
            file, bounded, *shape = result.stdout.split()
            assert Path(file).is_relative_to(environment)
            assert (bounded, "".join(shape)) == ("True", "torch.Size([2,8])")
        else:
            assert "[export]" in result.stdout  # from the installed metadata
            assert "passed on cpu" in result.stdout
