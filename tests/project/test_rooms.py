"""The plan of the house: which module may import which."""

import ast
from pathlib import Path

import pytest

from tests.places import PACKAGE

# Lowest first. A room imports only from rooms in lines above its own; in one line they do not know each other.
ORDER = (
    ("_sources", "_native"),
    ("_kernels",),
    ("base",),
    ("ops",),
    ("data", "flow"),
    ("runs",),
    ("training",),
    ("distillation",),
    ("evaluation", "web"),
    ("_scheduler_options",),
    ("scheduler", "_pipeline_options", "_pipeline_card"),
    ("pipeline",),
)
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
# What people type may use every room, and is used by nothing but compare, which trains and distils by them.
COMMANDS = {path.stem for path in PACKAGE.glob("*.py")} - LEVEL.keys() - {"__init__"}
BY_COMPARE = {("compare", "train"), ("compare", "distill")}


def imports_of(path: Path) -> set[tuple[str, ...]]:
    """Dotted names below `distillkac` that a module imports anywhere in it, also under TYPE_CHECKING and in functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {tuple(name.name.split(".")[1:]) for name in node.names if name.name.startswith("distillkac.")}
        elif isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == "distillkac"):
            assert not node.level, f"{path}: imports are absolute"
            found |= {(*node.module.split(".")[1:], name.name) for name in node.names}
    return {name for name in found if not name[0].startswith("__")}


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_room_imports_only_from_rooms_below(path):
    me = path.relative_to(PACKAGE).with_suffix("").parts[0]
    for room, *_ in imports_of(path):
        if room == me and len(path.relative_to(PACKAGE).parts) > 1:
            continue
        if me in COMMANDS:
            assert room not in COMMANDS or (me, room) in BY_COMPARE, f"{me} imports the command {room}"
        elif me != "__init__":
            assert room in LEVEL, f"{path}: {room} is above every room"
            assert LEVEL[room] < LEVEL[me], f"{path}: {me} imports {room}, which is not below it"


def test_no_circle_inside_a_room():
    names = {path.relative_to(PACKAGE).with_suffix("").parts: path for path in MODULES}

    def module(name: tuple[str, ...]) -> tuple[str, ...] | None:
        """The module that an imported name is, or lies in; of a package its __init__."""
        for end in range(len(name), 0, -1):
            for found in (name[:end], (*name[:end], "__init__")):
                if found in names:
                    return found
        return None

    arrows = {name: {module(used) for used in imports_of(path)} - {None, name} for name, path in names.items()}
    done = set()
    while ready := {name for name in arrows.keys() - done if arrows[name] <= done}:
        done |= ready
    assert not arrows.keys() - done, f"these import each other: {sorted('.'.join(n) for n in arrows.keys() - done)}"


def test_the_list_names_rooms_that_are_there():
    there = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert LEVEL.keys() <= there | {"_native"}  # which is compiled
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} <= LEVEL.keys(), (
        "a room that has no place in the order"
    )


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("__init__.py")), ids=lambda path: path.parent.name)
def test_a_room_hides_none_of_its_modules(path):
    """Else `from distillkac.data import folder` is a function, and the module of that name has no address."""
    modules = {other.stem for other in path.parent.glob("*.py")} | {
        other.name for other in path.parent.iterdir() if other.is_dir()
    }
    bound = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module != ".".join(path.relative_to(PACKAGE.parent).parts[:-1]):
            bound |= {name.asname or name.name for name in node.names}
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            bound.add(node.name)
        elif isinstance(node, ast.Assign):
            bound |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    assert not bound & modules, f"{path}: {sorted(bound & modules)} are names of modules too"
