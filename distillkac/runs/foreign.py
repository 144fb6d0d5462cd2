"""What diffusers saved: a pipeline, or a model with its scheduler, read as far as a run can be made of it.

Nothing of it is executed: configurations are JSON, weights safetensors. What is not understood is refused by name.
"""

import inspect
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from distillkac.base import files, paths
from distillkac.data.vae import AUTOENCODERS
from distillkac.flow.adopted import MODELS, AdoptedNetwork
from distillkac.flow.noise_schedules import SCHEDULES, NoiseSchedule
from distillkac.runs import checkpoints, foreign_weights

INDEX, MODEL, SCHEDULER = "model_index.json", foreign_weights.CONFIG, "scheduler_config.json"
DPM, FLOW = "DPMSolverMultistepScheduler", "FlowMatchEulerDiscreteScheduler"
SCHEDULERS = ("DDPMScheduler", "DDIMScheduler", DPM, "EulerDiscreteScheduler", "EDMEulerScheduler", FLOW)
EDM = (("sigma_min", 0.002), ("sigma_max", 80.0), ("sigma_data", 0.5))
CLIPPING = ("DDPMScheduler", "DDIMScheduler")
"""Whose samplers clip the data, by default."""
EPSILON_RATIO = 160.0
"""An error in a prediction of the noise is R times as large in the data: the usual betas end at R = 157, cosine ones at 20 000,
where three digits of the answer say nothing."""
MOST_CLASSES = 10**6  # more would only fill the memory


@dataclass(frozen=True)
class Foreign:
    """Where the parts of a model of diffusers are. vae: its autoencoder, if it has one. class_names: () where it tells none."""

    source: Path
    model: Path
    scheduler: Path
    vae: Path | None = None
    class_names: tuple[str, ...] = ()


def find(source: str, scheduler: Path | None = None) -> Foreign:
    """As `locate`, with a scheduler that is there.

    scheduler: a folder, also of a pipeline, or its scheduler_config.json, in place of the one that belongs to the model. Raises
    ValueError too if there is none.
    """
    found = locate(source)
    if scheduler is not None:
        places = [scheduler, scheduler / SCHEDULER, scheduler / "scheduler" / SCHEDULER]
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            raise ValueError(f"--scheduler {scheduler}: there is no {SCHEDULER}; name the folder that holds it")
        return Foreign(found.source, found.model, path, found.vae, found.class_names)
    if not found.scheduler.exists():
        raise ValueError(
            f"{found.scheduler} does not exist, and without its scheduler nobody knows the noise of {found.source}: say with "
            f"--scheduler where its {SCHEDULER} is"
        )
    other = found.source.parent / "scheduler" / SCHEDULER
    alone = found.source == found.model and not (found.source / INDEX).exists()
    if alone and other.exists() and _schedule(other) != _schedule(found.scheduler):
        raise ValueError(
            f"{found.scheduler} and {other} say different things of the noise: say with --scheduler which is the model's"
        )
    return found


def locate(source: str) -> Foreign:
    """The parts of a folder, or of a name on the Hub, which is downloaded unless it was or HF_HUB_OFFLINE is set. Raises
    ValueError naming what is missing, or is a part that is not understood."""
    folder = paths.expanded("SOURCE", paths.from_text(source))
    if folder.is_file():
        raise ValueError(f"{folder} is a file: name the folder that save_pretrained wrote")
    if not folder.is_dir():
        if source.startswith(("/", ".", "~")) or source.count("/") != 1:
            raise ValueError(f"{folder} is not there: name a folder that save_pretrained wrote, or a name on the Hub")
        folder = _downloaded(source)
    if (folder / INDEX).exists():
        return _pipeline(folder)
    if (folder / MODEL).exists():
        _refuse_own(folder)
        beside = [folder / SCHEDULER, folder.parent / "scheduler" / SCHEDULER]
        return Foreign(folder, folder, next((path for path in beside if path.exists()), beside[0]))
    raise ValueError(
        f"{folder} holds neither {INDEX} of a pipeline nor {MODEL} of a model: name what save_pretrained wrote"
    )


def network_of(found: Foreign, null_class: bool, sigma: float, max_ratio: float | None = None) -> AdoptedNetwork:
    """What the run keeps of model and scheduler. null_class: whether the last class that a U-Net knows means none. max_ratio:
    see `adopt`. Raises ValueError naming a setting that is not understood."""
    config = _read(found.model / MODEL)
    kind = _model_kind(found.model / MODEL, config)
    settings = _settings(found.model / MODEL, kind, config)
    schedule, prediction, clip = _schedule(found.scheduler)
    if max_ratio is not None and schedule.ends[1] <= max_ratio and schedule.name != "flow":
        raise ValueError(
            f"max_ratio {max_ratio:g} leaves out nothing: the ratios of {found.scheduler} end at {schedule.ends[1]:.6g}"
        )
    if max_ratio is None:
        max_ratio = EPSILON_RATIO if prediction == "epsilon" and schedule.has_table else math.inf
    if kind == "UNet2DModel" and null_class and settings["num_class_embeds"] in (None, 1):
        known = (
            "no classes, so none of them means no class" if settings["num_class_embeds"] is None else "one class alone"
        )
        raise ValueError(f"{found.model} knows {known}: omit null_class")
    none = null_class or kind == "DiTTransformer2DModel"  # which has always one more
    try:
        schedule = schedule.up_to(max_ratio)
        return AdoptedNetwork(kind, settings, schedule, prediction, none, sigma, clip)  # type: ignore[arg-type]  # checked above
    except ValueError as error:
        raise ValueError(f"{found.source}: {error}") from None


