"""A step drawn anew begins at x - t u, which stands for the data only where schedules are linear and no path has a name."""

import pytest

from distillkac.runs.process_config import ProcessConfig
from distillkac.runs.sampler import SamplerConfig, Trained
from tests.toys import run_config


@pytest.mark.parametrize(
    "noise", [{"f": "cosine"}, {"g": "quadratic"}, {"process": "gaussian", "path": "vp"}, {}], ids=str
)
def test_restarts_of_a_teacher(noise):
    config = run_config(noise=ProcessConfig(**noise))
    trained = Trained.of(config)
    if not noise:
        assert trained.settle(SamplerConfig(restart=0.5), "run").restart == 0.5
        return
    with pytest.raises(ValueError, match=r"does not lead to the data, .* give gamma in place of restart"):
        trained.settle(SamplerConfig(restart=0.5), "run")
    assert trained.settle(SamplerConfig(gamma=0.5), "run").gamma == 0.5


def test_restarts_of_a_student_that_learned_its_own_steps():
    trained = Trained(label_drop=0.1, num_steps=2, straight=False)
    for asked in (SamplerConfig(2, restart=0.5), SamplerConfig(2, gamma=0.5)):
        with pytest.raises(ValueError, match=r"does not lead to the data, .* omit restart and gamma"):
            trained.settle(asked, "run")
    assert trained.settle(SamplerConfig(2), "run").restart == 0
