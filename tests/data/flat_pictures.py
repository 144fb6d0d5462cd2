"""Folders of flat pictures, each of one colour, for tests of data."""

from PIL import Image

from distillkac.data import DataConfig, read

RED, GREY = (200, 30, 60), 77


def whole(dataset):
    return read(dataset, range(len(dataset)))


def write(path, size=(8, 8), color=RED, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path)
    return path


def picture_folder(root, classes=("a", "b"), count=10, size=(8, 8)):
    """Image i of class k is a flat picture of grey level 20 k + i."""
    for k, name in enumerate(classes):
        for i in range(count):
            write(root / name / f"{i:02d}.png", size, 20 * k + i, "L")
    return root


def config(path, **options):
    return DataConfig(path=str(path), **options)
