"""From a run folder to images: which network to use for how many steps, and the batched sampler."""

import contextlib
import itertools
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from distillkac.base.progress import Bar
from distillkac.base.random import derive_seed
from distillkac.base.tensors import sent
from distillkac.data import vae
from distillkac.flow.guidance import GuidedVelocity
from distillkac.flow.integrators import Method, integrate, restart_chain, time_grid
from distillkac.flow.onward import known
from distillkac.flow.path_energy import PathEnergy
from distillkac.flow.shaping import Shaping
from distillkac.flow.trajectory import Means, trajectory_chain
from distillkac.runs import checkpoints, class_names, shipped
from distillkac.runs.config import RunConfig, load_config
from distillkac.runs.device import fast_products
from distillkac.runs.recorded import Recorded
from distillkac.runs.run import Run, default_network, say_if_another_teacher, students
from distillkac.runs.sampler import SamplerConfig, Trained

__all__ = [
    "Drawing",
    "SamplerConfig",
    "Samples",
    "choose",
    "class_labels",
    "diverged",
    "field_of",
    "finite",
    "generate",
    "usual_steps",
]

CPU_PIXELS = 8192  # pixels of one network evaluation on a CPU: more at once is no faster there
DECODED_PIXELS = 2**21  # pixels that an autoencoder decodes at once: 32 images of 256 x 256


@dataclass(frozen=True)
class Samples:
    """images: (n, C, H, W) on the CPU, not clamped, decoded where the run learned latents. labels: (n,). nfe: evaluations
    per image. times: (N + 1,) float64 from 1 to 0, those of the sampler. energy: (n,) float64, the kinetic energy of each
    image's path (flow.PathEnergy), of latents where the run learned these. path: (states, n, C, H, W), from noise to images,
    at the times, or at those asked for; None unless asked for."""

    images: torch.Tensor
    labels: torch.Tensor
    nfe: int
    seconds: float
    times: torch.Tensor
    energy: torch.Tensor
    path: torch.Tensor | None = None


def usual_steps(folder: Path) -> int:
    """Of a run folder or a shipped model, where no number of steps is asked for: a student's own, of a shipped model that of
    its student of most steps; else what SamplerConfig says."""
    folder = default_network(folder)
    return (
        Trained.of(load_config(folder)).sampler() if (folder / checkpoints.CONFIG).exists() else SamplerConfig()
    ).steps


def choose(folder: Path, sampler: SamplerConfig) -> Path:
    """The folder whose network serves `sampler`: a student's, or the teacher's. folder: of a run, or a shipped model's name.

    With model "auto" a student of so many steps that can do all that is asked; else one that takes any number up to a larger
    one of its own; else the teacher, and where a student was to be expected, a warning says why. Raises ValueError if a
    student is asked for and none can.
    """
    folder = shipped.folder_of(folder)
    if sampler.model == "teacher":
        if shipped.is_model(folder):
            raise ValueError(
                f"{shipped.told(folder)} comes with distillkac without its teacher: omit model {sampler.model!r}"
            )
        return _told(folder)
    available = students(folder)
    steps = [int(path.name.split("-")[1]) for path in available]
    problems = []
    made = [path for path, number in zip(available, steps, strict=True) if number == sampler.steps]
    more = [(number, path) for path, number in zip(available, steps, strict=True) if number > sampler.steps]
    others = [path for _, path in sorted(more, key=lambda entry: entry[0])]  # of as many the preferred stays first
    for path in itertools.chain(made, others):
        trained = Trained.of(load_config(path))
        if not trained.serves(sampler.steps):
            continue
        try:
            trained.settle(sampler, shipped.told(path))
        except ValueError as error:
            problems.append(str(error))
        else:
            return _told(path)
    count = f"{sampler.steps} step{'s' if sampler.steps > 1 else ''}"
    have = ", ".join(dict.fromkeys(map(str, steps))) or "none"
    problem = problems[0] if problems else f"{shipped.told(folder)} has no student for {count} (students: {have})"
    if shipped.is_model(folder):
        raise ValueError(f"{problem}; it comes with distillkac, without its teacher")
    if sampler.model == "student":
        raise ValueError(problem)
    if sampler.steps <= max(steps, default=0):
        warnings.warn(f"the teacher is sampled in {count}: {problem}", stacklevel=2)
    return _told(folder)


