"""Packages of the extras: real, absent, broken, or something else of the same name where a command is started."""

import ast
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

from distillkac import train
from distillkac.base import optional
from distillkac.runs.optim_config import OptimConfig
from distillkac.training import fit
from tests.places import ROOT
from tests.toys import refusal

NAMES = sorted(optional.PACKAGES)
WANDB = any(importlib.metadata.distributions(name="wandb"))


@pytest.fixture
def first_on_the_path(tmp_path, monkeypatch):
    """A folder that `python -m` would put first on the path, and no memory of what was imported."""
    for name in NAMES:
        for module in [loaded for loaded in sys.modules if loaded.partition(".")[0] == name]:
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def hidden(monkeypatch, name):
    """As if the package were not installed: the folders that hold it are not searched."""
    kept = [folder for folder in sys.path if not (Path(folder) / name / "__init__.py").is_file()]
    monkeypatch.setattr(sys, "path", kept)


@pytest.mark.parametrize("name", NAMES)
def test_the_real_package_is_found(name):
    pytest.importorskip(name)
    assert optional.load(name, "this test").__name__ == name


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_of_that_name_is_no_package(first_on_the_path, monkeypatch, name):
    (first_on_the_path / name).mkdir()
    (first_on_the_path / name / "run-1").mkdir()
    hidden(monkeypatch, name)
    with pytest.raises(ValueError, match="this test needs the package") as told:
        optional.load(name, "this test")
    assert f"the folder {first_on_the_path / name}" in str(told.value)
    assert "pip install" in str(told.value)
    assert name not in sys.modules


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", ["{}/__init__.py", "{}.py"])
def test_code_of_that_name_is_named(first_on_the_path, name, place):
    file = first_on_the_path / place.format(name)
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine = True\n", encoding="utf-8")
    with pytest.raises(ValueError, match="is imported instead: start in another folder or rename it") as told:
        optional.load(name, "this test")
    assert str(file.parent if file.name == "__init__.py" else file) in str(told.value)


@pytest.mark.parametrize("name", NAMES)
def test_an_absent_package_names_the_extra(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=f"this test needs the package {name}, which is not installed: pip install"):
        optional.load(name, "this test")


@pytest.mark.parametrize(
    "code", ["import nothing_of_this_name", "raise OSError('libcudart.so.99: cannot open')", "None.core"]
)
def test_a_broken_package_says_why(first_on_the_path, code):
    (first_on_the_path / "wandb").mkdir()
    (first_on_the_path / "wandb" / "__init__.py").write_text(code + "\n", encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"wandb, which cannot be imported .*Error: .*install it anew: pip install wandb"
    ):
        optional.load("wandb", "--track wandb")


def test_tracking_is_not_switched_off_by_a_folder(first_on_the_path, monkeypatch, tmp_path, capsys):
    """wandb itself leaves such a folder behind where it was used."""
    (first_on_the_path / "wandb" / "run-20260101").mkdir(parents=True)
    hidden(monkeypatch, "wandb")
    told = refusal(train, ["--run", str(tmp_path / "run"), "--steps", "1", "--track", "wandb"], capsys)
    assert "has its name but is no package" in told
    assert not (tmp_path / "run").exists()


def test_a_tracker_that_accelerate_does_not_find_is_no_tracker(first_on_the_path, monkeypatch):
    """It looks for the metadata of an installation, and would go on without the tracker."""
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: [])
    (first_on_the_path / "wandb.py").write_text("init = print\n", encoding="utf-8")
    with (
        pytest.warns(UserWarning, match="no supported trackers"),
        pytest.raises(ValueError, match="--track wandb: accelerate does not find"),
    ):
        fit.accelerator_for(OptimConfig(), trackers=("wandb",))


@pytest.mark.skipif(WANDB, reason="wandb is installed, and wins over a folder without __init__.py")
def test_a_folder_where_a_command_starts(tmp_path):
    """As a user meets it: `python -m` puts the current folder first on the path."""
    (tmp_path / "wandb" / "run-20260101").mkdir(parents=True)
    command = [sys.executable, "-m", "distillkac.train", "--run", "run", "--steps", "1", "--track", "wandb"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        "error: --track wandb needs the package wandb, which is not installed (the folder "
        f"{tmp_path / 'wandb'} has its name but is no package): pip install wandb"
    )


def test_no_other_way_to_look_for_a_package():
    """`find_spec` finds folders, and an import of one is its name alone: both belong to optional.load."""
    for path in (ROOT / "distillkac").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if path.name != "optional.py":
            assert "find_spec" not in path.read_text(encoding="utf-8"), path
        for node in ast.walk(tree):
            if isinstance(node, ast.Try):
                inside = {name for item in node.body for name in imported(item)}
                assert not inside & set(NAMES), f"{path}: import it by optional.load"


def imported(node: ast.stmt) -> set[str]:
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
    return {name.partition(".")[0] for name in names}
