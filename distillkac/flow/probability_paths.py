"""Gaussian probability paths x_t = alpha(t) x_0 + sigma(t) z, by name or as a function (docs/method.md, section 9).

A path is a function of the times, t -> (alpha, sigma), with alpha(0) = 1 and sigma(0) = 0: t = 0 is the data itself. Its
derivatives, which velocities need, are found by torch's autograd in float64.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["EARLIEST", "PATHS", "PathFunction", "add_path", "check_path", "path_end", "path_scales", "path_schedules"]

PathFunction = Callable[[Tensor], tuple[Tensor, Tensor]]
"""(B,) float64 times in [0, 1] -> (alpha, sigma), each like them."""

EARLIEST = 1e-5
"""Where Song et al. let the vp path begin, whose sigma' has no bound before. Slopes before it are as there, of every path."""
MOST_DATA = 0.1  # left at t = 1, beside the noise: sampling begins with noise alone


def _half_integral(t: Tensor) -> Tensor:
    """Of beta(t) = 0.1 + (20 - 0.1) t from 0 to t (Song et al. 2021)."""
    return t * (0.1 + t * (20 - 0.1) / 2) / 2


def _vp(t: Tensor) -> tuple[Tensor, Tensor]:
    half = _half_integral(t)
    return torch.exp(-half), torch.sqrt(-torch.expm1(-2 * half))


def _sub_vp(t: Tensor) -> tuple[Tensor, Tensor]:
    half = _half_integral(t)
    return torch.exp(-half), -torch.expm1(-2 * half)


def _cosine(t: Tensor) -> tuple[Tensor, Tensor]:
    return torch.sin(math.pi / 2 * (1 - t)), torch.sin(math.pi / 2 * t)  # exact at both ends, as a cosine is not


def _edm(t: Tensor) -> tuple[Tensor, Tensor]:
    """x_0 + s z with s = 80 t^5, divided by sqrt(1 + s^2). Networks see x itself, which would be of size 80; divided, it is of
    unit size where the data are, and every loss, step, limit and prior means what it means on the other paths."""
    s = 80 * t**5
    alpha = torch.rsqrt(1 + s * s)
    return alpha, s * alpha


PATHS: dict[str, PathFunction] = {"vp": _vp, "cosine": _cosine, "sub-vp": _sub_vp, "edm": _edm}
_OURS = tuple(PATHS)


def add_path(name: str, path: PathFunction) -> None:
    """Gives a path a name, by which configs of runs know it: Gaussian(path=name), ProcessConfig("gaussian", path=name).

    A run keeps the name, not the function: a program that opens the run adds it again, and no command can. Networks see x
    itself: divide a path on which it grows far beyond 1, as `edm` is, unless the network was made for such x. Raises ValueError
    if the name is one of ours, or the path is none (`check_path`).
    """
    if not isinstance(name, str) or not name or name in _OURS:
        raise ValueError(f"a path's name must be a word other than {', '.join(_OURS)}, got {name!r:.80}")
    check_path(path)
    PATHS[name] = path


