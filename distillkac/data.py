"""Images to train on and to measure against: the digits of scikit-learn, a folder of images, or an .npz file.

`load(config, split)` gives a dataset: `len(dataset)`, `dataset.shape` (C, H, W), `dataset.class_names`,
`dataset.num_classes`, and `dataset.__getitems__(indices)` -> (x float32 (n, C, H, W) in [-1, 1], y int64 (n,)), a pure
function of the indices. With `flip` the train split holds every image twice, as it is and mirrored.
Everything is read and checked here, before a run writes anything: what is wrong is a ValueError that names the file.
"""

import warnings
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

DIGITS_TRAIN = 1297  # the other 500 are held out
SPLIT_SEED = 1234
MEMORY = 2 * 2**30  # decoded images up to this many bytes stay in memory; more are decoded again when asked for


@dataclass(frozen=True)
class DataConfig:
    """The images."""

    path: str | None = None
    """A folder of images (classes by sub-folder) or an .npz file; without it, the embedded 8x8 digits."""
    image_size: int | None = None
    """Side in pixels: the shorter side is resized to it and the middle cropped. None: images as they are, all one size."""
    channels: Literal[1, 3] | None = None
    """1 grey, 3 RGB; None: grey if every image is."""
    flip: bool = False
    """Train on mirrored images too."""
    held_out: float = 0.1
    """Fraction of each class kept for evaluation, unless the data come with a test part (folders train/ and test/)."""

    def __post_init__(self):
        if self.image_size is not None and self.image_size < 1:
            raise ValueError(f"data.image_size must be at least 1, got {self.image_size}")
        if not 0 < self.held_out < 1:
            raise ValueError(f"data.held_out must lie between 0 and 1, got {self.held_out}")


class Images:
    """A dataset of equal images with labels.

    pixels: (n, C, H, W) uint8 or float32 in [-1, 1], or a function from an index to (C, H, W) uint8.
    """

    def __init__(
        self, pixels, labels: torch.Tensor, shape: tuple[int, int, int], class_names: Sequence[str], flip=False
    ):
        self.pixels, self.labels, self.shape, self.flip = pixels, labels, tuple(shape), flip
        self.class_names = tuple(class_names)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def __len__(self) -> int:
        return len(self.labels) * (2 if self.flip else 1)

    def __getitems__(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        indices = torch.as_tensor(indices, dtype=torch.int64)
        mirrored, rows = indices >= len(self.labels), indices % len(self.labels)
        if callable(self.pixels):
            x = torch.stack([self.pixels(int(row)) for row in rows])
        else:
            x = self.pixels[rows]
        if x.dtype == torch.uint8:
            x = x.float() / 127.5 - 1
        x = torch.where(mirrored[:, None, None, None], x.flip(-1), x)
        return x, self.labels[rows]

    def everything(self) -> tuple[torch.Tensor, torch.Tensor]:
        """All images and labels at once."""
        return self.__getitems__(range(len(self)))


def load(config: DataConfig, split: Literal["train", "test"]) -> Images:
    """The train split, or the images held out from it for evaluation.

    Raises ValueError naming the file and the remedy if anything cannot be used.
    """
    if config.path is None:
        images = _digits(split, config)
    else:
        path = Path(config.path).expanduser()
        if path.is_dir():
            images = _folder(path, split, config)
        elif path.suffix == ".npz":
            images = _npz(path, split, config)
        else:
            problem = "is neither a folder nor an .npz file" if path.exists() else "does not exist"
            raise ValueError(f"--data.path {path} {problem}; give a folder of images or an .npz file")
    images.flip = config.flip and split == "train"
    return images


def _digits(split: str, config: DataConfig) -> Images:
    from sklearn.datasets import load_digits

    if config.image_size not in (None, 8) or config.channels == 3:
        raise ValueError(
            "the embedded digits are grey and 8x8; drop --data.image-size and --data.channels, or give --data.path"
        )
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(SPLIT_SEED))
    rows = order[:DIGITS_TRAIN] if split == "train" else order[DIGITS_TRAIN:]
    pixels = torch.tensor(digits.images, dtype=torch.float32)[rows, None] / 8 - 1  # grey levels 0..16
    return Images(pixels, torch.tensor(digits.target)[rows], (1, 8, 8), [str(name) for name in digits.target_names])


