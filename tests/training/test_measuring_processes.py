"""A training of two processes that is measured on the way: the first measures, and what it breaks by costs nothing trained."""

import pytest

from distillkac import train
from distillkac.runs import checkpoints
from distillkac.training import measuring
from tests.training.measured_script import FAILING
from tests.training.test_distributed import launched, on_a_cpu, processes
from tests.training.test_measuring import OPTIONS, figures_of, fresh_accelerate

__all__ = ["fresh_accelerate"]


@on_a_cpu
def test_of_two_processes_the_first_measures(tmp_path):
    """And both go on; with sharded weights, too. Without a test's patience nothing may be measured but by the clock."""
    one, two = tmp_path / "one", tmp_path / "two"
    options = [*OPTIONS, "--optim.measure-every", "2", "--optim.measure-images", "2", "--steps", "4"]
    script = "tests.training.measured_script"
    processes(2, script, "--run", str(two), *options, "--optim.shard")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "SHARE", 1e9)
        assert train.main(["--run", str(one), *options]) == 0
    assert [step for step, _ in figures_of(one)] == [step for step, _ in figures_of(two)] == [2, 4]
    for (_, mine), (_, theirs) in zip(figures_of(one), figures_of(two), strict=True):
        assert theirs["frechet"] == pytest.approx(mine["frechet"], rel=1e-2)
    assert (two / "best" / checkpoints.CONFIG).exists()


@on_a_cpu
def test_what_several_processes_trained_is_saved_when_a_measurement_fails(tmp_path, monkeypatch):
    run, options = tmp_path / "run", [*OPTIONS, "--optim.measure-every", "2", "--steps", "4"]
    monkeypatch.setenv(FAILING, "1")
    done = launched(2, "tests.training.measured_script", "--run", str(run), *options, "--optim.shard")
    assert done.returncode != 0
    assert "RuntimeError: the evaluator broke" in done.stderr
    assert checkpoints.load_state(run)["step"] == 2
