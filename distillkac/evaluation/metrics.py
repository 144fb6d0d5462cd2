"""How good generated images are, measured in the features of a small classifier of the training images.

Protocol, the same for generated and for real images: clamped to [-1, 1]; the classifier sees the train split only; its
32 features phi (the input of the last layer) are divided by their standard deviations over the train split. Features and
moments are float64: the same images have the same figures on any machine (classifier.py).

    frechet               ||mu_g - mu_r||^2 + tr(S_g + S_r - 2 (S_g S_r)^(1/2)) over phi: all generated images against
                          all held-out ones; mu, S: mean and covariance (divisor n - 1). It is biased upwards, less
                          for larger n: compare figures of one n only.
    frechet_train         the same against the train split: varies less between runs, but rewards copying.
    accuracy              fraction of generated images that the classifier gives the class they were asked for.
    worst_class_accuracy  the least accuracy of one class.
    diversity             mean over classes of (mean pixel distance between two generated images of the class) / (the
                          same of held-out images); 1 = as varied as the data, 0 = one picture per class.
    nn_ratio              (mean pixel distance of a generated image to the nearest of m train images) / (to the nearest
                          of m held-out images); about 1 if nothing is copied, lower with every copy.

m and the number of generated images whose distances are taken are at most 2000, chosen by a fixed seed.
"""

import warnings
from pathlib import Path

import torch
from torch.nn import functional as F

from distillkac.base.chi_square import chance
from distillkac.base.random import generator
from distillkac.data import ImageDataset, read
from distillkac.evaluation.classifier import CHUNK, FEATURES, classifier_of
from distillkac.evaluation.moments import Moments, frechet_distance, split_moments
from distillkac.runs.sampling import finite

DISTANCE_IMAGES = 2000
OTHER_SHARES = 1e-3  # classes as unlike the held-out images' as chance makes them less often than this are warned of
UNNAMED = "of an earlier version, trained on one machine"

# Of a table of networks: title, key of a row, format.
COLUMNS = (
    ("steps", "steps", "d"),
    ("NFE", "nfe", "d"),
    ("Fréchet", "frechet", ".3f"),
    ("(train)", "frechet_train", ".3f"),
    ("accuracy", "accuracy", ".3f"),
    ("worst", "worst_class_accuracy", ".3f"),
    ("diversity", "diversity", ".3f"),
    ("nn ratio", "nn_ratio", ".3f"),
    ("images/s", "images_per_second", ".0f"),
)


