"""What the demo page does, without the page: choices of steps, guidance and classes, sampled side by side."""

import contextlib
import math
import threading
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from distillkac.runs import pictures, shipped
from distillkac.runs.config import RunConfig, load_config
from distillkac.runs.run import Run, default_network, open_run, students
from distillkac.runs.sampler import Trained
from distillkac.runs.sampling import SamplerConfig, choose, class_labels, diverged, generate, usual_steps

STEPS = (1, 2, 4, 20, 100)
MODELS = ("auto", "teacher", "student")
MAX_IMAGES, MAX_VALUES = 64, 2**21  # images of one choice; their pixels times channels, so that large images are fewer
MAX_FRAMES, FRAME_VALUES = 21, 2**22  # states shown of one choice; the values of all states of one request
MAX_W = 16.0
MAX_SEED = 2**32 - 1


@dataclass(frozen=True)
class Choice:
    """One column of the page: what one number of steps gave, or the sentence why it gave nothing.

    frames: grids of all images at the times `times`, from noise (t = 1) to the images (t = 0). seconds: of the
    sampler alone. nfe: network evaluations per image.
    """

    steps: int
    network: str = ""
    nfe: int = 0
    seconds: float = 0.0
    frames: tuple[Image.Image, ...] = ()
    times: tuple[float, ...] = ()
    error: str = ""


