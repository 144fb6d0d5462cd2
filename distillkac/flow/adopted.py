"""A diffusion or flow model of diffusers as a velocity network: any Gaussian teacher (docs/method.md, "Any Gaussian teacher").

The model sees x' = alpha x_0 + sigma eps; our Gaussian flow is in x = (1 - tau) x_0 + s tau z. Where R = sigma / alpha is
s tau / (1 - tau), both hold the same, x' = x / n with n = (1 - tau) / alpha, and the model's answer gives x_0 and eps, so that

    dx / dtau = s eps - x_0 = a x + b F(x / n, number of the timestep).

The flow ends where the model's schedule does, at tau_max, and its time t = tau / tau_max runs from 0 to 1 as everywhere. A clip
of the sampler's, x_0 to [-clip, clip], makes it (x - clip(x_0)) / tau, the noise being what is left of x then: so DDPM has it,
and DDIM with use_clipped_model_output. (Without that DDIM's state jumps by what was clipped, however short its step.)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from distillkac.base import backbones
from distillkac.base.ranges import in_ranges
from distillkac.base.tensors import column, sent
from distillkac.flow.noise_schedules import NoiseSchedule

__all__ = ["AdoptedNet", "AdoptedNetwork"]

Prediction = Literal["epsilon", "v_prediction", "sample", "flow"]
MOST_LAYERS = 2**10  # more are a mistake, or meant to keep the processor busy
MODELS = {"UNet2DModel": backbones.unet_class, "DiTTransformer2DModel": backbones.dit_class}


@dataclass(frozen=True)
@in_ranges(
    "network",
    sigma="(0, 1e6]",
    clip="(0, 1e6]",
)
class AdoptedNetwork:
    """In place of NetworkConfig in the config of a run whose network is a model of diffusers (`python -m distillkac.adopt`)."""

    model: Literal["UNet2DModel", "DiTTransformer2DModel"]
    """Its class."""
    settings: dict[str, Any]
    """The arguments of that class, as diffusers saved them."""
    schedule: NoiseSchedule
    """The noise it was trained with."""
    prediction: Prediction = "epsilon"
    """What it answers with: the noise, v = alpha eps - sigma x_0, the data, or the velocity eps - x_0."""
    null_class: bool = False
    """Whether the label after the last class means no class."""
    sigma: float = 1.0
    """The spread s of the run's process."""
    clip: float | None = None
    """Bound of the data that its answers stand for, as samplers clip them; None: none."""
    guidance_embedding: bool = False
    """Whether it takes the guidance weight as an input, which no model of diffusers does."""
    interval_embedding: ClassVar[bool] = False

    def __post_init__(self) -> None:
        understood = {"flow": ("flow",), "edm": ("epsilon", "v_prediction")}
        known = understood.get(self.schedule.name, ("epsilon", "v_prediction", "sample"))
        if self.prediction not in known:
            raise ValueError(
                f"a model of the {self.schedule.name} schedule predicts {' or '.join(known)}, got {self.prediction}"
            )
        if self.schedule.name not in ("edm", "flow") and self.schedule.ends_in_noise and self.prediction == "epsilon":
            raise ValueError(
                "prediction epsilon says nothing about the data where nothing of them is left, at the last timestep of a "
                "schedule of zero terminal SNR: use fewer timesteps of it"
            )
        if self.guidance_embedding:
            raise ValueError(f"{self.model} takes no guidance weight as an input: distil with a fixed --w")

    @property
    def tau_max(self) -> float:
        """Where the flow ends, in (0, 1]."""
        return _tau(self.schedule.ends[1], self.sigma)

    @property
    def classes(self) -> int | None:
        """How many classes the model knows, without the one that means none; None where it knows no classes."""
        if self.model == "DiTTransformer2DModel":
            return int(self.settings.get("num_embeds_ada_norm", 1000))
        count = self.settings.get("num_class_embeds")
        return None if count is None else int(count) - self.null_class


