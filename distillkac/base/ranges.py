"""Numbers among options: each has a range, and what is no number, or not in it, is refused by name where the dataclass is made.

What a caller gives in Python has been looked at by nobody: a string for a number would end deep inside as an error of Python's.
Not asked here is whether a whole number is one where that is meant, which whoever reads a config looks at (runs/built.py).
"""

import dataclasses
import functools
import math
import numbers
import operator
import re
import types
import typing
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

Kind = TypeVar("Kind")
SENSIBLE = 1e5
"""Ranges that end above it end where numbers become absurd, not where they stop to work."""
SEEDS = "[-2e19, 2e19]"
"""Of 64 bits, with or without a sign, and a little more."""


class Range(NamedTuple):
    """text: such as (0, 1], a round bracket where the end itself is outside."""

    text: str
    low: float
    high: float

    @classmethod
    @functools.cache
    def of(cls, text: str) -> "Range":
        found = re.fullmatch(r"[\[(](\S+), (\S+)[\])]", text)
        assert found is not None, f"{text} is no range, such as (0, 1]"
        return cls(text, float(Fraction(found[1])), float(Fraction(found[2])))

    def holds(self, value: Any) -> bool:
        above = self.low <= value if self.text[0] == "[" else self.low < value
        return bool(above and (value <= self.high if self.text[-1] == "]" else value < self.high))  # NaN never

    def refusal(self, name: str, value: Any) -> str:
        """What to say of a value out of it. Where the upper end only stands for what is absurd, it is not named in vain."""
        positive = self.text.startswith("(0,") and self.high > 1
        if positive and not 0 < value < math.inf:
            return f"{name} must be positive and finite, got {value}"
        if value < self.low and self.high > SENSIBLE:
            return f"{name} must be at least {self.low:g}, got {value}"
        return f"{name} must lie in {self.text}, got {value}"


def is_number(value: object) -> bool:
    """Whether it is a number, of Python or numpy; True and False are none."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def check_number(name: str, value: Any, text: str) -> None:
    """Raises ValueError unless `value` is a number in the range that `text` says, such as (0, 1]."""
    if not is_number(value):
        raise ValueError(f"{name} must be a number, got {value!r:.80}, of type {type(value).__name__}")
    if not (allowed := Range.of(text)).holds(value):
        raise ValueError(allowed.refusal(name, value))


def whole(name: str, value: Any) -> int:
    """A whole number of at least 1, of Python, NumPy or torch. Raises ValueError."""
    try:
        count = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:  # NumPy's own True and False are among these
        count = 0
    if count < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    return count


def in_ranges(prefix: str, **ranges: str) -> Callable[[type[Kind]], type[Kind]]:
    """Below @dataclass: every field whose annotation has numbers, by name its range, such as lr="(0, 100]".

    prefix: what the fields are inside of, for people, such as optim; "" for nothing. A value, or an item of a tuple, that is no
    number or out of its range is refused before the class' own __post_init__ looks at it: ValueError. None and words pass where
    the annotation knows them.
    """

    def decorated(kind: type[Kind]) -> type[Kind]:
        made: Any = kind
        own = kind.__dict__.get("__post_init__")

        def __post_init__(self: Any) -> None:
            for name, shape in _numeric(made, frozenset(ranges)).items():
                label = f"{prefix}.{name}".lstrip(".")
                for value in _items(label, getattr(self, name), shape):
                    check_number(label, value, ranges[name])
            if own is not None:
                own(self)

        made.__post_init__ = __post_init__  # which dataclass calls, if it is there
        return kind

    return decorated


class _Shape(NamedTuple):
    """Of a numeric field: whether it is a tuple of numbers, and what it may be besides a number."""

    several: bool
    others: tuple[Any, ...]


@functools.cache
def _numeric(kind: Any, ranged: frozenset[str]) -> dict[str, _Shape]:
    """The fields with numbers, which must be those that have a range."""
    hints = typing.get_type_hints(kind, include_extras=True)
    found = {f.name: shape for f in dataclasses.fields(kind) if (shape := _shape(hints[f.name])) is not None}
    assert found.keys() == ranged, f"{kind.__name__}: {sorted(found.keys() ^ ranged)} need a range, or have no numbers"
    return found


def _shape(hint: Any) -> _Shape | None:
    """What values a field of this annotation has; None if no numbers."""
    while typing.get_origin(hint) is Annotated:
        hint = typing.get_args(hint)[0]
    arms = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    several = any(typing.get_origin(arm) is tuple and {int, float} & {*typing.get_args(arm)} for arm in arms)
    if not several and not {int, float} & {*arms}:
        return None
    words = [word for arm in arms if typing.get_origin(arm) is Literal for word in typing.get_args(arm)]
    return _Shape(several, (*words, *[None] * (type(None) in arms)))


def _items(name: str, value: Any, shape: _Shape) -> Iterable[Any]:
    """What should be the numbers of a field. Raises ValueError if there are to be several, and it holds something else."""
    if any(type(value) is type(other) and value == other for other in shape.others):
        return ()
    if shape.several and not isinstance(value, tuple | list):
        raise ValueError(f"{name} is a tuple of numbers, such as (1, 2), got {value!r:.80}")
    return value if shape.several else (value,)
