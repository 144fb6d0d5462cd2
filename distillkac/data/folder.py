"""Folders of image files: a sub-folder for each class, split folders above them or none."""

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from distillkac.data.classes import class_name, natural, printable
from distillkac.data.config import DataConfig
from distillkac.data.dataset import Splits, read_splits
from distillkac.data.listing import PACKED, UNLISTED, Tree, is_image
from distillkac.data.records import Files
from distillkac.data.splits import are_splits, choose_splits, role, words

Part = tuple[list[Path], list[int], tuple[str, ...]]  # files, their classes, the names of the classes


def read_folder(tree: Tree, config: DataConfig) -> Splits:
    """Raises ValueError naming the folder whose images, classes or splits are missing or can be taken in two ways."""
    where, images = printable(str(tree.root)), [path for path in tree.files if is_image(path)]
    for path in tree.files:
        if not is_image(path):
            tree.pass_over("files that are no images", path)
    tree.say()
    lost = [f"{where}: {name} cannot be listed" for name in tree.passed_over.get(UNLISTED, ())]
    train_folder, test_folder = _split_folders(where, tree, images, config)
    files, labels, names = _read_part(tree, train_folder, images, config)
    if test_folder is None:
        records = Files(files, tree.root)
        return read_splits(where, records, torch.tensor(labels), names, None, config, lost)
    test, test_labels, test_names = _read_part(tree, test_folder, images, config, lacking=True)
    number = {name: i for i, name in enumerate(names)}
    if odd := [name for name in test_names if name not in number]:
        raise ValueError(
            f"{where}: train and test must have the same classes, but {_shown(odd)} is in {test_folder.name} alone; add it "
            f"to {train_folder.name}, move it away, or add --data.unconditional to learn without classes"
        )
    labels += [number[test_names[label]] for label in test_labels]
    return read_splits(where, Files(files + test, tree.root), torch.tensor(labels), names, len(files), config, lost)


def _split_folders(where: str, tree: Tree, images: list[Path], config: DataConfig) -> tuple[Path, Path | None]:
    """(what to learn from, what to measure with or None): the root and None where there are no split folders."""
    counts, loose = _count(tree, images)
    # A folder of notes beside train and test is no class; one that is empty may be a class whose images are missing.
    empty = [name for name, count in counts.items() if not count and not any(_holds(tree, name))]
    names = [name for name, count in counts.items() if count or name in empty or role(name)]
    splits = sorted(name for name in names if role(name))
    if not splits:
        _warn_if_named_like_splits(where, names)
    elif loose:
        _check_loose(where, names, splits, loose, config)
    elif are_splits(names):
        return _chosen_folders(where, tree.root, counts, names, config)
    elif all(map(role, names)):
        raise ValueError(
            f"{where}: holds {_shown(splits)} but no train; add the images to learn from as {tree.root.name}/train, or "
            f"give the path of {splits[0]} to learn from it"
        )
    else:
        _check_others(where, tree, images, names, splits, config)
    return tree.root, None


def _count(tree: Tree, images: list[Path]) -> tuple[dict[str, int], list[Path]]:
    """(images below each folder of the root, images loose in the root)."""
    counts, loose = dict.fromkeys((path.name for path in tree.folders if path.parent == tree.root), 0), []
    for path in images:
        first, *rest = tree.inside(path)
        if rest:
            counts[first] += 1
        else:
            loose.append(path)
    return counts, loose


def _warn_if_named_like_splits(where: str, names: list[str]) -> None:
    if {role(word) for name in names for word in words(name)} == {"train", "test"} and all(map(words, names)):
        warnings.warn(
            f"{where}: {_shown(sorted(names))} are taken for classes; if they are splits call them train and test",
            stacklevel=4,
        )


def _check_loose(where: str, names: list[str], splits: list[str], loose: list[Path], config: DataConfig) -> None:
    """Folders that may be splits, and images beside them. Raises ValueError if the splits would be lost."""
    beside = f"{_shown(splits)} with loose images beside them, such as {printable(loose[0].name)}"
    if config.unconditional:
        warnings.warn(f"{where}: holds {beside}, so all images are taken together and none for a split", stacklevel=4)
    elif are_splits(names):
        raise ValueError(f"{where}: holds {beside}; move the images away to have splits")


def _chosen_folders(
    where: str, root: Path, counts: dict[str, int], names: list[str], config: DataConfig
) -> tuple[Path, Path | None]:
    """All folders are splits: (the one to learn from, the one to measure with or None); says what is not read."""
    train, test, unread = choose_splits(where, names)
    if unread:
        warnings.warn(
            f"{where}: {_shown(f'{name} ({counts[name]} images)' for name in unread)} is not read, {test} is the test "
            f"part; its images could join those of {train}",
            stacklevel=4,
        )
    if test is None:
        what = f"{config.held_out:g} of each class in it is held out" if config.held_out else "nothing is held out"
        warnings.warn(f"{where}: {train} has no test folder beside it, so {what} to measure with", stacklevel=4)
    return root / str(train), None if test is None else root / test