def _held_out(labels: torch.Tensor, fraction: float, split: str, source: Path) -> torch.Tensor:
    """Rows of a split: the same fraction of every class is held out, the same images whenever the data are the same."""
    test = []
    for label in labels.unique().tolist():
        rows = (labels == label).nonzero().flatten()
        if len(rows) < 2:
            raise ValueError(f"{source}: class {label} has one image; each class needs at least 2, to hold one out")
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(SPLIT_SEED))
        test.append(rows[order[: max(1, min(len(rows) - 1, round(fraction * len(rows))))]])
    held = torch.zeros(len(labels), dtype=torch.bool)
    held[torch.cat(test)] = True
    return (held if split == "test" else ~held).nonzero().flatten()


# Folders


def _folder(root: Path, split: str, config: DataConfig) -> Images:
    """Classes by sub-folder; train/ and test/ sub-folders are the splits if both are there."""
    has_splits = (root / "train").is_dir() and (root / "test").is_dir()
    files, labels, names = _listed(root / split if has_splits else root)
    if has_splits:
        other = "train" if split == "test" else "test"
        if _listed(root / other)[2] != names:
            raise ValueError(f"{root}: train/ and test/ hold different class folders; make them the same")
        rows = torch.arange(len(files))
    else:
        rows = _held_out(labels, config.held_out, split, root)
    # Every file is decoded, also those of the other split: a bad one should stop the run before it starts.
    channels = config.channels or _common_channels(files)
    pixels, shape = _decoded(files, channels, config.image_size)
    if pixels is None:
        chosen = [files[row] for row in rows.tolist()]
        return Images(lambda row: decode(chosen[row], channels, config.image_size), labels[rows], shape, names)
    return Images(pixels[rows], labels[rows], shape, names)


def _listed(root: Path) -> tuple[list[Path], torch.Tensor, tuple[str, ...]]:
    """Image files below root, their labels, and the class names (sub-folders in order; one class if there are none)."""
    extensions = Image.registered_extensions()
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))

    def images_in(folder, pattern):
        found = (p for p in folder.glob(pattern) if p.is_file() and not p.name.startswith("."))
        return sorted(p for p in found if p.suffix.lower() in extensions)

    loose = images_in(root, "*")
    if folders and loose:
        raise ValueError(f"{root} holds both images ({loose[0].name}) and folders; put every image in its class folder")
    groups = [(folder.name, images_in(folder, "**/*")) for folder in folders] or [(root.name, loose)]
    for name, group in groups:
        if not group:
            where = root / name if folders else root
            raise ValueError(
                f"{where} holds no image; expected files such as .png or .jpg (or remove the empty folder)"
            )
    labels = [label for label, (_, group) in enumerate(groups) for _ in group]
    return [p for _, group in groups for p in group], torch.tensor(labels), tuple(name for name, _ in groups)


def _opened(path: Path) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return Image.open(path)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise ValueError(f"{path}: more than {Image.MAX_IMAGE_PIXELS} pixels; shrink or remove this image") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path}: not a readable image ({error}); repair or remove it") from None


def _common_channels(files: list[Path]) -> int:
    for path in files:
        with _opened(path) as image:
            if image.mode not in ("1", "L", "I", "F", "I;16", "I;16B", "I;16L"):
                return 3
    return 1


def decode(path: Path, channels: int, size: int | None) -> torch.Tensor:
    """One image file as uint8 (C, H, W): EXIF orientation applied, transparency on white, 16 bits scaled to 8."""
    with _opened(path) as image:
        try:
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I") or image.mode == "F":
                levels = np.asarray(image, dtype=np.float64)
                top = 65535 if image.mode.startswith("I") else max(1.0, float(levels.max(initial=0)))
                image = Image.fromarray(np.clip(levels / top * 255, 0, 255).round().astype(np.uint8))
            if "A" in image.getbands() or "transparency" in image.info:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = image.convert("L" if channels == 1 else "RGB")
            if size is not None:
                image = ImageOps.fit(
                    image, (size, size), Image.Resampling.BICUBIC if min(image.size) < size else Image.Resampling.BOX
                )
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(f"{path}: the image data are damaged ({error}); repair or remove it") from None
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8))
    return pixels[None] if channels == 1 else pixels.permute(2, 0, 1)


