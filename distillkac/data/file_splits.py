"""Which files of a folder belong to which split: parquet files and archives are told apart by their names."""

import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

from distillkac.data.splits import role

SHARD = re.compile(r"(.+)-[0-9]{5}-of-[0-9]{5}")  # as the hub's files are called: extra-00000-of-00002.parquet
NAMED = 3


def find_files(root: Path, suffix: str) -> list[Path]:
    """Files of a kind anywhere below a folder, sorted; `root` itself if it is a file. Linked folders are followed once.

    Hidden files, and what desktop and storage systems leave beside files, are left out with a warning. Raises ValueError
    naming a folder that may not be listed.
    """

    def refuse(error: OSError):
        raise ValueError(f"{error.filename}: cannot be listed ({error.strerror}); allow it, or move the folder away")

    if root.is_file():
        return [root]
    found, odd, seen = [], [], set()
    for place, folders, names in os.walk(root, onerror=refuse, followlinks=True):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort()
        for name in sorted(names):
            path = Path(place, name)
            if path.suffix.lower() == suffix:
                litter = any(is_litter(part) for part in path.relative_to(root).parts)
                (found if path.is_file() and not litter else odd).append(path)
    if odd:
        say_unread(root, f"{len(odd)} {suffix} files that are hidden, made by the system, or links to nothing", odd)
    return sorted(found)


def is_litter(part: str) -> bool:
    """Whether a file or folder of this name was made by the system for itself: thumbnails, resource forks, hidden files."""
    return part.startswith(".") or part in ("__MACOSX", "@eaDir")


def split_files(root: Path, files: Sequence[Path]) -> dict[str, list[Path]]:
    """The files of each split, by the split's name as it is written there.

    A file belongs to the split that a sub-folder of `root` or a word of its own name says (train-00000-of-00002, a_test).
    Files that say none are of the train split if no other file is; else NAME-00000-of-00002 is of a split of that name, as
    on the hub, and others are left out with a warning. Raises ValueError if a name says two splits.
    """
    named = {path: _split_name(path.relative_to(root)) for path in files}
    unnamed = [path for path, name in named.items() if name is None]
    if not any(name is not None and role(name) == "train" for name in named.values()):
        named |= dict.fromkeys(unnamed, "train")
    else:
        shards = {path: SHARD.match(path.name) for path in unnamed}
        named |= {path: match[1] for path, match in shards.items() if match}
        if lost := [path for path, match in shards.items() if not match]:
            beside = next(path for path, name in named.items() if name is not None and role(name) == "train")
            say_unread(
                root,
                f"{len(lost)} of {len(files)} files, because beside {beside.relative_to(root)} they are of no split; call "
                "them train as well to learn from them",
                lost,
            )
    splits: dict[str, list[Path]] = {}
    for path, name in named.items():
        if name is not None:
            splits.setdefault(name, []).append(path)
    return splits


def say_unread(where: Path | str, what: str, paths: Sequence[Path | str]) -> None:
    names = ", ".join(str(path) for path in paths[:NAMED]) + (", ..." if len(paths) > NAMED else "")
    warnings.warn(f"{where}: left out {what}: {names}", stacklevel=3)


def _split_name(path: Path) -> str | None:
    """The name of a split in a path, None if there is none. A folder is called so; a file has it as one of its words."""
    folders = [part for part in path.parent.parts if role(part)]
    words = [word for word in re.split(r"[\W\d_]+", path.name.removesuffix(path.suffix)) if role(word)]
    found = [*folders, *words]
    if odd := next((name for name in found if role(name) != role(found[0])), None):
        raise ValueError(f"{path}: its name says {found[0]!r} and {odd!r}, which are different splits; rename it")
    return found[0] if found else None
