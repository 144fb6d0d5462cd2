"""From a run folder to images: which network to use for how many steps, and the batched sampler."""

import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from tqdm import tqdm

from distillkac import checkpoints, vae
from distillkac.config import RunConfig, load_config
from distillkac.distillation import student_folder
from distillkac.guidance import GuidedVelocity
from distillkac.integrators import integrate, restart_chain, time_grid
from distillkac.processes import Process
from distillkac.random import derive_seed
from distillkac.training import load_network

CPU_PIXELS = 8192  # pixels of one network evaluation on a CPU: more at once is no faster there
DECODED_PIXELS = 2**21  # pixels that an autoencoder decodes at once: 32 images of 256 x 256
PREFERRED = ("inverse", "endpoint", "reconstruction")  # of students with as many steps
TEACHER_RHO = 2.0  # the best grid for a teacher sampled as it is; students must use the grid they were made for


@dataclass(frozen=True)
class SamplerConfig:
    """How samples are drawn. What is None follows the network: a student knows its grid and its weight w."""

    steps: int = 20
    """Integration steps; a student of that many is used if the run has one, one of inverse distillation before others."""
    integrator: Literal["euler", "heun", "ab2"] | None = None
    """Euler for students, ab2 for the teacher, unless given."""
    w: float | None = None
    """Guidance weight, 0 = none (diffusers' guidance_scale is 1 + w)."""
    interval: tuple[float, float] = (0.0, 1.0)
    """Guidance acts at times in this interval; 0 = data, 1 = noise."""
    max_speed: float | None = None
    """Limit on the guided velocity of each pixel (telegraph) or pair (planar)."""
    rho: float | None = None
    """Exponent of the time grid (1 - i/N)^rho: 2 for the teacher, the student's own for students."""
    restart: float = 0.0
    """Share of each step that is drawn anew with fresh noise: 0 follows the flow, 1 is consistency sampling. With it a
    student (give its own folder) can take any number of steps."""
    model: Literal["auto", "teacher", "student"] = "auto"
    """Which network. Auto: the student of that many steps if there is one and nothing asked for excludes it."""

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if not 0 <= self.restart <= 1:
            raise ValueError(f"restart is the share of fresh noise, in [0, 1], got {self.restart}")
        if self.restart > 0 and self.integrator not in (None, "euler"):
            raise ValueError(f"restarts take Euler steps; leave away integrator {self.integrator!r}")


@dataclass(frozen=True)
class Run:
    """A trained network ready to sample. config.student is None for a teacher."""

    folder: Path
    config: RunConfig
    process: Process
    network: nn.Module
    device: torch.device

    @property
    def name(self) -> str:
        student = self.config.student
        return "teacher" if student is None else student_folder(Path(), student.num_steps, student.method).name


@dataclass(frozen=True)
class Samples:
    """images: (n, C, H, W) on the CPU, not clamped, decoded where the run learned latents. labels: (n,). nfe: evaluations
    per image. path: (N+1, n, C, H, W)."""

    images: torch.Tensor
    labels: torch.Tensor
    nfe: int
    seconds: float
    path: torch.Tensor | None = None


def open_run(folder: Path, device: torch.device) -> Run:
    """Loads the averaged network of a run folder. Raises ValueError saying what is missing or damaged."""
    config = load_config(folder)
    return Run(folder, config, config.noise.build(), load_network(folder, config).to(device), device)


def students(folder: Path) -> list[Path]:
    """Folders of the students of a run that have a checkpoint: most steps first, and of as many the preferred first."""
    found = []
    for weights in folder.glob(f"student-*/{checkpoints.EMA}"):
        _, steps, *method = weights.parent.name.split("-")
        method = method[0] if method else "endpoint"
        if steps.isdigit() and method in PREFERRED:
            found.append((-int(steps), PREFERRED.index(method), weights.parent))
    return [path for _, _, path in sorted(found)]


def choose(folder: Path, sampler: SamplerConfig) -> Path:
    """The folder whose network serves `sampler`: a student's, or the teacher's. Raises ValueError if there is none."""
    available = students(folder)
    steps = [int(path.name.split("-")[1]) for path in available]
    fits = sampler.steps in steps and sampler.integrator in (None, "euler") and sampler.rho is None
    if sampler.model == "student" and not fits:
        have = ", ".join(dict.fromkeys(map(str, steps))) or "none"
        raise ValueError(
            f"{folder} has no student for {sampler.steps} steps with these options (students: {have}; they take "
            "Euler steps on their own grid, so leave --integrator and --rho away)"
        )
    chosen = available[steps.index(sampler.steps)] if fits and sampler.model != "teacher" else folder
    say_if_another_teacher(chosen)
    return chosen


def say_if_another_teacher(folder: Path) -> None:
    """Warns if a student lies in a run of other weights than it was distilled from."""
    if not all((place / checkpoints.CONFIG).exists() for place in (folder, folder.parent)):
        return
    student, there = load_config(folder).student, checkpoints.described(folder.parent)
    if student is not None and None not in (student.teacher, there) and student.teacher != there[1]:
        warnings.warn(
            f"{folder} was distilled from other weights than those that {folder.parent} has now, which was trained on since: "
            "it is a student of what its teacher was; remove it and distil again for one of what it is",
            stacklevel=2,
        )


