"""What lies in a folder, and what of it is passed over: each of a kind is counted, and one named."""

import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from distillkac.data.classes import printable
from distillkac.data.image_files import readable

# Folders and files that systems put beside images: thumbnails, waste, what archives of other systems leave.
SYSTEM = {
    "@eadir", "@recycle", "@recently-snapshot", "@sharebin", "@tmp", "#recycle", "#snapshot", "$recycle.bin", "__macosx",
    "lost+found", "system volume information", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r",
    "network trash folder", "temporary items",
}  # fmt: skip


PACKED = (".zip", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")
UNLISTED = "folders that cannot be listed"


def is_image(path: Path) -> bool:
    """Whether its suffix is that of an image; decoding finds out whether it is one."""
    return Image.registered_extensions().get(path.suffix.lower()) in readable()


def is_system(name: str) -> bool:
    """Hidden, or known to be the system's own: never something to learn from."""
    return name.startswith(".") or name.casefold() in SYSTEM


@dataclass
class Tree:
    """A folder with all that lies below it, links followed, in a fixed order. Hidden things and the system's own are not in
    it, nor what a link would bring in a second time."""

    root: Path
    files: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    passed_over: dict[str, list[str]] = field(default_factory=dict)
    """What it is -> names below the root."""

    def inside(self, path: Path) -> tuple[str, ...]:
        """The parts of a path below the root."""
        return path.parts[len(self.root.parts) :]

    def name(self, path: Path) -> str:
        return printable("/".join(self.inside(path)))

    def pass_over(self, what: str, path: Path) -> None:
        self.passed_over.setdefault(what, []).append(self.name(path))

    def say(self) -> None:
        """Warns of what was passed over: one warning for each kind, with its number and the first by name."""
        for what, names in self.passed_over.items():
            warnings.warn(
                f"{printable(str(self.root))}: left out {len(names)} {what}, such as {min(names)}", stacklevel=3
            )


def scan(root: Path, skip: bool) -> Tree:
    """All of a folder. skip: pass over folders that may not be listed. Raises ValueError naming such a folder otherwise."""
    return _Scan(Tree(root), skip).run()


class _Scan:
    """Links come after all else, so that of two ways to a file the direct one counts."""

    def __init__(self, tree: Tree, skip: bool):
        self.tree, self.skip = tree, skip
        self.met: set[str] = set()  # real paths of the folders
        self.links: list[tuple[Path, str]] = []  # (path, real path of the folder it lies in)
        self.places: list[tuple[Path, str]] = []  # (folder, its real path)

    def run(self) -> Tree:
        tree = self.tree
        self._enter(tree.root, os.path.realpath(tree.root))
        linked = []
        while self.links:
            links, self.links = sorted(self.links), []
            for link, where in links:
                target = os.path.realpath(link)
                if os.path.isdir(target):
                    # A folder above the link leads here again; one that was met holds nothing new.
                    above = os.path.join(where, "").startswith(os.path.join(target, ""))
                    if above or target in self.met:
                        tree.pass_over("links to folders that are read already", link)
                    else:
                        tree.folders.append(link)
                        self._enter(link, target)
                elif os.path.isfile(target):
                    linked.append((link, target))
                else:
                    tree.pass_over("links that lead to no file", link)
        real = dict(self.places)
        known = {os.path.join(real[file.parent], file.name) for file in tree.files} if linked else set()
        for link, target in linked:
            if target in known:
                tree.pass_over("links to files that are read already", link)
            else:
                tree.files.append(link)
                known.add(target)
        tree.files.sort()
        tree.folders.sort()
        return tree

    def _enter(self, folder: Path, real: str) -> None:
        """All below a folder but what links lead to."""
        todo = [(folder, real)]
        while todo:
            folder, real = todo.pop()
            if real in self.met:
                self.tree.pass_over("folders that are read already through a link", folder)
                continue
            self.met.add(real)
            self.places.append((folder, real))
            for entry in self._list(folder):
                path = folder / entry.name
                if is_system(entry.name):
                    self._pass_over_system(path)
                elif entry.is_symlink():
                    self.links.append((path, real))
                elif entry.is_dir(follow_symlinks=False):
                    self.tree.folders.append(path)
                    todo.append((path, os.path.join(real, entry.name)))
                elif entry.is_file(follow_symlinks=False):
                    self.tree.files.append(path)
                else:
                    self.tree.pass_over("things that are neither files nor folders", path)

    def _list(self, folder: Path) -> list[os.DirEntry]:
        try:
            with os.scandir(folder) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            where = f"{printable(str(folder))}: cannot be listed ({error.strerror})"
            if folder == self.tree.root:
                raise ValueError(f"{where}; allow it, or give another path") from None
            if not self.skip:
                raise ValueError(f"{where}; allow it, move the folder away, or add --data.bad-images skip") from None
            self.tree.pass_over(UNLISTED, folder)
            return []

    def _pass_over_system(self, path: Path) -> None:
        """Only data are worth a word: nobody misses a desktop.ini."""
        files = [path]
        if path.is_dir():
            files = [Path(folder) / name for folder, _, names in os.walk(path) for name in names]
        for file in files:
            # Of a hidden .png the suffix is part of the name, of .DS_Store there is none.
            if is_image(file):
                self.tree.pass_over("hidden images and thumbnails of the system", file)
            elif file.suffix.lower() in (".parquet", ".tar"):
                self.tree.pass_over("hidden tables and archives", file)
