"""What data say of an image's class -> a whole number or a word, whichever way it was written."""

import json
import re

NAME_LENGTH = 1000  # characters


def as_class(value) -> int | str:
    """Words stay words; 1, 1.0 and true are the class 1. Raises ValueError for anything else: it is not passed over."""
    if isinstance(value, str):
        if not value.strip():
            raise ValueError("it is empty")
        if len(value) > NAME_LENGTH:
            raise ValueError(f"it has {len(value)} characters, too many for the name of a class")
        # What could not be decoded was kept as lone surrogates, see `class_in_text`.
        if re.search("[\ud800-\udfff]", value):
            raise ValueError(f"{value!r} is not written in UTF-8")
        return value
    if isinstance(value, (bool, int)):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    shown = "null" if value is None else repr(value)
    raise ValueError(f"{shown} is no class; classes are whole numbers or words")


def class_in_text(content: bytes) -> int | str:
    """The class in a text file that holds nothing else. Raises ValueError if that is none."""
    return _number_or_word(as_class(_decode(content).strip("\0 \t\r\n")))


def class_in_json(content: bytes, entry: str | None) -> int | str | None:
    """The class that a JSON file gives under `entry` ("label" if None), or is itself; None if it has no such entry.

    Only the class has to be sound: what else the file says may be in any encoding. Raises ValueError if it is none.
    """
    try:
        value = json.loads(_decode(content))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if isinstance(value, dict):
        if (entry or "label") not in value:
            return None
        value = value[entry or "label"]
    elif entry is not None or isinstance(value, list):
        return None
    return _number_or_word(as_class(value))


def _decode(content: bytes) -> str:
    """Whatever Unicode encoding it is in, with its mark or without; bytes that are none become lone surrogates."""
    return content.decode(json.detect_encoding(content), "surrogateescape").removeprefix("\ufeff")


def _number_or_word(value: int | str) -> int | str:
    # By its digits: a float does not hold more than 15 of them.
    return int(value.split(".")[0]) if isinstance(value, str) and re.fullmatch(r"-?[0-9]+(\.0*)?", value) else value
