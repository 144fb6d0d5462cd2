"""The classifier whose features the measures of metrics.py are taken in, the same on every machine.

Everything is float64. What a processor, a number of threads or an address rounds differently then moves a feature, and a
weight after the whole training, by 1e-13 of it; in float32 two machines' trainings part within 50 steps, and the same
images are given Fréchet distances that differ by a seventh. Trained weights are rounded to float16: the remaining
differences vanish, so that machines agree in the digest.

The built-in images and Fashion-MNIST have their classifiers in the package (evaluators/); for other data one is trained,
and kept in the run folder.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from distillkac.base import files
from distillkac.base.progress import Bar
from distillkac.data import ImageDataset, read
from distillkac.evaluation import evaluators
from distillkac.runs import checkpoints
from distillkac.runs.optim_config import OptimConfig
from distillkac.training.optimizer import build as build_optimizer

WEIGHTS, REPORT = "classifier.safetensors", "classifier.json"
RECIPE = "3"  # raise it whenever Classifier or train_classifier changes, and make the shipped ones again (evaluators/)
FEATURES = 32
STEPS, BATCH, SMOOTHING = 1200, 64, 0.05
SMALL_OPTIM, NOISE = OptimConfig(lr=1e-3, weight_decay=1e-2), 0.15
# Of LARGE images and more each is seen EPOCHS times on the average, and Muon learns more of that than AdamW. Nothing is learned
# by heart in so few epochs, so noise on the images would only cost accuracy.
LARGE, EPOCHS = 15_000, 5
LARGE_OPTIM = OptimConfig(optimizer="muon", lr=2e-3, beta2=0.99, weight_decay=1e-2)
CHUNK = 100  # images at a time
PRETEXT_CLASSES = 4


class Classifier(nn.Module):
    """Three convolutions, 32 features, a linear head; larger images are first halved until they are about 8 x 8.

    shape: (C, H, W). classes: outputs. All weights are float64. forward: (B, C, H, W) in [-1, 1] -> (B, classes) logits.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int):
        super().__init__()
        conv = partial(nn.Conv2d, kernel_size=3, padding=1, dtype=torch.float64)
        linear = partial(nn.Linear, dtype=torch.float64)
        halvings = max(0, int(math.log2(min(shape[1:]) / 8))) if min(shape[1:]) >= 8 else 0
        down = [m for _ in range(halvings) for m in (nn.MaxPool2d(2), conv(32, 32), nn.ReLU())]
        self.body = nn.Sequential(
            *(conv(shape[0], 32), nn.ReLU(), *down),
            *(conv(32, 64), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)),
            *(conv(64, 64), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.3)),
            linear(1024, FEATURES),
        )
        self.head = nn.Sequential(nn.ReLU(), nn.Dropout(0.2), linear(FEATURES, classes))

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """The input of the head: (B, C, H, W) of any float type -> (B, 32) float64."""
        return self.body(x.double())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x))


@dataclass(frozen=True)
class Trained:
    """A classifier of a data set. accuracy: on the held-out split (for data of one class: at naming the mirroring).

    name: "digits, shipped" or "trained here". digest: of the weights and of all images and labels that they and the
    moments come from. Figures compare where the digests are the same.
    """

    network: Classifier
    accuracy: float
    name: str
    digest: str


def classifier_of(train: ImageDataset, test: ImageDataset, cache: Path | None = None) -> Trained:
    """The shipped classifier of exactly this data and recipe, else the one in the folder `cache`, else a fresh one, which
    is then kept there. Raises ValueError naming the file if a shipped one is damaged."""
    fingerprint = fingerprint_of(train, test)
    if (found := evaluators.shipped(fingerprint)) is not None:
        digest = digest_of(fingerprint, found.weights)
        if digest != found.digest:
            raise ValueError(evaluators.replaced(found.path, digest, found.digest))
        return Trained(_network(train, found.weights), found.accuracy, f"{found.name}, shipped", digest)
    evaluators.warn_if_like_a_shipped_one(train, test)
    if cache is not None and (kept := _cached(cache, fingerprint)) is not None:
        weights, accuracy = kept
        return Trained(_network(train, weights), accuracy, "trained here", digest_of(fingerprint, weights))
    made = fresh(train, test, fingerprint)
    if cache is not None:
        files.write_atomic(cache / WEIGHTS, to_bytes(made, fingerprint))
        report = {"accuracy": made.accuracy, "train": len(train), "test": len(test)}
        files.write_json(cache / REPORT, report | {"fingerprint": fingerprint, "digest": made.digest})
    return made


def fresh(train: ImageDataset, test: ImageDataset, fingerprint: str) -> Trained:
    """A classifier trained now. fingerprint: of the two splits."""
    network = train_classifier(train)
    return Trained(network, _accuracy(network, test), "trained here", digest_of(fingerprint, stored(network)))


