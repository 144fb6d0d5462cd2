"""WebDataset shards: tar archives whose members `KEY.jpg` and `KEY.cls` (or `KEY.json`) are an image and its class.

The archives are indexed once (where each image lies), so that images are read in any order by position: data order,
resuming and many processes work as for files. Nothing is unpacked; members that are links or devices are ignored.
"""

import hashlib
import io
import unicodedata
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import torch

from distillkac.base import optional
from distillkac.base.paths import encode
from distillkac.base.progress import Bar
from distillkac.data.classes import number_classes, printable
from distillkac.data.config import DataConfig
from distillkac.data.dataset import Splits, read_splits
from distillkac.data.file_splits import say_unread, split_files
from distillkac.data.records import file_identity
from distillkac.data.splits import choose_splits
from distillkac.data.tar_index import NAMED, Index, Member, index


@dataclass(frozen=True)
class TarImages:
    """Images in tar archives. members: each with its archive."""

    members: list[tuple[Path, Member]]
    paths: list[Path]

    def __len__(self) -> int:
        return len(self.members)

    def name(self, row: int) -> str:
        path, member = self.members[row]
        return printable(f"{path}: {member.key}")

    def open(self, row: int) -> BinaryIO:
        path, member = self.members[row]
        with open(path, "rb") as file:
            file.seek(member.offset)
            content = file.read(member.size)
        if len(content) < member.size:
            raise ValueError("the archive ends inside it")
        return io.BytesIO(content)

    def identity(self) -> Iterable[str]:
        # With the members: which are left out, for want of a class, depends on the options.
        chosen = hashlib.blake2b(digest_size=16)
        for path, member in self.members:
            chosen.update(encode(f"{path.name} {member.offset} {member.size} {member.key}\n"))
        return (*(file_identity(path) for path in self.paths), chosen.hexdigest())

    def key(self, row: int) -> str:
        # Not the archive's name: the same samples may be packed anew. The size tells two apart where shards repeat keys.
        _, member = self.members[row]
        return unicodedata.normalize("NFC", f"{member.key} {member.size}")

    mark = key


def expand(pattern: str) -> list[Path]:
    """The shards that 'DIR/shard-{000..009}.tar' stands for, by WebDataset's own rules.

    Folders that are there are paths and no patterns, whatever they are called.
    """
    webdataset = optional.load("webdataset", f"{pattern}: a pattern of shards, in place of their folder,")
    root = next(parent for parent in Path(pattern).parents if parent.is_dir())
    paths = [root / name for name in webdataset.shardlists.expand_urls(str(Path(pattern).relative_to(root)))]
    for path in paths:
        if not path.is_file():
            raise ValueError(printable(f"{path}: is missing, but data.path {pattern} names it"))
    return paths


def read_shards(paths: list[Path], root: Path, config: DataConfig) -> Splits:
    """paths: of the archives below root, whose names say which are the test part, see `split_files`.

    Raises ValueError naming the archive or the member.
    """
    train_paths, test_paths = _parts(paths, root, config)
    found = {
        path: index(path, config) for path in Bar([*train_paths, *test_paths], title="indexing shards", unit="shard")
    }
    lost = [damage for _, damage in found.values() if damage]
    if lost and config.bad_images == "refuse":
        raise ValueError(lost[0])
    for sentence in lost:
        warnings.warn(f"{sentence}; images after the damage are left out", stacklevel=2)
    lost += _bad_members({path: part for path, (part, _) in found.items()}, config)
    train, test = (
        [(path, member) for path in part for member in found[path][0].members if not member.fault]
        for part in (train_paths, test_paths)
    )
    _say_left_out({path: part for path, (part, _) in found.items()}, config)
    if not train or (test_paths and not test):
        empty = (train_paths if not train else test_paths)[0]
        raise ValueError(
            f"{printable(str(empty))}: holds no images; members must be called KEY.jpg (png, webp, ...) and KEY.cls or .json"
        )
    labels, names = _classes(train, test, any(part.texts for part, _ in found.values()), config)
    first_test = len(train) if test else None
    records = TarImages(train + test, [*train_paths, *test_paths])
    return read_splits(printable(str(config.path)), records, torch.tensor(labels), names, first_test, config, lost)


