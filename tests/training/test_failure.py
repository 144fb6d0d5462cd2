"""Numbers that are not finite stop a run where they arise, with what is needed to see it again; others stay in range."""

import json
import math
import shutil

import pytest
import torch
from accelerate.state import AcceleratorState

from distillkac import ops
from distillkac.base.random import derive_seed
from distillkac.flow.guidance import GuidedVelocity
from distillkac.flow.integrators import integrate, time_grid
from distillkac.flow.processes import Telegraph
from distillkac.runs import checkpoints
from distillkac.training import failure
from distillkac.training.batches import Batch
from distillkac.training.objective import FlowMatching
from tests.toys import ToyData, optim, run_config, trainer


@pytest.fixture(autouse=True)
def fresh_accelerate():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def report(folder):
    return json.loads((folder / failure.FOLDER / failure.REPORT).read_text())


def bytes_of(folder):
    return {path: path.read_bytes() for path in (folder / checkpoints.STATE, folder / checkpoints.EMA)}


@pytest.mark.one_alignment
def test_a_bad_image_is_found_and_its_step_can_be_run_again(tmp_path):
    """40 images, 12 a step: one is spoilt that is first met in step 4, after the checkpoint of step 2."""
    config, data = run_config(optim=optim(log_every=3, save_every=2)), ToyData()
    job = trainer(tmp_path / "run", config, data=data)
    first = 3
    bad = job.indices(first)[0]
    assert not any(bad in job.indices(k) for k in range(first))
    data.x[bad, 0, 1, 2] = math.nan
    with pytest.raises(FloatingPointError, match=rf"the loss is nan .* in step {first + 1};.*failure has the state"):
        job.fit()
    told = report(tmp_path / "run")
    assert (told["step"], told["update"], told["loss"], told["reproduced"]) == (first + 1, first, "nan", True)
    assert bad in told["indices"]
    assert len(told["indices"]) == 12
    assert checkpoints.load_state(tmp_path / "run" / failure.FOLDER)["step"] == first
    # As failure.json says: its state in place of the run's, and on with --resume.
    for name in ("again", "repaired"):
        shutil.copytree(tmp_path / "run", tmp_path / name)
        shutil.rmtree(tmp_path / name / "state")
        shutil.copytree(tmp_path / "run" / failure.FOLDER / "state", tmp_path / name / "state")
    again = trainer(tmp_path / "again", config, data=data)
    ((loss, norm),) = again.advance(again.batches())
    assert (str(loss.item()), str(norm.item())) == (told["loss"], told["grad_norm"])
    # And with the image repaired it becomes the run in which the image was never spoilt.
    for name in ("repaired", "never spoilt"):
        trainer(tmp_path / name, config, data=ToyData()).fit()
    one, two = (checkpoints.load_weights(tmp_path / name)[0] for name in ("repaired", "never spoilt"))
    assert all(torch.equal(one[name], two[name]) for name in two)


def test_steps_that_fail_otherwise_when_they_are_computed_again(tmp_path):
    """As where memory errs: nothing is kept that one could not go on from."""
    config = run_config(optim=optim(log_every=6, save_every=100))
    job = trainer(tmp_path / "run", config)
    whole, bad = job.objective, iter([False] * 4 + [True] + [False] * 2 + [True] + [False] * 100)
    job.objective = lambda network, batch: whole(network, batch) * (math.nan if next(bad) else 1)
    with pytest.raises(
        FloatingPointError, match=r"run: the loss was nan .* in step 5, and an earlier step failed when all"
    ):
        job.fit()
    assert not (tmp_path / "run" / failure.FOLDER).exists()
    assert trainer(tmp_path / "run", config).fit().finished


def spoilt_at(objective, step, updates=1, gradient_only=False):
    """The objective, not finite in one update: its value, or its gradient alone."""

    class Spoilt:
        def __call__(self, network, batch):
            loss = objective(network, batch)
            if batch.step != step:
                return loss
            if gradient_only:
                return loss + (0 * loss).sqrt()  # sqrt has no slope at 0
            return loss * math.inf

    spoilt = Spoilt()
    spoilt.updates = updates
    return spoilt


