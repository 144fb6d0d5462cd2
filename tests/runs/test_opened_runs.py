"""Opening a run and drawing from it: the network that was meant, on a device that is there, left as it was."""

import copy
import dataclasses
import warnings

import pytest
import torch
from torch import nn

from distillkac.runs import SamplerConfig, class_labels, generate, open_run
from distillkac.runs.config import StudentConfig
from distillkac.training import train
from distillkac.training.batches import Batch
from distillkac.training.objective import FlowMatching
from tests.toys import ToyData, run_config
from tests.training.test_own_networks import CONFIG, Net, same

ONE = SamplerConfig(steps=1)


class Alike(Net):
    """Another class with the same names and shapes."""


class Live(Net):
    """Has parts that train mode changes."""

    def __init__(self):
        super().__init__(2)
        self.norm, self.drop = nn.BatchNorm2d(1), nn.Dropout(0.5)

    def forward(self, x, t, y):
        return self.drop(super().forward(self.norm(x), t, y))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(tmp_path_factory.mktemp("opened") / "run", ToyData(), Net(2), dataclasses.replace(CONFIG, steps=1))


def test_a_module_of_another_class_is_told(run):
    with pytest.warns(
        UserWarning, match=r"was trained with .*test_own_networks.Net, and this is a .*test_opened_runs.Alike:"
    ):
        open_run(run.folder, network=Alike(2))
    script = type("Net", (Net,), {"__module__": "__main__", "__qualname__": "Net"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_run(run.folder, network=Net(2))
        open_run(run.folder, network=script(2))


def test_the_module_that_was_given_stays_as_it_is(run):
    network = Net(2, seed=5)
    before = copy.deepcopy(network.state_dict())
    opened = open_run(run.folder, network=network)
    assert same(network.state_dict(), before)
    assert network.training
    assert same(opened.network.state_dict(), run.network.state_dict())
    assert not any(parameter.requires_grad for parameter in opened.network.parameters())
    network.cached = network.first.weight * 2
    with pytest.raises(ValueError, match="Net cannot be copied"):
        open_run(run.folder, network=network)


@pytest.mark.parametrize(
    ("device", "words"),
    [
        (Net(2), "got a Net: say network="),
        ("gpu", "device 'gpu' cannot be used here"),
        ("cuda:99", "device 'cuda:99' cannot be used here"),
    ],
)
def test_a_device_that_is_none_is_refused(run, device, words):
    with pytest.raises(ValueError, match=words) as refusal:
        open_run(run.folder, device, Net(2))
    assert "\n" not in str(refusal.value)


def test_the_network_of_the_run_is_drawn_from_and_no_other(run):
    labels = class_labels(run.config, 2)
    with pytest.raises(
        ValueError, match='is a teacher, and model "student" was asked for: its students are in folders'
    ):
        generate(run, labels, dataclasses.replace(ONE, model="student"))
    assert len(generate(run, labels, dataclasses.replace(ONE, model="teacher")).images) == 2
    student = dataclasses.replace(run, config=dataclasses.replace(run.config, student=StudentConfig(2, 1, 1.5, 0.0)))
    with pytest.raises(ValueError, match='is a student, and model "teacher" was asked for'):
        generate(student, labels, dataclasses.replace(ONE, model="teacher"))
    assert len(generate(student, labels, dataclasses.replace(ONE, model="student")).images) == 2


def test_images_are_drawn_in_eval_mode_and_the_mode_is_kept(run):
    network = Live().eval()
    live = dataclasses.replace(run, network=network)
    labels = class_labels(run.config, 2)
    quiet = generate(live, labels, ONE).images
    network.train()
    network.drop.eval()
    before = copy.deepcopy(network.state_dict())
    assert torch.allclose(generate(live, labels, ONE).images, quiet, atol=1e-5)
    assert same(network.state_dict(), before)
    assert (network.training, network.norm.training, network.drop.training) == (True, True, False)


def test_an_answer_that_torch_would_stretch_is_refused():
    data, config = ToyData(), run_config()
    x, y = data.__getitems__([0, 1])
    batch = Batch(x0=x, y=y, step=0, row=0, total=2)
    objective = FlowMatching(config.noise.build(), None, 0.0, 0)
    assert objective(lambda x, t, y: x, batch).ndim == 0
    with pytest.raises(
        ValueError, match=r"must return a velocity like x, \(2, 1, 4, 4\), got \(2, 1, 1, 1\) in train mode"
    ):
        objective(lambda x, t, y: x.mean((1, 2, 3), keepdim=True), batch)
