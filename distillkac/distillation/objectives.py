"""What the students of each stage of a plan learn: the objectives that stages.py leaves to torch."""

import torch
from torch import nn

from distillkac.base.random import derive_seed
from distillkac.distillation.consistency import ConsistencyDistillation
from distillkac.distillation.endpoint import EndpointDistillation, StudentStates
from distillkac.distillation.features import FeatureLoss
from distillkac.distillation.generator_states import GeneratorStates
from distillkac.distillation.inverse import GeneratorAndFake, RealUID, TeachersEnds
from distillkac.distillation.pairs import DrawnPaths, EndLoss, Kept, PairsDistillation, Source
from distillkac.distillation.reconstruction import ShiftedReconstruction
from distillkac.distillation.stages import DistillConfig, Stage
from distillkac.flow.exact_start import ExactStart
from distillkac.flow.guidance import GuidedVelocity
from distillkac.flow.integrators import time_grid
from distillkac.flow.processes import Process
from distillkac.training.objective import Objective


def objective(
    before: nn.Module,
    teacher: nn.Module,
    process: Process,
    stage: Stage,
    config: DistillConfig,
    means: torch.Tensor | None = None,
    paths: Source | None = None,
) -> Objective:
    """What the student of `stage` learns. before: the network of the stage before, the teacher itself in the first.

    means: the class means, for an exact start. paths: those of stages.paths_config, if it says that there are any.
    """
    assert config.rho is not None, "see for_teacher"
    shift = config.shift or 1.0  # of a config that no teacher has settled, none
    seed = derive_seed(config.seed, "student", stage.num_steps)
    grid = time_grid(stage.teacher_steps, config.rho, shift, process)
    if stage.method == "consistency":
        velocity = teacher_velocity(teacher, process, config, means)
        return ConsistencyDistillation(velocity, process, config.consistency, config.integrator, seed, config.w_max)
    times = grid[:: stage.teacher_steps // stage.num_steps]
    if stage.method == "pairs":
        assert paths is not None, "see stages.paths_config"
        drawn = DrawnPaths(paths, config.pairs.count, stage.steps // 2 if stage.first else 0, seed)
        kept = Kept(before, process, config.pairs.keep, derive_seed(seed, "kept")) if config.pairs.keep else None
        return PairsDistillation(drawn, times, config.backward, _end_loss(teacher, config), seed, kept)
    states = StudentStates(process, times, config.backward, seed)
    if stage.method == "reconstruction":
        velocity = teacher_velocity(teacher, process, config, means)
        return ShiftedReconstruction(
            velocity, states, config.reconstruction, config.rho, config.integrator, seed, config.w_max, shift
        )
    if stage.first:
        velocity = teacher_velocity(teacher, process, config, means)
    else:
        velocity = GuidedVelocity(before, speed_norm=process.speed_norm)
    return EndpointDistillation(
        velocity, states, grid, config.integrator if stage.first else "euler", seed, config.w_max
    )


def _end_loss(teacher: nn.Module, config: DistillConfig) -> EndLoss:
    return EndLoss(config.pairs, FeatureLoss(teacher) if config.pairs.features else None)


def generator_and_fake(
    generator: nn.Module, teacher: nn.Module, config: DistillConfig, shape: tuple[int, ...]
) -> GeneratorAndFake:
    """What inverse distillation trains. shape: (C, H, W) of the images, which the generator and the teacher are made for."""
    inverse, device = config.inverse, next(teacher.parameters()).device
    row = torch.zeros(1, *shape, device=device), torch.zeros(1, dtype=torch.int64, device=device)
    return GeneratorAndFake(generator, teacher, inverse.fake_lr / inverse.lr, row if inverse.adversarial else None)


def inverse_objective(
    teacher: nn.Module, process: Process, config: DistillConfig, paths: Source | None = None
) -> RealUID:
    """What the generator of inverse distillation learns. paths: as in `objective`."""
    assert config.rho is not None, "see for_teacher"
    inverse, seed = config.inverse, derive_seed(config.seed, "inverse")
    ends = None
    if inverse.pairs:
        assert paths is not None, "see stages.paths_config"
        ends = TeachersEnds(DrawnPaths(paths, config.pairs.count, 0, seed), _end_loss(teacher, config), inverse.pairs)
    return RealUID(
        teacher_velocity(teacher, process, config, None),
        process,
        inverse.alpha,
        inverse.beta,
        inverse.fake_updates,
        seed,
        ends,
        inverse.adversarial,
        GeneratorStates(
            process, seed, inverse.num_steps, config.rho, inverse.restart, inverse.backward, config.shift or 1.0
        ),
    )


def teacher_velocity(teacher: nn.Module, process: Process, config: DistillConfig, means) -> GuidedVelocity:
    """The teacher's field, with the guidance that is folded in; with `means`, exact at t = 1."""
    if means is not None:
        return ExactStart(teacher, process, means, w=config.w)
    return GuidedVelocity(teacher, config.w, speed_norm=process.speed_norm)
