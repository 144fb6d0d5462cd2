"""`--optim.compile`: the same training by compiled calls, from the first step to a resumed end; no compiler, no harm."""

import copy
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from distillkac.distillation.inverse import GeneratorAndFake, RealUID
from distillkac.flow.guidance import GuidedVelocity
from distillkac.flow.processes import Telegraph
from distillkac.runs import checkpoints
from distillkac.runs.objectives import AverageVelocityConfig
from distillkac.runs.optim_config import OptimConfig
from distillkac.training import compiled, loop
from distillkac.training.average_velocity import AverageVelocity
from distillkac.training.batches import Batch
from distillkac.training.loop import Trainer
from distillkac.training.objective import FlowMatching, one_call
from tests.places import ROOT
from tests.toys import TINY_OPTIONS, ToyData, optim, run_config, trainer
from tests.training.test_crashes import same

pytestmark = pytest.mark.one_alignment
DATA = ToyData()
DRAWS = torch.zeros(3, 1, 4, 4), torch.full((3,), 0.5), torch.zeros(3, dtype=torch.int64)


class Small(nn.Module):
    """A network with dropout that is compiled in seconds."""

    null_class = 2

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.classes, self.inner, self.last = nn.Embedding(3, 16), nn.Linear(17, 32), nn.Linear(32, 16)
        self.dropout = nn.Dropout(0.2)

    def forward(self, x, t, y):
        hidden = torch.cat([x.flatten(1) + self.classes(y), t[:, None]], 1)
        return self.last(self.dropout(self.inner(hidden).relu())).view_as(x)

    def feature_layers(self):
        return [self.inner, self.last]


@pytest.fixture(autouse=True)
def afresh():
    """No compiled code, and no sentence that was told, from another test."""
    import torch._dynamo

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled._say.cache_clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def compiler():
    """For what must be compiled: torch writes C++ that is wrong where ATEN_CPU_CAPABILITY asks for less than the CPU has."""
    if (reason := compiled.problem("cpu")) is not None:
        pytest.skip(f"torch's compiler does not work here: {reason}")


def small(folder, network=None, **options):
    accelerator = Accelerator(mixed_precision="no", cpu=True)
    objective = FlowMatching(Telegraph(25.0, 2.0), 2, 0.1, 0)
    network = network or Small()
    return Trainer(network, objective, ToyData(), folder, 12, optim(**options), 0, accelerator)


def state(folder):
    return checkpoints.load_state(folder)


def close(one, two):
    """Twelve steps of Adam from one start, whose gradients are summed in another order."""
    assert list(one) == list(two)
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], rtol=1e-3, atol=1e-4)


def compiled_call(made):
    """Of the network of a Trainer, in its training."""
    (call,) = (values["_compiled_call_impl"] for part, values in made.prepared if part is made.raw)
    return call


def check_training(folder, make):
    """Compiled by one program for all steps, under the same names, to the same weights."""
    from torch._dynamo.utils import counters

    counters.clear()
    made = make(folder / "compiled", compile=True)
    made.fit()
    assert counters["stats"]["unique_graphs"] == 1, counters
    assert not counters["graph_break"]
    assert not counters["frames"].get("recompiles", 0)
    assert compiled_call(made).compiled is not None
    assert made.raw._compiled_call_impl is None  # it is called as before now
    assert made.averaged._compiled_call_impl is None
    assert copy.deepcopy(made.raw)._compiled_call_impl is None
    make(folder / "plain").fit()
    one, two = state(folder / "compiled"), state(folder / "plain")
    close(one["model"], two["model"])
    close(one["ema"], two["ema"])
    return one


@pytest.mark.usefixtures("compiler")
def test_a_compiled_training_is_the_plain_one_up_to_rounding_and_may_be_resumed(tmp_path):
    whole = check_training(tmp_path, small)
    part = small(tmp_path / "parts", compile=True)
    batches = part.batches()
    for _ in range(5):
        part.advance(batches)
    part.save(tmp_path / "parts")
    small(tmp_path / "parts", compile=True).fit()
    rest = state(tmp_path / "parts")
    assert rest["step"] == whole["step"] == 12
    assert same(rest, whole)


@pytest.mark.usefixtures("compiler")
def test_both_sides_of_a_consistency_loss_have_the_same_dropout(tmp_path):
    """Compiled by two programs, one of them without a gradient."""
    made = small(tmp_path, compile=True)
    x, t, y = DRAWS
    with torch.random.fork_rng(), torch.no_grad():
        target = made.raw(x, t, y)
    torch.testing.assert_close(made.raw(x, t, y), target)
    assert not torch.allclose(made.raw(x, t, y), target)


@pytest.mark.usefixtures("compiler")
def test_both_networks_of_inverse_distillation_are_compiled_and_their_blocks_are_read():
    torch.manual_seed(1)
    teacher = Small().eval().requires_grad_(False)
    pair = GeneratorAndFake(Small(), teacher, 10.0, tuple(value[:1] for value in (DRAWS[0], DRAWS[2])))
    for part in pair.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    learns = RealUID(GuidedVelocity(teacher), Telegraph(25.0, 2.0), 0.9, 0.95, 1, 6, adversarial=0.3)

    def gradients():
        found = []
        for update in range(learns.updates):
            pair.zero_grad()
            loss = learns(pair, Batch(DATA.x[:12], DATA.y[:12], update, 0, 12))
            loss.backward()
            found += [loss.detach(), *(p.grad.clone() for p in pair.parameters() if p.grad is not None)]
        return found

    plain = gradients()
    for network in (pair, teacher):
        compiled.compile_calls(network, Accelerator(cpu=True), OptimConfig(compile=True))
    calls = [network._compiled_call_impl for network in (pair.generator, pair.fake, teacher)]
    for one, two in zip(plain, gradients(), strict=True):
        torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-6)
    assert pair._compiled_call_impl is None
    assert all(call.compiled is not None for call in calls)
    assert compiled.torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 4


