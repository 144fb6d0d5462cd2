"""tmp"""
import torch

from distillkac.random import generator


def sliced_wasserstein(x: torch.Tensor, y: torch.Tensor, directions: int = 64, seed: int = 0) -> float:
    """Mean over random directions of the Wasserstein-1 distance between projections. x: (n, D). y: (m, D).

    Exact for each direction, the integral of |F - G| of the two empirical distribution functions.
    """
    x, y = x.double(), y.double()
    axes = torch.randn(x.shape[1], directions, dtype=torch.float64, generator=generator(seed, "directions"))
    axes /= axes.norm(dim=0)
    x, y = (axes.T @ x.T).sort(1).values, (axes.T @ y.T).sort(1).values
    both = torch.cat([x, y], 1).sort(1).values
    f, g = (torch.searchsorted(v, both[:, :-1].contiguous(), right=True).double() / v.shape[1] for v in (x, y))
    return ((f - g).abs() * both.diff(dim=1)).sum(1).mean().item()


def sampling_floor(data: torch.Tensor, n: int, seed: int = 0, repeats: int = 8) -> float:
    """Mean sliced Wasserstein distance of n fresh draws from the data (m, D) to the data: what a perfect sampler scores."""
    rows = torch.randint(len(data), (repeats, n), generator=generator(seed, "floor"))
    return sum(sliced_wasserstein(data[r], data, seed=seed) for r in rows) / repeats