class Evaluator:
    """Measures images against the train and held-out splits of a data set.

    train, test: as `data.load` gives them. cache_dir: where a classifier that had to be trained is kept and found again
    (classifier.safetensors, classifier.json), and the moments of both splits (classifier-moments.safetensors), as long as
    data and recipe are the same; None keeps nothing.
    `accuracy`: the classifier's, on the held-out split (for data of one class: at naming the mirroring). `name` and
    `digest`: which classifier it is; figures of different digests do not compare.
    Raises ValueError if the splits do not belong together or hold fewer than two images, or a shipped classifier is
    damaged. Warns where so few images make a covariance of less than full rank.
    """

    def __init__(self, train: ImageDataset, test: ImageDataset, cache_dir: Path | None = None):
        if train.shape != test.shape or train.class_names != test.class_names:
            raise ValueError(
                f"train and test must agree: shapes {train.shape} and {test.shape}, {train.num_classes} and "
                f"{test.num_classes} classes"
            )
        if min(len(train), len(test)) < 2:
            raise ValueError(f"train and test need at least 2 images each, got {len(train)} and {len(test)}")
        self.train, self.test, self.num_classes = train, test, train.num_classes
        cache = Path(cache_dir) if cache_dir is not None else None
        found = classifier_of(train, test, cache)
        self.classifier, self.accuracy, self.name, self.digest = found.network, found.accuracy, found.name, found.digest
        for split, title in ((train, "train"), (test, "held-out")):
            _warn_of_few(len(split), f"{title} images")
        moments = split_moments(found, train, test, cache)
        self.scale, self.train_moments, self.test_moments = moments.scale, moments.train, moments.test
        count = min(len(train), len(test), DISTANCE_IMAGES)
        self.near_train, _ = read(train, subset(len(train), count, "near train"))
        self.near_test, labels = read(test, subset(len(test), count, "near test"))
        self.real_spread = _spread(self.near_test, labels, self.num_classes)

    @property
    def identity(self) -> dict[str, str]:
        """What a file of figures keeps of the evaluator."""
        return {"name": self.name, "digest": self.digest}

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
        """The measures of the module's docstring. images: (n, C, H, W), n >= 2. labels: (n,) the classes asked for.

        Left out where undefined: the accuracies for data of one class, diversity without two images of a class.
        Raises ValueError on a wrong shape or label, or values that are not finite. Warns of few images, and of classes that are
        in other proportions than in the held-out images.
        """
        self._check(images, labels)
        _warn_of_few(len(images), "images")
        self._warn_of_other_shares(labels)
        with torch.no_grad():
            return self._measured(images, labels)

    def _measured(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
        images, labels = images.detach().float().cpu().clamp(-1, 1), labels.cpu()
        phi = torch.cat([self._phi(x) for x in images.split(CHUNK)])
        moments = Moments.of(phi / self.scale)
        result = {
            "frechet": frechet_distance(moments, self.test_moments),
            "frechet_train": frechet_distance(moments, self.train_moments),
        }
        if self.num_classes > 1:
            right = self.classifier.head(phi).argmax(1) == labels
            by_class = [right[labels == k].double().mean().item() for k in labels.unique().tolist()]
            result |= {"accuracy": right.double().mean().item(), "worst_class_accuracy": min(by_class)}
        rows = subset(len(images), DISTANCE_IMAGES, "distances")
        some, their = images[rows], labels[rows]
        spread = _spread(some, their, self.num_classes)
        # Identical real images of a class give nothing to compare with.
        common = [k for k in spread if self.real_spread.get(k, 0.0) > 0]
        if common:
            result["diversity"] = sum(spread[k] / self.real_spread[k] for k in common) / len(common)
        near, held_out = (_nearest(some, others).mean().item() for others in (self.near_train, self.near_test))
        result["nn_ratio"] = near / max(held_out, 1e-12)
        return result

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """(n, 32) float64 features that the Fréchet distances are taken in, of images (n, C, H, W), clamped to [-1, 1]."""
        images = images.detach().float().cpu().clamp(-1, 1)
        return torch.cat([self._phi(x) for x in images.split(CHUNK)]) / self.scale

    def nearest_train(self, images: torch.Tensor) -> torch.Tensor:
        """(n,) pixel distances of images (n, C, H, W), clamped to [-1, 1], to the nearest of the m train images of nn_ratio."""
        return _nearest(images.detach().float().cpu().clamp(-1, 1), self.near_train)

    @torch.no_grad()
    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """(n, classes) float64 answers of the classifier to images (n, C, H, W), clamped to [-1, 1]."""
        images = images.detach().float().cpu().clamp(-1, 1)
        return self.classifier.head(torch.cat([self._phi(x) for x in images.split(CHUNK)]))

    def floor(self, num: int = 5000) -> dict[str, float]:
        """Real train images, `num` at most, through the same measures: the frechet of a perfect generator of as many.

        They are copies of train images by definition: nn_ratio shows what copying looks like, frechet_train is near 0.
        """
        return self(*read(self.train, subset(len(self.train), num, "floor")))

    def _check(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        if images.dim() != 4 or tuple(images.shape[1:]) != self.train.shape or len(images) < 2:
            raise ValueError(
                f"images must be (n >= 2, {', '.join(map(str, self.train.shape))}), got {tuple(images.shape)}"
            )
        if labels.shape != images.shape[:1] or labels.is_floating_point():
            raise ValueError(f"labels must be ({len(images)},) integers, got {tuple(labels.shape)} {labels.dtype}")
        if not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
            raise ValueError(f"labels must lie in [0, {self.num_classes}), got {labels.min()} to {labels.max()}")
        finite(images)

    def _warn_of_other_shares(self, labels: torch.Tensor) -> None:
        drawn, real = (torch.bincount(y.cpu(), minlength=self.num_classes).tolist() for y in (labels, self.test.labels))
        if chance(drawn, real) < OTHER_SHARES:
            most = max(range(self.num_classes), key=lambda k: abs(drawn[k] / len(labels) - real[k] / sum(real)))
            warnings.warn(
                f"class {self.test.class_names[most]!r} is {drawn[most] / len(labels):.0%} of these images and "
                f"{real[most] / sum(real):.0%} of the held-out ones, which the Fréchet distance counts as a difference",
                stacklevel=3,
            )

    @torch.no_grad()
    def _phi(self, x: torch.Tensor) -> torch.Tensor:
        """Features before scaling: (B, C, H, W) -> (B, 32) float64."""
        return self.classifier.features(x)


def describe(identity: dict[str, str] | None) -> str:
    """An evaluator in a few words. identity: as `Evaluator.identity` gives it; None: of a version that kept none."""
    return f"{identity['name']}, {identity['digest'][:12]}" if identity else UNNAMED


def _warn_of_few(count: int, title: str) -> None:
    if count < FEATURES:
        warnings.warn(
            f"Fréchet distance of only {count} {title}: {FEATURES} features cannot have a covariance of full rank, so it says "
            "little",
            stacklevel=3,
        )


def subset(count: int, limit: int, name: str) -> torch.Tensor:
    """min(count, limit) different indices below `count`, in a random but fixed order."""
    return torch.randperm(count, generator=generator(0, "metrics", name))[:limit]


def _spread(images: torch.Tensor, labels: torch.Tensor, num_classes: int) -> dict[int, float]:
    """Mean pixel distance between two images of a class, for the classes with at least two images."""
    groups = {k: images[labels == k].flatten(1) for k in range(num_classes)}
    return {k: F.pdist(x).mean().item() for k, x in groups.items() if len(x) > 1}


def _nearest(images: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """The pixel distance of each image (n, C, H, W) to the nearest of `others`: (n,)."""
    return torch.cat([_distances(x, others).amin(1) for x in images.split(CHUNK)])


def _distances(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    # By differences: the expansion |x|^2 - 2xy + |y|^2 does not give 0 for a copy.
    return torch.cdist(x.flatten(1), y.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
