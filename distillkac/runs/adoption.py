"""Other people's teachers: `adopt` is `python -m distillkac.adopt` as a function, and takes networks in Python too."""

import contextlib
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from distillkac import data
from distillkac.base.files import as_json
from distillkac.base.options import with_paths
from distillkac.base.random import generator
from distillkac.base.ranges import check_number
from distillkac.data import DataConfig, Dataset, ImageDataset
from distillkac.data.config import LatentSpace
from distillkac.data.given import checked
from distillkac.data.latents import LatentDataset
from distillkac.data.vae import channels_of, load_vae, space_of
from distillkac.flow.adopted import AdoptedNetwork
from distillkac.flow.velocity_from import VelocityFrom
from distillkac.runs import checkpoints, foreign, lock, shipped
from distillkac.runs.config import RunConfig, save_config
from distillkac.runs.config import checked as checked_config
from distillkac.runs.own_network import OwnNetwork, check_network, copied
from distillkac.runs.process_config import ADOPTED, ProcessConfig
from distillkac.runs.run import Run, build_network, open_run
from distillkac.runs.run_data import NO_IMAGES, check_place
from distillkac.runs.understood import answers

GUIDED = (
    0.1  # label_drop of a model that knows no class: its own is not known, and all that counts is that it is above 0
)


def adopt(
    source: str | os.PathLike[str] | VelocityFrom,
    run: str | os.PathLike[str],
    dataset: Dataset | DataConfig | None = None,
    *,
    shape: tuple[int, int, int] | None = None,
    classes: int | Sequence[str] | None = None,
    scheduler: str | os.PathLike[str] | None = None,
    null_class: bool | None = None,
    sigma: float = 1.0,
    max_ratio: float | None = None,
) -> Run:
    """Makes a run of a model that diffusers saved, as `python -m distillkac.adopt` does, or of a network given in Python: a
    teacher, ready to be sampled and distilled.

    source: folder of a pipeline or of a model, or a name on the Hub; or a flow.VelocityFrom, which open_run(run, network=...)
    wants again. dataset: the images that it was trained on; None where they are not at hand. shape, classes: of a network in
    Python without them, (C, H, W) and how many classes it knows, or their names; by default what its null_class says, or one.

    The others are of diffusers' models. scheduler: the folder of its scheduler, where that does not lie beside it. null_class:
    whether its last class means no class; by default where it knows one class more than the images have. sigma: the spread of
    our process. max_ratio: without the timesteps that have more noise than so many times the data; by default 160 for a model
    that predicts the noise, whose errors are so many times as large in the data, and none for others.

    Raises ValueError, before anything is written, naming what is not understood or does not fit.
    """
    if not isinstance(run, str | os.PathLike):
        raise ValueError(f"run must be a path, the run folder to write, got {run!r:.80}")
    place = Path(run).expanduser()
    shipped.refuse(place, shipped.ELSEWHERE)
    _refuse_begun(place)
    if isinstance(source, VelocityFrom) or callable(source):
        spread = None if sigma == 1 else sigma
        options = {"scheduler": scheduler, "null_class": null_class, "sigma": spread, "max_ratio": max_ratio}
        _refuse_options(options, "a model that diffusers saved", "a network in Python")
        return _adopt_network(source, place, dataset, shape, classes)
    if not isinstance(source, str | os.PathLike):
        raise ValueError(f"source must be a folder, a name on the Hub or a flow.VelocityFrom, got {source!r:.80}")
    _refuse_options({"shape": shape, "classes": classes}, "a network in Python", "a model that diffusers saved")
    _check_options(scheduler, {"sigma": sigma, "max_ratio": max_ratio})
    images, config = _images(place, dataset)
    found = foreign.find(os.fspath(source), None if scheduler is None else Path(scheduler).expanduser())
    network = _network(found, null_class, sigma, max_ratio, images)
    config = _completed(config, network, images, found)
    _write(place, config, _weights(config, found))
    return open_run(place)


def _weights(config: RunConfig, found: foreign.Foreign) -> dict[str, Tensor]:
    """Of the run's network, whose model has those that diffusers saved."""
    try:
        made = build_network(config)
    except ValueError as error:
        raise ValueError(f"{found.source}: {error}") from None
    made.get_submodule("model").load_state_dict(foreign.load_model(found).state_dict())
    return made.state_dict()


def _refuse_begun(place: Path) -> None:
    if checkpoints.begun(place):
        raise ValueError(f"{place} holds a run already: choose another folder")


