"""No file of code over 300 lines, no Python function over 50: what does not fit has a second topic, and gets a second place."""

import ast
from pathlib import Path

from tests.places import ROOT

MOST_LINES, MOST_LINES_OF_A_FUNCTION = 300, 50
FOLDERS = ("distillkac", "csrc", "tests", "benchmarks", "examples", "docs", "tools")
KINDS = {".py", ".h", ".cpp", ".cu", ".cuh"}
FILES = sorted(
    path
    for folder in (*ROOT.glob("*.py"), *(ROOT / name for name in FOLDERS))
    for path in (folder.rglob("*") if folder.is_dir() else [folder])
    if path.suffix in KINDS and "build" not in path.relative_to(ROOT).parts
)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def long_functions(path: Path) -> list[str]:
    """Names of the functions that are too long, from `def` to the last line."""
    return [
        node.name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno >= MOST_LINES_OF_A_FUNCTION
    ]


def test_files_are_found():
    assert {"setup.py", "distillkac/train.py", "csrc/binding/adapters.h", "tests/project/test_sizes.py"} <= set(
        map(name, FILES)
    )


def test_no_file_is_too_long():
    found = {name(path): lines(path) for path in FILES if lines(path) > MOST_LINES}
    assert not found


def test_no_function_is_too_long():
    found = {(name(path), function) for path in FILES if path.suffix == ".py" for function in long_functions(path)}
    assert not found


def test_a_function_that_is_too_long_is_found(tmp_path):
    for length in (MOST_LINES_OF_A_FUNCTION, MOST_LINES_OF_A_FUNCTION + 1):
        body = ["        x = 1"] * (length - 1)
        (tmp_path / f"{length}.py").write_text("\n".join(["class A:", "    def f(self):", *body]), encoding="utf-8")
    assert long_functions(tmp_path / "50.py") == []
    assert long_functions(tmp_path / "51.py") == ["f"]
