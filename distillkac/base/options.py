"""The command line as a dataclass, with a hint at the option that was meant."""

import argparse
import contextlib
import dataclasses
import difflib
import io
import re
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import tyro

from distillkac.base import paths

Args = TypeVar("Args")

_paths = tyro.constructors.ConstructorRegistry()


@_paths.primitive_rule
def _path(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[Path] | None:
    """As tyro reads paths, but that an empty one is told from the current folder."""
    if info.type is not Path:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda words: paths.from_text(words[0]),
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda value: [str(value)],
    )


def parse(kind: type[Args], argv: list[str] | None, prog: str, default: Args | None = None) -> Args:
    """The command line as a dataclass, in whose paths `~` is replaced and what runs keep is absolute (paths.py).

    Exits as tyro does on a mistake, and says which option was probably meant. Raises ValueError naming the option whose path
    is empty.
    """
    argv = sys.argv[1:] if argv is None else argv
    try:
        with _paths:
            args = tyro.cli(kind, args=argv, prog=prog, default=tyro.MISSING_NONPROP if default is None else default)
    except SystemExit as stop:
        if stop.code:
            known = names(kind, prog)
            for word in (word.split("=")[0].replace("_", "-") for word in argv if word.startswith("--")):
                if word not in known and (meant := _nearest_option(word, known)):
                    print(f"error: there is no option {word}; did you mean {meant}?", file=sys.stderr)
        raise
    return with_paths(args)


def peek(argv: list[str], **defaults: str | bool | Path) -> argparse.Namespace:
    """The options of these names and defaults, read before all others because they decide the defaults of those.

    What is wrong with the command line is left to `parse`, which says so.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name, value in defaults.items():
        if value is False:
            parser.add_argument(f"--{name}", action="store_true")
        else:
            kind = paths.from_text if isinstance(value, Path) else str
            parser.add_argument(f"--{name}", type=kind, default=value)
    try:
        return parser.parse_known_args(argv)[0]
    except argparse.ArgumentError:  # an option without its value
        return parser.parse_known_args([])[0]


def with_paths(config: Args) -> Args:
    """The dataclass with every path in it, at any depth, as paths.py has them. Raises ValueError naming the option."""
    return _with_paths(config, "")


def _with_paths(config: Any, prefix: str) -> Any:
    changes = {}
    for f, option in labelled(type(config), prefix):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            changes[f.name] = _with_paths(value, option)
        elif isinstance(value, str) and "path" in f.metadata:
            changes[f.name] = paths.absolute(option, value, f.metadata["path"])
        elif isinstance(value, Path):
            changes[f.name] = paths.expanded(option, value)
        elif isinstance(value, tuple) and any(isinstance(item, Path) for item in value):
            changes[f.name] = tuple(paths.expanded(option, item) for item in value)
    return dataclasses.replace(config, **changes) if changes else config


def labelled(kind: type, prefix: str = "") -> Iterator[tuple[dataclasses.Field[Any], str]]:
    """(field, its name on the command line) of a dataclass of options, or of one inside of it, whose name is `prefix`.

    The name of a group without one of its own is that of what it lies in.
    """
    hints = typing.get_type_hints(kind, include_extras=True)
    for f in dataclasses.fields(kind):
        marks = typing.get_args(hints[f.name])[1:] if typing.get_origin(hints[f.name]) is typing.Annotated else ()
        name = f"{prefix}.{f.name}" if prefix else f"--{f.name}"
        if any(getattr(mark, "name", None) == "" for mark in marks):
            name = prefix
        elif any(mark in _POSITIONAL for mark in marks):
            name = f.name.upper()
        yield f, name.replace("_", "-")


_POSITIONAL = typing.get_args(tyro.conf.Positional[int])[1:]


def names(kind: type, prog: str) -> list[str]:
    """The names of all options of a command, from the help text: tyro has no other way to ask that is here to stay."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        tyro.cli(kind, args=["--help"], prog=prog)
    lines = re.findall(r"^\W*(?:-\w, )?(--.*)", text.getvalue(), re.MULTILINE)
    return [name for line in lines for name in re.findall(r"(--[\w.-]+)", line)]


def _nearest_option(word: str, known: list[str]) -> str | None:
    """--lrr -> --optim.lr: the whole name or its last part is compared, without regard to dashes."""

    def likeness(name: str) -> float:
        parts = (name, name.rsplit(".", 1)[-1])
        return max(difflib.SequenceMatcher(None, _bare(word), _bare(part)).ratio() for part in parts)

    best = max(known, key=likeness)
    return best if likeness(best) >= 0.6 else None


def _bare(name: str) -> str:
    return re.sub(r"[-_]", "", name)
