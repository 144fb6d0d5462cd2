"""What `--data.path` leads to, and which options each kind of source understands."""

import dataclasses
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from distillkac.base.paths import HUB
from distillkac.data.cifar import find_batches
from distillkac.data.cifar100 import find_cifar100
from distillkac.data.classes import printable
from distillkac.data.config import DataConfig
from distillkac.data.fashion_mnist import DEBIAN
from distillkac.data.idx import find_idx
from distillkac.data.idx_files import is_idx
from distillkac.data.latents import INDEX, is_latents
from distillkac.data.listing import PACKED, Tree, is_image, is_system, scan
from distillkac.data.shards import expand
from distillkac.data.splits import role
from distillkac.data.svhn import find_svhn
from distillkac.data.tables import is_saved

WORDS = {  # what errors call each kind
    "builtin": "the built-in images",
    "folder": "a folder of images",
    "npz": "an .npz",
    "cifar": "CIFAR-10's folder",
    "cifar100": "CIFAR-100's folder",
    "idx": "IDX files",
    "svhn": "SVHN's .mat files",
    "latents": "a folder of latents",
    "shards": "WebDataset shards",
    "parquet": "parquet",
    "saved": "a folder of save_to_disk",
    "hub": "a data set of the hub",
}

# One row for each kind of source. What is not there would be ignored, so giving it is refused. `cache` is for all: where
# things are kept is no wish about the data. What is said beside --data.streaming is for streams alone.
IMAGES = {"image_size", "channels", "flip", "unconditional"}
FILES = IMAGES | {"held_out", "bad_images"}
ROWS = FILES | {"image_column", "label_column", "split", "test_split"}
STREAM = (ROWS - {"held_out"}) | {"streaming", "shuffle_buffer", "eval_images", "num_classes"}
UNDERSTOOD = {
    "builtin": IMAGES | {"held_out"},  # 0, as of all data with a test part of their own
    "cifar": IMAGES | {"held_out"},
    "cifar100": IMAGES | {"held_out", "coarse"},
    "idx": IMAGES | {"held_out"},
    "svhn": IMAGES | {"held_out"},
    "latents": {"unconditional"},
    "folder": FILES,
    "npz": FILES,
    "shards": FILES | {"label_column"},
    "saved": ROWS,
    "parquet": ROWS,
    "hub": ROWS | {"subset"},
}
STREAMED = {"parquet": STREAM, "hub": STREAM | {"subset"}}
NO_OPTIONS = ("path", "builtin", "cache")

# Data in these lie beside what is read now and then; unlike a README they are worth a word.
DATA = (".tar", ".parquet", ".npz", ".arrow", ".csv", ".h5", ".lmdb", ".mat", *PACKED)

# How each kind is found in a folder: the files that show that it is there.
IN_FOLDER: dict[str, Callable[[Tree], list[Path]]] = {
    "latents": lambda tree: [tree.root / INDEX] if is_latents(tree.root) else [],
    "cifar": lambda tree: find_batches(tree.root),
    "cifar100": find_cifar100,
    "idx": find_idx,
    "svhn": find_svhn,
    "saved": lambda tree: [tree.root / "state.json"] if is_saved(tree.root) else [],
    "parquet": lambda tree: _on_top(tree, ".parquet"),
    "shards": lambda tree: _on_top(tree, ".tar"),
    "folder": lambda tree: [path for path in tree.files if is_image(path)],
}
# How a file is told that is given itself; what else it needs lies beside it.
GIVEN: dict[str, Callable[[Path], bool]] = {
    "npz": lambda path: path.suffix.lower() == ".npz",
    "parquet": lambda path: path.suffix.lower() == ".parquet",
    "shards": lambda path: path.suffix.lower() == ".tar",
    "svhn": lambda path: path.suffix.lower() == ".mat",
    "idx": is_idx,
}
BESIDE = ("idx", "svhn")  # of which more than the file itself is read
UNPACKED = {"cifar": "CIFAR-10", "cifar100": "CIFAR-100"}  # what archives unpack to a folder of its own


@dataclass(frozen=True)
class Source:
    """kind: a key of WORDS. path: what lies there, or None; the folder of CIFAR's files. files: those that show it."""

    kind: str
    path: str | Path | None
    files: tuple[Path, ...] = ()
    tree: Tree | None = None


def find(config: DataConfig) -> Source:
    """Raises ValueError: nothing there, another kind of file, a folder that can be read in two ways, an option that this
    kind of source does not understand, or two options that contradict each other."""
    source = _find(config)
    _check_options(source, config)
    return source


