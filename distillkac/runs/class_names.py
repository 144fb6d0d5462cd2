"""Classes as they are asked for, and as file names carry them: one meaning in every interface.

A word is a name. A number (3 or "3") is the name of a class where a class is called so, or where all classes are called by
numbers; else it is the place of a class in the list, from 0.
"""

import operator
import re
from collections.abc import Iterable, Sequence

from distillkac.data.classes import class_name

NUMBER = re.compile(r"-?[0-9]{1,18}")
LONGEST = 80  # bytes of a class in a file name; file systems allow 255 for all of it


def find(label, names: Sequence[str]) -> int:
    """The place of a class in `names`. label: str, or a whole number of Python, NumPy or torch (no bool).

    Raises ValueError if there is no such class.
    """
    text = label if isinstance(label, str) else _whole(label)
    for known in (text, class_name(text)) if text is not None else ():
        if known in names:
            return list(names).index(known)
    if text is not None and NUMBER.fullmatch(text):
        number = int(text)
        if all(NUMBER.fullmatch(name) for name in names):  # "7" is the class "07"
            if number in (values := [int(name) for name in names]):
                return values.index(number)
        elif 0 <= number < len(names):
            return number
    shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    raise ValueError(f"class {_short(label)} is unknown; the {len(names)} classes are {shown}")


def find_all(labels, names: Sequence[str]) -> list[int]:
    """The places of one class or several. labels: as `find` takes it, or a list, range, array or tensor of such.

    Raises ValueError if there is none, or one is unknown.
    """
    if isinstance(labels, (str, bytes)) or not isinstance(labels, Iterable) or getattr(labels, "ndim", 1) == 0:
        return [find(labels, names)]
    if isinstance(labels, (dict, set, frozenset)) or getattr(labels, "ndim", 1) > 1:
        raise ValueError(f"classes must be one class or a list of them, in order, got {_short(labels)}")
    if not (found := [find(label, names) for label in labels]):
        raise ValueError("no class is named: give at least one, such as " + repr(names[0]))
    return found


def file_names(names: Sequence[str]) -> list[str]:
    """For each class a word that any file system takes: letters, digits, ".", "-" and "_". All are different."""
    plain = [re.sub(r"[^\w.-]", "-", name.encode(errors="replace").decode()) for name in names]
    plain = [text.encode()[:LONGEST].decode(errors="ignore") for text in plain]
    taken = {text.casefold() for text, name in zip(plain, names, strict=True) if text == name}
    found = []
    for text, name in zip(plain, names, strict=True):
        word, i = text, 0
        while not word or (text != name and word.casefold() in taken):
            i, word = i + 1, f"{text}-{i + 1}"
        taken.add(word.casefold())
        found.append(word)
    return found


def _whole(label) -> str | None:
    """A whole number as text; None if it is none. A bool would be one, and is a mistake."""
    if isinstance(label, bool) or str(getattr(label, "dtype", "")) in ("bool", "torch.bool"):
        return None
    try:
        return str(operator.index(label))
    except TypeError:
        return None


def _short(value) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "..."
