"""The same labelled images written as every kind of data set, for the tests of the data sources."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from tests.idx_files import write_set

CLASSES = ("0", "1")


def encoded(image: Image.Image, kind: str = "png", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(count: int = 20, size: int = 8) -> np.ndarray:
    """(count, size, size, 3) uint8, all different."""
    return np.random.default_rng(7).integers(0, 256, (count, size, size, 3), np.uint8)


def samples(count: int = 20) -> list[tuple[str, bytes, int]]:
    """(file name, content, class), the classes one after the other."""
    images = pixels(count)
    return [(f"{i:03d}.png", encoded(Image.fromarray(image)), int(i >= count // 2)) for i, image in enumerate(images)]


def write_folder(root: Path, made: list) -> Path:
    for name, content, label in made:
        path = root / CLASSES[label] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def write_npz(root: Path, made: list) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    images = np.stack([np.asarray(Image.open(io.BytesIO(content))) for _, content, _ in made])
    np.savez(root / "set.npz", images=images, labels=np.array([label for *_, label in made]))
    return root / "set.npz"


def write_tar(root: Path, made: list, shards: int = 3, label: str = "cls") -> Path:
    """shard-0.tar, ... with KEY.png and KEY.cls or KEY.json, the images in their order."""
    root.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        with tarfile.open(root / f"shard-{shard}.tar", "w") as archive:
            part = made[shard * len(made) // shards : (shard + 1) * len(made) // shards]
            for name, content, number in part:
                text = str(number) if label == "cls" else json.dumps({"label": number, "note": "x"})
                add(archive, name, content)
                add(archive, f"{Path(name).stem}.{label}", text.encode())
    return root


def write_medmnist(root: Path, made: list) -> Path:
    """As MedMNIST names and shapes its arrays."""
    root.mkdir(parents=True, exist_ok=True)
    labels = np.array([[label] for *_, label in made], np.uint8)
    np.savez_compressed(root / "set.npz", train_images=_arrays(made), train_labels=labels)
    return root / "set.npz"


def write_idx(root: Path, made: list) -> Path:
    """The training files of MNIST's kind, which are grey."""
    images = np.stack([np.asarray(Image.open(io.BytesIO(content)).convert("L")) for _, content, _ in made])
    return write_set(root, images, np.array([label for *_, label in made], np.uint8))


def write_svhn(root: Path, made: list) -> Path:
    """train_32x32.mat, whatever the size of the images; the label 10 is the digit 0."""
    import scipy.io

    root.mkdir(parents=True, exist_ok=True)
    labels = np.array([[label or 10] for *_, label in made], np.uint8)
    arrays = {"X": _arrays(made).transpose(1, 2, 3, 0), "y": labels}
    scipy.io.savemat(root / "train_32x32.mat", arrays, do_compression=True)
    return root


def _arrays(made: list) -> np.ndarray:
    """(N, H, W, 3) uint8."""
    return np.stack([np.asarray(Image.open(io.BytesIO(content)).convert("RGB")) for _, content, _ in made])


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def table(made: list):
    """A Hugging Face data set with an Image and a ClassLabel column."""
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    rows = {
        "image": [{"bytes": content, "path": name} for name, content, _ in made],
        "label": [label for *_, label in made],
    }
    return datasets.Dataset.from_dict(rows, features=features)


def write_parquet(root: Path, made: list) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    half = len(made) // 2
    table(made[:half]).to_parquet(root / "train-00000-of-00002.parquet")
    table(made[half:]).to_parquet(root / "train-00001-of-00002.parquet")
    return root


def write_table(path: Path, columns: dict) -> Path:
    """A parquet file without the notes on features that `datasets` leaves."""
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def write_saved(root: Path, made: list) -> Path:
    table(made).save_to_disk(root)
    return root


WRITERS = {
    "folder": write_folder,
    "npz": write_npz,
    "tar": write_tar,
    "parquet": write_parquet,
    "saved": write_saved,
    "medmnist": write_medmnist,
    "idx": write_idx,
    "svhn": write_svhn,
}
ARRAYS = {"npz", "medmnist", "idx", "svhn"}  # which are in memory however large they are
GREY = {"idx"}
