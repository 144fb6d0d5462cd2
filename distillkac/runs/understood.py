"""What was understood of a network given in Python, in numbers: by these a run notices that it is opened with another one,
whose weights fit as well.

What a VelocityFrom says of its path and of the number that its model is told is looked at wherever a run is opened. Of an
adopted network, whose weights never change, the answers are kept too: changed code or attributes show in them.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from distillkac.base.random import generator
from distillkac.flow.velocity_from import VelocityFrom

POINTS = (0.25, 0.5, 0.75, 1.0)
"""Times at which is looked."""
WORDS = ("alpha", "sigma", "the number that the model is told")
CLOSE = 1e-4
"""Relative to the larger: functions of float32 differ by less on other machines."""
LIKE = 1e-2
"""Of an answer's root mean square: TF32 and other kernels change some 1e-3 of it."""


def meaning(network: nn.Module) -> tuple[float, ...]:
    """Of a VelocityFrom: alpha (or f), sigma (or g), and the number that the model is told, at each of POINTS; else ()."""
    if not isinstance(network, VelocityFrom):
        return ()
    t = torch.tensor(POINTS, dtype=torch.float32, device="cpu")
    told = t if network.time is None else network.time(t)
    return tuple(float(v) for part in (*network.process.scales(t.double()), told) for v in part)


@torch.no_grad()
def answers(network: nn.Module, shape: tuple[int, int, int], num_classes: int) -> tuple[float, ...]:
    """Of the velocity at each of POINTS, for fixed noise and classes, the root mean square and the part along other fixed
    noise. () of a network that is random itself. network: in eval mode. Raises ValueError if it fails."""
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    source, size = generator(0, "understood"), (2, len(POINTS), *shape)
    # Uniform, of variance 1: its bits are the same on every machine.
    x, along = ((torch.rand(size, dtype=torch.float32, generator=source) * 2 - 1) * 3**0.5).to(device)
    y, t = (
        torch.arange(len(POINTS), device=device) % num_classes,
        torch.tensor(POINTS, dtype=torch.float32, device=device),
    )
    found = []
    with torch.random.fork_rng():
        for number in range(2):
            torch.manual_seed(number)
            try:
                u = network(x.clone(), t.clone(), y.clone()).double().flatten(1)
            except Exception as error:  # whatever the module of a user raises
                reason = (str(error).splitlines() or [""])[0]
                raise ValueError(
                    f"this {type(network).__name__} failed for {len(t)} images, {type(error).__name__}: {reason}"
                ) from error
            found.append([u.square().mean(1).sqrt(), (u * along.flatten(1)).mean(1)])
    first, second = (torch.cat(parts).tolist() for parts in found)
    return tuple(first) if _like(first, second) else ()


def _like(before: Sequence[float], now: Sequence[float]) -> bool:
    sizes = before[: len(POINTS)]
    return all(abs(a - b) <= LIKE * size for a, b, size in zip(before, now, [*sizes, *sizes], strict=True))


def check_meaning(folder: Path, before: tuple[float, ...], now: tuple[float, ...]) -> None:
    """Raises ValueError naming what a network says otherwise than that of the run did; earlier versions kept nothing of it."""
    if not before or not now:
        return
    for number, (a, b) in enumerate(zip(before, now, strict=True)):
        if abs(a - b) > CLOSE * max(abs(a), abs(b), CLOSE):
            what, t = WORDS[number // len(POINTS)], POINTS[number % len(POINTS)]
            raise ValueError(
                f"{folder} was made with a network of which {what} at t = {t:g} is {a:.6g}, and of this one it is {b:.6g}: "
                "give it the process and the time of before"
            )


def check_answers(folder: Path, before: tuple[float, ...], network: nn.Module, shape: tuple, num_classes: int) -> None:
    """Raises ValueError if a network with the weights of the run answers otherwise than it did when it was adopted."""
    if not before:
        return
    try:
        now = answers(network, shape, num_classes)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    if not now or not _like(before, now):
        raise ValueError(
            f"{folder} was adopted with a network that answered otherwise with the same weights: its code or an attribute has "
            "changed since; give it as it was, or adopt it anew in another folder"
        )
