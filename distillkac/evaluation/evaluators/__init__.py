"""The classifiers of the built-in images, as they are shipped: NAME.safetensors, and index.json, which says what they are.

`python -m distillkac.evaluation.evaluators.make` makes them again; needed whenever the images, their split or the recipe of
classifier.py change.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from distillkac.base import files

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


def shipped(fingerprint: str) -> Shipped | None:
    """The classifier for data of this fingerprint, None if none is shipped. Raises ValueError naming a file that cannot be
    read; whether it is the one that was shipped is for the caller to check by its digest."""
    for name, entry in _index().items():
        if entry["fingerprint"] == fingerprint:
            path = FOLDER / f"{name}.safetensors"
            try:
                weights = load(path.read_bytes())
            except (OSError, SafetensorError) as error:
                raise ValueError(
                    f"{path} is missing or damaged ({error}); it is a part of distillkac: install it again"
                ) from None
            return Shipped(name, path, weights, entry["digest"], entry["accuracy"])
    return None


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


def _index() -> dict[str, dict]:
    path = FOLDER / INDEX
    if not path.exists():
        raise ValueError(f"{path} is missing; it is a part of distillkac: install it again")
    return files.read_json(path)
