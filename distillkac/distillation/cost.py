"""What a distillation will do and cost, said before it is begun: `python -m distillkac.distill RUN --dry-run`."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from distillkac.distillation.objectives import generator_and_fake, inverse_objective, objective, teacher_velocity
from distillkac.distillation.stages import DistillConfig, inverse_config, paths_config, stages_of, student_config
from distillkac.distillation.stored_paths import FILE_ROWS, PathsConfig, rows_at_once
from distillkac.flow.guidance import GuidedVelocity
from distillkac.runs import checkpoints
from distillkac.runs.config import RunConfig
from distillkac.runs.run import build_network, student_folder
from distillkac.training.batches import Batch
from distillkac.training.cost import blank_batch, flops, seconds_per_image
from distillkac.training.objective import Objective, updates_of


@dataclass(frozen=True)
class BlankPaths:
    """Stands for stored paths of the teacher (stored_paths.Paths) where only the time counts: all states are zeros."""

    config: PathsConfig
    device: torch.device

    def __call__(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        states = torch.zeros(
            self.config.num_states + 1, len(index), *self.config.shape, dtype=torch.float32, device=self.device
        )
        w = None if self.config.w_max is None else torch.zeros(len(index), dtype=torch.float32, device=self.device)
        return states, torch.zeros(len(index), dtype=torch.int64, device=self.device), w


@dataclass(frozen=True)
class StageCost:
    """Of one stage: optimizer steps, images met, floating-point operations and seconds, the time measured in small."""

    title: str
    folder: Path
    steps: int
    images: int
    flops: float
    seconds: float


def costs(
    config: DistillConfig, run: RunConfig, teacher: nn.Module, out: Path, means: torch.Tensor | None
) -> list[StageCost]:
    """Of every stage in order, after the making of stored paths. teacher: the network of `run`, whose device is where time is
    measured."""
    device, process = next(teacher.parameters()).device, run.noise.build()
    found, before, source, paths = [], teacher, None, paths_config(run, "", config, means)
    if paths is not None:
        # A student that makes them has its guidance folded in, and costs an evaluation a step.
        by_student = config.pairs.by != "teacher"
        velocity = GuidedVelocity(teacher) if by_student else teacher_velocity(teacher, process, config, means)
        source = BlankPaths(paths, device)
        found.append(_paths_cost(paths, config.pairs.count, velocity, device, out))
    for stage in stages_of(config):
        student = build_network(student_config(run, stage, config)).to(device).train()
        learns = objective(before, teacher, process, stage, config, means, source)
        folder = student_folder(out, stage.usual_steps, stage.method)
        found.append(_cost(stage.title, folder, stage.steps, config.optim.batch_size, student, learns, run.shape))
        before = student.eval()
    if config.inverse.steps:
        generator = build_network(inverse_config(run, config)).to(device)
        pair = generator_and_fake(generator, teacher, config, run.shape)
        learns, folder = (
            inverse_objective(teacher, process, config, source),
            student_folder(out, config.inverse.num_steps, "inverse"),
        )
        found.append(_cost("inverse", folder, config.inverse.steps, config.optim.batch_size, pair, learns, run.shape))
    return found


def _cost(
    title: str, folder: Path, steps: int, batch_size: int, network: nn.Module, learns: Objective, shape: tuple
) -> StageCost:
    updates, device = updates_of(learns), next(network.parameters()).device
    # The updates of a step may differ: those of the fake model and of the generator do.
    batches = [blank_batch(shape, device, update) for update in range(updates)]
    counted = sum(flops(partial(_learn, learns, network, batch)) for batch in batches)
    seconds = sum(seconds_per_image(partial(_learn, learns, network), batch, batch_size) for batch in batches)
    images = steps * updates * batch_size
    return StageCost(title, folder, steps, images, counted / updates * images, seconds * steps * batch_size)


def _paths_cost(
    config: PathsConfig, count: int, velocity: GuidedVelocity, device: torch.device, out: Path
) -> StageCost:
    """Of making the paths, all evaluations like the first. `steps` are those of all paths together, `images` too."""
    velocity.w = config.w_max if config.w_max is not None else velocity.w

    @torch.no_grad()
    def evaluate(batch: Batch) -> None:
        velocity.evaluate(batch.x0, 0.5, batch.y)

    made, each = -(-count // FILE_ROWS) * FILE_ROWS, 2 if config.integrator == "heun" else 1  # files are made whole
    batch, evaluations = blank_batch(config.shape, device), made * config.num_steps * each
    seconds = seconds_per_image(evaluate, batch, rows_at_once(config.shape, device)) * evaluations
    work = flops(partial(evaluate, batch)) * evaluations
    return StageCost("paths", out / f"paths-{config.num_steps}-...", config.num_steps, evaluations, work, seconds)


def _learn(learns: Objective, network: nn.Module, batch: Batch) -> None:
    learns(network, batch).backward()


def described(stage_costs: list[StageCost], device: torch.device) -> str:
    """A table for people; stages whose folder holds a checkpoint already are marked."""
    lines = [f"{'stage':12}{'steps':>8}{'images':>12}{'FLOP':>10}{'s a step':>10}{'minutes':>9}  folder"]
    for cost in stage_costs:
        there = " (has a checkpoint)" if (cost.folder / checkpoints.STATE).exists() else ""
        lines.append(
            f"{cost.title:12}{cost.steps:8d}{cost.images:12d}{cost.flops:10.2g}{cost.seconds / cost.steps:10.2g}"
            f"{cost.seconds / 60:9.2g}  {cost.folder}{there}"
        )
    flops, minutes = sum(cost.flops for cost in stage_costs), sum(cost.seconds for cost in stage_costs) / 60
    lines.append(f"in all: {flops:.2g} FLOP, about {minutes:.2g} minutes on this {device.type}")
    return "\n".join(lines)
