"""What the options of a distillation come to in the objectives of its stages."""

from dataclasses import replace

import pytest
import torch

from distillkac.distillation.inverse_options import InverseConfig
from distillkac.distillation.objectives import generator_and_fake, inverse_objective, objective
from distillkac.distillation.stages import DistillConfig, stages_of
from distillkac.flow.processes import Telegraph
from tests.distillation.batches import Affine
from tests.toys import SHAPE

PLAN = DistillConfig(stages=(4, 2), steps=(7,), rho=1.5, shift=2.0, w=1.25)


def of_the_stage(plan, teacher, means=None):
    (stage,) = stages_of(plan)
    return objective(Affine(), teacher, Telegraph(), stage, plan, means)


def test_inverse_distillation():
    rates = {"alpha": 0.9, "beta": 0.95, "lr": 1e-4, "fake_lr": 1e-3, "fake_updates": 3}
    states = {"num_steps": 4, "restart": 0.25, "backward": 0.5}
    inverse = InverseConfig(steps=1, **rates, **states)
    teacher, plan = Affine(), DistillConfig(stages=(4,), steps=(), rho=1.5, shift=2.0, w=1.25, inverse=inverse)
    learns = inverse_objective(teacher, Telegraph(), plan)
    assert (learns.teacher.network, learns.teacher.w) == (teacher, 1.25)
    assert (learns.alpha, learns.beta, learns.fake_updates) == (0.9, 0.95, 3)
    assert {name: getattr(learns.states, name) for name in states} == states
    assert (learns.states.rho, learns.states.shift) == (1.5, 2.0)
    assert generator_and_fake(Affine(), teacher, plan, SHAPE).fake_lr_ratio == pytest.approx(10)


def test_reconstruction():
    teacher = Affine()
    learns = of_the_stage(replace(PLAN, method="reconstruction"), teacher)
    assert (learns.teacher.network, learns.teacher.w) == (teacher, 1.25)
    assert (learns.rho, learns.shift) == (1.5, 2.0)


def test_an_exact_start_is_guided_as_the_teacher_is():
    assert of_the_stage(replace(PLAN, exact_start=True), Affine(), torch.zeros(3, *SHAPE)).teacher.w == 1.25
