"""Teachers: `train` is `python -m distillkac.train` as a function, for own data and own networks too."""

import dataclasses
import os
import warnings
from pathlib import Path

from accelerate import Accelerator
from torch import nn

from distillkac import data
from distillkac.base.optional import Tracker
from distillkac.base.options import with_paths
from distillkac.data import DataConfig, Dataset
from distillkac.data.given import checked
from distillkac.data.latents import LatentDataset
from distillkac.flow.network_config import NetworkConfig
from distillkac.runs import checkpoints
from distillkac.runs import config as configs
from distillkac.runs.config import RunConfig, load_config
from distillkac.runs.own_network import OwnNetwork, check_network
from distillkac.runs.run import Run, build_network
from distillkac.runs.run_data import check_place
from distillkac.runs.start import refuse_lost, started
from distillkac.training import trackers
from distillkac.training.fit import (
    accelerator_for,
    fit_run,
    own_accelerate,
    refuse_inference_mode,
    refuse_shipped,
)
from distillkac.training.loop import Fit
from distillkac.training.measuring import Figures
from distillkac.training.objectives import objective_for, settled, trained
from distillkac.training.resume import goes_on

_DEFAULTS = NetworkConfig(), NetworkConfig(interval_embedding=True), NetworkConfig(augment_embedding=True)
"""config.network where nothing was said."""


def train(
    folder: str | os.PathLike[str],
    dataset: Dataset | DataConfig,
    network: nn.Module | NetworkConfig | None = None,
    config: RunConfig | None = None,
    *,
    resume: bool = False,
    track: tuple[Tracker, ...] = (),
    init: str | os.PathLike[str] | None = None,
    measure: Figures | None = None,
) -> Run:
    """Trains a flow on images and saves it in a run folder, as `python -m distillkac.train` does: config, checkpoints, moving
    average, curves, samples.

    dataset: own images, `data.from_tensors(images, labels)` or any `data.Dataset`; or a DataConfig, which says where they are.
    network: an own module, see runs.own_network.OwnNetwork, which is trained where it stands; or the NetworkConfig of one
    of ours; by default config.network. config: everything else; by default that of the run that is continued, or of the
    command, 3000 steps. resume: continue the run in the folder from its last checkpoint; where there is none, begin. init: a
    run folder, or what diffusers saved, whose weights the network begins with as far as they fit (`--init` of the command).
    measure: what measures the average every config.optim.measure_every steps, such as
    evaluation.training_figures.TrainingFigures(images, held_out).

    Returns the run with its averaged network. Ctrl-C saves, then raises KeyboardInterrupt. Raises ValueError before anything
    is trained: for data or a network that are not what they should be, a folder that holds another run, or a part of
    `config` that these arguments leave without a meaning.
    """
    folder = _looked_at(folder, network, track)
    goes_on(folder, resume)
    config = dataclasses.replace(_usual(folder, config, network, resume), student=None)
    if isinstance(dataset, DataConfig):
        _refuse_two("data", config.data, (DataConfig(), dataset))
        config = with_paths(configs.checked(dataclasses.replace(config, data=dataset), RunConfig))
        check_place(folder, config.data.path)
        images: Dataset = data.load_training(config.data)
        config = with_data(config, images, load_config(folder) if resume and checkpoints.begun(folder) else None)
    else:
        images = dataset
        config = _with_given(config, images)
    _check_noise(config, new=not (resume and checkpoints.begun(folder)))
    config, network = _with_network(config, network, images)
    say_what_a_transformer_lacks(config)
    config = settled(_begun_with(init, folder, config, network, resume), network)
    with own_accelerate():
        fit, accelerator = fit_teacher(folder, config, network, images, track, resume, measure)
        device = accelerator.device
        trackers.finish(accelerator)  # not the processes, which may have more to do
    if fit.interrupted or not (fit.finished or fit.ended):
        raise KeyboardInterrupt(f"stopped at step {fit.step} of {config.steps}; train(..., resume=True) goes on")
    return Run(folder.absolute(), config, config.noise.build(), fit.network, device)


def _usual(
    folder: Path, config: RunConfig | None, network: nn.Module | NetworkConfig | None, resume: bool
) -> RunConfig:
    """The config that was given, or that of the run that is continued, whose images and network are given anew."""
    if config is not None:  # of another run perhaps, which began with what this one does not
        return dataclasses.replace(configs.checked(config, RunConfig), began_with=None)
    if not (resume and checkpoints.begun(folder)):
        return RunConfig()
    saved = load_config(folder)
    return dataclasses.replace(saved, data=DataConfig(), network=saved.network if network is None else NetworkConfig())


def say_what_a_transformer_lacks(config: RunConfig) -> None:
    """Warns of options of the U-Net that are given, or have come with a preset, for a transformer."""
    network, usual = config.network, NetworkConfig()
    if not isinstance(network, NetworkConfig) or network.backbone != "dit":
        return
    names = ("attention", "middle_attention", "scale_shift")
    if others := [f"network.{name}" for name in names if getattr(network, name) != getattr(usual, name)]:
        warnings.warn(
            f"network.backbone dit has attention and scales everywhere: {', '.join(others)} change nothing of it",
            stacklevel=3,
        )


def _begun_with(
    init: str | os.PathLike[str] | None, folder: Path, config: RunConfig, network: nn.Module, resume: bool
) -> RunConfig:
    """The config of a run that begins with the weights of `init`, if there is one, which the network then has."""
    before = load_config(folder) if resume and checkpoints.begun(folder) else None
    if init is not None:
        return started(network, config, init, before)
    refuse_lost(folder, before)
    return config


