"""How good samples are, on small images, without any download: a classifier's features and distances in pixels.

Protocol: the classifier is trained on the train split only, with a fixed seed. Generated images are clamped to [-1, 1].
Features are its 32 penultimate activations, each scaled to unit variance over the train split.
- Fréchet distance of Gaussians fitted to the features: |m - m'|^2 + tr(S + S' - 2 (S S')^(1/2)), against the held-out
  images (and, steadier between seeds, against the train images). It falls with n: compare at one n only.
- accuracy: share of samples that the classifier gives the class they were made for; also of the worst class.
- diversity: mean distance between two samples of a class over that between two held-out images of the class; 1 is real.
- nn_ratio: mean distance to the nearest of n train images over that to the nearest of n held-out ones. Clearly below 1:
  the samples are copies of training images.
"""

import hashlib
import math
from pathlib import Path

import torch
from safetensors.torch import save as to_safetensors
from torch import nn

from distillkac import checkpoints

FEATURES = 32
TRAIN_STEPS = 1200
WEIGHTS, NOTE = "classifier.safetensors", "classifier.json"
COMPARED = 2000  # samples that enter the pixel distances


class Classifier(nn.Module):
    """A small convolutional classifier; `features` gives the 32 penultimate activations."""

    def __init__(self, channels: int, classes: int):
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(4)),
            *(nn.Flatten(), nn.Dropout(0.3), nn.Linear(1024, FEATURES)),
        )
        self.head = nn.Sequential(nn.ReLU(), nn.Dropout(0.2), nn.Linear(FEATURES, classes))

    def forward(self, x):
        return self.head(self.features(x))


def train_classifier(x: torch.Tensor, y: torch.Tensor, classes: int, seed: int = 0) -> Classifier:
    """Trained on x (n, C, H, W) in [-1, 1], y (n,); the same for the same arguments, and no global random state moves."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Classifier(x.shape[1], classes)
        optimizer = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda k: 0.5 + 0.5 * math.cos(math.pi * k / TRAIN_STEPS)
        )
        for _ in range(TRAIN_STEPS):
            rows = torch.randint(len(x), (64,))
            noisy = x[rows] + 0.15 * torch.randn_like(x[rows])
            loss = nn.functional.cross_entropy(network(noisy), y[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval().requires_grad_(False)


def frechet_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Fréchet distance of the Gaussians fitted to two sets of features (n, d) and (m, d), n, m >= 2, in float64."""
    a, b = a.double(), b.double()
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    root_a = _square_root(cov_a)
    # tr (A B)^(1/2) = tr (A^(1/2) B A^(1/2))^(1/2), whose argument is symmetric.
    cross = torch.linalg.eigvalsh(root_a @ cov_b @ root_a).clamp(min=0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross)


def _square_root(matrix: torch.Tensor) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


class Evaluator:
    """Measures samples against a train and a held-out set (data.Images).

    The classifier is kept in cache_dir/classifier.safetensors and used again for the same data. With one class there is
    nothing to classify: the network then learns to tell images from images turned by half a turn, and accuracy is left out.
    """

    def __init__(self, train, test, cache_dir: Path):
        self.train_x, train_y = train.everything()
        self.test_x, self.test_y = test.everything()
        self.classes = train.num_classes
        self.classifier, self.accuracy = self._classifier(train_y, Path(cache_dir))
        self.scale = self._raw_features(self.train_x).std(0).clamp(min=1e-6)
        self.train_features, self.test_features = self.features(self.train_x), self.features(self.test_x)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """(n, C, H, W) -> (n, 32) float32, unit variance over the train split."""
        return self._raw_features(x) / self.scale

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
        """images: (n, C, H, W), clamped here; labels: (n,), the classes they were made for. See the top of this file."""
        x = images.clamp(-1, 1)
        features = self.features(x)
        result = {
            "frechet": frechet_distance(features, self.test_features),
            "frechet_train": frechet_distance(features, self.train_features),
        }
        if self.classes > 1:
            right = (self._predicted(x) == labels).double()
            by_class = [right[labels == k].mean().item() for k in labels.unique().tolist()]
            result |= {"accuracy": right.mean().item(), "worst_class_accuracy": min(by_class)}
        return result | {"diversity": self._diversity(x, labels), "nn_ratio": self._nn_ratio(x)}

    def floor(self) -> dict[str, float]:
        """The real train images through the same metric: what a perfect generator of n = len(train) could reach."""
        features = self.train_features
        return {"frechet": frechet_distance(features, self.test_features)}

    def _raw_features(self, x):
        return torch.cat([self.classifier.features(part) for part in x.split(1000)])

    def _predicted(self, x):
        return torch.cat([self.classifier(part).argmax(1) for part in x.split(1000)])

    def _diversity(self, x, labels):
        x, labels = x[:COMPARED].flatten(1), labels[:COMPARED]
        ratios = []
        for k in labels.unique().tolist():
            mine, real = x[labels == k], self.test_x[self.test_y == k].flatten(1)
            if len(mine) > 1 and len(real) > 1:
                ratios.append((torch.pdist(mine).mean() / torch.pdist(real).mean()).item())
        return sum(ratios) / len(ratios) if ratios else float("nan")

    def _nn_ratio(self, x):
        count = min(len(self.train_x), len(self.test_x))
        rows = torch.randperm(len(self.train_x), generator=torch.Generator().manual_seed(5))[:count]
        x = x[:COMPARED].flatten(1)
        to_train = torch.cdist(x, self.train_x[rows].flatten(1)).amin(1).mean()
        return (to_train / torch.cdist(x, self.test_x[:count].flatten(1)).amin(1).mean()).item()

    def _classifier(self, train_y, folder):
        x, y, test_x, test_y, classes = self.train_x, train_y, self.test_x, self.test_y, self.classes
        if classes == 1:
            (x, y), (test_x, test_y), classes = _turned(x), _turned(test_x), 2
        fingerprint = _fingerprint(x, y, test_x, test_y)
        network = Classifier(x.shape[1], classes).eval().requires_grad_(False)
        try:
            known = checkpoints.read_json(folder / NOTE)
            if known["fingerprint"] == fingerprint:
                network.load_state_dict(checkpoints.load_weights(folder, WEIGHTS)[0])
                return network, known["accuracy"]
        except (ValueError, KeyError, TypeError, RuntimeError):
            pass  # no cache, or one of other data or another version: made anew below
        network = train_classifier(x, y, classes)
        right = torch.cat([network(part).argmax(1) for part in test_x.split(1000)]) == test_y
        accuracy = right.double().mean().item()
        # The note last: without it the weights are not used.
        checkpoints.write_atomic(folder / WEIGHTS, to_safetensors(network.state_dict()))
        checkpoints.write_json(folder / NOTE, {"fingerprint": fingerprint, "accuracy": accuracy})
        return network, accuracy


def _turned(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The images and the same turned by half a turn, labelled 0 and 1."""
    return torch.cat([x, x.flip(-1, -2)]), torch.arange(2).repeat_interleave(len(x))


def _fingerprint(*tensors: torch.Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(str(tuple(tensor.shape)).encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
