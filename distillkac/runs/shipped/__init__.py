"""The models that distillkac carries: students that were trained and distilled, ready to draw from.

Each is a folder here, NAME/student-4 and NAME/student-1, whose weights are packed (../packed.py), with a model card,
NAME/card.md. index.json says what they are, how good, and the digest of every file. `python -m distillkac.evaluation.ship`
writes all of it.

A name stands for its folder wherever a run is read. They are read only: `refuse` says so. Imports neither torch nor numpy, so
that doctor can always ask.
"""

import hashlib
import json
import os
import warnings
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
INDEX, CARD = "index.json", "card.md"
LIMIT = 4_000_000
"""Bytes of all of them together."""
AGAIN = "it is a part of distillkac: install it again"
ELSEWHERE = "train and distil in a folder of another name, such as runs/mine"


def names(folder: Path | None = None) -> list[str]:
    """What is shipped, as far as folders tell: whether the files are whole is for `problems` to say."""
    there = (folder or FOLDER).iterdir()
    return sorted(path.name for path in there if path.is_dir() and not path.name.startswith(("_", ".")))


def folder_of(path: str | os.PathLike[str], saved: tuple[str, ...] = ()) -> Path:
    """The folder of a shipped model if `path` is its name, or NAME/student-4; else `path`.

    A run folder of that name in the current folder goes before the model, with a warning, and so does one with a file of the
    names `saved`. Raises ValueError naming a file of the model that is missing or damaged.
    """
    path = Path(path)
    if not _named(path):
        return path
    run = _is_run(path)
    if run or any((path / name).exists() for name in saved):
        what = "run" if run else "saved pipeline"
        warnings.warn(
            f"{path} is a {what} in this folder and {path.parts[0]} also a model that comes with distillkac: the {what} is "
            f"taken; for the model, rename the {what} or start in another folder",
            stacklevel=3,
        )
        return path
    if found := problems(path.parts[0]):
        raise ValueError(found[0])
    return FOLDER / path


def is_model(folder: Path) -> bool:
    """Whether this is the folder of a whole model, not of one of its students."""
    return folder.parent == FOLDER and folder.name in names()


def told(folder: Path) -> str:
    """A folder for people: of a shipped model its name, NAME/student-4."""
    return str(folder.relative_to(FOLDER) if folder.is_relative_to(FOLDER) else folder)


def refuse(path: str | os.PathLike[str], why: str) -> None:
    """Raises ValueError, ending in `why` with NAME replaced, if the path is a shipped model's: its name, where no run has it,
    or its folder."""
    path = Path(path)
    inside = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(FOLDER))
    # A student in a folder of the name, though the model has none like it, would stand before the model.
    student = len(path.parts) == 2 and path.parts[0] in names() and path.parts[1].startswith("student-")
    here = _is_run(path) or (len(path.parts) == 2 and _is_run(path.parent))
    if inside or ((_named(path) or student) and not here):
        name = told(Path(os.path.realpath(path)) if inside else path)
        why = why.replace("NAME", name.split("/")[0])
        raise ValueError(f"{name} is a model that comes with distillkac, students alone and read only: {why}")


def index() -> dict[str, dict[str, Any]]:
    """What index.json says of each model. Raises ValueError if it is missing or damaged."""
    path = FOLDER / INDEX
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is missing or damaged ({error}); {AGAIN}") from None


def problems(*chosen: str) -> list[str]:
    """Sentences about files of these models, by default of all, that are missing or damaged."""
    try:
        known = index()
    except ValueError as error:
        return [str(error)]
    found = []
    for name in chosen or known:
        if name not in known:
            found.append(f"{FOLDER / name} is not in {INDEX}; {AGAIN}")
            continue
        for file, digest in known[name]["files"].items():
            path = FOLDER / name / file
            now = digest_of(path) if path.is_file() else None
            if now != digest:
                found.append(f"{path} is {'missing' if now is None else 'damaged, or was replaced'}; {AGAIN}")
    return found


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _named(path: Path) -> bool:
    """Whether the path could mean a shipped model or one of its students, but for what lies there."""
    name, *inside = path.parts or ("",)
    return name in names() and (not inside or (len(inside) == 1 and (FOLDER / path).is_dir() and inside[0] != ".."))


def _is_run(path: Path) -> bool:
    return any((path / name).exists() for name in ("config.json", "ema.safetensors", "state/training.pt")) or any(
        path.glob("student-*/ema.safetensors")
    )
