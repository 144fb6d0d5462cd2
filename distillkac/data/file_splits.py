"""Which files of a folder belong to which split: parquet files and archives are told apart by their names."""

import re
import warnings
from collections.abc import Sequence
from pathlib import Path

from distillkac.data.classes import printable
from distillkac.data.config import DataConfig
from distillkac.data.listing import scan
from distillkac.data.splits import role, words

SHARD = re.compile(r"(.+)-[0-9]{5}-of-[0-9]{5}")  # as the hub's files are called: extra-00000-of-00002.parquet
NAMED = 3


def find_files(root: Path, suffix: str, config: DataConfig) -> list[Path]:
    """Files of a kind anywhere below a folder, sorted; `root` itself if it is a file. What of a folder is passed over was
    said when it was found what lies there. Raises ValueError naming a folder that may not be listed."""
    if root.is_file():
        return [root]
    return [path for path in scan(root, config.bad_images == "skip").files if path.suffix.lower() == suffix]


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
    names = ", ".join(map(str, paths[:NAMED])) + (", ..." if len(paths) > NAMED else "")
    warnings.warn(printable(f"{where}: left out {what}: {names}"), stacklevel=3)


def _split_name(path: Path) -> str | None:
    """The name of a split in a path, None if there is none. A folder is called so; a file has it as one of its words."""
    folders = [part for part in path.parent.parts if role(part)]
    found = [*folders, *words(path.name.removesuffix(path.suffix))]
    if odd := next((name for name in found if role(name) != role(found[0])), None):
        raise ValueError(
            printable(f"{path}: its name says {found[0]!r} and {odd!r}, which are different splits; rename it")
        )
    return found[0] if found else None