def path_schedules(path: str | PathFunction, t: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """((alpha, alpha'), (sigma, sigma')) at t, each like t; found in float64. t: any shape, in [0, 1]. Slopes before EARLIEST
    are as there."""
    function = PATHS[path] if isinstance(path, str) else path
    values = path_scales(path, t.double())
    # Not forward mode, of which torch has one state for all threads, and stored paths are made in a thread of their own.
    with torch.inference_mode(False), torch.enable_grad():
        late = t.detach().double().clamp(min=EARLIEST).clone().requires_grad_()
        parts = function(late)
        slopes = (
            torch.autograd.grad(part.sum(), late, retain_graph=True)[0]
            if part.requires_grad
            else torch.zeros_like(part)
            for part in parts
        )
        alpha, sigma = ((value.to(t), slope.to(t)) for value, slope in zip(values, slopes, strict=True))
    return alpha, sigma


def path_scales(path: str | PathFunction, t: Tensor) -> tuple[Tensor, Tensor]:
    """(alpha, sigma) at t, each like t; found in float64. t: any shape, in [0, 1]."""
    function = PATHS[path] if isinstance(path, str) else path
    alpha, sigma = function(t.detach().double())
    return alpha.to(t), sigma.to(t)


def path_end(path: str | PathFunction) -> tuple[float, float]:
    """(alpha, sigma) at t = 1."""
    function = PATHS[path] if isinstance(path, str) else path
    alpha, sigma = function(torch.ones((), dtype=torch.float64, device="cpu"))
    return float(alpha), float(sigma)


def check_path(path: str | PathFunction) -> None:
    """Raises ValueError naming what keeps this from being a path: an unknown name; a function that torch cannot differentiate,
    that begins elsewhere than at the data, whose noise does not grow beside the data, or that ends with data in it."""
    if isinstance(path, str) or not callable(path):
        if not isinstance(path, str) or path not in PATHS:
            raise ValueError(
                f"path must be one of {', '.join(PATHS)}, a function t -> (alpha, sigma), or a name that this program gave to "
                f"one with distillkac.flow.add_path, got {path!r:.80}"
            )
        return
    times = torch.linspace(0, 1, 1025, dtype=torch.float64, device="cpu")
    (alpha, _), (sigma, _) = _tried(path, times)
    (_, d_alpha), (_, d_sigma) = _tried(path, (times[1:] + times[:-1]) / 2)
    name = f"the path {getattr(path, '__name__', type(path).__name__)}"
    for value, slope, what, begin in ((alpha, d_alpha, "alpha", 1.0), (sigma, d_sigma, "sigma", 0.0)):
        if not (torch.isfinite(value).all() and torch.isfinite(slope).all()):
            raise ValueError(f"{name}: {what} or its slope is not finite for some t in [0, 1]")
        if abs(float(value[0]) - begin) > 1e-6:
            raise ValueError(f"{name}: {what}(0) must be {begin:g}, since t = 0 is the data, got {float(value[0]):g}")
        way = float(value[-1] - value[0])
        if abs(float(slope.mean()) - way) > 0.05 * max(1.0, abs(way)):  # as of detached or tabulated values
            raise ValueError(
                f"{name}: {what} does not change as torch's derivative of it says: compute it with torch from t"
            )
    (some_alpha, _), (some_sigma, _) = _tried(path, times[::16])
    if not (torch.allclose(some_alpha, alpha[::16]) and torch.allclose(some_sigma, sigma[::16])):
        raise ValueError(
            f"{name}: alpha and sigma at a time must not depend on the other times that are asked for with it"
        )
    if not (torch.atan2(sigma, alpha).diff() > 0).all() or float(alpha.min()) < -1e-9:
        raise ValueError(f"{name}: sigma / alpha must grow from 0 to 1 everywhere, with alpha at least 0")
    if float(alpha[-1]) > MOST_DATA * float(sigma[-1]):
        raise ValueError(
            f"{name}: sampling begins with noise alone, and it ends with alpha(1) {float(alpha[-1]):g} beside sigma(1) "
            f"{float(sigma[-1]):g}: alpha(1) must be at most {MOST_DATA:g} sigma(1)"
        )


def _tried(path: PathFunction, t: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    wanted = "a path must be made of torch's functions of t, and return (alpha, sigma), two tensors like t"
    try:
        answer = path(t)
        fits = isinstance(answer, tuple | list) and len(answer) == 2
        if not fits or not all(isinstance(v, Tensor) and (v.shape, v.dtype) == (t.shape, t.dtype) for v in answer):
            got = ", ".join(_told(v) for v in answer) if fits else _told(answer)
            raise ValueError(f"{wanted}, {_told(t)}, got {got}")
        return path_schedules(path, t)
    except ValueError:
        raise
    except Exception as error:  # whatever the user's function raises
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(f"{wanted}: it failed with {type(error).__name__}: {reason:.120}") from error


def _told(value: object) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
