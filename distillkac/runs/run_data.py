"""The images of a run: where they are now, and whether they are still those that it was trained on."""

import os
import warnings
from dataclasses import replace
from pathlib import Path

from distillkac import data
from distillkac.base.paths import HUB, absolute
from distillkac.data import DataConfig, ImageDataset, Stream
from distillkac.data.config import Fingerprint, Split
from distillkac.data.fingerprint import difference
from distillkac.data.given import PYTHON, is_given
from distillkac.data.latents import is_latents, source
from distillkac.data.listing import is_system
from distillkac.runs.config import RunConfig
from distillkac.runs.data_place import DataPlace

NO_IMAGES = "unknown://images"
"""config.data.path of a run that was adopted without the images that it learned."""


class RunData:
    """Loads the images of a run folder, and raises ValueError if they are missing or others than it was trained on.

    place: where they are now, by default where they were. Of a run that learned latents, the folder of these or, where
    images are to be measured against, the images that they were made of.
    """

    def __init__(self, run: Path, config: RunConfig, place: DataPlace | None = None):
        refuse_given(run, config.data)
        moved = place.path if place is not None else None
        if config.data.path == NO_IMAGES and moved is None:
            raise ValueError(
                f"{run} was adopted without the images that it was trained on: say with --data.path where they are, or adopt "
                "it again with --data.path"
            )
        self.images = moved if config.latent is not None and moved and not is_latents(Path(moved)) else None
        self.run, self.config = run, config
        if self.images and config.data.path == NO_IMAGES:  # there are no latents that these could be the images of
            raise ValueError(self._no_latents())
        self.data = located(run, replace(config.data, path=moved) if moved and not self.images else config.data)

    def load(self, split: Split) -> ImageDataset:
        """See `data.load`."""
        return self._checked(self._read(lambda: data.load(self.data, split)))

    def load_training(self) -> ImageDataset | Stream:
        """See `data.load_training`."""
        return self._checked(self._read(lambda: data.load_training(self.data)))

    def load_pixels(self, split: Split) -> ImageDataset:
        """Like `load`, but where the run learned latents, the images that they were made of."""
        if self.config.latent is None:
            return self.load(split)
        assert self.data.path is not None, "latents lie in a folder"
        images, known, names = source(Path(self.data.path))
        if self.config.data.unconditional:  # the latents were learned without the classes of their images
            images, known, names = replace(images, unconditional=True, label_column=None), None, ("all",)
        images = located(self.run, replace(images, path=self.images) if self.images else images)
        dataset = data.load(images, split)
        _refuse_others(self.run, images, known, names, dataset)
        return dataset

    def _read(self, load):
        """What `load` returns; what it refuses with an option for a remedy is told with the command that takes this one."""
        try:
            return load()
        except ValueError as error:
            if self.config.data.path == NO_IMAGES and "--data." in str(error):
                raise ValueError(f"{error}{self._way_out()}") from None
            raise

    def _way_out(self) -> str:
        """Of a run that was adopted without images, which knows no more of them than where they are."""
        if self.config.data.path != NO_IMAGES or self.config.latent is not None:
            return ""
        options = f"--data.path {self.data.path} --data.image-size {min(self.config.shape[1:])}"
        return f"; {self.run} was adopted without images: adopt it again with these, {options}, which brings them to its size"

    def _no_latents(self) -> str:
        return f"{self.images} holds no latents, but {self.run} learned latents: name the folder that distillkac.encode wrote"

    def _checked(self, dataset):
        if self.images is not None:
            raise ValueError(self._no_latents())
        latent, space = self.config.latent, getattr(dataset, "space", None)
        if latent is not None and space is not None and space.weights != latent.weights:
            raise ValueError(
                f"the latents of {self.data.path} were made by another autoencoder than that of {self.run}: encode the images "
                "by its own"
            )
        if tuple(dataset.shape) != tuple(self.config.shape):
            before, now = (" x ".join(map(str, shape)) for shape in (self.config.shape, dataset.shape))
            raise ValueError(
                f"{self.run} was trained on images of {before}, but those of {self.data.path} are {now}{self._way_out()}"
            )
        if self.config.data.path == NO_IMAGES and tuple(dataset.class_names) != tuple(self.config.class_names):
            theirs, mine = (", ".join(names[:4]) for names in (dataset.class_names, self.config.class_names))
            raise ValueError(
                f"the classes of {self.data.path} ({theirs}) are not those of {self.run} ({mine}), which was adopted without "
                "images: adopt it again with these, --data.path, and with --data.unconditional where it knows no classes"
            )
        _refuse_others(self.run, self.data, self.config.fingerprint, self.config.class_names, dataset)
        return dataset


def refuse_given(run: Path, config: DataConfig) -> None:
    """Raises ValueError if the run learned data given in Python: nobody else can load them."""
    if is_given(config):
        assert config.path is not None
        raise ValueError(
            f"{run} was trained on data given in Python ({config.path.removeprefix(PYTHON)}), which cannot be loaded from its "
            "config: give it again in Python (distillkac.training.train, distillkac.distillation.distill), or write the images "
            "to an .npz and train on that with --data.path"
        )


def located(run: Path, config: DataConfig) -> DataConfig:
    """The same data by an absolute path. Raises ValueError saying what to do if there is nothing."""
    config = in_current_folder(run, config)
    if config.path is not None and not config.path.startswith(HUB):
        path = Path(config.path)
        if not path.exists() and "{" not in config.path:
            raise ValueError(
                f"the images that {run} was trained on should be at {path}, where there is nothing now: say with --data.path "
                "where they are"
            )
    return config


def in_current_folder(run: Path, config: DataConfig) -> DataConfig:
    """The same data; a relative path, as runs of earlier versions have, is taken from the current folder, with a warning."""
    path = None if config.path is None else absolute("data.path", config.path)
    if path == config.path:
        return config
    warnings.warn(
        f"{run} was made by an earlier version, which kept the path of its images as it was typed: {config.path} is taken from "
        f"the current folder, {path}",
        stacklevel=2,
    )
    return replace(config, path=path)


def _refuse_others(
    run: Path, config: DataConfig, known: Fingerprint | None, names: tuple[str, ...], dataset: ImageDataset | Stream
) -> None:
    # A run of an earlier version knows no more of its images than the classes.
    if dataset.fingerprint is None:
        return
    problem = difference(known or dataset.fingerprint, names, dataset.fingerprint, dataset.class_names)
    if problem is not None:
        place = config.path or f"the built-in {config.builtin}"
        raise ValueError(
            f"{place}: not the images that {run} was trained on: {problem}; put those back, or say with --data.path where "
            "they are"
        )


def check_place(out: Path, images: str | None, option: str = "--run") -> None:
    """Raises ValueError if what is written to `out` would come among the images: they would be others the next time, or could
    not be read any more. option: that names `out`."""
    place, folder = (Path(os.path.realpath(path)) for path in (out, images or ""))
    inside = images and folder.is_dir() and folder in (place, *place.parents)
    if inside and not any(map(is_system, place.relative_to(folder).parts)):
        lies = "is" if place == folder else "lies inside"
        raise ValueError(
            f"{option} {out} {lies} the folder of the images, {images}, which would then hold what is written there too: "
            "choose a folder beside it"
        )
