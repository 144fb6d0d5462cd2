"""What the kinetic energy of a path goes with, over the images of a teacher: the question of arXiv 2602.07928.

Correlations are Spearman's: Pearson's of the ranks, where equal values share the mean of their places. Beside those over all
images stand those within a class: ranks are taken in each class, as shares of its number, so that what differs from class to
class counts for nothing.
"""

import torch

from distillkac.evaluation.metrics import Evaluator
from distillkac.runs.run import Run
from distillkac.runs.sampler import SamplerConfig
from distillkac.runs.sampling import class_labels, generate

__all__ = ["correlation", "energy_ranks", "ranks", "spearman"]


def correlation(x: torch.Tensor, y: torch.Tensor) -> float | None:
    """Pearson's, of (n,) and (n,); None if one of them is constant."""
    x, y = x.double() - x.double().mean(), y.double() - y.double().mean()
    norm = float(x.norm() * y.norm())
    return float(x @ y) / norm if norm > 0 else None


def ranks(x: torch.Tensor) -> torch.Tensor:
    """(n,) -> the place of each value in order, from 0, float64; of equal values the mean of their places."""
    _, which, counts = x.unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts + 1) / 2).double()[which]


def spearman(x: torch.Tensor, y: torch.Tensor) -> float | None:
    """Rank correlation of (n,) and (n,), in [-1, 1]; None if one of them is constant."""
    return correlation(ranks(x), ranks(y))


def within(x: torch.Tensor, y: torch.Tensor, labels: torch.Tensor) -> float | None:
    """Rank correlation within the classes. x, y, labels: (n,). None if in each class one of them is constant."""
    places = torch.zeros(2, len(x), dtype=torch.float64)
    for label in labels.unique().tolist():
        rows = labels == label
        for place, values in zip(places, (x, y), strict=True):
            # About 0 in each class, whose own mean then counts for nothing.
            place[rows] = (ranks(values[rows]) - (int(rows.sum()) - 1) / 2) / int(rows.sum())
    return correlation(*places)


def energy_ranks(teacher: Run, evaluator: Evaluator, num: int, seed: int, batch_size: int) -> dict:
    """Energies of `num` images as the teacher draws them by default (20 AB-2 steps), and what they go with.

    energy: mean and quantiles 5% and 95%. nearest: Spearman with the distance to the nearest training image, over pixels.
    confidence: with the classifier's probability of the class that was asked for, left out for data of one class. Each over
    `all` images and `within` the classes.
    """
    labels = class_labels(teacher.config, num)
    samples = generate(teacher, labels, SamplerConfig(model="teacher"), seed, batch_size)
    found: dict = {"num": num, "energy": {"mean": float(samples.energy.mean())}}
    for share in (0.05, 0.95):
        found["energy"][f"quantile_{100 * share:.0f}"] = float(torch.quantile(samples.energy, share))
    against = {"nearest": evaluator.nearest_train(samples.images)}
    if evaluator.num_classes > 1:
        against["confidence"] = _sure(evaluator, samples.images, labels)
    for name, values in against.items():
        found[name] = {"all": spearman(samples.energy, values), "within": within(samples.energy, values, labels)}
    return found


def _sure(evaluator: Evaluator, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """log p - log(1 - p) of the class that was asked for: of the order of p, without its ties next to 1."""
    scores = evaluator.logits(images)
    own = scores.gather(1, labels[:, None])[:, 0]
    return own - scores.scatter(1, labels[:, None], -torch.inf).logsumexp(1)
