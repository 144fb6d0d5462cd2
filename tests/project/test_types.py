"""That types are published and checked: `make lint` runs mypy; here stands only what it has to be told, so that nobody
relaxes it unseen."""

import fnmatch
import importlib
import re
import tomllib

import pytest

from tests.places import PACKAGE, ROOT

MYPY = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]
SOURCES = [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyi")]
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in SOURCES}
# What users import: everything in it has full annotations.
STRICT = ("distillkac.base", "distillkac.ops", "distillkac.flow", "distillkac.pipeline", "distillkac.scheduler")
STRICT += ("distillkac._pipeline_card", "distillkac._pipeline_options", "distillkac._scheduler_options")
# What those need nevertheless; pyproject.toml says why.
RELAXED = {
    "distillkac.pipeline": {"disallow_subclassing_any", "disallow_untyped_decorators"},
    "distillkac.scheduler": {"disallow_subclassing_any", "disallow_untyped_decorators"},
    "distillkac.base.progress": {"disallow_subclassing_any", "disallow_untyped_decorators"},
    "distillkac.flow.unet_blocks": {"disallow_subclassing_any", "disallow_untyped_decorators"},
    "distillkac.ops._shapes": {"disallow_untyped_defs", "disallow_untyped_decorators"},
}


def settings_of(module: str) -> set[str]:
    """Names of the settings in which a module differs from strict."""
    found = set()
    for override in MYPY["overrides"]:
        patterns = [pattern.removesuffix(".*") for pattern in override["module"]]
        if any(module == name or module.startswith(name + ".") for name in patterns):
            found |= override.keys() - {"module"}
    return found


def test_whole_package_is_checked_and_strict_where_nothing_is_said():
    assert MYPY["files"] == ["distillkac"]
    assert MYPY["strict"] is True
    assert MYPY["python_version"] == "3.11"
    assert (
        "mypy\n"
        in re.search(r"^lint:.*?\n\n", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)[0]
    )
    assert {key for key, value in MYPY.items() if value is False} == {"warn_return_any"}


@pytest.mark.parametrize("module", sorted(name for name in MODULES if name.startswith(STRICT)))
def test_what_users_import_is_strict(module):
    assert settings_of(module) == RELAXED.get(module, set())


def test_exceptions_are_of_modules_that_are_there_and_have_a_reason():
    for override in MYPY["overrides"]:
        for pattern in override["module"]:
            assert not pattern.startswith("distillkac") or fnmatch.filter(MODULES, pattern), pattern
    blocks = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("[[tool.mypy.overrides]]")
    assert len(blocks) == len(MYPY["overrides"]) + 1
    assert all(re.fullmatch(r"# .+[.]", block.rstrip().splitlines()[-1]) for block in blocks[:-1])


def test_an_ignored_error_has_its_code_and_a_reason():
    for path in SOURCES:
        for line in path.read_text(encoding="utf-8").splitlines():
            if "type: ignore" in line:
                assert re.search(r"# type: ignore\[[a-z-]+\]  # \w.{10}", line), f"{path}: {line}"


IMPORTED = ["ops", "ops.reference", "ops.interop", "ops.schedules", "pipeline", "scheduler"]
IMPORTED += [f"flow.{path.stem}" for path in sorted((PACKAGE / "flow").glob("[a-z]*.py"))]
IMPORTED += ["runs.run", "runs.sampler", "runs.sampling"]


@pytest.mark.parametrize("name", IMPORTED)
def test_public_names_are_listed(name):
    module = importlib.import_module(f"distillkac.{name}")
    assert all(hasattr(module, word) for word in module.__all__)
    made = {word for word, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__}
    assert {word for word in made if word[0] != "_"} <= set(module.__all__)
