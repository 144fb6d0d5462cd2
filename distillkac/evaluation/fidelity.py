"""FID, KID, precision and recall: how the features of generated images lie among those of real ones (docs/evaluation.md).

FID and KID are torchmetrics', on features that are already there; the neighbourhood measures are written out below.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from distillkac.base import files, optional
from distillkac.base.progress import Bar
from distillkac.base.random import derive_seed, generator
from distillkac.data import to_bytes
from distillkac.evaluation.inception import Inception
from distillkac.runs import checkpoints
from distillkac.runs.sampling import finite

KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000
CHUNK = 512  # rows of a distance matrix at a time
AT_ONCE = 64  # images in the extractor: more would be no faster and take gigabytes


class _Given(nn.Module):
    """What torchmetrics takes for its network: the features as they are."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


def check_extra() -> None:
    """Raises ValueError naming the extra to install."""
    optional.load("torchmetrics", "computing fid and kid")


def warn_of_few(metrics: Sequence[str], generated: int, real: int, num_features: int) -> None:
    """Warns where FID or KID (by their names in `metrics`) of so many images say less than they seem to."""
    if "fid" in metrics and min(generated, real) < num_features:
        warnings.warn(
            f"FID of {generated} generated and {real} real images: fewer than {num_features} cannot give {num_features} "
            "features a covariance of full rank, so it is far too high and compares with nothing; take more, or KID",
            stacklevel=1,
        )
    if "kid" in metrics and min(generated, real) < KID_SUBSET_SIZE:
        warnings.warn(
            f"KID of {generated} generated and {real} real images: of fewer than {KID_SUBSET_SIZE} every subset takes all, so "
            "its deviation over the subsets is no error bar",
            stacklevel=1,
        )


def fid(generated: torch.Tensor, real: torch.Tensor) -> float:
    """Fréchet distance of the Gaussians with the moments of the features (n, d) and (m, d), n and m >= 2; float64 inside.

    Warns if n or m is less than d.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    warn_of_few(["fid"], len(generated), len(real), real.shape[1])
    metric = FrechetInceptionDistance(feature=_Given(real.shape[1]), sync_on_compute=False)
    for features, is_real in ((real, True), (generated, False)):
        for part in features.double().split(8192):
            metric.update(part, real=is_real)
    return float(metric.compute())


def kid(generated: torch.Tensor, real: torch.Tensor, seed: int = 0) -> tuple[float, float]:
    """(mean, standard deviation) over 100 random subsets of the unbiased MMD^2 with the kernel (x.y / d + 1)^3.

    Features (n, d) and (m, d); subsets of 1000, or, with a warning, of all if there are fewer. The subsets follow from
    `seed`.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    warn_of_few(["kid"], len(generated), len(real), real.shape[1])
    size = min(KID_SUBSET_SIZE, len(generated), len(real))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*will save all extracted features")
        metric = KernelInceptionDistance(
            feature=_Given(real.shape[1]), subsets=KID_SUBSETS, subset_size=size, sync_on_compute=False
        )
    metric.update(real.double(), real=True)
    metric.update(generated.double(), real=False)
    with torch.random.fork_rng(devices=[]):  # torchmetrics draws its subsets from the global generator
        torch.manual_seed(derive_seed(seed, "kid"))
        mean, std = metric.compute()
    return float(mean), float(std)


def precision_recall(generated: torch.Tensor, real: torch.Tensor, k: int = 3) -> dict[str, float]:
    """Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020) by nearest neighbours.

    With R(z) the distance of z to the k-th nearest other point of its own set, g_j generated (M), r_i real (N):

        precision = share of the g_j with |g_j - r_i| <= R(r_i) for some i
        recall    = share of the r_i with |r_i - g_j| <= R(g_j) for some j
        density   = 1 / (k M) * number of pairs with |g_j - r_i| <= R(r_i)
        coverage  = share of the r_i with |g_j - r_i| <= R(r_i) for some j

    generated: (M, d), real: (N, d), on one device; k in [1, min(M, N) - 1], else ValueError. Distances in float64.
    """
    if not 1 <= k < min(len(generated), len(real)):
        raise ValueError(f"k must lie in [1, {min(len(generated), len(real)) - 1}] for so few images, got {k}")
    generated, real = generated.double(), real.double()
    real_radius, radius = _radii(real, k), _radii(generated, k)
    precise = density = 0
    recalled, covered = 0, torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for part in generated.split(CHUNK):
        inside = torch.cdist(part, real) <= real_radius
        precise += int(inside.any(1).sum())
        density += int(inside.sum())
        covered |= inside.any(0)
    for part in real.split(CHUNK):
        recalled += int((torch.cdist(part, generated) <= radius).any(1).sum())
    return {
        "precision": precise / len(generated),
        "recall": recalled / len(real),
        "density": density / (k * len(generated)),
        "coverage": int(covered.sum()) / len(real),
    }


