"""What the examples in the plane share: two moons, a small network, the distance to the data and a picture of both."""

from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.datasets import make_moons

from distillkac.flow.exact_flow import sampling_floor, sliced_wasserstein

NIGHT, PAPER, SAND = "#0d1220", "#e8ebf2", "#f2c14e"


class Velocity(torch.nn.Module):
    """A velocity in the plane, in the argument order of flow_matching: x (B, 2), t () or (B,) -> (B, 2).

    Waves of x and t beside themselves, because a plain network of this size blurs edges.
    """

    def __init__(self, width: int = 128):
        super().__init__()
        self.register_buffer("frequencies", torch.pi * torch.tensor([0.5, 1.0, 2.0, 4.0]))
        layers = [torch.nn.Linear(3 * 9, width), torch.nn.SiLU()]
        for _ in range(3):
            layers += [torch.nn.Linear(width, width), torch.nn.SiLU()]
        self.layers = torch.nn.Sequential(*layers, torch.nn.Linear(width, 2))

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        place = torch.cat([x, t.expand(len(x))[:, None]], 1)
        phase = (place[..., None] * self.frequencies).flatten(1)
        return self.layers(torch.cat([place, phase.sin(), phase.cos()], 1))


def moons(n: int, seed: int = 0) -> torch.Tensor:
    """(n, 2) float64: two half circles that reach into each other, a little blurred, in [-1, 1]^2."""
    points, _ = make_moons(n, noise=0.05, random_state=seed)
    return (torch.from_numpy(points) - torch.tensor([0.5, 0.25])) / torch.tensor([1.7, 1.1])


def told(samples: torch.Tensor, data: torch.Tensor) -> str:
    """The sliced Wasserstein distance of samples (n, 2) to data (m, 2), beside that of n draws from the data."""
    distance, floor = sliced_wasserstein(samples, data), sampling_floor(data, len(samples))
    return f"sliced Wasserstein distance {distance:.4f}; of as many fresh draws from the data {floor:.4f}"


def save_picture(out: Path, panels: list[tuple[str, torch.Tensor]], view: float = 1.25) -> None:
    """Writes the point sets (n, 2) side by side, the last, which is the data, in another color."""
    figure = Figure(figsize=(2.6 * len(panels), 2.9), dpi=120, facecolor=NIGHT)
    for place, (title, points) in enumerate(panels):
        axes = figure.add_axes((place / len(panels), 0, 1 / len(panels), 0.9))
        color = SAND if place == len(panels) - 1 else PAPER
        axes.scatter(*points.detach().cpu().numpy().T, s=1.2, c=color, alpha=0.6, linewidths=0)
        axes.set(xlim=(-view, view), ylim=(-view, view), aspect="equal")
        axes.set_title(title, color=color, fontsize=10)
        axes.set_axis_off()
    out.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_figure(out, facecolor=NIGHT)