def not_used(found: Foreign, network: AdoptedNetwork) -> list[str]:
    """What of its scheduler has no part in the run, in words."""
    left = []
    if _read(found.scheduler).get("thresholding"):
        left.append("its scheduler's thresholding, by which a sampler bounds each image by its own values")
    if network.schedule.used is not None:
        left.append(
            f"the last {network.schedule.timesteps - network.schedule.used} of its {network.schedule.timesteps} timesteps, of "
            f"noise above {network.schedule.ends[1]:.3g} times the data, see --max-ratio"
        )
    return left


def load_model(found: Foreign) -> nn.Module:
    """The model itself, float32. Raises ValueError if its weights are a pickle, or do not fit."""
    return foreign_weights.load(found.model, _model_kind(found.model / MODEL, _read(found.model / MODEL)))


def check_autoencoder(folder: Path) -> None:
    """Raises ValueError unless the autoencoder of a pipeline is there, with weights that are read."""
    kind = _read(folder / MODEL).get("_class_name", AUTOENCODERS[0])
    if kind not in AUTOENCODERS:
        raise ValueError(f"{folder / MODEL}: is of the class {kind}; {' or '.join(AUTOENCODERS)} would be understood")
    foreign_weights.check(folder, kind)


def _downloaded(name: str) -> Path:
    """The folder of a name on the Hub: first what it says of itself, then the weights of the parts that are read."""
    from huggingface_hub import snapshot_download

    def fetch(*patterns: str) -> Path:
        try:
            return Path(snapshot_download(name, allow_patterns=list(patterns)))
        except Exception as error:  # of the network, of the Hub, of the cache
            raise ValueError(
                f"{name} is no folder here, and cannot be had from the Hub ({foreign_weights.reason(error)}): download it "
                "where there is a network, hf download NAME --local-dir DIR, and name that folder"
            ) from None

    folder = fetch("*.json")
    parts = _pipeline(folder) if (folder / INDEX).exists() else Foreign(folder, folder, folder / SCHEDULER)
    inside = [part.relative_to(folder).as_posix() for part in (parts.model, parts.vae) if part is not None]
    return fetch("*.json", *("*.safetensors" if place == "." else f"{place}/*.safetensors" for place in inside))


def _pipeline(folder: Path) -> Foreign:
    """The parts of a pipeline. Raises ValueError naming one that is not understood."""
    index = _read(folder / INDEX)
    parts = {
        name: value[1]
        for name, value in index.items()
        if isinstance(value, list) and len(value) == 2 and all(isinstance(word, str) for word in value)
    }
    models = [name for name, kind in parts.items() if kind in (*MODELS, "Transformer2DModel")]
    vaes = [name for name, kind in parts.items() if kind in AUTOENCODERS]
    others = [f"{name} ({kind})" for name, kind in parts.items() if name not in (*models, *vaes, "scheduler")]
    if others or len(models) != 1 or len(vaes) > 1 or "scheduler" not in parts:
        wrong = f"its part {others[0]} is not understood" if others else f"its parts are {', '.join(parts) or 'none'}"
        raise ValueError(
            f"{folder}: {index.get('_class_name', 'a pipeline')}: {wrong}; a pipeline of a UNet2DModel or "
            f"DiTTransformer2DModel, its scheduler and perhaps an {' or '.join(AUTOENCODERS)} would be understood"
        )
    labels = index.get("id2label")
    names: tuple[str, ...] = ()
    if isinstance(labels, dict):
        if other := [key for key in labels if not key.isdecimal()]:
            raise ValueError(f"{folder / INDEX}: id2label must name classes by their numbers, got {other[0]!r:.80}")
        names = tuple(str(labels[key]).split(",")[0].strip() for key in sorted(labels, key=int))
    vae = folder / vaes[0] if vaes else None
    model, scheduler = _place(folder, models[0], MODEL), _place(folder, "scheduler", SCHEDULER) / SCHEDULER
    return Foreign(folder, model, scheduler, vae, names)


def _place(folder: Path, part: str, file: str) -> Path:
    """The folder of a part: its own, or that of the pipeline, where the first pipelines kept them all."""
    own = folder / part
    return folder if (folder / file).exists() and not own.is_dir() else own