def _decoded(files: list[Path], channels: int, size: int | None) -> tuple[torch.Tensor | None, tuple[int, int, int]]:
    """Every file decoded and checked; the pixels (n, C, H, W) uint8, or None if they are too many to keep."""
    shape = tuple(decode(files[0], channels, size).shape)
    keep = len(files) * shape[0] * shape[1] * shape[2] <= MEMORY
    pixels = torch.empty(len(files), *shape, dtype=torch.uint8) if keep else None

    def check(row):
        image = decode(files[row], channels, size)
        if tuple(image.shape) != shape:
            raise ValueError(
                f"{files[row]} is {image.shape[2]}x{image.shape[1]} but {files[0].name} is {shape[2]}x{shape[1]}; "
                "give one size with --data.image-size"
            )
        if keep:
            pixels[row] = image

    with ThreadPoolExecutor() as pool:
        checks = pool.map(check, range(len(files)))
        for _ in tqdm(checks, total=len(files), desc="reading images", unit="image", disable=len(files) < 5000):
            pass
    return pixels, shape


# .npz files


def _npz(path: Path, split: str, config: DataConfig) -> Images:
    """Arrays `images`, `labels` and optionally `test_images`, `test_labels`: (N, H, W[, C]) uint8 or float in [-1, 1]."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"{path}: not a readable .npz of plain arrays ({error}); write it with numpy.savez") from None
    if "images" not in arrays:
        raise ValueError(f"{path}: needs an array named 'images', got {', '.join(arrays) or 'none'}")
    pixels = _pixels(path, "images", arrays["images"], config)
    labels = _labels(path, "labels", arrays.get("labels"), len(pixels))
    count = int(labels.max()) + 1
    if "test_images" in arrays:
        test_pixels = _pixels(path, "test_images", arrays["test_images"], config)
        test_labels = _labels(path, "test_labels", arrays.get("test_labels"), len(test_pixels))
        if test_pixels.shape[1:] != pixels.shape[1:]:
            raise ValueError(
                f"{path}: test_images are {tuple(test_pixels.shape[1:])} but images are {tuple(pixels.shape[1:])} (C, H, W)"
            )
        if int(test_labels.max()) >= count:
            raise ValueError(f"{path}: test_labels holds class {int(test_labels.max())}, labels only 0..{count - 1}")
        if split == "test":
            pixels, labels = test_pixels, test_labels
    else:
        rows = _held_out(labels, config.held_out, split, path)
        pixels, labels = pixels[rows], labels[rows]
    return Images(pixels, labels, pixels.shape[1:], [str(label) for label in range(count)])


def _pixels(path: Path, name: str, array: np.ndarray, config: DataConfig) -> torch.Tensor:
    if array.ndim not in (3, 4) or len(array) == 0 or (array.ndim == 4 and array.shape[3] not in (1, 3)):
        raise ValueError(f"{path}: {name} must be (N, H, W) or (N, H, W, 1 or 3) with N > 0, got {array.shape}")
    if array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{path}: {name} must be uint8, or float in [-1, 1], got {array.dtype}")
    if array.dtype != np.uint8:
        if not np.isfinite(array).all():
            raise ValueError(f"{path}: {name} holds NaN or infinity; remove these images")
        low, high = float(array.min()), float(array.max())
        if low < -1 or high > 1:
            raise ValueError(f"{path}: {name} must lie in [-1, 1] (or be uint8), got [{low:g}, {high:g}]")
        array = array.astype(np.float32)
    pixels = torch.from_numpy(np.ascontiguousarray(array))
    pixels = pixels[:, None] if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2).contiguous()
    if config.channels not in (None, pixels.shape[1]):
        raise ValueError(f"{path}: {name} has {pixels.shape[1]} channels but --data.channels says {config.channels}")
    if config.image_size is not None and tuple(pixels.shape[2:]) != (config.image_size, config.image_size):
        height, width = pixels.shape[2:]
        raise ValueError(
            f"{path}: {name} is {width}x{height} but --data.image-size says {config.image_size}; resize before saving"
        )
    return pixels


def _labels(path: Path, name: str, array: np.ndarray | None, count: int) -> torch.Tensor:
    if array is None:
        return torch.zeros(count, dtype=torch.int64)
    if not np.issubdtype(array.dtype, np.integer) or array.shape != (count,):
        raise ValueError(
            f"{path}: {name} must be integers ({count},), one for each image, got {array.dtype} {array.shape}"
        )
    classes = np.unique(array)
    if classes[0] < 0 or classes[-1] != len(classes) - 1 and name == "labels":
        raise ValueError(
            f"{path}: {name} must number the classes 0..{len(classes) - 1} without gaps, got {classes[:20].tolist()}"
        )
    return torch.from_numpy(array.astype(np.int64))