@pytest.mark.usefixtures("compiler")
def test_average_velocities_by_forward_mode_take_their_derivative_from_the_plain_call():
    class ToTheEnd(Small):
        interval_embedding = True

        def forward(self, x, t, y, r):
            return super().forward(x, t - r, y)

    network = ToTheEnd().eval()
    learns = AverageVelocity(Telegraph(25.0, 2.0), 2, 0.1, 0, AverageVelocityConfig(derivative="forward"))
    batch = Batch(DATA.x[:12], DATA.y[:12], 3, 0, 12)
    plain = learns(network, batch)
    compiled.compile_calls(network, Accelerator(cpu=True), OptimConfig(compile=True))
    torch.testing.assert_close(learns(network, batch), plain)
    assert network._compiled_call_impl.compiled is not None


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_our_networks_are_compiled_as_one_program(tmp_path):
    check_training(tmp_path, lambda folder, **options: trainer(folder, run_config(optim=optim(**options))))


@pytest.mark.parametrize(
    ("one_call", "device", "processes", "graphs"),
    [(True, "cuda", 1, True), (False, "cuda", 1, False), (True, "cpu", 1, False), (True, "cuda", 2, False)],
)
def test_passes_are_recorded_where_nothing_needs_an_answer_once_the_next_call_was_made(
    monkeypatch, one_call, device, processes, graphs
):
    asked = []
    monkeypatch.setattr(compiled, "problem", lambda kind: None)
    monkeypatch.setattr(compiled.torch, "compile", lambda call, **given: asked.append(given["options"]) or call)
    accelerator = SimpleNamespace(device=torch.device(device), num_processes=processes, is_local_main_process=True)
    compiled.compile_calls(Small(), accelerator, OptimConfig(compile=True), one_call)
    assert [options["triton.cudagraphs"] for options in asked] == [graphs]


@pytest.mark.parametrize("options", [{}, {"accumulate": 2}])
def test_a_teacher_calls_its_network_once_an_update_unless_it_has_several_parts(monkeypatch, tmp_path, options):
    found = []
    monkeypatch.setattr(loop, "compile_calls", lambda *given, one_call: found.append(one_call))
    small(tmp_path, **options)
    assert found == [not options]


def test_what_is_derived_from_an_objective_of_one_call_may_have_more():
    class Twice(FlowMatching):
        def __call__(self, network, batch):
            return super().__call__(network, batch) + super().__call__(network, batch)

    arguments = Telegraph(25.0, 2.0), 2, 0.1, 0
    assert [one_call(kind(*arguments)) for kind in (FlowMatching, Twice)] == [True, False]
    assert not one_call(lambda network, batch: network(batch.x0))


def test_without_a_compiler_it_says_so_once_and_trains(tmp_path):
    command = [sys.executable, "-m", "distillkac.train", "--steps", "2", "--optim.batch-size", "8", "--preview", "0"]
    environment = os.environ | {"CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    options = [*TINY_OPTIONS, "--optim.compile", "--run", str(tmp_path / "run")]
    done = subprocess.run([*command, *options], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if "compile" in line]
    assert len(said) == 1, done.stdout
    assert said[0].startswith("--optim.compile: torch's compiler does not work here, the networks are not compiled: ")
    assert "no-such-compiler" in said[0]
    assert state(tmp_path / "run")["step"] == 2


@pytest.mark.usefixtures("compiler")
def test_a_network_that_cannot_be_compiled_is_trained_without(tmp_path, capsys):
    made = small(tmp_path, compile=True)

    def refuses(*inputs, **named):
        from torch._dynamo.exc import BackendCompilerFailed

        raise BackendCompilerFailed(lambda: None, RuntimeError("no such instruction"), None)

    made.raw._compiled_call_impl.compiled = refuses
    made.fit()
    assert state(tmp_path)["step"] == 12
    (said,) = [line for line in capsys.readouterr().out.splitlines() if "compile" in line]
    assert "Small is not compiled" in said
    assert "no such instruction" in said
    assert compiled_call(made).compiled is None


def test_mistakes_of_a_network_stay_what_they_are(tmp_path):
    class Broken(Small):
        def forward(self, x, t, y):
            raise ValueError("an own mistake")

    made = small(tmp_path, Broken(), compile=True)
    with pytest.raises(ValueError, match="an own mistake"):
        made.raw(*DRAWS)


def test_what_refuses_it():
    with pytest.raises(ValueError, match=r"which compiled code does not: omit optim\.compile"):
        OptimConfig(exact_parts=4, compile=True)
    with pytest.raises(ValueError, match=r"optim\.shard gathers them in parts: omit one of them"):
        OptimConfig(shard=True, compile=True)


@pytest.mark.usefixtures("compiler")
def test_other_threads_and_changing_numbers_of_rows_use_the_plain_call(tmp_path):
    made = small(tmp_path, compile=True)
    call, asked = made.raw._compiled_call_impl, []
    call.compiled = lambda *inputs, **named: asked.append(1)
    with compiled.plain_calls():
        assert made.raw(*DRAWS).shape == DRAWS[0].shape
    call.thread += 1
    assert made.raw(*DRAWS).shape == DRAWS[0].shape
    assert asked == []
    call.thread -= 1
    made.raw(*DRAWS)
    assert asked == [1]
