"""Where the images of a tar archive lie and what their classes are, by WebDataset's rules; remembered between runs."""

import tarfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from distillkac.data import cache
from distillkac.data.classes import printable
from distillkac.data.labels import class_in_json, class_in_text
from distillkac.data.listing import is_system
from distillkac.data.records import file_identity

IMAGES = {
    *("jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "avif", "jp2"),
    *("bmp", "ppm", "pgm", "pbm", "pnm", "tga", "tif", "tiff", "gif"),
}
BLOCK = 512
LABEL_BYTES = 1 << 20  # a .cls or .json that is longer is no label
NAMED = 3

SECOND = "images that come second to the one of their sample that is called KEY.jpg"
LITTER = "hidden members and thumbnails"
LINKS = "links and devices"
OTHERS = "members that are neither images nor classes"


@dataclass(slots=True)
class Member:
    """An image inside an archive. label: None if nothing says one. fault: why what should say its class does not."""

    key: str
    offset: int
    size: int
    label: int | str | None = None
    fault: str | None = None


@dataclass
class Index:
    """An archive. twice: sentences about images whose key another has. left_out: (how many, the first of them) of each kind.
    texts: whether there was any .json."""

    members: list[Member] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    left_out: dict[str, tuple[int, list[str]]] = field(default_factory=dict)
    texts: bool = False

    def leave_out(self, kind: str, name: str) -> None:
        count, names = self.left_out.get(kind, (0, []))
        self.left_out[kind] = (count + 1, names if len(names) == NAMED else [*names, printable(name)])


def index(path: Path, config) -> tuple[Index, str | None]:
    """(what is in it, what damage it has or None)."""
    try:
        words = (file_identity(path), str(config.label_column), str(config.unconditional))
        file, known = cache.recall(config, "shard 3", *words)
        if known is not None:
            return Index(**known | {"members": [Member(*entry) for entry in known["members"]]}), None
        found, damage = _scan(path, config)
    except OSError as error:
        return Index(), printable(f"{path}: cannot be read ({error})")
    if damage is None:
        members = [[m.key, m.offset, m.size, m.label, m.fault] for m in found.members]
        cache.remember(file, vars(found) | {"members": members})
    return found, damage


def _scan(path: Path, config) -> tuple[Index, str | None]:
    found, images, end, damage = Index(), [], 0, None
    labels: dict[str, tuple[int | str | None, str | None]] = {}
    with open(path, "rb") as file:
        try:
            # Plain tar only: inside a compressed one nothing can be found by its position.
            with tarfile.open(fileobj=file, mode="r:") as archive:
                while (member := archive.next()) is not None:
                    archive.members.clear()  # type: ignore[attr-defined]  # not in its stubs; tarfile would keep all
                    end = archive.offset
                    if member.isdir():
                        continue
                    name = PurePosixPath(member.name)
                    kind = name.suffix.lower().removeprefix(".")
                    if not member.isreg() or member.issparse():
                        found.leave_out(LINKS, member.name)
                    elif any(is_system(part) for part in name.parts if part != ".."):
                        found.leave_out(LITTER, member.name)
                    elif kind in IMAGES:
                        images.append((name, member.offset_data, member.size))
                    elif kind not in ("cls", "json"):
                        found.leave_out(OTHERS, member.name)
                    elif not config.unconditional:
                        found.texts |= kind == "json"
                        key, said = (
                            f"{name.with_name(name.stem)}.{kind}",
                            _label(file, member, kind, config.label_column),
                        )
                        if labels.setdefault(key, said) != said:
                            labels[key] = None, printable(f"{member.name}: says another class than the one before it")
        except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
            damage = printable(f"{path}: is no whole, uncompressed tar archive ({error}); copy or make it again")
        # tarfile takes a damaged header for the end. The real end is zeros.
        damage = damage or _check_end(path, file, end)
    _pair(path, images, labels, found)
    if damage and labels and found.members and found.members[-1].label is None:
        found.members.pop()  # its class was to come where the archive is damaged
    return found, damage


def _check_end(path: Path, file: BinaryIO, end: int) -> str | None:
    file.seek(end)
    zeros = 0
    while chunk := file.read(1 << 20):
        if chunk.count(0) < len(chunk):
            return printable(f"{path}: is damaged or goes on after its end, at byte {end}; copy or make it again")
        zeros += len(chunk)
    return None if zeros >= 2 * BLOCK else printable(f"{path}: is cut short, it has no end mark; copy or make it again")


def _label(
    file: BinaryIO, member: tarfile.TarInfo, kind: str, entry: str | None
) -> tuple[int | str | None, str | None]:
    """(the class that a .cls or .json says or None, why it does not)."""
    if kind == "cls" and entry is not None:
        return None, None  # an entry of the .json was asked for
    if member.size > LABEL_BYTES:
        return None, printable(f"{member.name}: has {member.size} bytes, too many for a class")
    here = file.tell()
    file.seek(member.offset_data)
    content = file.read(member.size)
    file.seek(here)
    if len(content) < member.size:
        raise OSError("it ends inside a member")
    try:
        return class_in_text(content) if kind == "cls" else class_in_json(content, entry), None
    except ValueError as error:
        return None, printable(f"{member.name}: does not say a class ({error})")


def _pair(path: Path, images: list[tuple], labels: dict, found: Index) -> None:
    """Finds the images of `found`, with their classes.

    WebDataset's rule: all members whose names are the same up to the first dot are one sample, and x.seg.png beside x.jpg is
    something else about x. Where no image is called KEY.jpg, names merely have dots ("2024.05.01.jpg"), and all are images.
    """
    plain = {_sample(name) for name, *_ in images if "." not in name.stem}
    taken: dict[str, str] = {}
    for name, offset, size in images:
        key = str(name.with_name(name.stem))
        if "." in name.stem and _sample(name) in plain:
            found.leave_out(SECOND, str(name))
        elif key in taken:
            found.twice.append(
                f"{path}: has two images called {key} ({taken[key]} and {name}); give each a name of its own"
            )
        else:
            taken[key] = str(name)
            found.members.append(Member(printable(key), offset, size, *_class_of(key, _sample(name), labels)))


def _sample(name: PurePosixPath) -> str:
    return str(name.with_name(name.name.partition(".")[0]))


def _class_of(key: str, sample: str, labels: dict) -> tuple[int | str | None, str | None]:
    """The first that says one: KEY.cls, KEY.json, then those of the sample; a fault only if none does."""
    names = [f"{stem}.{kind}" for stem in dict.fromkeys((key, sample)) for kind in ("cls", "json")]
    said = [labels[name] for name in names if name in labels]
    return next((pair for pair in said if pair[0] is not None), next((pair for pair in said if pair[1]), (None, None)))
