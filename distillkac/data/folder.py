"""Folders of image files, a sub-folder for each class."""

from pathlib import Path

import torch

from distillkac.data.dataset import SPLITS, DataConfig, Splits, read_splits
from distillkac.data.image_files import list_images
from distillkac.data.records import Files


def folder(root: Path, config: DataConfig) -> Splits:
    parts = [(root / name).is_dir() for name in SPLITS]
    if all(parts):
        (train, labels, names), (test, test_labels, test_names) = (_list_classes(root / name) for name in SPLITS)
        if names != test_names:
            odd = ", ".join(sorted(set(names) ^ set(test_names)))
            raise ValueError(f"{root}: train and test must have the same classes; only one of them has {odd}")
        return read_splits(root, Files(train + test, root), torch.cat([labels, test_labels]), names, len(train), config)
    if any(parts):
        raise ValueError(f"{root}: has only one of train and test; add the other, or give the folder of the classes")
    files, labels, names = _list_classes(root)
    return read_splits(root, Files(files, root), labels, names, None, config)


def _list_classes(root: Path) -> tuple[list[Path], torch.Tensor, tuple[str, ...]]:
    """(files, labels, class names) in alphabetical order: a class per sub-folder, or one class if there is none."""
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    loose = list_images(root, recursive=False)
    if not folders:
        if not loose:
            raise ValueError(f"{root}: holds no images; put image files there, or in one sub-folder per class")
        return loose, torch.zeros(len(loose), dtype=torch.int64), ("all",)
    if loose:
        raise ValueError(
            f"{root}: holds both sub-folders (classes) and loose images such as {loose[0].name}; move the images into "
            "a class, or the sub-folders away"
        )
    files = {folder.name: list_images(folder, recursive=True) for folder in folders}
    for name, images in files.items():
        if not images:
            raise ValueError(f"{root / name}: holds no images; fill this class folder or remove it")
    labels = [label for label, images in enumerate(files.values()) for _ in images]
    return [path for images in files.values() for path in images], torch.tensor(labels), tuple(files)
