"""The command line as a dataclass, with a hint at the option that was meant."""

import contextlib
import difflib
import io
import re
import sys
from typing import TypeVar

import tyro

Args = TypeVar("Args")


def parse(kind: type[Args], argv: list[str] | None, prog: str, default: Args | None = None) -> Args:
    """The command line as a dataclass. Exits as tyro does on a mistake, and says which option was probably meant."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        return tyro.cli(kind, args=argv, prog=prog, default=tyro.MISSING_NONPROP if default is None else default)
    except SystemExit as stop:
        if stop.code:
            known = names(kind, prog)
            for word in (word.split("=")[0].replace("_", "-") for word in argv if word.startswith("--")):
                if word not in known and (meant := _nearest_option(word, known)):
                    print(f"error: there is no option {word}; did you mean {meant}?", file=sys.stderr)
        raise


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
