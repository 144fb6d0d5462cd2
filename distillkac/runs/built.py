"""Dataclasses of options out of JSON, or out of what a caller gave: every field of the type that its annotation says."""

import dataclasses
import importlib
import sys
import types
import typing
from typing import Annotated, Literal


class Others:
    """In an Annotated: dataclasses that the value may be besides, each by (module, name). Their modules, which need torch, are
    imported when the value is not of the annotated kind."""

    def __init__(self, *addresses: tuple[str, str]) -> None:
        self.addresses = addresses

    def kinds(self) -> tuple[type, ...]:
        return tuple(getattr(importlib.import_module(module), name) for module, name in self.addresses)


def build(kind, value, where: str):
    """JSON back into dataclasses and tuples, following the annotations; dataclasses and tuples are taken as they are, once
    what is in them was looked at. Raises TypeError naming the field."""
    while typing.get_origin(kind) is Annotated:
        kind, *notes = typing.get_args(kind)
        for note in notes:
            if isinstance(note, Others) and not _is_of(kind, value):
                kind = _choice((kind, *note.kinds()), value)
    origin, choices = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in choices:
            return None
        return build(_choice(choices, value), value, where)
    if dataclasses.is_dataclass(kind):
        return _build_fields(kind, value, where)
    if origin is tuple:
        kinds = choices[:1] * len(value) if choices[-1] is ... and isinstance(value, list | tuple) else choices
        if not isinstance(value, list | tuple) or len(value) != len(kinds):
            raise TypeError(f"{where} must be a list{'' if ... in kinds else f' of {len(kinds)}'}, got {value!r:.80}")
        return tuple(build(k, item, f"{where}[{i}]") for i, (k, item) in enumerate(zip(kinds, value, strict=True)))
    if origin is Literal:
        if not any(type(value) is type(choice) and value == choice for choice in choices):
            raise TypeError(f"{where} must be one of {', '.join(map(repr, choices))}, got {value!r:.80}")
        return value
    if kind is float and type(value) in (int, float):
        if not abs(value) < sys.float_info.max:  # so are NaN and infinity, which Python's JSON has
            raise TypeError(f"{where} must be finite, got {value!r:.80}")
        return float(value)
    if type(value) is not (origin or kind):  # dict[str, Any] is a dict, whatever is in it
        raise TypeError(f"{where} must be of type {kind.__name__}, got {value!r:.80}")
    return value


def _choice(choices: tuple[type, ...], value) -> type:
    """The dataclass among the choices that the value is, or that has its fields, or the words that it is one of; else the first
    of the choices."""
    if type(value) in choices:
        return type(value)
    for kind in choices:
        if typing.get_origin(kind) is Literal and value in typing.get_args(kind):
            return kind
    kinds = (kind for kind in choices if dataclasses.is_dataclass(kind))
    return next((kind for kind in kinds if _is_of(kind, value)), choices[0])


def _is_of(kind, value) -> bool:
    """Whether the value is such a dataclass, or JSON with no other fields than it has."""
    fields = {f.name for f in dataclasses.fields(kind)}
    return type(value) is kind or (isinstance(value, dict) and set(value) <= fields)


def _build_fields(kind, value, where: str):
    if isinstance(value, kind):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(kind)}
    if not isinstance(value, dict):
        raise TypeError(f"{where} must be an object ({kind.__name__}), got {value!r:.80}")
    hints = typing.get_type_hints(kind, include_extras=True)
    unknown = set(value) - set(hints)
    if unknown:
        raise TypeError(f"{where or kind.__name__} has no field {', '.join(sorted(unknown)):.80}")
    needed = {f.name for f in dataclasses.fields(kind) if f.default is f.default_factory is dataclasses.MISSING}
    if needed - set(value):
        raise TypeError(f"{where} lacks {', '.join(sorted(needed - set(value)))}")
    return kind(**{name: build(hints[name], item, f"{where}.{name}".lstrip(".")) for name, item in value.items()})
