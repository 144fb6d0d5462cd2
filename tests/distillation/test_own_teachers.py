"""Networks in Python that predict noise, v, data or velocity, taken in as teachers: sampled, distilled, opened again."""

import re

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn

from distillkac import report, sample
from distillkac.data import from_tensors
from distillkac.distillation import ConsistencyConfig, DistillConfig, InverseConfig, PairsConfig, distill
from distillkac.flow import (
    ExactFlow,
    Gaussian,
    GuidedVelocity,
    Planar,
    VelocityFrom,
    add_path,
    integrate,
    probability_paths,
    time_grid,
)
from distillkac.runs import OptimConfig, SamplerConfig, adopt, class_labels, generate, load_config, open_run
from tests.toys import ToyData, refused

VP = Gaussian(path="vp")
OPTIM = OptimConfig(batch_size=8, lr=1e-3, warmup=1)
DATA = ToyData()


class Net(nn.Module):
    null_class = 2

    def __init__(self):
        super().__init__()
        self.classes, self.first = nn.Embedding(3, 6), nn.Conv2d(2, 6, 3, padding=1)
        self.last = nn.Conv2d(6, 1, 3, padding=1)

    def forward(self, x, number, y):
        hidden = self.first(torch.cat([x, number.view(-1, 1, 1, 1).expand_as(x) / 1000], 1))
        return self.last(torch.tanh(hidden + self.classes(y)[:, :, None, None]))

    def feature_layers(self):
        return [self.first]


class Plain(Net):
    """A student's own network, told t itself."""

    def forward(self, x, t, y):
        return super().forward(x, 1000 * t, y)


def thousand(t):
    return 1000 * t


def wrapped(net=None, process=VP, prediction="epsilon", time=thousand):
    return VelocityFrom(net or Net(), process, prediction, time)


@pytest.fixture(autouse=True)
def no_precision_stays():
    torch.manual_seed(0)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def taken(tmp_path):
    return adopt(wrapped(), tmp_path / "run", DATA)


def test_it_is_a_run_that_is_sampled_as_the_network_is(taken, tmp_path, capsys):
    config = load_config(taken.folder)
    assert (config.noise.path, config.shape, config.class_names) == ("vp", (1, 4, 4), ("dark", "bright"))
    assert config.network.module == "tests.distillation.test_own_teachers.Net"
    assert config.network.prediction == "epsilon"
    assert config.network.parameters == sum(p.numel() for p in Net().parameters())
    images = generate(taken, class_labels(config, 6), SamplerConfig(3, "euler", w=0.5)).images
    again = open_run(taken.folder, network=wrapped())
    assert torch.equal(generate(again, class_labels(config, 6), SamplerConfig(3, "euler", w=0.5)).images, images)
    # By hand: DDIM's prediction of the data and the noise, and the velocity of the path.
    x, y = torch.randn(5, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1])
    t = torch.linspace(0.1, 1, 5)
    (alpha, d_alpha), (sigma, d_sigma) = ([v[:, None, None, None] for v in pair] for pair in taken.process.schedules(t))
    with torch.no_grad():
        eps = taken.network.model(x, 1000 * t, y)
        u = d_alpha * (x - sigma * eps) / alpha + d_sigma * eps
        torch.testing.assert_close(taken.network(x, t, y), u, rtol=1e-3, atol=1e-3)
    assert report.main([str(taken.folder)]) == 0
    assert "network=VelocityFrom(Net(...), process, 'epsilon'))" in refused(sample, [taken.folder], capsys)


PLANS = {
    "endpoint": DistillConfig(stages=(4, 2, 1), steps=(1, 1), optim=OPTIM, w=0.5, backward=0.5, exact_start=True),
    "reconstruction": DistillConfig(stages=(4, 2), steps=(1,), optim=OPTIM, method="reconstruction"),
    "pairs": DistillConfig(stages=(4, 1), steps=(1,), optim=OPTIM, method="pairs", pairs=PairsConfig(8, features=0.1)),
    "consistency": DistillConfig(method="consistency", optim=OPTIM, consistency=ConsistencyConfig(steps=1)),
    "inverse": DistillConfig(stages=(1,), optim=OPTIM, inverse=InverseConfig(1, start="teacher", adversarial=0.02)),
}