def _write(place: Path, config: RunConfig, state: dict[str, Tensor]) -> None:
    config = checked_config(config, RunConfig)
    weights = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    with contextlib.ExitStack() as held:
        if (problem := lock.take(place, held)) is not None:
            raise ValueError(problem)
        _refuse_begun(place)  # by another that has finished meanwhile
        save_config(place, config)
        checkpoints.export(place, 0, weights, weights)


def _refuse_options(options: Mapping[str, object], owner: str, other: str) -> None:
    """Raises ValueError if one is given that is of the owner, where the other says it itself."""
    for name, value in options.items():
        if value is not None:
            raise ValueError(f"{name} is of {owner}, and {other} says it itself: omit {name}")


def _check_options(scheduler: object, numbers: Mapping[str, float | None]) -> None:
    """Raises ValueError if an option of a model that diffusers saved is none."""
    if not isinstance(scheduler, str | os.PathLike | None):
        raise ValueError(f"scheduler must be a path, the folder of a scheduler, got {scheduler!r:.80}")
    for name, value in numbers.items():
        if value is not None:
            check_number(name, value, ADOPTED[name])


def _adopt_network(
    network: object,
    place: Path,
    dataset: Dataset | DataConfig | None,
    shape: tuple[int, int, int] | None,
    classes: int | Sequence[str] | None,
) -> Run:
    """The run of a network given in Python. Raises ValueError if it, or the images, will not do."""
    if not isinstance(network, VelocityFrom):
        name = getattr(network, "__name__", type(network).__name__)
        raise ValueError(
            f"{name} says nothing of its noise and of what it predicts: give distillkac.flow.VelocityFrom({name}, process, "
            "prediction)"
        )
    if dataset is not None and (shape is not None or classes is not None):
        raise ValueError("dataset says the shape and the classes of the images: omit shape and classes, or dataset")
    given, config = _images(place, dataset)
    images = _noise(network, shape, classes) if given is None else given
    (channels, height, width), names = images.shape, tuple(images.class_names)
    network.process.check_shape((channels, height, width))
    tried = copied(network).requires_grad_(True)  # as students are
    x, y = data.read(images, images.order(0)(0, 2).tolist())
    check_network(tried, x, y, len(names), weightless=next(tried.parameters(), None) is None)
    own = OwnNetwork.of(tried)
    if own.guidance_embedding:
        raise ValueError(f"{own.module} takes the guidance weight w as an input, which students do and teachers do not")
    own = dataclasses.replace(own, answers=answers(tried.eval(), (channels, height, width), len(names)))
    config = dataclasses.replace(
        config,
        noise=ProcessConfig.of(network.process),
        network=own,
        steps=1,
        label_drop=0.0 if getattr(network, "null_class", None) is None else GUIDED,
        shape=(channels, height, width),
        class_names=names,
        latent=images.space if isinstance(images, LatentDataset) else None,
    )
    _write(place, config, network.state_dict())
    return open_run(place, network=network)


def _noise(network: VelocityFrom, shape: object, classes: object) -> ImageDataset:
    """Stands for the images of a network in Python that are not at hand, to try it on. Raises ValueError if it is not said what
    they are."""
    if shape is None:
        raise ValueError(
            "a network in Python does not say the shape of its images: give dataset=, or where they are not at hand "
            "shape=(C, H, W), and classes= if it knows some"
        )
    if not (isinstance(shape, tuple | list) and len(shape) == 3 and all(type(n) is int and n > 0 for n in shape)):
        raise ValueError(f"shape must be (C, H, W), three whole numbers of at least 1, got {shape!r:.80}")
    if classes is None:
        classes = getattr(network, "null_class", None) or 1
    if type(classes) is int and classes > 0:
        classes = tuple(map(str, range(classes))) if classes > 1 else ("all",)
    if not isinstance(classes, tuple | list) or not classes or not all(isinstance(n, str) and n for n in classes):
        raise ValueError(f"classes must be a number of at least 1, or the names of the classes, got {classes!r:.80}")
    if len(set(classes)) < len(classes):
        raise ValueError(f"classes names one of them twice, got {classes!r:.80}")
    x = torch.rand(2, *shape, dtype=torch.float32, generator=generator(0, "tried")) * 2 - 1
    return ImageDataset(x, torch.arange(2) % len(classes), tuple(classes))


def _network(
    found: foreign.Foreign, null_class: bool | None, sigma: float, max_ratio: float | None, images: Dataset | None
) -> AdoptedNetwork:
    network = foreign.network_of(found, bool(null_class), sigma, max_ratio)
    if null_class is False and network.null_class:
        raise ValueError(f"{found.model} is a DiT, which always has a class for none: omit null_class")
    if null_class is None and images is not None and network.classes == len(images.class_names) + 1:
        network = dataclasses.replace(network, null_class=True)
    return dataclasses.replace(network, settings=as_json(network.settings))


