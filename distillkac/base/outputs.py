"""Where results go: judged before the first evaluation, for every command alike."""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

ADVICE = "choose another place"


def kind_of(out: Path, suffixes: Iterable[str], folder: str = "") -> str:
    """What an output is to be: one of `suffixes`, in lower case, or "" for a folder.

    suffixes: such as (".png", ".npz"), matched in any case. folder: what a folder would hold ("single PNGs"), if it may be
    one. An existing folder is a folder whatever its name. Raises ValueError if `out` is none of them.
    """
    suffix, wanted = out.suffix.lower(), [f"end in {_either(suffixes)}"] if suffixes else []
    if out.is_dir():
        if not folder:
            raise ValueError(f"{out} is a folder: --out must {wanted[0]}")
        return ""
    if suffix in suffixes:
        return suffix
    if folder and not suffix and out.name.lower() not in suffixes:
        return ""
    wanted += [f"be a folder for {folder} (one whose name has a dot must exist)"] if folder else []
    raise ValueError(f"--out must {' or '.join(wanted)}, got {out}")


def check_file(out: Path, advice: str = ADVICE) -> None:
    """Raises ValueError if a file cannot be written, or replaced, at `out`. Leaves nothing behind. advice: what to do then."""
    if out.is_dir():
        raise ValueError(f"{out} is a folder: name a file, or remove it")
    if out.exists() and not out.is_file():
        raise ValueError(f"{out} is no ordinary file and would be replaced: choose another name")
    _try(out.parent, f".{out.name}.try", out, advice)


def check_folder(out: Path, *names: str) -> None:
    """Raises ValueError if files of these names cannot be written in the folder `out`, which may be new. Leaves nothing."""
    if not out.is_dir() and os.path.lexists(out):
        what = "a link to nothing" if out.is_symlink() and not out.exists() else "a file"
        raise ValueError(f"{out} should be a folder and is {what}: choose another name")
    _try(out, ".try", out)
    for name in names:
        check_file(out / name)


def _try(folder: Path, name: str, out: Path, advice: str = ADVICE) -> None:
    """Writes an empty file and removes it, with the folders that were made for it: permissions, read-only disks and names
    that are too long show in no other way."""
    made = next((parent for parent in (folder, *folder.parents) if parent.exists()), folder)
    if not made.is_dir():
        raise ValueError(f"{out} cannot be written: {made} is a file, no folder")
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / name
        path.touch()
        path.unlink(missing_ok=True)  # another process of the same launch may have been here too
    except OSError as error:
        raise ValueError(f"{out} cannot be written ({error.strerror or error}): {advice}") from None
    finally:
        for parent in missing:
            with contextlib.suppress(OSError):
                parent.rmdir()


def _either(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last