def _told(chosen: Path) -> Path:
    say_if_another_teacher(chosen)
    return chosen


def field_of(run: Run, sampler: SamplerConfig) -> tuple[GuidedVelocity, torch.Tensor, Method]:
    """(velocity field, time grid, integrator) for a run, with its own network: no other is looked for. What is drawn anew in a
    step (`SamplerConfig.restart` and `gamma`) stands not in them: `Drawing` adds it. Raises ValueError where
    it cannot do what is asked, or is not the teacher or student that `sampler.model` names."""
    kind = "teacher" if run.config.student is None else "student"
    if sampler.model not in ("auto", kind):
        where = (
            "its students are in folders of their own"
            if kind == "teacher"
            else "its teacher has a run folder of its own"
        )
        raise ValueError(f'{run.folder} is a {kind}, and model "{sampler.model}" was asked for: {where}; open that one')
    settled = Trained.of(run.config).settle(sampler, shipped.told(run.folder))
    shaping = Shaping(sampler.launch, sampler.landing) if sampler.shaped else None
    limit = (sampler.max_speed, run.process.speed_norm)
    velocity = GuidedVelocity(run.network, settled.w, sampler.interval, *limit, shaping)
    grid = time_grid(sampler.steps, settled.rho, settled.shift, run.process)
    return velocity, grid, settled.integrator