def _check_others(
    where: str, tree: Tree, images: list[Path], names: list[str], splits: list[str], config: DataConfig
) -> None:
    """Folders that may be splits, and others beside them. Raises ValueError if they can be taken in two ways."""
    others = [name for name in names if not role(name)]
    deeper = [name for name in splits if any(len(tree.inside(path)) > 2 for path in _below(tree, images, name))]
    beside = f"{_shown(splits)} with {_shown(others)} beside them"
    if deeper and not config.unconditional:
        raise ValueError(
            f"{where}: holds {beside}: if they are splits move {_shown(others)} away, and if all of them are classes put "
            f"the images of {deeper[0]} directly into it"
        )
    warnings.warn(f"{where}: holds {beside}, so all of them are taken for classes and none for a split", stacklevel=4)


def _read_part(tree: Tree, folder: Path, images: list[Path], config: DataConfig, lacking: bool = False) -> Part:
    """A class per sub-folder, or one class if there is none; classes in natural order, the files of a class by path. lacking:
    whether a class may be without images, and is left out then."""
    where, depth = printable(str(folder)), len(tree.inside(folder))
    if folder != tree.root:
        images = _below(tree, images, folder.name)
    inside = [tree.inside(path)[depth:] for path in images]
    if config.unconditional and images:
        if (said := _splits_in_classes(where, inside)) is not None:
            warnings.warn(f"{said}, so all images are taken together and none for a split", stacklevel=3)
        return images, [0] * len(images), ("all",)
    classes: dict[str, list[Path]] = {path.name: [] for path in tree.folders if path.parent == folder}
    loose: list[Path] = []
    for path, (name, *rest) in zip(images, inside, strict=True):
        (classes[name] if rest else loose).append(path)
    if not images:
        raise ValueError(_no_images(where, tree, folder))
    if not classes:
        return loose, [0] * len(loose), ("all",)
    if loose:
        raise ValueError(
            f"{where}: holds both sub-folders (classes) and loose images such as {printable(loose[0].name)}; move the "
            "images into a class or the sub-folders away, or add --data.unconditional to learn without classes"
        )
    if lacking:
        classes = {name: paths for name, paths in classes.items() if paths}
    if empty := [name for name in sorted(classes, key=natural) if not classes[name]]:
        raise ValueError(_no_images(printable(str(folder / empty[0])), tree, folder / empty[0]))
    by_name: dict[str, str] = {}
    for name in sorted(classes):
        if (twin := by_name.setdefault(class_name(name), name)) != name:
            raise ValueError(
                f"{where}: the folders {twin!a} and {name!a} name one class in two ways of writing it; join "
                "them or rename one"
            )
    if len(classes) == 1:
        _check_one_class(where, inside)
    elif (said := _splits_in_classes(where, inside)) is not None:
        raise ValueError(f"{said}: put the splits above the classes, train/CLASS and test/CLASS")
    ordered = sorted(by_name, key=natural)
    files = [path for name in ordered for path in classes[by_name[name]]]
    return files, [i for i, name in enumerate(ordered) for _ in classes[by_name[name]]], tuple(ordered)


def _splits_in_classes(where: str, parts: Sequence[Sequence[str]]) -> str | None:
    """The beginning of a sentence about a class with nothing but train and test folders in it; None if there is none. parts:
    below the folder of the classes, of each image."""
    inner: dict[str, set[str]] = {}
    for name, *rest in parts:
        if rest:
            inner.setdefault(name, set()).add(rest[0])
    for name, folders in inner.items():
        if {role(folder) for folder in folders} == {"train", "test"}:
            return f"{where}: its class {printable(name)} holds {_shown(sorted(folders))}"
    return None


def _check_one_class(where: str, parts: Sequence[Sequence[str]]) -> None:
    """A lone folder around the classes, as archives unpack to, is seldom meant as the only class. parts: see above."""
    inner, name = sorted({part[1] for part in parts if len(part) > 2}), printable(parts[0][0])
    remedy = f"if these are the {'splits' if are_splits(inner) else 'classes'} give --data.path {where}/{name}"
    if are_splits(inner):
        raise ValueError(f"{where}: its only class is {name}, which holds {_shown(inner)}; {remedy}")
    if len(inner) > 1:
        warnings.warn(f"{where}: its only class is {name}, of which {_shown(inner)} are parts; {remedy}", stacklevel=4)


def _below(tree: Tree, paths: list[Path], name: str) -> list[Path]:
    """Those in the sub-folder `name` of the root."""
    return [path for path in paths if tree.inside(path)[0] == name]


def _holds(tree: Tree, name: str) -> list[Path]:
    return [path for path in tree.files if len(tree.inside(path)) > 1 and tree.inside(path)[0] == name]


def _no_images(where: str, tree: Tree, folder: Path) -> str:
    """What to do about a folder without images depends on what is there instead."""
    if any(f"{tree.name(folder)}/".startswith(f"{name}/") for name in tree.passed_over.get(UNLISTED, ())):
        return f"{where}: cannot be listed, and a class without images cannot be learned; allow it or move it away"
    files = [path for path in tree.files if folder in path.parents]
    for suffixes, remedy in (
        ((".npz", ".tar", ".parquet"), "give its own path to learn from it"),
        (PACKED, "unpack it first"),
        ((".arrow",), "give the path of the folder that save_to_disk wrote it to"),
    ):
        if found := [path for path in files if path.suffix.lower() in suffixes]:
            return f"{where}: holds no images but {tree.name(found[0])}; {remedy}"
    if folder == tree.root:
        return f"{where}: holds no images; put image files there, or in one sub-folder per class"
    return f"{where}: holds no images; fill this class folder or remove it"


def _shown(names: Iterable[str]) -> str:
    names = [printable(name) for name in names]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