def measures(
    metrics: Sequence[str], generated: torch.Tensor, real: torch.Tensor, seed: int, k: int, device: torch.device
) -> dict[str, float]:
    """What is asked for of fid, kid and precision-recall, by key of a table, computed on `device`."""
    generated, real = generated.to(device), real.to(device)
    result = {}
    if "fid" in metrics:
        result["fid"] = fid(generated, real)
    if "kid" in metrics:
        result["kid"], result["kid_std"] = kid(generated, real, seed)
    if "precision-recall" in metrics:
        result |= precision_recall(generated, real, k)
    return result


def _radii(points: torch.Tensor, k: int) -> torch.Tensor:
    """Distance of each point to its k-th nearest other one; the point itself is the nearest of all, at about 0."""
    return torch.cat([torch.cdist(part, points).kthvalue(k + 1, dim=1).values for part in points.split(CHUNK)])


def to_rgb8(images: torch.Tensor) -> torch.Tensor:
    """(n, C, H, W), C = 1 or 3, uint8 or floats clamped to [-1, 1] -> (n, 3, H, W) uint8, as a saved file has them.

    Raises ValueError if values are not finite.
    """
    if images.dtype != torch.uint8:
        images = to_bytes(finite(images))
    return images.expand(-1, 3, -1, -1)


@torch.no_grad()
def collect(
    extractor: Inception,
    images: Callable[[int, int], torch.Tensor],
    count: int,
    batch_size: int,
    accelerator: Accelerator,
    title: str,
) -> torch.Tensor:
    """(count, d) features on the CPU, the same in every process, each of which computes an equal share.

    images(first, last): the images of these numbers, as `to_rgb8` takes them.
    """
    share = -(-count // accelerator.num_processes)
    start = min(accelerator.process_index * share, count)
    stop = min(start + share, count)
    mine = torch.zeros(share, extractor.num_features, dtype=torch.float32)
    with Bar(title=title, unit="image", total=count, main=accelerator.is_main_process) as bar:
        for first in range(start, stop, batch_size):
            last = min(first + batch_size, stop)
            parts = to_rgb8(images(first, last)).split(AT_ONCE)
            features = [extractor(part.to(accelerator.device)).float().cpu() for part in parts]
            mine[first - start : last - start] = torch.cat(features)
            bar.update((last - first) * accelerator.num_processes)
    if accelerator.num_processes == 1:
        return mine
    return accelerator.gather(mine.to(accelerator.device)).cpu()[:count]  # only the last rows are filling


class Reference:
    """Features of real images of a split, kept in a file for the next time.

    dataset: as data.load gives it; mirror images are left out. limit: at most that many images, chosen by a fixed seed.
    rows: (n,) their numbers. key: everything the features depend on, the images themselves among it.
    """

    def __init__(self, dataset, split: str, limit: int, extractor: Inception):
        self.dataset, self.split, self.extractor = dataset, split, extractor
        total = len(dataset) // (2 if dataset.mirrored else 1)
        chosen = torch.randperm(total, generator=generator(0, "reference"))[:limit]
        self.rows = chosen.sort().values
        if len(self.rows) < 2:
            raise ValueError(f"the {split} split has {len(self.rows)} images: a reference needs at least 2")

    def images(self, first: int, last: int) -> torch.Tensor:
        return self.dataset.__getitems__(self.rows[first:last])[0]

    def key(self, batch_size: int = 500) -> str:
        digest = hashlib.sha256()
        for first in range(0, len(self.rows), batch_size):
            digest.update(to_rgb8(self.images(first, first + batch_size)).contiguous().numpy().tobytes())
        return json.dumps(
            {
                "images": digest.hexdigest(),
                "shape": list(self.dataset.shape),
                "count": len(self.rows),
                "split": self.split,
                "resize": self.extractor.resize,
                "extractor": self.extractor.name,
                "weights": self.extractor.sha256,
            }
        )

    def features(self, folder: Path, batch_size: int, accelerator: Accelerator) -> torch.Tensor:
        """(n, d) float32, from FOLDER/reference-SPLIT.safetensors if its key is this one's, else computed and written."""
        path = folder / f"reference-{self.split}.safetensors"
        key = self.key() if accelerator.is_main_process else ""
        found = checkpoints.read_cached(path, key=key) if accelerator.is_main_process else None
        if _agreed(found is not None, accelerator):
            return (
                found[0]["features"]
                if found is not None
                else torch.empty(0, self.extractor.num_features, dtype=torch.float32)
            )
        made = collect(
            self.extractor, self.images, len(self.rows), batch_size, accelerator, f"real images ({self.split})"
        )
        if accelerator.is_main_process:
            files.write_atomic(path, checkpoints.to_safetensors({"features": made}, {"format": "pt", "key": key}))
        return made


def _agreed(mine: bool, accelerator: Accelerator) -> bool:
    """The first process's answer, in all of them."""
    return bool(accelerator.reduce(torch.tensor([float(mine)], device=accelerator.device)).item())