class Drawing:
    """Images of a run, block by block.

    The noise of image i depends on (seed, i) alone. How a network rounds depends on the size of its batch; on a CPU, where
    it costs nothing, the network therefore always sees blocks of one size, whose last one is filled up: an image is the
    same to the bit if its block begins at a multiple of `rows`. On a GPU it is the same up to rounding.
    """

    def __init__(
        self, run: Run, sampler: SamplerConfig, seed: int = 0, batch_size: int = 500, graph: bool = False
    ) -> None:
        """Raises ValueError where the run cannot do what is asked."""
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.run, self.sampler, self.seed = run, sampler, seed
        self.velocity, self.grid, self.method = field_of(run, sampler)
        if graph:
            if run.device.type != "cuda":
                raise ValueError(f"graph: CUDA graphs are of GPUs, and this draws on {run.device.type}: omit it")
            self.velocity.network = Recorded(run.network)
        trained = Trained.of(run.config)
        settled = trained.settle(sampler, run.name)
        self.restart, self.gamma = settled.restart, settled.gamma
        if self.gamma is not None:
            known(run.process)
        self.means: Means = "data" if trained.predicts_data else "velocity"
        self.energy = torch.empty(0)
        self.shape = tuple(run.config.shape)
        cpu = run.device.type == "cpu"
        self.rows = max(1, CPU_PIXELS // (self.shape[1] * self.shape[2])) if cpu else batch_size
        self.title = f"{run.name}, {sampler.steps} step{'s' if sampler.steps > 1 else ''}"

    @torch.no_grad()
    def block(self, labels: torch.Tensor, first: int, path: bool | Sequence[int] = False) -> torch.Tensor:
        """Images first, first + 1, ... of these classes, at most `rows`: (n, C, H, W), with `path` (states, n, C, H, W). The
        kinetic energies of their paths are `energy`, (n,), until the next block."""
        run, count = self.run, len(labels)
        classes = len(run.config.class_names)
        # The label after the last class means no class, to networks that know of it.
        last = classes - 1 if getattr(run.network, "null_class", None) is None else classes
        if not ((labels >= 0) & (labels <= last)).all():
            raise ValueError(f"labels must be numbers of classes, 0 to {classes - 1}, got {labels.tolist()[:10]}")
        y, self.velocity.nfe = sent(labels, run.device), 0
        if run.device.type == "cpu":
            y = nn.functional.pad(y, (0, self.rows - count))
        x = run.process.prior(len(y), self.shape, derive_seed(self.seed, "prior"), first, run.device)
        with _in_eval_mode(run.network), fast_products(run.device):
            result, energy = self._walked(x, y, first, path is not False)
        self.energy = energy[:count].cpu()
        if not isinstance(path, bool):
            result = result[list(path)]
        # What filled a block up is not decoded.
        return _decoded(run, result[..., :count, :, :, :]).cpu()

    def _walked(self, x: torch.Tensor, y: torch.Tensor, first: int, path: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """(state or states, energy (B,)) of rows first, first + 1, ... from their noise x."""
        energy, fresh = PathEnergy(), derive_seed(self.seed, "fresh")
        way = (self.velocity, x, y, self.grid)
        if self.gamma is not None:
            share, process = self.gamma, self.run.process
            result = trajectory_chain(*way, process, share, fresh, first, path, self.means, energy)
        elif self.restart > 0:
            result = restart_chain(*way, self.run.process, self.restart, fresh, first, path, energy)
        else:
            result = integrate(*way, self.method, path, energy)
        return result, energy.total

    @property
    def nfe(self) -> int:
        """Network evaluations per image, of the last block."""
        return self.velocity.nfe


def generate(
    run: Run,
    labels: torch.Tensor,
    sampler: SamplerConfig,
    seed: int = 0,
    batch_size: int = 500,
    path: bool | Sequence[int] = False,
    offset: int = 0,
    graph: bool = False,
) -> Samples:
    """Images of the given classes from the network of `run`. labels: (n,) int64. path: True for every state on the way too, or
    numbers of states, 0 (noise) to the number of steps, the last of them.

    The noise of image i depends on (seed, offset + i) alone: a part of a larger sample is drawn with its offset. On a CPU
    the images are the same to the bit whatever batch_size and n, see Drawing, as long as CPU and number of threads are. On
    a GPU, or another CPU, they are the same up to rounding. graph: the network is recorded as a CUDA graph (recorded.py); the
    images are the same up to rounding. On a terminal a bar shows progress, rate and time left.
    """
    if not isinstance(labels, torch.Tensor) or labels.dtype != torch.int64 or labels.dim() != 1 or not len(labels):
        raise ValueError(f"labels must be (n,) int64, n >= 1, as class_labels makes them, got {labels!r:.80}")
    drawing = Drawing(run, sampler, seed, batch_size, graph)
    start, parts, energies = time.perf_counter(), [], []
    with Bar(title=drawing.title, unit="image", total=len(labels)) as bar:
        for first in range(0, len(labels), drawing.rows):
            y = labels[first : first + drawing.rows]
            parts.append(drawing.block(y, offset + first, path))
            energies.append(drawing.energy)
            bar.update(len(y))
    states = torch.cat(parts, dim=-4)
    seconds = time.perf_counter() - start
    alone = path is False
    images = states if alone else states[-1]
    return Samples(images, labels, drawing.nfe, seconds, drawing.grid, torch.cat(energies), None if alone else states)


def diverged(images: torch.Tensor) -> str | None:
    """What is wrong with images (n, C, H, W) that a network made, which a picture would show as black ones; None if nothing."""
    bad = int((~images.isfinite()).flatten(1).any(1).sum())
    if not bad:
        return None
    return (
        f"{bad} of {len(images)} images hold values that are not finite: the sampler diverged; take more steps or less "
        "guidance, and if that does not help, the network is to be trained again"
    )


def finite(images: torch.Tensor) -> torch.Tensor:
    """The images. Raises ValueError where `diverged` finds something."""
    if problem := diverged(images):
        raise ValueError(problem)
    return images


@contextlib.contextmanager
def _in_eval_mode(network: nn.Module) -> Iterator[None]:
    """Without dropout, and with batch norms that learn nothing; each part is in its own mode again afterwards."""
    training = [part for part in network.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _decoded(run: Run, x: torch.Tensor) -> torch.Tensor:
    """(..., n, C, H, W) as the network has it -> images."""
    space = run.config.latent
    if space is None:
        return x
    network, rows = vae.decoder(space, run.device), max(1, DECODED_PIXELS // (space.shape[1] * space.shape[2]))
    if run.device.type == "cpu":
        rows = 1  # so that the rounding of an image does not depend on how many there are
    images = torch.cat([vae.decode(network, space, part) for part in x.flatten(0, -4).split(rows)])
    return images.unflatten(0, x.shape[:-3])


def class_labels(config: RunConfig, count: int, classes: tuple[str | int, ...] = ()) -> torch.Tensor:
    """(count,) labels that cycle through `classes`, names or numbers (see class_names.py); through all when empty."""
    names = config.class_names
    chosen = torch.tensor(class_names.find_all(classes, names) if classes else range(len(names)), dtype=torch.int64)
    return chosen[torch.arange(count) % len(chosen)]