class AdoptedNet(nn.Module):
    """u(x, t, y) of the flow, from diffusers' own network, which is `model`.

    config: AdoptedNetwork. shape: (C, H, W) of a sample. num_classes: >= 1. Raises ValueError if they do not fit the model.
    """

    guidance_embedding, interval_embedding = False, False

    def __init__(self, config: AdoptedNetwork, shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        try:
            _check(config, shape, num_classes)
        except TypeError as error:
            raise ValueError(f"these settings are of no {config.model} of diffusers: {error}") from None
        self.config, self.shape = config, (shape[0], shape[1], shape[2])
        self.null_class = num_classes if config.null_class else None
        try:
            self.model = MODELS[config.model]()(**config.settings)
        except Exception as error:  # whatever diffusers makes of settings that it does not know
            raise ValueError(f"these settings make no {config.model} of diffusers: {error}") from None
        if config.model == "DiTTransformer2DModel":
            for block in self.model.transformer_blocks:
                block.norm1.emb.class_embedder.dropout_prob = 0.0  # objectives drop classes, by their own seed
        # No buffers: they stay float64, and come from the config, whatever becomes of the weights.
        self._tau_min, self.tau_max = (_tau(ratio, config.sigma) for ratio in config.schedule.ends)
        self._tables = self._tables_on("cpu")

    def _tables_on(self, device: torch.device | str) -> tuple[Tensor, ...]:
        """(tau, time, knot) of each timestep, (N,) each; none where the schedule has no table."""
        schedule = self.config.schedule
        if not schedule.has_table:
            return ()
        ratios = schedule.ratios().tolist()
        taus = torch.tensor([_tau(r, self.config.sigma) for r in ratios], dtype=torch.float64, device="cpu")
        return tuple(table.to(device) for table in (taus, (taus / self.tau_max).float(), schedule.knots()))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Where the weights go the tables go too, so that no evaluation copies them. Made anew: their types stay."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch says no types of it
        self._tables = self._tables_on(next(self.parameters()).device)
        return self

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """x: (B, C, H, W). t: (B,) in [0, 1], 1 = noise. y: (B,) int64 classes, of no meaning to a model that knows none.
        Returns the velocity (B, C, H, W)."""
        a, b, scale, number = self.coefficients(t)
        answer = self._answer(column(scale.to(x.dtype), x) * x, number.float(), y)
        u = column(a.to(x.dtype), x) * x + column(b.to(x.dtype), x) * answer
        if self.config.clip is None:
            return u
        data = x - column(t.to(x.dtype), x) * u
        beyond = data - data.clamp(-self.config.clip, self.config.clip)
        # The gradient goes past the bound: a student whose answer lies beyond it must be able to come back.
        return u + (beyond / column(t.clamp(min=self._tau_min / self.tau_max).to(x.dtype), x)).detach()

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(a, b, 1 / n, number of the timestep), each (B,) float64: dx / dt = a x + b F(x / n, number). t: (B,).

        Before the model's first timestep all are as there, since it has never seen less noise.
        """
        schedule, s, top = self.config.schedule, self.config.sigma, self.tau_max
        tau = (top * t.double()).clamp(min=self._tau_min)
        log_ratio = torch.log(s * tau) - torch.log1p(-tau)
        number = log_ratio / 4
        if schedule.has_table:
            tau, number = self._at_timesteps(t, tau, log_ratio)
        rest = 1 - tau
        if schedule.name == "edm":
            ratio, sd = s * tau / rest, schedule.sigma_data
            norm = torch.sqrt(ratio.square() + sd**2)
            out = ratio * sd / norm * (1 if self.config.prediction == "epsilon" else -1)
            return top * (1 - (sd / norm).square() / rest) / tau, -top * out / tau, 1 / (norm * rest), number
        n = rest + s * tau if schedule.name == "flow" else torch.sqrt(rest.square() + (s * tau).square())
        alpha, sigma = rest / n, s * tau / n
        if schedule.name == "flow":
            a, b, number = (s - 1) / n, s * alpha + sigma, schedule.timesteps * sigma
        elif self.config.prediction == "epsilon":
            a, b = -1 / rest, s / rest
        elif self.config.prediction == "sample":
            a, b = 1 / tau, -1 / tau
        else:
            a, b = (s * sigma - alpha) / n, s * alpha + sigma
        return top * a, top * b, 1 / n, number

    def _at_timesteps(self, t: Tensor, tau: Tensor, log_ratio: Tensor) -> tuple[Tensor, Tensor]:
        """(tau, fractional timestep), linear in log R between timesteps. A time that is a timestep's, but for its rounding to
        float32, is that timestep."""
        taus, times, knots = (sent(table, t.device) for table in self._tables)  # sent where t is elsewhere
        below = (log_ratio[:, None] >= knots[None, 1:-1]).sum(1)
        low, high = knots[below], knots[below + 1]
        number = (below + (log_ratio - low) / (high - low)).clamp(0, len(knots) - 1)
        nearest = number.round().long()
        there = t.float() == times[nearest]
        return torch.where(there, taus[nearest], tau), torch.where(there, nearest.double(), number)

    def _answer(self, x: Tensor, number: Tensor, y: Tensor) -> Tensor:
        if self.config.classes is None:
            answer = self.model(x, number, return_dict=False)[0]
        elif self.config.model == "UNet2DModel":
            answer = self.model(x, number, y, return_dict=False)[0]
        else:
            answer = self.model(x, timestep=number, class_labels=y, return_dict=False)[0]
        return answer[
            :, : self.shape[0]
        ]  # the other half of the channels is a learned variance, of random samplers alone

    def outer_layers(self) -> list[nn.Module]:
        """Those that images, times and classes enter, and the one that the answer leaves (training/optimizer.py)."""
        names = ["conv_in", "time_embedding", "class_embedding", "conv_out"]
        if self.config.model == "DiTTransformer2DModel":
            times = [f"transformer_blocks.{i}.norm1.emb" for i in range(len(self.model.transformer_blocks))]
            names = ["pos_embed", *times, "proj_out_2"]
        return [layer for name in names if isinstance(layer := _part(self.model, name), nn.Module)]

    def feature_layers(self) -> list[nn.Module]:
        """The blocks, whose answers are features of an image (distillation/features.py)."""
        if self.config.model == "DiTTransformer2DModel":
            return list(self.model.transformer_blocks)
        middle = [] if self.model.mid_block is None else [self.model.mid_block]
        return [*self.model.down_blocks, *middle, *self.model.up_blocks]


def _tau(ratio: float, s: float) -> float:
    """tau of our flow of spread s where noise is to data as `ratio`, which may be infinite."""
    return 1 / (1 + s / ratio) if ratio > 0 else 0.0


def _part(model: nn.Module, name: str) -> nn.Module | None:
    for step in name.split("."):
        model = getattr(model, step, None)  # type: ignore[assignment]  # a class embedding that is not there is None
    return model


def _check(config: AdoptedNetwork, shape: tuple[int, int, int], num_classes: int) -> None:
    settings, size = config.settings, "x".join(map(str, shape))
    for name in ("layers_per_block", "num_layers"):
        if settings.get(name, 1) > MOST_LAYERS:
            raise ValueError(f"the model has {name} {settings[name]}: up to {MOST_LAYERS} are built")
    channels, out = settings.get("in_channels", 3), settings.get("out_channels")
    if config.model == "DiTTransformer2DModel":
        side = settings.get("sample_size")
        if (channels, side, side) != tuple(shape):
            raise ValueError(f"the model is for samples of {channels}x{side}x{side}, and these are {size}")
    elif channels != shape[0]:
        raise ValueError(f"the model is for samples of {channels} channels, and these are {size}")
    elif any(shape[axis] % 2 ** (len(settings.get("down_block_types", "1234")) - 1) for axis in (1, 2)):
        raise ValueError(f"the model's levels halve its images, which does not go up in {size}: resize them")
    if out not in (None, channels, 2 * channels):
        raise ValueError(
            f"the model takes {channels} channels and answers with {out}: as many, or twice as many where it learned its "
            "variance, would be understood"
        )
    wanted = config.classes or 1
    if num_classes != wanted:
        raise ValueError(f"the model knows {config.classes or 'no'} classes, and there are {num_classes}")
