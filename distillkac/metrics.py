"""How good generated images are, measured in the features of a small classifier of the training images.

Protocol, the same for generated and for real images: clamped to [-1, 1]; the classifier sees the train split only; its
32 features phi (the input of the last layer) are divided by their standard deviations over the train split.

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

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.nn import functional as F

from distillkac import checkpoints
from distillkac.data import ImageDataset, read
from distillkac.random import generator

WEIGHTS, REPORT = "classifier.safetensors", "classifier.json"
RECIPE = "2"  # raise it whenever Classifier or train_classifier changes, so that old caches are not used
FEATURES = 32
STEPS, BATCH, LR, WEIGHT_DECAY, NOISE, SMOOTHING = 1200, 64, 1e-3, 1e-2, 0.15, 0.05
DISTANCE_IMAGES, FLOOR_IMAGES, CHUNK = 2000, 5000, 500
PRETEXT_CLASSES = 4


class Classifier(nn.Module):
    """Three convolutions, 32 features, a linear head; larger images are first halved until they are about 8 x 8.

    shape: (C, H, W). classes: outputs. forward: (B, C, H, W) in [-1, 1] -> (B, classes) logits.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int):
        super().__init__()
        halvings = max(0, int(math.log2(min(shape[1:]) / 8))) if min(shape[1:]) >= 8 else 0
        down = [m for _ in range(halvings) for m in (nn.MaxPool2d(2), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU())]
        self.features = nn.Sequential(
            *(nn.Conv2d(shape[0], 32, 3, padding=1), nn.ReLU(), *down),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)),
            *(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.3)),
            nn.Linear(1024, FEATURES),
        )
        self.head = nn.Sequential(nn.ReLU(), nn.Dropout(0.2), nn.Linear(FEATURES, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x))


