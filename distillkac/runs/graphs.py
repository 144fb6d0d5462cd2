"""A sampler as one graph, noise to images, for ONNX Runtime or torch.export; `python -m distillkac.export` writes it."""

import contextlib
import io
import warnings
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from distillkac.base import optional
from distillkac.base.files import write_atomic
from distillkac.flow import patches
from distillkac.flow.processes import Gaussian, Planar, Process, Quad, Telegraph
from distillkac.runs import shipped
from distillkac.runs.run import Run
from distillkac.runs.sampler import SamplerConfig, Trained
from distillkac.runs.sampling import field_of


class Chain(nn.Module):
    """The Euler steps of a run's network: (noise, labels) -> images."""

    def __init__(self, run: Run, steps: int):
        super().__init__()
        sampler = SamplerConfig(steps=steps, integrator="euler")
        velocity, grid, _ = field_of(run, sampler)
        if steps > 1 and Trained.of(run.config).settle(sampler, str(run.folder)).restart > 0:
            raise ValueError(
                f"{shipped.told(run.folder)} draws fresh noise between its steps, which no graph does: use --steps 1"
            )
        if velocity.embedded:
            raise ValueError(
                f"{run.folder} takes the guidance weight as an input; distil with a fixed --w to export it"
            )
        self.network, self.times, self.takes_end = run.network, [float(t) for t in grid], velocity.takes_end

    def forward(self, noise: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        x = noise
        for t, t_next in pairwise(self.times):
            ones = torch.ones_like(labels, dtype=x.dtype)
            end = {"r": t_next * ones} if self.takes_end else {}
            x = x - (t - t_next) * self.network(x, t * ones, labels, **end)
        return x


class Sampler(nn.Module):
    """Prior and chain: labels -> images."""

    def __init__(self, chain: Chain, prior: nn.Module):
        super().__init__()
        self.chain, self.prior = chain, prior

    def forward(self, labels: torch.Tensor) -> torch.Tensor:
        return self.chain(self.prior(labels), labels)


def _turns_cdf(a: float) -> torch.Tensor:
    """P(at most n turns in unit time), n = 0, 1, ..., as far as there are any in float32."""
    n = torch.arange(int(a + 12 * a**0.5 + 20), dtype=torch.float64)
    log = n * torch.log(torch.tensor(a, dtype=torch.float64)) - a - torch.lgamma(n + 1)
    return log.exp().cumsum(0).float()


def _turns(size: tuple[int, ...], cdf: torch.Tensor) -> torch.Tensor:
    return (torch.rand(size).unsqueeze(-1) > cdf).sum(-1).float()


class TelegraphPrior(nn.Module):
    """K_1 of the telegraph process by its number of turns (docs/method.md, section 2), from plain uniform numbers."""

    turns_cdf: torch.Tensor

    def __init__(self, process: Telegraph, shape: tuple[int, ...]):
        super().__init__()
        self.shape, self.radius = shape, process.c
        self.register_buffer("turns_cdf", _turns_cdf(process.a))

    def forward(self, labels: torch.Tensor) -> torch.Tensor:
        size = (labels.shape[0], *self.shape)
        turns = _turns(size, self.turns_cdf)
        k = torch.ceil(turns / 2).clamp(min=1)
        moved = torch.sqrt(1 - torch.rand(size) ** (1 / (k - 0.5))) * torch.cos(2 * torch.pi * torch.rand(size))
        straight = torch.where(torch.rand(size) < 0.5, -1.0, 1.0)
        return self.radius * torch.where(turns > 0, moved, straight)


class PlanarPrior(nn.Module):
    """K_1 of the planar process (docs/method.md, section 4)."""

    def __init__(self, process: Planar, shape: tuple[int, ...]):
        super().__init__()
        self.shape, self.a, self.c = shape, process.a, process.c

    def forward(self, labels: torch.Tensor) -> torch.Tensor:
        size = (labels.shape[0], *self.shape[:-1], self.shape[-1] // 2)
        s = (1 + torch.log(1 - torch.rand(size)) / self.a).clamp(min=0)
        radius, angle = self.c * torch.sqrt((1 - s) * (1 + s)), 2 * torch.pi * torch.rand(size)
        return torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], -1).flatten(-2)


