"""Networks of others as velocity networks, in Python: what they predict becomes the velocity of a process (docs/method.md,
section 9).

With x = alpha x_0 + sigma eps, sigma being that of all the process' noise, an answer F gives both of x_0 and eps,

    epsilon         x_0 = (x - sigma F) / alpha,                          eps = F,
    v_prediction    x_0 = (alpha x - sigma F) / (alpha^2 + sigma^2),      eps = (sigma x + alpha F) / (alpha^2 + sigma^2),
    sample          x_0 = F,                                              eps = (x - alpha F) / sigma,

and the velocity is u = alpha' x_0 + sigma' eps = a x + b F.
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from distillkac.base.tensors import column
from distillkac.flow.fields import guidance_embedding, interval_embedding
from distillkac.flow.probability_paths import EARLIEST
from distillkac.flow.processes import Gaussian, Process

__all__ = ["LEAST_DATA", "PREDICTIONS", "Prediction", "VelocityFrom", "refuse_wrapped"]

Prediction = Literal["epsilon", "v_prediction", "sample", "velocity"]
PREDICTIONS: tuple[Prediction, ...] = get_args(Prediction)
LEAST_DATA = 1e-3  # beside the noise, at t = 1: of less, no prediction of the noise says anything


class VelocityFrom(nn.Module):
    """u(x, t, y) of a process from a model that predicts noise, v, the data or the velocity.

    model: an nn.Module, or any function, called as (x (B, ...), number (B,), y (B,)); x is the state of the process, and y may
    be of no meaning to it. process: the noise that it was trained with; any for prediction "velocity", which is dx/dt with t
    from data (0) to noise (1), else a Gaussian, of any path. prediction: "epsilon", "v_prediction" (alpha eps - sigma x_0),
    "sample" (x_0) or "velocity". time: our t (B,) -> the number that the model is told; by default t itself. Its attributes
    null_class and guidance_embedding and its methods outer_layers and feature_layers are taken over.

    Coefficients are computed in float64; before t = 1e-5, and so at 0, they are as there. Raises ValueError for a model of
    epsilon and a path on which no data are left at t = 1, where that says nothing about them.
    """

    def __init__(
        self,
        model: Callable[..., Tensor],
        process: Process,
        prediction: Prediction,
        time: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        _check(model, process, prediction, time)
        self.model, self.process, self.prediction, self.time = model, process, prediction, time
        self.guidance_embedding = guidance_embedding(model)
        for name in ("null_class", "outer_layers", "feature_layers"):
            value = getattr(model, name, None)
            # A part of the model by such a name is no method.
            if value is not None and not isinstance(value, nn.Module):
                setattr(self, name, value)

    def forward(self, x: Tensor, t: Tensor, y: Tensor, *w: Tensor) -> Tensor:
        """x: (B, ...). t: (B,) in [0, 1], 1 = noise. y: (B,) classes. w: (B,), of models with `guidance_embedding`. Returns the
        velocity like x."""
        late = t if self.prediction == "velocity" else t.clamp(min=EARLIEST)
        answer = self.model(x, late if self.time is None else self.time(late), y, *w)
        if not isinstance(answer, Tensor):
            raise ValueError(
                f"the model must answer with a tensor like x, got a {type(answer).__name__}: give a torch.nn.Module whose "
                "forward returns that, such as model(x, t, y).sample of a network of diffusers; one that diffusers saved is "
                "taken as it is by distillkac.runs.adopt"
            )
        if answer.shape != x.shape:  # which torch would stretch
            raise ValueError(f"the model must answer like x, {tuple(x.shape)}, got {tuple(answer.shape)}")
        if self.prediction == "velocity":
            return answer
        a, b = (column(part.to(x.dtype), x) for part in self.coefficients(t))
        return a * x + b * answer

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(a, b), each (B,) float64: u = a x + b F, of all predictions but the velocity itself. t: (B,)."""
        assert isinstance(self.process, Gaussian), "see _check"
        (alpha, d_alpha), (age, d_age) = self.process.schedules(t.double().clamp(min=EARLIEST))
        sigma, d_sigma = self.process.sigma * age, self.process.sigma * d_age
        if self.prediction == "epsilon":
            return d_alpha / alpha, d_sigma - d_alpha * sigma / alpha
        if self.prediction == "sample":
            return d_sigma / sigma, d_alpha - d_sigma * alpha / sigma
        square = alpha * alpha + sigma * sigma
        return (alpha * d_alpha + sigma * d_sigma) / square, (alpha * d_sigma - sigma * d_alpha) / square


def refuse_wrapped(name: str, network: object) -> None:
    """Raises ValueError if it is a module of torch around another, of which it shows no attribute, such as null_class."""
    if isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel | AveragedModel):
        raise ValueError(f"{name} is a {type(network).__name__}, which wraps another: give that one, its .module")


def _check(model: Any, process: Any, prediction: Any, time: Any) -> None:
    if not callable(model) or isinstance(model, type):
        raise ValueError(f"model must be a torch.nn.Module or a function (x, t, y) -> prediction, got {model!r:.80}")
    refuse_wrapped("model", model)
    if not isinstance(process, Process):
        raise ValueError(
            f"process must be a Gaussian, Planar, Quad or Telegraph of distillkac.flow, got {process!r:.80}"
        )
    if prediction not in PREDICTIONS:
        raise ValueError(f"prediction must be one of {', '.join(PREDICTIONS)}, got {prediction!r:.80}")
    if interval_embedding(model):
        raise ValueError(
            f"{type(model).__name__} answers with average velocities (interval_embedding), which are no velocity"
        )
    if time is not None:
        t = torch.linspace(EARLIEST, 1, 3, device="cpu")
        told = time(t) if callable(time) else None
        if not isinstance(told, Tensor) or told.shape != t.shape or not torch.isfinite(told).all():
            raise ValueError(
                f"time must be a function t (B,) -> finite numbers (B,), such as lambda t: 1000 * t, got {told}"
            )
    if prediction == "velocity":
        return
    if not isinstance(process, Gaussian):
        raise ValueError(
            f"noise of {process.name} is no scaled normal, so {prediction} gives no velocity: velocity does"
        )
    (alpha, _), (age, _) = process.schedules(torch.ones((), dtype=torch.float64))
    if prediction == "epsilon" and float(alpha) < LEAST_DATA * process.sigma * float(age):
        raise ValueError(
            "prediction epsilon says nothing about the data where nothing of them is left, at t = 1 of this process: give the "
            "path as far as the model was trained (a function t -> (alpha, sigma)), or a model of v, the data or the velocity"
        )
