"""Grids that are shifted as the times of the teacher's training are: of sampling, of students, of diffusers' loops."""

from dataclasses import replace

import pytest
import torch

from distillkac.distillation.generator_states import GeneratorStates
from distillkac.distillation.grids import for_teacher
from distillkac.distillation.objectives import objective
from distillkac.distillation.stages import DistillConfig, paths_config, stages_of, student_config
from distillkac.distillation.stored_paths import Paths
from distillkac.flow import Gaussian, GuidedVelocity, Telegraph, integrate, time_grid
from distillkac.pipeline import KacPipeline
from distillkac.runs.config import RunConfig, save_config
from distillkac.runs.process_config import ProcessConfig
from distillkac.runs.run import open_run
from distillkac.runs.sampler import SamplerConfig, Trained
from distillkac.runs.sampling import field_of
from distillkac.runs.times_config import TimesConfig
from distillkac.scheduler import KacScheduler
from distillkac.training.batches import Batch
from tests.closeness import assert_same
from tests.toys import SHAPE, run_config, trainer


def test_students_have_the_shift_of_their_teacher_unless_told_otherwise():
    teacher = RunConfig(shape=(1, 8, 8), class_names=("a", "b"), times=TimesConfig(shift=2.0))
    plan = DistillConfig(stages=(4, 2), steps=(7,))
    settled = for_teacher(plan, teacher)
    assert (settled.shift, settled.rho) == (2.0, 1.0)
    student = student_config(teacher, stages_of(plan)[0], plan)
    assert student.student.shift == 2.0
    assert for_teacher(replace(plan, shift=1.0), teacher).rho == 1.5
    known = Trained.of(student)
    assert known.settle(SamplerConfig(2), "it")[1::4] == (1.0, 2.0)
    with pytest.raises(ValueError, match=r"student of 2 Euler steps on its own grid, got shift = 1"):
        known.settle(SamplerConfig(2, shift=1.0), "it")


def test_stored_paths_of_a_shift_are_others_and_those_without_one_keep_their_name():
    teacher, plan = RunConfig(shape=(1, 8, 8)), DistillConfig(stages=(4, 2), steps=(7,), method="pairs")
    one, two = (paths_config(teacher, "digest", replace(plan, rho=2.0, shift=s), None) for s in (1.0, 2.0))
    assert one.name != two.name
    assert one.name == "paths-4-7cca12cdb99a3265"


def test_a_scheduler_has_the_shift_of_its_run(tmp_path):
    config = run_config(times=TimesConfig(shift=2.0), steps=1)
    job = trainer(tmp_path, config)
    job.save(tmp_path)
    save_config(tmp_path, config)
    scheduler = KacScheduler.from_pretrained(tmp_path)
    scheduler.set_timesteps(4)
    torch.testing.assert_close(scheduler.timesteps, time_grid(4, 1.0, 2.0, Telegraph())[:-1].float())
    scheduler.save_pretrained(tmp_path / "saved")
    assert KacScheduler.from_pretrained(tmp_path / "saved").config.shift == 2.0
    assert KacScheduler().config.shift == 1.0
    with pytest.raises(ValueError, match=r"shift must lie in \[1/64, 64\], got -1"):
        KacScheduler(shift=-1.0)
    pipeline = KacPipeline.from_pretrained(tmp_path)
    y = torch.tensor([0, 1])
    images = pipeline(
        class_labels=y, num_inference_steps=3, generator=torch.Generator().manual_seed(3), output_type="pt"
    ).images
    noise = pipeline.scheduler.prior((2, *SHAPE), torch.Generator().manual_seed(3))
    velocity, grid, method = field_of(open_run(tmp_path, "cpu"), SamplerConfig(3))
    with torch.no_grad():
        assert_same(images, integrate(velocity, noise, y, grid, method))


def times_asked(learns, batch) -> set[float]:
    """Of the teacher and of the student, rounded."""
    asked = []

    def field(x, t, y):
        asked.extend(round(float(value), 4) for value in t.flatten())
        return 0 * x

    learns(field)(field, batch)
    return set(asked)


def test_students_learn_on_the_shifted_grid():
    plan, process = DistillConfig(stages=(4, 2), steps=(7,), rho=1.0, shift=3.0), Gaussian()
    batch = Batch(torch.rand(64, *SHAPE), torch.zeros(64, dtype=torch.int64), 0, 0, 64)

    def learns(plan):
        return lambda teacher: objective(teacher, teacher, process, stages_of(plan)[0], plan)

    wanted = {1.0, 0.9, 0.75, 0.5}  # 3 t / (1 + 2 t)
    assert times_asked(learns(plan), batch) == wanted
    assert times_asked(learns(replace(plan, shift=1.0)), batch) == {1.0, 0.75, 0.5, 0.25}
    # The repair of a prediction goes along the shifted grid of gamma.
    gamma, repaired = 0.7, replace(plan, method="reconstruction")
    objective_of = learns(repaired)(lambda x, t, y: 0 * x)
    times = objective_of._times(torch.tensor([gamma]))
    assert (float(times[0]), float(times[-1])) == pytest.approx((gamma, 0.0), abs=1e-6)
    before = gamma / (3 - 2 * gamma) * time_grid(len(times) - 1, 1.0)
    torch.testing.assert_close(times[:, 0], 3 * before / (1 + 2 * before), rtol=0, atol=1e-6)


def test_generators_and_stored_paths_have_the_shifted_grid(tmp_path):
    states = GeneratorStates(Gaussian(), 1, 4, 1.0, shift=3.0)
    assert states._starts()[0].tolist() == pytest.approx([1.0, 0.9, 0.75, 0.5])
    asked = []

    def teacher(x, t, y):
        asked.append(round(float(t[0]), 4))
        return 0 * x

    plan = DistillConfig(stages=(4, 2), steps=(7,), rho=1.0, method="pairs")
    run = run_config(noise=ProcessConfig("gaussian"), times=TimesConfig(shift=3.0))
    config = paths_config(run, "digest", plan, None)
    paths = Paths(tmp_path, config, 8, GuidedVelocity(teacher), Gaussian(), torch.device("cpu"))
    paths(torch.arange(2))
    paths.close()
    assert set(asked) == {1.0, 0.9, 0.75, 0.5}