@pytest.mark.parametrize("method", PLANS)
def test_every_method_distils_it(taken, method):
    before = {name: value.clone() for name, value in taken.network.state_dict().items()}
    made = distill(taken, DATA, config=PLANS[method])
    for student in made:
        assert isinstance(student.network, VelocityFrom)
        assert any(not torch.equal(value, before[name]) for name, value in student.network.state_dict().items())
        again = open_run(student.folder, network=wrapped())
        sampler = SamplerConfig(student.config.student.num_steps)
        one, two = (generate(r, class_labels(r.config, 4), sampler).images for r in (student, again))
        assert torch.equal(one, two)
    assert all(torch.equal(value, before[name]) for name, value in taken.network.state_dict().items())


@pytest.mark.parametrize("process", [Planar(), Gaussian(0.5, path="edm")], ids=lambda p: p.name)
def test_a_velocity_of_any_process(tmp_path, process):
    run = adopt(wrapped(Plain(), process, "velocity", None), tmp_path / "run", DATA)
    assert run.process == process
    x, t, y = torch.randn(3, 1, 4, 4), torch.rand(3), torch.zeros(3, dtype=torch.int64)
    assert torch.equal(run.network(x, t, y), run.network.model(x, t, y))
    (student,) = distill(run, DATA, config=DistillConfig(stages=(2, 1), steps=(1,), optim=OPTIM))
    assert student.process == process


def test_a_function_teaches_networks_of_their_own(tmp_path):
    """The exact flow onto eight images: a teacher whose ends are known, and no weights."""
    images = DATA.x[:8]
    flow = ExactFlow(Gaussian(path="cosine"), images)

    def exact(x, t, y):
        return flow(x, t.clamp(min=1e-4))

    run = adopt(VelocityFrom(exact, flow.law, "velocity"), tmp_path / "run", from_tensors(images))
    assert run.config.network.parameters == 0
    ends = generate(run, torch.zeros(20, dtype=torch.int64), SamplerConfig(20, "heun")).images
    assert float(torch.cdist(ends.flatten(1), images.flatten(1)).min(1).values.max()) < 0.1
    with pytest.raises(ValueError, match=r"exact has no weights .* distill\(run, dataset, lambda: Net\(\)\)"):
        distill(run, from_tensors(images), config=PLANS["reconstruction"])
    plan = DistillConfig(stages=(4, 2, 1), steps=(1, 1), optim=OPTIM)
    with pytest.raises(ValueError, match=r"exact has no weights: omit inverse.steps"):
        distill(run, from_tensors(images), Plain1, DistillConfig(stages=(1,), inverse=InverseConfig(1), optim=OPTIM))
    students = distill(run, from_tensors(images), Plain1, plan)
    assert [type(student.network) for student in students] == [Plain1, Plain1]
    assert open_run(students[-1].folder, network=Plain1()).config.network.prediction is None
    pairs = DistillConfig(stages=(4, 1), steps=(30,), optim=OPTIM, method="pairs", pairs=PairsConfig(32))
    (student,) = distill(run, from_tensors(images), Plain1, pairs, out=tmp_path / "pairs")
    z = run.process.prior(64, (1, 4, 4), 7)
    with torch.no_grad():
        ends = integrate(GuidedVelocity(run.network), z, torch.zeros(64, dtype=torch.int64), time_grid(4, 2.0))
        one = z - student.network(z, torch.ones(64), torch.zeros(64, dtype=torch.int64))
        fresh = z - Plain1()(z, torch.ones(64), torch.zeros(64, dtype=torch.int64))
    assert (one - ends).square().mean() < 0.8 * (fresh - ends).square().mean()


class Plain1(Plain):
    null_class = 1


def test_another_network_is_not_opened(taken):
    with pytest.raises(ValueError, match="predicts epsilon, and this one sample: open it"):
        open_run(taken.folder, network=wrapped(prediction="sample"))
    with pytest.raises(ValueError, match="predicts epsilon, and this one is no VelocityFrom: open it in Python"):
        open_run(taken.folder, network=Net())
    with pytest.raises(ValueError, match="this network another, Gaussian"):
        open_run(taken.folder, network=wrapped(process=Gaussian(path="sub-vp")))