@pytest.mark.parametrize("gradient_only", [False, True])
@pytest.mark.parametrize(("updates", "bad", "step"), [(1, 6, 7), (3, 16, 6)])
@pytest.mark.one_alignment
def test_the_state_before_the_step_is_that_of_the_run(tmp_path, gradient_only, updates, bad, step):
    states = []
    for save_every in (4, 1):
        folder = tmp_path / str(save_every)
        config = run_config(optim=optim(log_every=4, save_every=save_every))
        job = trainer(folder, config)
        job.objective = spoilt_at(job.objective, bad, updates, gradient_only)
        job.updates = updates
        with pytest.raises(FloatingPointError, match=f"in step {step};"):
            job.fit()
        AcceleratorState._reset_state(reset_partial_state=True)
        told = report(folder)
        assert (told["step"], told["update"], told["reproduced"]) == (step, bad, True)
        assert math.isfinite(float(told["loss"])) == gradient_only
        assert not math.isfinite(float(told["grad_norm"]))
        states.append(checkpoints.load_state(folder / failure.FOLDER))
        assert checkpoints.load_state(folder)["step"] == (4 if save_every == 4 else step - 1)
    # Replayed from step 4, and saved by the run itself just before: the same to the bit.
    states.append(checkpoints.load_state(tmp_path / "1"))
    for state in states:
        assert state["step"] == step - 1
        for part in ("model", "ema"):
            assert all(torch.equal(value, states[-1][part][name]) for name, value in state[part].items())
        for number, moments in state["optimizer"]["state"].items():
            assert all(torch.equal(v, states[-1]["optimizer"]["state"][number][k]) for k, v in moments.items())


def test_a_run_that_fails_before_its_first_checkpoint(tmp_path):
    job = trainer(tmp_path, run_config())
    start = {name: value.clone() for name, value in job.raw.state_dict().items()}
    job.objective = spoilt_at(job.objective, 0)
    with pytest.raises(FloatingPointError, match="in step 1;"):
        job.fit()
    assert checkpoints.load_state(tmp_path) is None
    state = checkpoints.load_state(tmp_path / failure.FOLDER)
    assert state["step"] == 0
    assert all(torch.equal(value, start[name]) for name, value in state["model"].items())


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    good = {"w": torch.ones(3)}
    checkpoints.save(tmp_path, 1, good, good, {"state": {}}, 1)
    before = bytes_of(tmp_path)
    with pytest.raises(FloatingPointError, match="w is not finite at step 2; the last checkpoint is kept"):
        checkpoints.save(tmp_path, 2, {"w": torch.tensor([1.0, math.nan])}, good, {"state": {}}, 2)
    assert bytes_of(tmp_path) == before


class Adversary:
    """Velocities as large as the type allows and of changing signs, opposite with and without the class."""

    null_class = 2

    def __init__(self, scale: float, dtype: torch.dtype):
        self.scale, self.dtype, self.calls = scale, dtype, 0

    def __call__(self, x, t, y):
        self.calls += 1
        signs = torch.randn(x.shape, generator=torch.Generator().manual_seed(self.calls)).sign()
        signs[y == self.null_class] *= -1
        return (self.scale * signs).to(self.dtype)


@pytest.mark.parametrize("process", ["telegraph", "planar"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 1e4, 1e18, 1e30])
@pytest.mark.parametrize("method", ["euler", "heun", "ab2"])
def test_limited_speed_keeps_every_guided_sample_in_range(process, dtype, scale, method):
    """Over the whole time 1 nothing moves farther than its speed: AB-2 may extrapolate to twice that."""
    limit = 4.0
    for w in (0.0, 1.5, 16.0):
        x = torch.randn(6, 2, 4, 4, generator=torch.Generator().manual_seed(1)).to(dtype)
        y = torch.arange(6) % 2
        velocity = GuidedVelocity(Adversary(scale, dtype), w, max_speed=limit, speed_norm=process)
        end = integrate(velocity, x, y, time_grid(20, 2.0), method)
        assert torch.isfinite(end).all()
        assert (end.float() - x.float()).abs().max() <= (2 if method == "ab2" else 1) * limit * 1.05


def test_numbers_of_noise_go_on_beyond_two_to_the_32():
    """Step 2^32 of 40 rows: every row has its own number, and none comes back to that of an early step."""
    data, seed, process = ToyData(), 5, Telegraph(9.0, 3.0)
    early, late = (Batch(data.x[:20], data.y[:20], step, row=20, total=40) for step in (3, 2**32 + 3))
    assert late.first == (2**32 + 3) * 40 + 20
    seen = []
    for batch in (early, late):

        def network(x, t, y, batch=batch):
            rows = [
                process.pair(batch.x0[i : i + 1], t[i : i + 1], derive_seed(seed, "noise"), batch.first + i)
                for i in range(20)
            ]
            assert torch.equal(x, torch.cat([x_t for x_t, _ in rows]))
            seen.append(t)
            return x

        FlowMatching(process, null_class=2, label_drop=0.3, seed=seed)(network, batch)
    assert not torch.equal(*seen)
    noise = [ops.kac_noise(torch.ones(20), (64,), "telegraph", 25.0, 2.0, 1, b.first) for b in (early, late)]
    assert not any(torch.equal(a, b) for a, b in zip(*noise, strict=True))
