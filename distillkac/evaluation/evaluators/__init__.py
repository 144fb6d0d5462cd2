"""The classifiers of the built-in images and of Fashion-MNIST, as they are shipped: NAME.safetensors, the moments of both
splits in its features, NAME.moments.safetensors, and index.json, which says what they are.

`python -m distillkac.evaluation.evaluators.make` makes them again; needed whenever the images, their split or the recipe of
classifier.py change.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError

from distillkac.base import files
from distillkac.runs import checkpoints

FOLDER = Path(__file__).parent
INDEX = "index.json"


@dataclass(frozen=True)
class Shipped:
    """name: of the built-in images. digest: what `digest_of` must give for the weights."""

    name: str
    path: Path
    weights: dict[str, torch.Tensor]
    digest: str
    accuracy: float


@dataclass(frozen=True)
class ShippedMoments:
    """digest: what `digest_of` must give for the tensors."""

    path: Path
    tensors: dict[str, torch.Tensor]
    digest: str


def shipped(fingerprint: str) -> Shipped | None:
    """The classifier for data of this fingerprint, None if none is shipped. Raises ValueError naming a file that cannot be
    read; whether it is the one that was shipped is for the caller to check by its digest."""
    for name, entry in _index().items():
        if entry["fingerprint"] == fingerprint:
            path = FOLDER / f"{name}.safetensors"
            return Shipped(name, path, _tensors(path), entry["digest"], entry["accuracy"])
    return None


def shipped_moments(digest: str) -> ShippedMoments | None:
    """The moments of both splits in the features of the classifier with this digest, None if none are shipped. Raises as
    `shipped` does."""
    for name, entry in _index().items():
        if entry["digest"] == digest:
            path = FOLDER / f"{name}.moments.safetensors"
            return ShippedMoments(path, _tensors(path), entry["moments"])
    return None


def replaced(path: Path, found: str, wanted: str) -> str:
    """What is wrong with a file of another digest than the shipped one, in a sentence."""
    return f"{path} is damaged or was replaced: its digest is {found}, {wanted} was shipped; install distillkac again"


def warn_if_like_a_shipped_one(train, test) -> None:
    """Says so where data look like built-in ones but are not the same bytes: another decoder of JPEG, say."""
    for name, entry in _index().items():
        if entry["data"] == describe(train, test):
            warnings.warn(
                f"these look like the built-in {name}, but are other pixels or labels than those that the shipped evaluator "
                "knows: one is trained here, whose figures do not compare with the shipped one's",
                stacklevel=3,
            )


def describe(train, test) -> dict:
    """What can be seen of two splits without looking at their pixels."""
    return {"shape": list(train.shape), "classes": list(train.class_names), "train": len(train), "test": len(test)}


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return checkpoints.read_safetensors(path)[0]
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{path} is missing or damaged ({error}); it is a part of distillkac: install it again"
        ) from None


def _index() -> dict[str, dict]:
    path = FOLDER / INDEX
    if not path.exists():
        raise ValueError(f"{path} is missing; it is a part of distillkac: install it again")
    return files.read_json(path)