def field_of(run: Run, sampler: SamplerConfig) -> tuple[GuidedVelocity, torch.Tensor, str]:
    """(velocity field, time grid, integrator) for a run. Raises ValueError where the run cannot do what is asked."""
    student, w = run.config.student, sampler.w
    if student is None:
        w, rho, method = w or 0.0, sampler.rho or TEACHER_RHO, sampler.integrator or "ab2"
        method = "euler" if sampler.restart > 0 else method
        if w > 0 and run.config.label_drop == 0:
            raise ValueError(f"{run.folder} was trained with label_drop 0 and cannot be guided; use w = 0")
    else:
        other_grid = sampler.restart == 0 and (sampler.steps != student.num_steps or sampler.rho)
        if other_grid or sampler.integrator not in (None, "euler"):
            raise ValueError(
                f"{run.folder} is a student of {student.num_steps} Euler steps on its own grid; with --restart it takes "
                "any number"
            )
        rho, method = sampler.rho or student.rho, "euler"
        if student.w_max is not None:
            w = w or 0.0
            if w > student.w_max:
                raise ValueError(f"{run.folder} was distilled for w up to {student.w_max}, got {w}")
        else:
            if w is not None and w != student.w:
                raise ValueError(
                    f"{run.folder} was distilled with w = {student.w} folded in, which w = {w} cannot change; leave it "
                    "away, choose the teacher (--model teacher), or distil with that w"
                )
            w = 0.0
    velocity = GuidedVelocity(run.network, w, sampler.interval, sampler.max_speed, run.process.speed_norm)
    return velocity, time_grid(sampler.steps, rho), method


@torch.no_grad()
def generate(
    run: Run,
    labels: torch.Tensor,
    sampler: SamplerConfig,
    seed: int = 0,
    batch_size: int = 500,
    path: bool = False,
    offset: int = 0,
) -> Samples:
    """Images of the given classes. labels: (n,) int64. With `path` also every state on the way.

    The noise of image i depends on (seed, offset + i) alone: a part of a larger sample is drawn with its offset. How a
    network rounds depends on the size of its batch; on a CPU, where it costs nothing, the network therefore always sees
    blocks of one size, whose last one is filled up, and the images are the same to the bit whatever batch_size and n, as
    long as CPU and number of threads are. On a GPU, or another CPU, they are the same up to rounding. On a terminal a bar
    shows progress, rate and time left.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    velocity, grid, method = field_of(run, sampler)
    prior_seed, shape = derive_seed(seed, "prior"), tuple(run.config.shape)
    rows = max(1, CPU_PIXELS // (shape[1] * shape[2])) if run.device.type == "cpu" else batch_size
    start, nfe, parts = time.perf_counter(), 0, []
    title = f"{run.name}, {sampler.steps} step{'s' if sampler.steps > 1 else ''}"
    bar = tqdm(total=len(labels), desc=title, unit="image", leave=False, disable=None, dynamic_ncols=True)
    for first in range(0, len(labels), rows):
        y = labels[first : first + rows].to(run.device)
        count, velocity.nfe = len(y), 0
        if run.device.type == "cpu":
            y = nn.functional.pad(y, (0, rows - count))
        x = run.process.prior(len(y), shape, prior_seed, offset + first, run.device)
        if sampler.restart > 0:
            fresh_seed = derive_seed(seed, "fresh")
            result = restart_chain(velocity, x, y, grid, run.process, sampler.restart, fresh_seed, offset + first, path)
        else:
            result = integrate(velocity, x, y, grid, method, path)
        result = _decoded(run, result)
        parts.append((result[:, :count] if path else result[:count]).cpu())
        nfe = velocity.nfe
        bar.update(count)
    bar.close()
    states = torch.cat(parts, dim=1 if path else 0)
    seconds = time.perf_counter() - start
    return Samples(states[-1] if path else states, labels, nfe, seconds, states if path else None)


def _decoded(run: Run, x: torch.Tensor) -> torch.Tensor:
    """(..., n, C, H, W) as the network has it -> images."""
    space = run.config.latent
    if space is None:
        return x
    network, rows = vae.decoder(space, run.device), max(1, DECODED_PIXELS // (space.shape[1] * space.shape[2]))
    images = torch.cat([vae.decode(network, space, part) for part in x.flatten(0, -4).split(rows)])
    return images.unflatten(0, x.shape[:-3])


def class_labels(config: RunConfig, count: int, classes: tuple[str, ...] = ()) -> torch.Tensor:
    """(count,) labels that cycle through `classes`, names or numbers; through all when empty."""
    names = config.class_names
    chosen = [_class_index(name, names) for name in classes] or list(range(len(names)))
    return torch.tensor([chosen[i % len(chosen)] for i in range(count)], dtype=torch.int64)


def _class_index(name: str, names: tuple[str, ...]) -> int:
    if name in names:
        return names.index(name)
    if name.isdigit() and int(name) < len(names):
        return int(name)
    shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    raise ValueError(f"class {name!r} is unknown; the {len(names)} classes are {shown}")