class Changed(Net):
    factor = 1.0

    def forward(self, x, number, y):
        return self.factor * super().forward(x, number, y)


class Pairs(Plain):
    def forward(self, x, t, y):
        return super().forward(x.view(2, *x.shape[1:]), t, y)


class Noisy(Net):
    def forward(self, x, number, y):
        return super().forward(x, number, y) + torch.randn_like(x)


def test_a_network_that_was_changed_is_not_opened(taken, tmp_path):
    """Its weights fit, and its class has the name that it had."""
    (student,) = distill(taken, DATA, config=PLANS["pairs"])
    (inverse,) = distill(taken, DATA, config=PLANS["inverse"])
    for folder in (taken.folder, student.folder, inverse.folder):
        told = "the number that the model is told at t = 0.25 is 250, and of this one it is"
        for time, words in ((lambda t: 999 * t, f"{told} 249.75"), (None, f"{told} 0.25")):
            with pytest.raises(ValueError, match=re.escape(words)):
                open_run(folder, network=wrapped(time=time))
        open_run(folder, network=wrapped(time=lambda t: t * 1000.0))
    run = adopt(wrapped(Changed()), tmp_path / "changed", DATA)
    assert len(run.config.network.answers) == 8
    other = Changed()
    other.factor = 1.001
    open_run(run.folder, network=wrapped(other))  # as near as other kernels are
    other.factor = 1.1
    with pytest.raises(
        ValueError, match="answered otherwise with the same weights: its code or an attribute has changed"
    ):
        open_run(run.folder, network=wrapped(other))
    other.forward = lambda x, number: x
    with pytest.raises(ValueError, match="this VelocityFrom failed for 4 images, TypeError"):
        open_run(run.folder, network=wrapped(other))


def test_a_path_by_the_same_name_that_is_another_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(probability_paths, "PATHS", dict(probability_paths.PATHS))
    add_path("mine", lambda t: (torch.cos(1.5 * t), torch.sin(1.5 * t)))
    run = adopt(wrapped(process=Gaussian(path="mine"), prediction="velocity"), tmp_path / "run", DATA)
    add_path("mine", lambda t: (torch.cos(1.56 * t), torch.sin(1.56 * t)))
    with pytest.raises(ValueError, match=r"of which alpha at t = 0\.25 is 0\.930508, and of this one it is 0\.924909"):
        open_run(run.folder, network=wrapped(process=Gaussian(path="mine"), prediction="velocity"))


def test_a_network_that_is_random_itself_is_not_compared(tmp_path):
    run = adopt(wrapped(Noisy()), tmp_path / "run", DATA)
    assert run.config.network.answers == ()
    open_run(run.folder, network=wrapped(Noisy()))


def test_mistakes_are_told_before_anything_is_written(tmp_path):
    for arguments, options, message in (
        (
            (Net(), tmp_path / "run", DATA),
            {},
            r"Net says nothing of its noise .*VelocityFrom\(Net, process, prediction\)",
        ),
        ((wrapped(), tmp_path / "run", DATA), {"null_class": True}, "null_class is of a model that diffusers saved"),
        ((wrapped(), tmp_path / "run", DATA), {"sigma": 2.0}, "sigma is of a model that diffusers saved"),
        ((wrapped(nn.Identity()), tmp_path / "run", DATA), {}, "failed for"),
        ((wrapped(Pairs()), tmp_path / "run", DATA), {}, "this VelocityFrom failed for 4 images, RuntimeError: shape"),
        ((wrapped(Plain1()), tmp_path / "run", DATA), {}, "null_class, .* must be 2"),
        ((wrapped(process=Gaussian(path=halfway)), tmp_path / "run", DATA), {}, "its path is a function"),
        ((wrapped(process=Gaussian(f="exp")), tmp_path / "run", DATA), {}, "config.noise.f must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            adopt(*arguments, **options)
    assert not (tmp_path / "run").exists()


def halfway(t):
    return 1 - 0.95 * t, t