def _check_noise(config: RunConfig, new: bool) -> None:
    """Raises ValueError for images that the process cannot move, and of a new run for numbers of another process."""
    if new:
        config.noise.refuse_unused()
    config.noise.build().check_shape(config.shape)


def config_for(dataset: Dataset, network: nn.Module, config: RunConfig | None = None) -> RunConfig:
    """The config of a run that learns own images with an own network, both checked as `train` does: for `fit_run`, with an
    objective of your own."""
    config = _with_given(RunConfig() if config is None else configs.checked(config, RunConfig), dataset)
    config.noise.build().check_shape(config.shape)
    return _with_own(config, network, dataset)


def with_data(config: RunConfig, dataset: Dataset, saved: RunConfig | None = None) -> RunConfig:
    """The config of a run that learns this data set. saved: of the run that is continued."""
    space = dataset.space if isinstance(dataset, LatentDataset) else None
    if saved is not None and space and saved.latent and space.weights == saved.latent.weights:
        space = saved.latent  # the same autoencoder, whose place was perhaps written there anew
    channels, height, width = dataset.shape
    return dataclasses.replace(
        config,
        shape=(channels, height, width),
        class_names=tuple(dataset.class_names),
        fingerprint=dataset.fingerprint,
        latent=space,
        student=None,
    )


def fit_teacher(
    folder: Path,
    config: RunConfig,
    network: nn.Module,
    dataset: Dataset,
    track: tuple[Tracker, ...],
    resume: bool,
    measure: Figures | None = None,
) -> tuple[Fit, Accelerator]:
    """Trains the network to config.steps; whoever asks for it ends what the accelerator has begun."""
    config = settled(config, network)
    objective = objective_for(config, network)
    accelerator = accelerator_for(config.optim, trackers=track, folder=folder)
    if track:
        accelerator.init_trackers("distillkac")
    if config.objective == "average-velocity" and accelerator.is_main_process:
        print(f"average velocities: --average-velocity.derivative {config.average_velocity.derivative}", flush=True)
    if resume and accelerator.is_main_process and not (folder / checkpoints.STATE).exists():
        near = "" if checkpoints.begun(folder) else checkpoints.similar_runs(folder)
        print(
            f"nothing to resume in {folder}{f' (did you mean {near}?)' if near else ''}: it begins at step 0",
            flush=True,
        )
    learner = trained(config, network)
    return fit_run(folder, config, learner, objective, dataset, accelerator, "train", resume, measure), accelerator


def _with_given(config: RunConfig, dataset: Dataset) -> RunConfig:
    """The config of a run that learns data given in Python. Raises ValueError if they are not what `Dataset` says."""
    place, known = checked(dataset)
    _refuse_two("data", config.data, (DataConfig(), place))
    config = dataclasses.replace(config, data=place)
    return dataclasses.replace(with_data(config, dataset), fingerprint=known)


def _with_network(
    config: RunConfig, network: nn.Module | NetworkConfig | None, images: Dataset
) -> tuple[RunConfig, nn.Module]:
    """The config of a run with the network that was given, and that network."""
    if isinstance(network, nn.Module):
        return _with_own(config, network, images), network
    if network is not None:
        _refuse_two("network", config.network, (*_DEFAULTS, network))
        config = configs.checked(dataclasses.replace(config, network=network), RunConfig)
    return config, build_network(config)


def _with_own(config: RunConfig, network: nn.Module, dataset: Dataset) -> RunConfig:
    """The config of a run with an own network, which is tried on two images. Raises ValueError if it will not do."""
    if isinstance(config.network, NetworkConfig):
        _refuse_two("network", config.network, _DEFAULTS)
    x, y = data.read(dataset, dataset.order(config.seed)(0, 2).tolist())
    check_network(network, x, y, len(config.class_names))
    own = OwnNetwork.of(network)
    if own.guidance_embedding:
        raise ValueError(f"{own.module} takes the guidance weight w as an input, which students do and teachers do not")
    if getattr(network, "null_class", None) is None and config.label_drop > 0:
        if len(config.class_names) > 1:
            warnings.warn(
                f"{own.module} has no null_class, the label that means no class: it is trained without class dropping, and "
                f"cannot be guided. For guidance set null_class = {len(config.class_names)} and let it take that label; to "
                "say that this is meant, set label_drop=0 in the config",
                stacklevel=3,
            )
        config = dataclasses.replace(config, label_drop=0.0)
    return dataclasses.replace(config, network=own)


def _looked_at(folder: str | os.PathLike[str], network: object, track: tuple[Tracker, ...]) -> Path:
    """The folder as a path. Raises ValueError if an argument is of another kind, or nothing can be trained here."""
    refuse_inference_mode()
    if isinstance(track, str):
        raise ValueError(f'track must be a tuple of names, such as ("{track:.80}",), got {track!r:.80}')
    if not isinstance(network, nn.Module | NetworkConfig | None):
        raise ValueError(f"network must be a torch.nn.Module or a NetworkConfig, got {network!r:.80}")
    if not isinstance(folder, str | os.PathLike):
        raise ValueError(f"folder must be a path, the run folder to write, got {folder!r:.80}")
    refuse_shipped(folder := Path(folder).expanduser())
    return folder


def _refuse_two(name: str, inside: object, accepted: tuple) -> None:
    """Raises ValueError if config.NAME says something else than the argument, and would be ignored."""
    if inside not in accepted:
        raise ValueError(
            f"config.{name} and the {name} that is given say different things: leave config.{name} as it is"
        )
