"""WebDataset shards: tar archives whose members `KEY.jpg` and `KEY.cls` (or `KEY.json`) are an image and its class.

The archives are indexed once (where each image lies), so that images are read in any order by position: data order,
resuming and many processes work as for files. Nothing is unpacked; members that are links or devices are left alone.
"""

import io
import json
import re
import tarfile
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import torch

from distillkac.data import cache
from distillkac.data.classes import number_classes
from distillkac.data.dataset import DataConfig, Splits, read_splits
from distillkac.data.records import file_identity
from distillkac.progress import Bar

IMAGES = {"jpg", "jpeg", "png", "webp", "bmp", "ppm", "pgm", "tif", "tiff", "gif"}
BLOCK = 512
TEST = re.compile(r"(^|[/_.-])(test|val|valid|validation)([/_.-]|$)")
LABEL_BYTES = 1 << 20  # a .cls or .json that is longer is no label


@dataclass(frozen=True, slots=True)
class Member:
    """An image inside a shard. label: None if it has none."""

    shard: Path
    key: str
    offset: int
    size: int
    label: int | str | None


@dataclass(frozen=True)
class Shards:
    """Images in tar archives."""

    members: list[Member]
    paths: list[Path]

    def __len__(self) -> int:
        return len(self.members)

    def name(self, row: int) -> str:
        return f"{self.members[row].shard}: {self.members[row].key}"

    def open(self, row: int) -> BinaryIO:
        member = self.members[row]
        with open(member.shard, "rb") as file:
            file.seek(member.offset)
            content = file.read(member.size)
        if len(content) < member.size:
            raise ValueError("the archive ends inside it")
        return io.BytesIO(content)

    def identity(self) -> Iterable[str]:
        return (file_identity(path) for path in self.paths)


def expand(pattern: str) -> list[Path]:
    """The shards that 'DIR/shard-{000..009}.tar' stands for, by WebDataset's own rules."""
    try:
        from webdataset.shardlists import expand_urls
    except ImportError:
        raise ValueError(
            "patterns of shards need the package webdataset: pip install 'distillkac[data]', or name the folder of the "
            "shards"
        ) from None
    paths = [Path(name).expanduser() for name in expand_urls(pattern)]
    for path in paths:
        if not path.is_file():
            raise ValueError(f"{path}: is missing, but data.path {pattern} names it")
    return paths


def shards(paths: list[Path], root: Path, config: DataConfig) -> Splits:
    """paths: of the archives below root; those called test or val, or in such a folder, are the test part.

    Raises ValueError naming the archive or the member.
    """
    paths = sorted(paths)
    test_paths = [path for path in paths if TEST.search(path.relative_to(root).with_suffix("").as_posix())]
    if len(test_paths) == len(paths):
        test_paths = []  # the user asked to learn from these
    train_paths = [path for path in paths if path not in set(test_paths)]
    parts, damage = [], []
    for part in (train_paths, test_paths):
        members = []
        for path in Bar(part, title="indexing shards", unit="shard"):
            found, wrong = _index(path, config)
            members += found
            damage += [wrong] if wrong else []
        parts.append(members)
    if damage and config.bad_images == "refuse":
        raise ValueError(damage[0])
    for sentence in damage:
        warnings.warn(f"{sentence}; images after the damage are left out", stacklevel=2)
    train, test = parts
    if not train or (test_paths and not test):
        empty = (train_paths if not train else test_paths)[0]
        raise ValueError(
            f"{empty}: holds no images; members must be called KEY.jpg (png, webp, ...) and KEY.cls or .json"
        )
    unlabelled = [member for member in train + test if member.label is None]
    if len(unlabelled) == len(train + test):
        labels, names = [0] * len(unlabelled), ("all",)
    elif unlabelled:
        raise ValueError(
            f"{unlabelled[0].shard}: {unlabelled[0].key} has no class but others have; add KEY.cls, or a label to its .json"
        )
    else:
        numbers, test_numbers, names = number_classes(
            str(config.path), [member.label for member in train], [member.label for member in test]
        )
        labels = numbers + test_numbers
    first_test = len(train) if test else None
    return read_splits(
        config.path, Shards(train + test, paths), torch.tensor(labels), names, first_test, config, damage
    )


def _index(path: Path, config: DataConfig) -> tuple[list[Member], str | None]:
    """(images of a shard, what is wrong with the shard or None); remembered for the next time."""
    try:
        file, known = cache.recall(config, "shard 1", file_identity(path), str(config.label_column))
        if known is not None and known.keys() == {"members"}:
            return [Member(path, *entry) for entry in known["members"]], None
        members, wrong = _scan(path, config.label_column)
    except OSError as error:
        return [], f"{path}: cannot be read ({error})"
    if wrong is None:
        cache.remember(file, {"members": [[m.key, m.offset, m.size, m.label] for m in members]})
    return members, wrong


def _scan(path: Path, label_key: str | None) -> tuple[list[Member], str | None]:
    images, labels, end, wrong = {}, {}, 0, None
    with open(path, "rb") as file:
        try:
            # Plain tar only: inside a compressed one nothing can be found by its position.
            with tarfile.open(fileobj=file, mode="r:") as archive:
                while (member := archive.next()) is not None:
                    archive.members.clear()  # tarfile would keep all of them
                    end = archive.offset
                    if not member.isreg() or member.issparse():
                        continue
                    # WebDataset's rule: the key ends at the first dot of the last part of the name.
                    name = PurePosixPath(member.name)
                    stem, _, kind = name.name.partition(".")
                    key, kind = str(name.with_name(stem)) if stem else "", kind.lower()
                    if key and kind in IMAGES:
                        if key in images:
                            wrong = wrong or f"{path}: has two images called {key}; give each a name of its own"
                            continue
                        images[key] = (member.offset_data, member.size)
                    elif key and kind in ("cls", "json") and (kind == "cls" or key not in labels):
                        label = _label(_read(file, member), kind, label_key)
                        labels |= {} if label is None else {key: label}
        except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
            wrong = f"{path}: is no whole, uncompressed tar archive ({error}); copy or make it again"
        # tarfile takes a damaged header for the end. The real end is zeros.
        wrong = wrong or _check_end(path, file, end)
    members = [Member(path, key, *place, labels.get(key)) for key, place in images.items()]
    if wrong and labels and members[-1].label is None:
        members.pop()  # its class was to come where the archive is damaged
    return members, wrong


def _check_end(path: Path, file: BinaryIO, end: int) -> str | None:
    file.seek(end)
    zeros = 0
    while chunk := file.read(1 << 20):
        if chunk.count(0) < len(chunk):
            return f"{path}: is damaged or goes on after its end, at byte {end}; copy or make it again"
        zeros += len(chunk)
    return None if zeros >= 2 * BLOCK else f"{path}: is cut short, it has no end mark; copy or make it again"


def _read(file: BinaryIO, member: tarfile.TarInfo) -> bytes:
    if member.size > LABEL_BYTES:
        raise ValueError(f"{member.name} has {member.size} bytes, too many for a label")
    here = file.tell()
    file.seek(member.offset_data)
    content = file.read(member.size)
    file.seek(here)
    return content


def _label(content: bytes, kind: str, label_key: str | None) -> int | str | None:
    """The class that a .cls or .json says; None if the .json says none."""
    text = content.decode()
    if kind == "json":
        value = json.loads(text)
        value = value.get(label_key or "label") if isinstance(value, dict) else value
        return value if isinstance(value, (int, str)) and not isinstance(value, bool) else None
    text = text.strip()
    return int(text) if re.fullmatch(r"-?\d{1,9}", text) else text or None