def _find(config: DataConfig) -> Source:
    if config.path is None:
        return Source("builtin", None)
    if config.path.startswith(HUB):
        return Source("hub", config.path)
    path = Path(config.path).expanduser()
    if path.is_dir():
        return _find_in_folder(path, config)
    if path.is_file() and (kind := next((kind for kind, told in GIVEN.items() if told(path)), None)):
        return _given(kind, path)
    kind = path.suffix.lower()
    if kind == ".tar" and "{" in config.path and not os.path.lexists(path):
        paths = expand(str(path))
        return Source("shards", Path(os.path.commonpath([path.parent for path in paths])), tuple(paths))
    found = "where there is nothing"
    if path == DEBIAN:
        found += " (on Debian and Ubuntu apt-get install dataset-fashion-mnist puts Fashion-MNIST there)"
    if path.exists():
        found = "which is a file of another kind"
        here = Tree(path.parent, [])
        if is_image(path) or is_saved(path.parent) or path in (*find_batches(path.parent), *find_cifar100(here)):
            found += ": give the folder it lies in"
        elif kind in PACKED:
            found += ": unpack it first"
    raise ValueError(
        "data.path must be a folder of images, CIFAR's folder, an .npz file, IDX files (of MNIST's kind), SVHN's .mat, a "
        "Hugging Face data set (hf://NAME, .parquet, a folder of save_to_disk) or WebDataset shards (.tar), got "
        f"{printable(str(path))}, {found}"
    )


def _given(kind: str, path: Path) -> Source:
    if kind == "shards":
        return Source(kind, path.parent, (path,))
    if kind not in BESIDE:
        return Source(kind, path)
    beside = (file for file in path.parent.iterdir() if not is_system(file.name) and file.is_file())
    return Source(kind, path, tuple(IN_FOLDER[kind](Tree(path.parent, sorted({*beside, path})))))


def _find_in_folder(path: Path, config: DataConfig) -> Source:
    """One reading must be possible and no more: which of two is meant nobody can know, and what is not read is lost."""
    tree = scan(path, config.bad_images == "skip")
    readings = {kind: look(tree) for kind, look in IN_FOLDER.items()}
    found = {kind: files for kind, files in readings.items() if files}
    if len(found) > 1:
        ways = " and as ".join(f"{WORDS[kind]} ({tree.name(files[0])})" for kind, files in found.items())
        raise ValueError(
            f"{printable(str(path))}: can be read as {ways}; give the path of the one that is meant, or move the others "
            "to another folder"
        )
    kind = next(iter(found), "folder")
    files = found.get(kind, [])
    if kind != "folder":  # which has to say more
        read = set(files)
        for file in tree.files:
            # Of a set of many files the library that reads it says which it does not.
            suffix = file.suffix.lower()
            if kind != "saved" and suffix in DATA and file not in read and suffix != f".{kind}":
                tree.pass_over("files that are not read", file)
        tree.say()
    if kind not in UNPACKED:
        return Source(kind, path, tuple(files), tree)
    if len({file.parent for file in files}) > 1:
        warnings.warn(
            f"{printable(str(path))}: holds {UNPACKED[kind]} twice; {tree.name(files[0].parent)} is read", stacklevel=2
        )
    return Source(kind, files[0].parent, tuple(files), tree)


def _on_top(tree: Tree, suffix: str) -> list[Path]:
    """Files of a kind at the top of a folder, or in one of its sub-folders for the splits or `data`."""
    found = []
    for path in tree.files:
        above = tree.inside(path)[:-1]
        if path.suffix.lower() == suffix and (
            not above or (len(above) == 1 and (role(above[0]) or above[0].casefold() == "data"))
        ):
            found.append(path)
    return found


def _check_options(source: Source, config: DataConfig) -> None:
    where = printable(str(config.path or source.kind))
    if config.path is not None and config.builtin != DataConfig.builtin:
        raise ValueError(
            f"data.path {where} and data.builtin {config.builtin} both say which images to learn; give one of them (the "
            f"other's default is --data.path None or --data.builtin {DataConfig.builtin})"
        )
    if config.unconditional and (config.label_column is not None or (config.num_classes or 1) > 1):
        raise ValueError("data.unconditional learns without classes: omit --data.label-column and --data.num-classes")
    if config.streaming and source.kind not in STREAMED:
        raise ValueError(
            "--data.streaming is for Hugging Face data sets that are read while they arrive: --data.path hf://NAME, a "
            f".parquet file or a folder of them, got {config.path or 'the built-in images'}; omit it for other data"
        )
    understood = (STREAMED if config.streaming else UNDERSTOOD)[source.kind]
    for option in dataclasses.fields(config):
        value = getattr(config, option.name)
        if option.name in NO_OPTIONS or option.name in understood or value == option.default:
            continue
        name, others = f"--data.{option.name.replace('_', '-')}", ""
        if source.kind == "latents" and option.name in IMAGES:
            others = ": latents cannot be flipped or resized, distillkac.encode does that"
        elif option.name in STREAM - ROWS:
            others = (
                ", which is for --data.streaming" if source.kind in STREAMED else ", which is for streams of tables"
            )
        elif config.streaming:
            others = " while it is streamed"
        raise ValueError(
            f"{where}: {WORDS[source.kind]} cannot use {name} {value}{others}; omit it (default: {option.default})"
        )