def train_classifier(train: ImageDataset) -> Classifier:
    """Fits a classifier to a data set, in eval mode; a function of the data only, about 15 s for the digits.

    With a single class there is nothing to tell apart: it learns instead which of four mirrorings an image has
    undergone, which needs features of what the images show as well.
    """
    classes = train.num_classes if train.num_classes > 1 else PRETEXT_CLASSES
    # Initial weights and dropout read the global generator, so we seed it and put it back afterwards.
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        # Plain memory format and optimizer: figures far from the data (a teacher in one step) depend on the classifier's
        # rounding by up to a third, so the recipe is not to be changed for speed.
        network = Classifier(train.shape, classes)
        optimizer = torch.optim.AdamW(network.parameters(), LR, weight_decay=WEIGHT_DECAY)
        for step in range(STEPS):
            optimizer.param_groups[0]["lr"] = LR * (0.5 + 0.5 * math.cos(math.pi * step / STEPS))
            x, y = read(train, torch.randint(len(train), (BATCH,)))
            if train.num_classes == 1:
                x, y = _mirror(x)
            noisy = x + NOISE * torch.randn(x.shape)
            logits = network(noisy)
            loss = F.cross_entropy(logits, y, label_smoothing=SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval().requires_grad_(False)


def _mirror(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Images mirrored in neither, one, the other or both directions in turn, and which: 0 to 3."""
    y = torch.arange(len(x)) % PRETEXT_CLASSES
    x = torch.where((y % 2 == 1)[:, None, None, None], x.flip(-1), x)
    return torch.where((y >= 2)[:, None, None, None], x.flip(-2), x), y


class Moments:
    """Mean and covariance of features phi: (n, d), n >= 2, in float64."""

    def __init__(self, phi: torch.Tensor):
        phi = phi.double()
        self.mean, self.cov = phi.mean(0), torch.cov(phi.T)


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


class Evaluator:
    """Measures images against the train and held-out splits of a data set.

    train, test: as `data.load` gives them. cache_dir: where classifier.safetensors and classifier.json are kept and
    found again, as long as data and recipe are the same; None keeps nothing.
    `accuracy`: the classifier's, on the held-out split (for data of one class: at naming the mirroring).
    Raises ValueError if the splits do not belong together or hold fewer than two images.
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
        self.classifier, self.accuracy = self._classifier(Path(cache_dir) if cache_dir is not None else None)
        phi = torch.cat([self._phi(x) for x, _ in _batches(train)])
        std = phi.std(0)
        # A feature that never varies carries nothing; dividing by its rounding noise would make it count.
        self.scale = torch.where(std > 1e-6 * std.max(), std, torch.inf)
        self.train_moments = Moments(phi / self.scale)
        self.test_moments = Moments(torch.cat([self._phi(x) for x, _ in _batches(test)]) / self.scale)
        count = min(len(train), len(test), DISTANCE_IMAGES)
        self.near_train, _ = read(train, _subset(len(train), count, "near train"))
        self.near_test, labels = read(test, _subset(len(test), count, "near test"))
        self.real_spread = _spread(self.near_test, labels, self.num_classes)

    @torch.no_grad()
    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
        """The measures of the module's docstring. images: (n, C, H, W), n >= 2. labels: (n,) the classes asked for.

        Left out where undefined: the accuracies for data of one class, diversity without two images of a class.
        Raises ValueError on a wrong shape or label, or values that are not finite.
        """
        self._check(images, labels)
        images, labels = images.detach().float().cpu().clamp(-1, 1), labels.cpu()
        moments = Moments(self.features(images))
        result = {
            "frechet": frechet_distance(moments, self.test_moments),
            "frechet_train": frechet_distance(moments, self.train_moments),
        }
        if self.num_classes > 1:
            right = torch.cat([self.classifier(x).argmax(1) for x in images.split(CHUNK)]) == labels
            by_class = [right[labels == k].double().mean().item() for k in labels.unique().tolist()]
            result |= {"accuracy": right.double().mean().item(), "worst_class_accuracy": min(by_class)}
        rows = _subset(len(images), DISTANCE_IMAGES, "distances")
        some, their = images[rows], labels[rows]
        spread = _spread(some, their, self.num_classes)
        # Identical real images of a class give nothing to compare with.
        common = [k for k in spread if self.real_spread.get(k, 0.0) > 0]
        if common:
            result["diversity"] = sum(spread[k] / self.real_spread[k] for k in common) / len(common)
        result["nn_ratio"] = _nearest(some, self.near_train) / max(_nearest(some, self.near_test), 1e-12)
        return result

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """(n, 32) features that the Fréchet distances are taken in, of images (n, C, H, W), clamped to [-1, 1]."""
        images = images.detach().float().cpu().clamp(-1, 1)
        return torch.cat([self._phi(x) for x in images.split(CHUNK)]) / self.scale

    def floor(self) -> dict[str, float]:
        """Real train images (5000 at most) through the same measures: the frechet of a perfect generator.

        They are copies of train images by definition: nn_ratio shows what copying looks like, frechet_train is near 0.
        """
        return self(*read(self.train, _subset(len(self.train), FLOOR_IMAGES, "floor")))

    def _check(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        if images.dim() != 4 or tuple(images.shape[1:]) != self.train.shape or len(images) < 2:
            raise ValueError(
                f"images must be (n >= 2, {', '.join(map(str, self.train.shape))}), got {tuple(images.shape)}"
            )
        if labels.shape != images.shape[:1] or labels.is_floating_point():
            raise ValueError(f"labels must be ({len(images)},) integers, got {tuple(labels.shape)} {labels.dtype}")
        if not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
            raise ValueError(f"labels must lie in [0, {self.num_classes}), got {labels.min()} to {labels.max()}")
        bad = int((~images.isfinite()).flatten(1).any(1).sum())
        if bad:
            raise ValueError(f"{bad} of {len(images)} images hold values that are not finite: the sampler diverged")

    @torch.no_grad()
    def _phi(self, x: torch.Tensor) -> torch.Tensor:
        """Features before scaling: (B, C, H, W) -> (B, 32)."""
        return self.classifier.features(x)

    def _classifier(self, cache: Path | None) -> tuple[Classifier, float]:
        """The cached classifier of exactly this data and recipe, or a fresh one, which is then cached."""
        fingerprint = _fingerprint(self.train, self.test)
        outputs = self.num_classes if self.num_classes > 1 else PRETEXT_CLASSES
        if cache is not None and (found := _cached(cache, fingerprint)) is not None:
            weights, accuracy = found
            with torch.random.fork_rng(devices=[]):
                classifier = Classifier(self.train.shape, outputs)
            classifier.load_state_dict(weights)
            return classifier.eval().requires_grad_(False), accuracy
        classifier, right = train_classifier(self.train), 0
        for x, y in _batches(self.test):
            x, y = _mirror(x) if self.num_classes == 1 else (x, y)
            right += int((classifier(x).argmax(1) == y).sum())
        accuracy = right / len(self.test)
        if cache is not None:
            content = checkpoints.to_safetensors(classifier.state_dict(), {"format": "pt", "fingerprint": fingerprint})
            checkpoints.write_atomic(cache / WEIGHTS, content)
            report = {
                "accuracy": accuracy,
                "train": len(self.train),
                "test": len(self.test),
                "fingerprint": fingerprint,
            }
            checkpoints.write_json(cache / REPORT, report)
        return classifier, accuracy


def _cached(cache: Path, fingerprint: str) -> tuple[dict, float] | None:
    """(weights, accuracy), or None if there is nothing of this fingerprint that can be read: then we train anew."""
    try:
        report = checkpoints.read_json(cache / REPORT)
        with safe_open(cache / WEIGHTS, framework="pt") as file:
            if fingerprint != report["fingerprint"] or fingerprint != file.metadata()["fingerprint"]:
                return None
            return {key: file.get_tensor(key) for key in file.keys()}, report["accuracy"]  # noqa: SIM118
    except (ValueError, KeyError, TypeError, OSError, SafetensorError):
        return None


def _fingerprint(train: ImageDataset, test: ImageDataset) -> str:
    """Of everything the classifier and its accuracy depend on."""
    digest = hashlib.blake2b(f"{RECIPE} {train.shape} {train.class_names} {len(train)}".encode(), digest_size=16)
    for split in (train, test):
        for x, y in _batches(split):
            digest.update(x.numpy().tobytes())
            digest.update(y.numpy().tobytes())
    return digest.hexdigest()


def _batches(dataset: ImageDataset) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for first in range(0, len(dataset), CHUNK):
        yield read(dataset, range(first, min(first + CHUNK, len(dataset))))


def _subset(count: int, limit: int, name: str) -> torch.Tensor:
    """min(count, limit) different indices below `count`, in a random but fixed order."""
    return torch.randperm(count, generator=generator(0, "metrics", name))[:limit]


def _spread(images: torch.Tensor, labels: torch.Tensor, num_classes: int) -> dict[int, float]:
    """Mean pixel distance between two images of a class, for the classes with at least two images."""
    groups = {k: images[labels == k].flatten(1) for k in range(num_classes)}
    return {k: F.pdist(x).mean().item() for k, x in groups.items() if len(x) > 1}


def _nearest(images: torch.Tensor, others: torch.Tensor) -> float:
    """Mean over images of the pixel distance to the nearest of `others`."""
    parts = [_distances(x, others).amin(1) for x in images.split(CHUNK)]
    return torch.cat(parts).mean().item()


def _distances(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    # By differences: the expansion |x|^2 - 2xy + |y|^2 does not give 0 for a copy.
    return torch.cdist(x.flatten(1), y.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
