"""What each room offers to users, and what importing it costs."""

import ast
import importlib
import subprocess
import sys

import pytest

from tests.places import PACKAGE, ROOT

ROOMS = ("data", "distillation", "flow", "runs", "training")


@pytest.mark.parametrize("room", ROOMS)
def test_every_name_is_there_once_and_in_order(room):
    package = importlib.import_module(f"distillkac.{room}")
    names = package.__all__
    assert len(set(names)) == len(names)
    assert set(names) <= set(dir(package))  # which notebooks complete
    for name in names:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="nothing_of_that_name"):
        _ = package.nothing_of_that_name


@pytest.mark.parametrize("room", ROOMS)
def test_type_checkers_see_the_same_names(room):
    """Of a room whose names are imported late, by the imports under TYPE_CHECKING."""
    tree = ast.parse((PACKAGE / room / "__init__.py").read_text(encoding="utf-8"))
    seen = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    seen |= {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert set(importlib.import_module(f"distillkac.{room}").__all__) <= seen


@pytest.mark.parametrize(
    ("line", "absent"),
    [
        ("from distillkac.flow import Telegraph, GuidedVelocity, integrate", "diffusers accelerate tyro matplotlib"),
        ("from distillkac.runs import open_run, generate, class_labels", "diffusers matplotlib sklearn"),
        ("from distillkac.distillation import DistillConfig", "diffusers matplotlib sklearn"),
    ],
)
def test_an_import_brings_no_more_than_it_needs(line, absent):
    program = f"{line}; import sys; print([name for name in {absent.split()} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "[]\n", done.stdout + done.stderr
