"""What a user means by a path: `~` is a home folder, an empty string is no path, and what a run keeps is absolute.

Fields of dataclasses that hold a path as text (because they may hold something else too) say so in their metadata.
"""

from pathlib import Path

HUB = "hf://"
PATH = {"path": "always"}
"""Metadata of a text that is a path, a pattern of paths or hf://NAME: what is on this machine is made absolute."""
PATH_OR_NAME = {"path": "if it exists"}
"""Metadata of a text that is a path where there is something, and a name otherwise."""
EMPTY = Path("\0")
"""What an empty string becomes: Path("") would be the current folder."""


def from_text(text: str) -> Path:
    return Path(text) if text else EMPTY


def expanded(option: str, path: Path) -> Path:
    """The path with `~` replaced. Raises ValueError naming the option if it is empty or of an unknown user."""
    if path == EMPTY:
        raise ValueError(f"{option} is empty, which is no path: name a file or folder, or leave it out")
    try:
        return path.expanduser()
    except RuntimeError:
        if path.parts[0] == "~":
            raise ValueError(
                f"{option} {path}: no home folder is known, set HOME or write the path without ~"
            ) from None
        raise ValueError(f"{option} {path}: there is no such user; write ./{path} for a folder of that name") from None


def absolute(option: str, text: str, kind: str = PATH["path"]) -> str:
    """A text that names data or weights, absolute where it lies on this machine; hf://NAME and other names stay.

    Links are kept: where they lead may change on purpose. Raises ValueError as `expanded` does, and for other addresses.
    """
    if text.startswith(HUB):
        return text
    path = expanded(option, from_text(text))
    if "://" in text and kind == PATH["path"] and not path.exists():
        raise ValueError(
            f"{option} {text}: is an address, and only {HUB}NAME is fetched: fetch it first and give its path"
        )
    return str(path.absolute()) if kind == PATH["path"] or text.startswith("~") or path.exists() else text


def encode(word: str) -> bytes:
    """A name that the system allows need be no text: bytes that are none are kept apart."""
    return word.encode(errors="surrogatepass")