def train_classifier(train: ImageDataset) -> Classifier:
    """Fits a classifier to a data set, in eval mode; a function of the data only: about 30 s for the digits, a quarter of
    an hour for 60 000 images of 28 x 28.

    With a single class there is nothing to tell apart: it learns instead which of four mirrorings an image has
    undergone, which needs features of what the images show as well.
    """
    # Initial weights and dropout read the global generator, so we seed it and put it back afterwards.
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        network = Classifier(train.shape, _outputs(train))
        large, steps = len(train) >= LARGE, steps_for(len(train))
        noise, optim = (0.0, LARGE_OPTIM) if large else (NOISE, SMALL_OPTIM)
        optimizer = build_optimizer(network, optim)
        bar = Bar(range(steps), title="classifier", unit="step")
        for step in bar:
            for group in optimizer.param_groups:
                group["lr"] = optim.lr * (0.5 + 0.5 * math.cos(math.pi * step / steps))
            x, y = read(train, torch.randint(len(train), (BATCH,)))
            if train.num_classes == 1:
                x, y = _mirror(x)
            # Drawn in float64 as well: float32 noise of different vector units is not the same.
            noisy = x + noise * torch.randn(x.shape, dtype=torch.float64)
            loss = F.cross_entropy(network(noisy), y, label_smoothing=SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            for weight in network.parameters():
                weight.copy_(weight.half())
    return network.eval().requires_grad_(False)


def steps_for(count: int) -> int:
    """Optimizer steps for `count` training images."""
    return EPOCHS * count // BATCH if count >= LARGE else STEPS


def stored(network: Classifier) -> dict[str, torch.Tensor]:
    """The weights as they are kept: float16, which holds them exactly."""
    return {name: value.half() for name, value in network.state_dict().items()}


def to_bytes(made: Trained, fingerprint: str) -> bytes:
    """The content of a classifier's .safetensors file."""
    about = {"format": "pt", "fingerprint": fingerprint, "digest": made.digest, "accuracy": repr(made.accuracy)}
    return checkpoints.to_safetensors(stored(made.network), about)


def fingerprint_of(train: ImageDataset, test: ImageDataset) -> str:
    """Of everything the classifier, its accuracy and the moments depend on."""
    recipe = f"{RECIPE}, large" if len(train) >= LARGE else RECIPE
    digest = hashlib.blake2b(f"{recipe} {train.shape} {train.class_names} {len(train)}".encode(), digest_size=16)
    for split in (train, test):
        for x, y in batches(split):
            digest.update(x.numpy().tobytes())
            digest.update(y.numpy().tobytes())
    return digest.hexdigest()


def digest_of(fingerprint: str, weights: dict[str, torch.Tensor]) -> str:
    """Of float16 weights by name and of the data's fingerprint; of other tensors and of what they depend on."""
    digest = hashlib.blake2b(fingerprint.encode(), digest_size=16)
    for name in sorted(weights):
        value = weights[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def batches(dataset: ImageDataset) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for first in range(0, len(dataset), CHUNK):
        yield read(dataset, range(first, min(first + CHUNK, len(dataset))))


def _outputs(train: ImageDataset) -> int:
    return train.num_classes if train.num_classes > 1 else PRETEXT_CLASSES


def _network(train: ImageDataset, weights: dict[str, torch.Tensor]) -> Classifier:
    with torch.random.fork_rng(devices=[]):
        network = Classifier(train.shape, _outputs(train))
    network.load_state_dict(weights)
    return network.eval().requires_grad_(False)


def _accuracy(network: Classifier, test: ImageDataset) -> float:
    right = 0
    for x, y in batches(test):
        x, y = _mirror(x) if test.num_classes == 1 else (x, y)
        right += int((network(x).argmax(1) == y).sum())
    return right / len(test)


def _mirror(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Images mirrored in neither, one, the other or both directions in turn, and which: 0 to 3."""
    y = torch.arange(len(x)) % PRETEXT_CLASSES
    x = torch.where((y % 2 == 1)[:, None, None, None], x.flip(-1), x)
    return torch.where((y >= 2)[:, None, None, None], x.flip(-2), x), y


def _cached(cache: Path, fingerprint: str) -> tuple[dict[str, torch.Tensor], float] | None:
    """(weights, accuracy), or None if there is nothing whole of this fingerprint: then we train anew."""
    if (found := checkpoints.read_cached(cache / WEIGHTS, fingerprint=fingerprint)) is None:
        return None
    weights, about = found
    try:
        return (weights, float(about["accuracy"])) if about["digest"] == digest_of(fingerprint, weights) else None
    except (ValueError, KeyError, TypeError):
        return None
