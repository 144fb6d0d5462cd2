"""What a user gives a pipeline: the keywords of diffusers' from_pretrained, each honoured or refused, and numbers."""

import contextlib
import inspect
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline

from distillkac.runs import shipped
from distillkac.runs.sampler import SamplerConfig

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
KNOWN = {  # by diffusers, for pipelines that lie in its own format
    *("cache_dir", "force_download", "proxies", "local_files_only", "token", "revision", "torch_dtype", "dtype"),
    *("device_map", "max_memory", "offload_folder", "offload_state_dict", "low_cpu_mem_usage", "variant"),
    *("use_safetensors", "disable_mmap", "quantization_config"),
}


@dataclass(frozen=True)
class Options:
    """What of them a run folder can honour. dtype: one for all, or by component, with "default" for the others."""

    dtype: torch.dtype | dict[str, torch.dtype] | None = None
    device: torch.device | None = None
    local_files_only: bool = False
    scheduler: Any = None
    vae: Any = None

    @classmethod
    def of_run(cls, options: dict[str, Any]) -> "Options":
        """Raises ValueError for a keyword that is unknown, or that asks for what a run folder does not have."""
        options = dict(options)
        made: dict[str, Any] = {"dtype": _dtype(options), "device": _device(options.pop("device_map", None))}
        made["local_files_only"] = bool(options.pop("local_files_only", False))
        made |= {name: options.pop(name, None) for name in ("scheduler", "vae")}
        if options.pop("use_safetensors", None) is False:
            raise ValueError("use_safetensors=False: a run folder has safetensors weights and no others; omit it")
        for name, value in options.items():
            if name not in KNOWN:
                raise ValueError(_unknown(name, ("torch_dtype", "device_map", "local_files_only", "scheduler", "vae")))
            if value not in (None, False):
                raise ValueError(
                    f"{name} means nothing for a run folder, which is read where it lies; omit it, or save the run with "
                    "save_pretrained and load that"
                )
        return cls(**made)

    @staticmethod
    def of_diffusers(pipeline: type, options: dict[str, Any]) -> dict[str, Any]:
        """The options as diffusers takes them. Raises ValueError for one that it would only warn of, or not see."""
        options = dict(options)
        own = [name for name in inspect.signature(pipeline).parameters if name not in ("trained", "process")]
        for name in options:
            if name not in (*KNOWN, *own):
                raise ValueError(_unknown(name, (*own, *sorted(KNOWN))))
        dtype = _dtype(options)
        # Older versions of diffusers know one name of it, newer ones warn of that name.
        older = "torch_dtype (`" in (DiffusionPipeline.from_pretrained.__doc__ or "")
        return options if dtype is None else options | {"torch_dtype" if older else "dtype": dtype}

    def place(self, pipeline: Any) -> Any:
        """The pipeline with its weights in the dtype, and on the device, that were asked for."""
        for name in ("unet", "vae"):
            dtype = self.dtype
            if isinstance(dtype, dict):
                dtype = dtype.get(name, dtype.get("default", torch.float32))
            if dtype is not None and getattr(pipeline, name) is not None:
                torch.nn.Module.to(getattr(pipeline, name), dtype)  # diffusers' own warns of an empty list
        return pipeline if self.device is None else pipeline.to(self.device)


def _dtype(options: dict[str, Any]) -> torch.dtype | dict[str, torch.dtype] | None:
    """torch_dtype, or dtype as newer versions of diffusers call it; both are taken out of `options`."""
    given = [value for value in (options.pop("torch_dtype", None), options.pop("dtype", None)) if value is not None]
    if len(given) == 2 and given[0] != given[1]:
        raise ValueError(f"torch_dtype and dtype are the same option, got {given[0]} and {given[1]}")
    for name, value in given[0].items() if given and isinstance(given[0], dict) else [("", v) for v in given]:
        if name not in ("", "unet", "vae", "default") or value not in DTYPES:
            raise ValueError(
                "torch_dtype must be torch.float32, torch.bfloat16 or torch.float16, or a dict of them for unet, vae and "
                f"default, got {given[0]!r}"
            )
    return given[0] if given else None


def _device(device_map: Any) -> torch.device | None:
    if device_map is None:
        return None
    try:
        return torch.device(device_map)
    except (RuntimeError, TypeError):
        raise ValueError(
            f"device_map of a run folder is the name of one device, such as cuda, got {device_map!r}; a run has one network"
        ) from None


def _unknown(name: str, known: Iterable[str]) -> str:
    return f"from_pretrained does not know the keyword {name}; it takes {', '.join(dict.fromkeys(known))}"


def number(value: Any) -> float:
    """A number, also of NumPy or torch; NaN for what is none."""
    try:
        return math.nan if isinstance(value, (bool, str)) else float(value)
    except (TypeError, ValueError):
        return math.nan


def asked_of(scheduler: Any, steps: int, w: float | None, gamma: float | None = None, **shaping: Any) -> SamplerConfig:
    """What a call of a pipeline asks for, as the options of a command. scheduler: a KacScheduler. shaping: launch, landing.

    With a gamma the steps are no longer those of the scheduler's integrator and restart. Raises ValueError out of ranges.
    """
    settings = {"restart": 0.0, "shift": 1.0} | scheduler.config  # schedulers of earlier versions had neither
    own = {} if gamma is not None else {name: settings[name] for name in ("integrator", "restart")}
    return SamplerConfig(
        steps, w=w, rho=scheduler.rho_in(steps), shift=settings["shift"], gamma=gamma, **own, **shaping
    )


def check_kind(name: str, part: object, kinds: type | tuple[type, ...]) -> None:
    """Raises ValueError if a part of a pipeline is of another class than these."""
    if not isinstance(part, kinds):
        wanted = kinds[0] if isinstance(kinds, tuple) else kinds
        raise ValueError(f"{name} must be of the class {wanted.__name__}, got {type(part).__name__}")


def check_scheduler(scheduler: Any, averages: bool, process: dict[str, Any]) -> None:
    """Raises ValueError if a KacScheduler is of another kind of network, or of other noise. averages: the network's
    interval_embedding. process: what it was trained with, as a dict."""
    if scheduler.config.get("average_velocity", False) != averages:
        raise ValueError(
            f"the scheduler's average_velocity must be {averages}, as the network's interval_embedding is: load the scheduler "
            "of its run, or set it"
        )
    given = scheduler.process.to_dict()
    if names := [name for name in process | given if process.get(name) != given.get(name)]:
        was, now = (", ".join(f"{name} {part.get(name)}" for name in names) for part in (process, given))
        raise ValueError(
            f"the network of this pipeline was trained with noise of {was}, and the scheduler has {now}: load the scheduler of "
            "its run, or give one the same process"
        )


@contextlib.contextmanager
def naming_the_place(place: str) -> Iterator[None]:
    """Inside, an OSError of diffusers about what is no folder, and was not found on the Hub, also names what is here."""
    try:
        yield
    except OSError as error:
        if os.path.isdir(place):
            raise
        known = ", ".join(shipped.names())
        raise OSError(
            f"{place} is no folder here, no model that comes with distillkac ({known}), and: {error}"
        ) from error
