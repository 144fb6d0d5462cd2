"""Under any default dtype of the program that imports distillkac, its networks, noise and times are float32."""

import pytest
import torch
from accelerate.state import AcceleratorState

from distillkac.flow import GuidedVelocity, Telegraph, restart_chain, time_grid
from distillkac.pipeline import KacPipeline
from distillkac.runs import adopt, checkpoints, open_run
from distillkac.runs.run import build_network
from distillkac.training.objectives import objective_for
from tests.adopted import saved
from tests.toys import SHAPE, ToyData, run_config, trainer


@pytest.fixture(params=[torch.float64, torch.bfloat16], ids=str)
def default(request):
    """A function after which the default dtype is another, until the end of the test."""
    yield lambda: torch.set_default_dtype(request.param)
    torch.set_default_dtype(torch.float32)
    AcceleratorState._reset_state(reset_partial_state=True)


def test_noise_and_chains_are_as_ever(default):
    process, field = Telegraph(), GuidedVelocity(lambda x, t, y: -x)

    def drawn():
        x = process.prior(3, SHAPE, 0)
        return [x, restart_chain(field, x, None, time_grid(3), process, 0.5, 0)]

    before = drawn()
    default()
    assert all(torch.equal(a, b) for a, b in zip(drawn(), before, strict=True))


def test_a_network_has_its_weights(default):
    before = build_network(run_config()).state_dict()
    default()
    other = torch.get_default_dtype()
    after = build_network(run_config()).state_dict()
    assert torch.get_default_dtype() == other
    assert all(torch.equal(after[name], value) and after[name].dtype == value.dtype for name, value in before.items())


def test_runs_are_written_and_opened(tmp_path, default):
    source = saved(tmp_path / "model")
    default()
    run = adopt(source, tmp_path / "run")
    assert {value.dtype for value in run.network.state_dict().values()} == {torch.float32}
    assert {value.dtype for value in checkpoints.load_weights(run.folder)[0].values()} == {torch.float32}
    assert open_run("digits").name == "student-4-consistency"
    assert KacPipeline.from_pretrained("digits").unet.dtype == torch.float32


@pytest.mark.parametrize("objective", ["flow-matching", "consistency"])
def test_a_run_is_trained(tmp_path, default, objective):
    data, config = ToyData(), run_config(steps=2, objective=objective)
    default()
    assert trainer(tmp_path, config, objective_for(config, build_network(config)), data).fit().finished