def _parts(paths: list[Path], root: Path, config: DataConfig) -> tuple[list[Path], list[Path]]:
    """(archives to learn from, archives of the test part); an archive that was itself named is learned from."""
    if [str(path) for path in paths] == [str(Path(str(config.path)).expanduser())]:
        return paths, []
    splits = split_files(root, sorted(paths))
    train, test, unread = choose_splits(printable(str(config.path)), list(splits))
    if train is None:
        warnings.warn(
            f"{printable(str(config.path))}: all shards are called {' or '.join(splits)}, so they are what is learned from; "
            "add shards to learn from to keep these for evaluation",
            stacklevel=3,
        )
        return sorted(paths), []
    if unread := unread + [name for name in splits if name not in (train, test, *unread)]:
        left = [path for name in unread for path in splits[name]]
        say_unread(str(config.path), f"{len(left)} shards of splits that are not used ({', '.join(unread)})", left)
    return splits[train], [] if test is None else splits.get(test, [])


def _bad_members(found: dict[Path, Index], config: DataConfig) -> list[str]:
    """Sentences about images whose class or name is at fault. Raises ValueError with the first, unless they are skipped."""
    advice = "repair or remove it, add --data.bad-images skip, or learn without classes with --data.unconditional"
    members = [(path, member) for path, part in found.items() for member in part.members]
    sentences = [printable(f"{path}: {member.fault}") for path, member in members if member.fault]
    twice = [sentence for part in found.values() for sentence in part.twice]
    if config.bad_images == "refuse" and (twice or sentences):
        raise ValueError(twice[0] if twice else f"{sentences[0]}; {advice}")
    if twice + sentences:
        say_unread(
            str(config.path), f"{len(twice + sentences)} of {len(members) + len(twice)} images", twice + sentences
        )
    return twice + sentences


def _say_left_out(found: dict[Path, Index], config: DataConfig) -> None:
    """One warning of everything in the archives that is not read."""
    kinds: dict[str, tuple[int, list[str]]] = {}
    for path, part in found.items():
        for kind, (count, names) in part.left_out.items():
            before, known = kinds.get(kind, (0, []))
            kinds[kind] = (before + count, [*known, *(f"{path.name}: {name}" for name in names)][:NAMED])
    if kinds:
        text = "; ".join(f"{count} {kind}, such as {', '.join(names)}" for kind, (count, names) in kinds.items())
        warnings.warn(printable(f"{config.path}: left out {text}"), stacklevel=3)


def _classes(train: list, test: list, texts: bool, config: DataConfig) -> tuple[list[int], tuple[str, ...]]:
    """(numbers of train and test, names). texts: whether there was any .json."""
    unlabelled = [(path, member) for path, member in train + test if member.label is None]
    entry, where = config.label_column, printable(str(config.path))
    if len(unlabelled) == len(train + test):
        if entry is not None:
            raise ValueError(
                f"{where}: no .json of these shards has an entry {entry!r}; correct --data.label-column, or learn "
                "without classes with --data.unconditional"
            )
        if texts:
            warnings.warn(
                f"{where}: no .json of these shards has an entry 'label', so there are no classes to learn; choose "
                "another entry with --data.label-column, or say --data.unconditional",
                stacklevel=3,
            )
        folders = sorted({PurePosixPath(member.key).parent.name for _, member in unlabelled} - {""})
        if len(folders) > 1 and not texts and not config.unconditional:
            warnings.warn(
                f"{where}: no .cls or .json says a class, so there are no classes to learn; if the folders inside "
                f"({', '.join(folders[:3])}{', ...' if len(folders) > 3 else ''}) are the classes unpack the archives, "
                "else say --data.unconditional",
                stacklevel=3,
            )
        return [0] * len(unlabelled), ("all",)
    if unlabelled:
        path, member = unlabelled[0]
        wanted = f"an entry {entry!r} to its .json" if entry else "KEY.cls, or a label to its .json"
        raise ValueError(printable(f"{path}: {member.key} has no class but others have; add {wanted}"))
    numbers, test_numbers, names = number_classes(
        where, [member.label for _, member in train], [member.label for _, member in test]
    )
    return numbers + test_numbers, names