def _completed(config: RunConfig, network: AdoptedNetwork, images: Dataset | None, found: foreign.Foreign) -> RunConfig:
    config = dataclasses.replace(
        config,
        noise=ProcessConfig("gaussian", sigma=network.sigma, tau_max=network.tau_max),
        network=network,
        steps=1,
        label_drop=GUIDED if network.null_class else 0.0,
        latent=_space(found, network, images),
    )
    return _with_shape(config, network, found) if images is None else _fitting(config, network, images, found)


def _images(place: Path, dataset: Dataset | DataConfig | None) -> tuple[Dataset | None, RunConfig]:
    """The images, and a config that knows them."""
    if dataset is None:
        return None, RunConfig(data=DataConfig(path=NO_IMAGES))
    if isinstance(dataset, DataConfig):
        config = with_paths(RunConfig(data=dataset))
        check_place(place, config.data.path)
        images: Dataset = data.load_training(config.data)
        return images, dataclasses.replace(config, fingerprint=images.fingerprint)
    given, known = checked(dataset)
    return dataset, RunConfig(data=given, fingerprint=known)


def _space(found: foreign.Foreign, network: AdoptedNetwork, images: Dataset | None) -> LatentSpace | None:
    """How the model's latents become images, if it learned latents. Raises ValueError if the images are those of another."""
    given = images.space if isinstance(images, LatentDataset) else None
    if found.vae is None:
        return given
    foreign.check_autoencoder(found.vae)
    vae = load_vae(str(found.vae), torch.device("cpu"))
    height, width = _size(found, network) or (0, 0)
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    if (channels := network.settings["in_channels"]) != channels_of(vae):
        raise ValueError(
            f"{found.vae} makes latents of {channels_of(vae)} channels, and {found.model} takes {channels}: they do not belong "
            "together"
        )
    space = space_of(str(found.vae), vae, (vae.config.in_channels, height * factor, width * factor))
    if given is not None and given.weights != space.weights:
        raise ValueError(
            f"the latents were made by {given.vae}, another autoencoder than that of {found.source}: encode anew"
        )
    if images is not None and given is None:
        raise ValueError(
            f"{found.source} learned latents, and these are images: encode them first, python -m distillkac.encode --vae "
            f"{found.vae}, and give the folder of latents"
        )
    return space if given is None else given


def _size(found: foreign.Foreign, network: AdoptedNetwork) -> tuple[int, int] | None:
    """(height, width) of the model's samples, None where it does not say it. Raises ValueError if it is no size."""
    said = network.settings["sample_size"]
    sides = said if isinstance(said, list) else [said, said]
    if not said:
        return None
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise ValueError(f"{found.model}: sample_size must be a whole number of at least 1, or two, got {said!r:.80}")
    return sides[0], sides[1]


def _with_shape(config: RunConfig, network: AdoptedNetwork, found: foreign.Foreign) -> RunConfig:
    """Shape and classes as the model itself tells them."""
    if (size := _size(found, network)) is None:
        raise ValueError(f"{found.model} says no sample_size: give the images that it was trained on, --data.path")
    count = network.classes
    names = ("all",) if count is None else tuple(map(str, range(count)))
    if len(found.class_names) == len(set(found.class_names)) == count:
        names = found.class_names
    return dataclasses.replace(config, shape=(network.settings["in_channels"], *size), class_names=names)


def _fitting(config: RunConfig, network: AdoptedNetwork, images: Dataset, found: foreign.Foreign) -> RunConfig:
    """Shape and classes of the images. Raises ValueError if they are not the model's."""
    (channels, height, width), names = images.shape, tuple(images.class_names)
    wanted = _size(found, network)
    if wanted is not None and wanted != (height, width):
        raise ValueError(
            f"{found.source} is for images of {wanted[0]}x{wanted[1]}, and these are {height}x{width}: set --data.image-size"
        )
    if network.classes is None and len(names) > 1:
        raise ValueError(f"{found.source} knows no classes, and the images have {len(names)}: add --data.unconditional")
    there = {name: k for k, name in enumerate(found.class_names)}
    if other := [name for k, name in enumerate(names) if there.get(name, k) != k]:
        raise ValueError(
            f"{found.source} has class {other[0]!r} as number {there[other[0]]} (id2label), and these images as number "
            f"{names.index(other[0])}: give images whose classes are in the model's order (distillkac.data.from_tensors)"
        )
    return dataclasses.replace(config, shape=(channels, height, width), class_names=names)