class QuadPrior(nn.Module):
    """K_1 of the quad process by its number of turns (docs/method.md, section 4), from plain uniform numbers."""

    turns_cdf: torch.Tensor

    def __init__(self, process: Quad, shape: tuple[int, ...]):
        super().__init__()
        process.check_shape(shape)
        height, width = shape[-2:]
        self.size, self.radius = (*shape[:-2], height // 2, width // 2), process.c
        self.register_buffer("turns_cdf", _turns_cdf(process.a))

    def forward(self, labels: torch.Tensor) -> torch.Tensor:
        size = (labels.shape[0], *self.size)
        n = _turns(size, self.turns_cdf)
        rest = (1 - torch.rand(size)) ** (1 / (n + 1)) * (1 - torch.rand(size)) ** (1 / n.clamp(min=1))
        radius, share = self.radius * torch.sqrt(torch.where(n > 0, 1 - rest, 1.0)), torch.rand(size)
        first, second = 2 * torch.pi * torch.rand(size), 2 * torch.pi * torch.rand(size)
        one, other = radius * torch.sqrt(share), radius * torch.sqrt(1 - share)
        k = [one * torch.cos(first), one * torch.sin(first), other * torch.cos(second), other * torch.sin(second)]
        return patches.scattered(torch.stack(k, -1).flatten(-2))


class GaussianPrior(nn.Module):
    def __init__(self, process: Gaussian, shape: tuple[int, ...]):
        super().__init__()
        self.shape, self.std = shape, process.prior_std

    def forward(self, labels: torch.Tensor) -> torch.Tensor:
        return self.std * torch.randn((labels.shape[0], *self.shape))


def prior_of(run: Run) -> nn.Module:
    process: Process = run.process
    made = {Telegraph: TelegraphPrior, Planar: PlanarPrior, Quad: QuadPrior, Gaussian: GaussianPrior}[type(process)]
    return made(process, tuple(run.config.shape))


def example(run: Run, noise: str) -> tuple[torch.Tensor, ...]:
    labels = torch.arange(3) % max(1, len(run.config.class_names))
    return (run.process.prior(3, tuple(run.config.shape), 0), labels) if noise == "input" else (labels,)


def _named(inputs: tuple[torch.Tensor, ...]) -> list[str]:
    return ["noise", "labels"][2 - len(inputs) :]


@contextlib.contextmanager
def _any_batch():
    """diffusers' upsampling asks whether the batch is below 64 (for memory formats), which would become part of the graph."""
    from diffusers.models.upsampling import Upsample2D

    def upsample(self, x, output_size=None, *args, **kwargs):
        doubled = {"scale_factor": 2.0} if output_size is None else {"size": output_size}
        return self.conv(nn.functional.interpolate(x, mode="nearest", **doubled))

    plain, Upsample2D.forward = Upsample2D.forward, upsample
    try:
        yield
    finally:
        Upsample2D.forward = plain


def save_onnx(model: nn.Module, inputs: tuple[torch.Tensor, ...], path: Path) -> None:
    for name in ("onnx", "onnxscript"):  # torch's exporter needs them and says so less clearly
        optional.load(name, "exporting to ONNX")
    names = _named(inputs)
    with _any_batch(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*axis name: batch will not be used")  # both inputs have the same
        program = torch.onnx.export(
            model.eval(),
            inputs,
            input_names=names,
            output_names=["images"],
            dynamic_shapes={name: {0: torch.export.Dim("batch")} for name in names},
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # as torch has it with dynamo=True
    write_atomic(path, program.model_proto.SerializeToString())


def save_torch(model: nn.Module, inputs: tuple[torch.Tensor, ...], path: Path) -> None:
    dynamic = {name: {0: torch.export.Dim("batch")} for name in _named(inputs)}
    with _any_batch():
        program = torch.export.export(model.eval(), inputs, dynamic_shapes=dynamic)
    content = io.BytesIO()
    torch.export.save(program, content)
    write_atomic(path, content.getvalue())


@torch.no_grad()
def largest_gap(path: Path, chain: Chain, run: Run) -> float | None:
    """Of the exported graph's images and the chain's, on a batch of another size.

    None without onnxruntime, with a warning.
    """
    labels = torch.arange(70) % max(1, len(run.config.class_names))
    noise = run.process.prior(70, tuple(run.config.shape), 1)
    if path.suffix.lower() == ".pt2":
        images = torch.export.load(path).module()(noise, labels)
    else:
        try:
            onnxruntime = optional.load("onnxruntime", "comparing the exported graph with the network")
        except ValueError as error:
            warnings.warn(f"{path} was written, and not compared: {error}", stacklevel=2)
            return None
        session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
        images = torch.from_numpy(session.run(None, {"noise": noise.numpy(), "labels": labels.numpy()})[0])
    return (images - chain(noise, labels)).abs().max().item()
