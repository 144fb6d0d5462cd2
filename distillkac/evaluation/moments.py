"""Means and covariances of features, the Fréchet distance between them, and those of a data set's two splits.

The splits' are a function of the classifier and the data, and take a minute for 60 000 images of 28 x 28: for the classifiers
that are shipped they are shipped too (evaluators/), for others they are kept beside the classifier.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from distillkac.base import files
from distillkac.data import ImageDataset
from distillkac.evaluation import evaluators
from distillkac.evaluation.classifier import Classifier, Trained, batches, digest_of
from distillkac.runs import checkpoints

KEPT = "classifier-moments.safetensors"


@dataclass(frozen=True)
class Moments:
    """mean (d,) and covariance (d, d) of features, float64."""

    mean: torch.Tensor
    cov: torch.Tensor

    @classmethod
    def of(cls, features: torch.Tensor) -> "Moments":
        """features: (n, d), n >= 2. Of the covariance the divisor is n - 1."""
        features = features.double()
        return cls(features.mean(0), torch.cov(features.T))


def frechet_distance(p: Moments, q: Moments) -> float:
    """Squared 2-Wasserstein distance between the Gaussians with these moments, >= 0.

    tr (S_p S_q)^(1/2) is the sum of the singular values of S_p^(1/2) S_q^(1/2), with roots by symmetric
    eigendecomposition: no root of a product, which is not symmetric, and no squaring, which would lose half the digits
    of what is small. Singular covariances are fine.
    """
    cross = torch.linalg.svdvals(_sqrt(p.cov) @ _sqrt(q.cov)).sum()
    distance = (p.mean - q.mean).square().sum() + p.cov.trace() + q.cov.trace() - 2 * cross
    return max(float(distance), 0.0)


def _sqrt(cov: torch.Tensor) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(cov)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


@dataclass(frozen=True)
class SplitMoments:
    """scale: (d,) standard deviations of the classifier's features over the train split, infinite for one that never varies;
    train, test: moments of the two splits' features divided by it."""

    scale: torch.Tensor
    train: Moments
    test: Moments

    @classmethod
    def measured(cls, classifier: Classifier, train: ImageDataset, test: ImageDataset) -> "SplitMoments":
        """Looks at every image of both splits."""
        with torch.no_grad():
            phi, held_out = (torch.cat([classifier.features(x) for x, _ in batches(split)]) for split in (train, test))
        std = phi.std(0)
        # A feature that never varies carries nothing; dividing by its rounding noise would make it count.
        scale = torch.where(std > 1e-6 * std.max(), std, torch.inf)
        return cls(scale, Moments.of(phi / scale), Moments.of(held_out / scale))

    @classmethod
    def of_tensors(cls, tensors: dict[str, torch.Tensor]) -> "SplitMoments":
        """The inverse of `tensors`. Raises KeyError if one is missing."""
        train, test = (Moments(tensors[f"{split}.mean"], tensors[f"{split}.cov"]) for split in ("train", "test"))
        return cls(tensors["scale"], train, test)

    def tensors(self) -> dict[str, torch.Tensor]:
        """By name, for a file."""
        splits = {"train": self.train, "test": self.test}
        named = {f"{split}.{key}": getattr(of, key) for split, of in splits.items() for key in ("mean", "cov")}
        return {"scale": self.scale, **named}


def split_moments(known: Trained, train: ImageDataset, test: ImageDataset, cache: Path | None = None) -> SplitMoments:
    """Those that are shipped for this classifier, else those kept in the folder `cache`, else measured now and kept there.
    Raises ValueError naming the file if shipped ones are damaged."""
    if (shipped := evaluators.shipped_moments(known.digest)) is not None:
        if (found := digest_of(known.digest, shipped.tensors)) != shipped.digest:
            raise ValueError(evaluators.replaced(shipped.path, found, shipped.digest))
        return SplitMoments.of_tensors(shipped.tensors)
    if cache is not None and (kept := _kept(cache / KEPT, known.digest)) is not None:
        return kept
    made = SplitMoments.measured(known.network, train, test)
    if cache is not None:
        try:
            files.write_atomic(cache / KEPT, to_bytes(made, known.digest))
        except OSError as error:  # of a folder that one may only read: the classifier beside it serves as it is
            warnings.warn(f"{cache / KEPT} cannot be written ({error.strerror}): measured anew each time", stacklevel=2)
    return made


def to_bytes(moments: SplitMoments, classifier_digest: str) -> bytes:
    """The content of their .safetensors file."""
    tensors = moments.tensors()
    about = {"format": "pt", "classifier": classifier_digest, "digest": digest_of(classifier_digest, tensors)}
    return checkpoints.to_safetensors(tensors, about)


def _kept(path: Path, classifier_digest: str) -> SplitMoments | None:
    """None if there is nothing whole of this classifier: then they are measured anew."""
    if (found := checkpoints.read_cached(path, classifier=classifier_digest)) is None:
        return None
    tensors, about = found
    if about.get("digest") != digest_of(classifier_digest, tensors):
        return None
    try:
        return SplitMoments.of_tensors(tensors)
    except KeyError:
        return None
