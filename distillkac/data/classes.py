"""Classes as every source gives them: names in one Unicode form and natural order, numbers from 0 without gaps."""

import re
import unicodedata
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def natural(name: str) -> tuple:
    """A key to sort names by as people count them: 1, 2, 10 and img9, img10."""
    parts = re.split(r"([0-9]+)", name)
    # Of two numbers the one with more digits is larger; int() would refuse very long ones.
    return tuple(_magnitude(part) if i % 2 else part.casefold() for i, part in enumerate(parts)), name


def _magnitude(digits: str) -> tuple[int, str]:
    digits = digits.lstrip("0")
    return len(digits), digits


def printable(text: str) -> str:
    """The text with bytes that are no UTF-8 written out, as in caf\\xe9, and control characters too: a file may be called
    anything, a terminal and a .json may not be sent anything."""
    return re.sub("[\x00-\x1f\x7f-\x9f\ud800-\udfff]", lambda found: _written_out(ord(found[0])), text)


def _written_out(code: int) -> str:
    # Python keeps byte b of a name that is no UTF-8 as the surrogate U+DC00 + b.
    byte = code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else code
    return f"\\x{byte:02x}" if byte < 256 else f"\\u{byte:04x}"


def class_name(text: str) -> str:
    """The name in Unicode's composed form (NFC): the same word typed on another system is the same class. Printable."""
    return unicodedata.normalize("NFC", printable(text))


def number_classes(
    where: Path | str, values: Sequence[Any], test: Sequence[Any]
) -> tuple[list[int], list[int], tuple[str, ...]]:
    """(numbers of `values`, numbers of `test`, names) of classes given as whole numbers or as words.

    Whole numbers are numbered anew where they have gaps or do not begin at 0, with a warning; their names stay what they
    were. Words are sorted naturally. Raises ValueError if both kinds are mixed, a number is below 0, or a class is in `test`
    alone.
    """
    words = {isinstance(value, str) for value in (*values, *test)}
    if len(words) > 1:
        raise ValueError(f"{where}: some classes are words and some are numbers; write all of them one way")
    # Which stands for an image without a class in many sets.
    if words == {False} and (least := min((*values, *test))) < 0:
        raise ValueError(
            f"{where}: classes are numbered from 0, got {least}; remove images without a class, or learn without classes "
            "with --data.unconditional"
        )
    if words == {True}:
        values, test = [class_name(value) for value in values], [class_name(value) for value in test]
    found = sorted(set(values), key=natural) if words == {True} else sorted(set(values))
    if odd := set(test).difference(found):
        raise ValueError(f"{where}: the test part has class {min(odd)!r}, which no training image has")
    if words == {False} and found != list(range(len(found))):
        warnings.warn(
            f"{where}: the classes {_shown(found)} do not count from 0 without gaps; they are numbered anew from 0, in "
            "this order, and keep these numbers as their names",
            stacklevel=2,
        )
    number = {value: i for i, value in enumerate(found)}
    return [number[v] for v in values], [number[v] for v in test], tuple(str(value) for value in found)


def _shown(found: list) -> str:
    return ", ".join(map(str, found[:5])) + (f", ... {found[-1]}" if len(found) > 5 else "")