class Demo:
    """What the page does, without the page: checks a request, chooses the networks, samples.

    It keeps loaded networks and nothing of a request, so that users cannot meet each other's images. Requests may come
    from several threads.
    """

    def __init__(self, folders: tuple[Path, ...], device: torch.device):
        """folders: of runs, or names of shipped models. Raises ValueError if there is none, or one is no run."""
        if not folders:
            raise ValueError("name at least one run folder")
        folders = tuple(shipped.folder_of(folder).absolute() for folder in folders)
        configs = [load_config(default_network(folder)) for folder in folders]
        self.runs = dict(zip(_titles(folders, configs), folders, strict=True))
        self.configs = dict(zip(self.runs, configs, strict=True))
        self.device = device
        self._opened: dict[Path, Run] = {}
        self._loading = threading.Lock()
        for title, folder in self.runs.items():  # a damaged run is told now, not to its first user
            self._open(
                title, SamplerConfig(usual_steps(folder), model="auto" if shipped.is_model(folder) else "teacher")
            )

    @property
    def class_names(self) -> list[str]:
        """Of all runs, in their order."""
        return list(dict.fromkeys(name for config in self.configs.values() for name in config.class_names))

    @property
    def shipped(self) -> bool:
        """Whether all of them are shipped models, whose images are drawn as soon as the page is opened."""
        return all(map(shipped.is_model, self.runs.values()))

    @property
    def steps(self) -> tuple[int, ...]:
        """The numbers of steps to choose from: of shipped models alone those of their students."""
        if not self.shipped:
            return STEPS
        made = [Trained.of(load_config(path)) for folder in self.runs.values() for path in students(folder)]
        return tuple(n for n in STEPS if any(trained.serves(n) for trained in made))

    def max_images(self, title: str) -> int:
        """How many images one choice of this run may have."""
        return max(1, min(MAX_IMAGES, MAX_VALUES // self._values(title)))

    def _values(self, title: str) -> int:
        """Of one image as it is shown, which of latents is many times what the network makes."""
        config = self.configs[title]
        return math.prod(config.shape if config.latent is None else config.latent.shape)

    def generate(self, run, steps, w=None, classes=(), num=16, seed=0, model="auto") -> list[Choice]:
        """The choices of one request, fewest steps first. The same request makes the same images.

        run: a key of `runs`. steps: some of STEPS. w: guidance weight in [0, MAX_W]; None or "" is each network's own.
        classes: names or numbers as class_names.py reads them, drawn in turn; empty for all. num: images, 1 ..
        max_images(run). seed: 0 .. MAX_SEED. model: one of MODELS. Numbers may be text. Raises ValueError if the request
        cannot be; a choice that its network cannot serve has the sentence in `error`.
        """
        if not isinstance(run, str) or run not in self.runs:
            raise ValueError(f"run must be one of {', '.join(self.runs)}, got {_shown(run)}")
        if model not in MODELS:
            raise ValueError(f"network must be one of {', '.join(MODELS)}, got {_shown(model)}")
        chosen = _steps(steps)
        w = None if w is None or w == "" else _number("guidance w", w, 0.0, MAX_W)
        num = int(_number("the number of images", num, 1, self.max_images(run), whole=True))
        seed = int(_number("seed", seed, 0, MAX_SEED, whole=True))
        if not isinstance(classes, (list, tuple)) or len(classes) > len(self.class_names):
            raise ValueError(f"classes must be a list of names, each once, got {_shown(classes)}")
        labels = class_labels(self.configs[run], num, tuple(classes))
        frames = FRAME_VALUES // (len(chosen) * num * self._values(run))
        frames = max(2, min(MAX_FRAMES, frames))
        return [self._choice(run, SamplerConfig(n, w=w, model=model), labels, seed, frames) for n in chosen]

    def _choice(self, title: str, sampler: SamplerConfig, labels: torch.Tensor, seed: int, frames: int) -> Choice:
        try:
            run = self._open(title, sampler)
            kept = torch.linspace(0, sampler.steps, min(frames, sampler.steps + 1)).round().long()
            samples = generate(run, labels, sampler, seed, path=kept.tolist())
            assert samples.path is not None  # it was asked for
            if problem := diverged(samples.images):
                return Choice(sampler.steps, error=problem)
        except ValueError as error:
            # What it says about folders is for whoever started the server, not for the page.
            folder = self.runs[title]
            return Choice(sampler.steps, error=str(error).replace(str(folder), folder.resolve().name))
        columns = math.ceil(math.sqrt(len(labels)))
        grids = tuple(pictures.grid_image(state, columns) for state in samples.path)
        return Choice(sampler.steps, run.name, samples.nfe, samples.seconds, grids, tuple(samples.times[kept].tolist()))

    def _open(self, title: str, sampler: SamplerConfig) -> Run:
        folder = choose(self.runs[title], sampler)
        with self._loading:
            if folder not in self._opened:
                self._opened[folder] = _warm(open_run(folder, self.device))
            return self._opened[folder]


def _warm(run: Run) -> Run:
    """The run after one image: the first evaluation is slow, and its time would be shown beside other networks'."""
    own = Trained.of(run.config).num_steps
    generate(run, torch.zeros(1, dtype=torch.int64), SamplerConfig(1 if own is None else own))
    return run


def _titles(folders: tuple[Path, ...], configs: list[RunConfig]) -> list[str]:
    """A name for each run: that of a shipped model, or its process, and the folder where processes repeat."""
    pairs = list(zip(folders, configs, strict=True))
    titles = [shipped.told(folder) if shipped.is_model(folder) else config.noise.process for folder, config in pairs]
    if len(set(titles)) < len(titles):
        titles = [f"{title} ({folder.resolve().name})" for title, folder in zip(titles, folders, strict=True)]
    if len(set(titles)) < len(titles):
        titles = [f"{title} {i}" for i, title in enumerate(titles, 1)]
    return titles


def _steps(steps) -> list[int]:
    if not isinstance(steps, (list, tuple)) or not steps:
        raise ValueError("choose at least one number of steps")
    for n in steps:
        if not isinstance(n, int) or n not in STEPS:
            raise ValueError(f"steps must be some of {', '.join(map(str, STEPS))}, got {_shown(n)}")
    return sorted(set(steps))


def _number(name: str, value, low: float, high: float, whole: bool = False) -> float | int:
    """`value`, a number or its text, if it lies in [low, high]. Raises ValueError if not."""
    kind = "a whole number" if whole else "a number"
    number = math.nan
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):
            number = int(value) if whole and not isinstance(value, float) else float(value)
    if not low <= number <= high or (whole and number != int(number)):
        raise ValueError(f"{name} must be {kind} from {low:g} to {high if whole else f'{high:g}'}, got {_shown(value)}")
    return number


def _shown(value) -> str:
    """What a user sent, for a sentence: never more of it than a line."""
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "..."