def _refuse_own(folder: Path) -> None:
    """Raises ValueError if this is a run folder of ours, whose config has the same name as that of a model of diffusers."""
    if (folder / checkpoints.EMA).exists():
        raise ValueError(f"{folder} is a run folder of distillkac already: sample or distil it as it is")
    if "format" in _read(folder / MODEL):
        raise ValueError(f"{folder} is a run folder without {checkpoints.EMA}: put it back, or train the run first")


def _model_kind(path: Path, config: dict[str, Any]) -> str:
    name = config.get("_class_name")
    if name == "Transformer2DModel" and config.get("norm_type") == "ada_norm_zero":
        return "DiTTransformer2DModel"  # as the first DiTs were saved
    if name not in MODELS:
        raise ValueError(f"{path}: is of the class {name}; {' and '.join(MODELS)} would be understood")
    return str(name)


def _settings(path: Path, kind: str, config: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the model's class. Raises ValueError naming one that is not understood."""
    known = inspect.signature(MODELS[kind]().__init__).parameters
    mine = {name: value for name, value in config.items() if not name.startswith("_")}
    unknown = [name for name in mine if name not in known]
    if kind == "UNet2DModel":
        if unknown:
            raise ValueError(f"{path}: this version of diffusers' {kind} has no {unknown[0]}: update diffusers")
        if mine.get("class_embed_type") is not None:
            raise ValueError(
                f"{path}: class_embed_type {mine['class_embed_type']} is not understood; num_class_embeds alone, or no "
                "classes, would be"
            )
        if (times := mine.get("time_embedding_type", "positional")) != "positional":
            raise ValueError(
                f"{path}: time_embedding_type {times} is not understood (learned knows whole timesteps alone, fourier takes "
                "the logarithm of their numbers); positional would be"
            )
    for name in ("num_class_embeds", "num_embeds_ada_norm"):
        count = mine.get(name)
        if count is not None and not (type(count) is int and 1 <= count <= MOST_CLASSES):
            raise ValueError(f"{path}: {name} must be a whole number from 1 to {MOST_CLASSES}, got {count!r:.80}")
    usual = {name: mine.get(name, parameter.default) for name, parameter in known.items()}
    return {name: value for name, value in usual.items() if value is not inspect.Parameter.empty}


def _schedule(path: Path) -> tuple[NoiseSchedule, str, float | None]:
    """(schedule, prediction, bound of the data or None) of a scheduler_config.json. Raises ValueError naming what is not
    understood."""
    config = _read(path)
    kind, steps = config.get("_class_name"), config.get("num_train_timesteps", 1000)
    if kind not in SCHEDULERS:
        raise ValueError(f"{path}: is of the class {kind}; {', '.join(SCHEDULERS)} would be understood")
    prediction = config.get("prediction_type", "epsilon")
    predictions = {"epsilon": "epsilon", "v_prediction": "v_prediction", "sample": "sample", "flow_prediction": "flow"}
    if prediction not in predictions:
        raise ValueError(f"{path}: prediction_type {prediction}; {', '.join(predictions)} would be understood")
    prediction = predictions[prediction]
    for name, understood in (("invert_sigmas", False), ("timestep_type", "discrete")):
        if config.get(name, understood) != understood:
            raise ValueError(f"{path}: {name} {config[name]} is not understood; {understood} would be")
    try:
        # A scheduler made of the config of another keeps words that only the other understood.
        if kind == FLOW or (kind == DPM and config.get("use_flow_sigmas")):
            return NoiseSchedule("flow", steps), "flow" if kind == FLOW else prediction, None
        if kind == "EDMEulerScheduler":
            least, most, spread = (config.get(name, usual) for name, usual in EDM)
            return NoiseSchedule("edm", steps, sigma_min=least, sigma_max=most, sigma_data=spread), prediction, None
        clips = kind in CLIPPING and config.get("clip_sample", True)
        clip = float(config.get("clip_sample_range", 1.0)) if clips else None
        return _of_betas(config, steps), prediction, clip
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: {error}") from None


def _of_betas(config: dict[str, Any], steps: int) -> NoiseSchedule:
    name, given = config.get("beta_schedule", "linear"), config.get("trained_betas")
    understood = SCHEDULES[: SCHEDULES.index("trained_betas")]
    if given is None and name not in understood:
        raise ValueError(f"beta_schedule {name}; {', '.join(understood)} and trained_betas would be understood")
    betas = () if given is None else tuple(float(beta) for beta in given)
    return NoiseSchedule(
        name if given is None else "trained_betas",
        steps if given is None else len(betas),
        float(config.get("beta_start", 0.0001)),
        float(config.get("beta_end", 0.02)),
        betas,
        bool(config.get("rescale_betas_zero_snr", False)),
    )


def _read(path: Path) -> dict[str, Any]:
    content = files.read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must be an object, got {json.dumps(content):.80}")
    return content
