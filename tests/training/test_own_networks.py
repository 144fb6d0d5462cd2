"""Own networks on own data: trained as ours are, written in the run, refused by name where they will not do."""

import dataclasses
import warnings

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn

from distillkac import diagnose, distill, evaluate, export, report, sample, train
from distillkac.data import DataConfig, from_tensors
from distillkac.flow.networks import NetworkConfig
from distillkac.pipeline import KacPipeline
from distillkac.runs import OptimConfig, RunConfig, SamplerConfig, class_labels, generate, load_config, open_run
from distillkac.training import loop
from distillkac.training import train as fit
from tests.toys import TINY, ToyData, refusal

OPTIM = OptimConfig(batch_size=8, warmup=2, log_every=2, save_every=4)
CONFIG = RunConfig(steps=8, optim=OPTIM, preview=0)


class Net(nn.Module):
    """The least network that listens to x, t and y."""

    def __init__(self, null_class=None, width=6, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.classes = nn.Embedding(3, width)
        self.first, self.last = nn.Conv2d(2, width, 3, padding=1), nn.Conv2d(width, 1, 3, padding=1)
        if null_class is not None:
            self.null_class = null_class

    def forward(self, x, t, y):
        time = t.view(-1, 1, 1, 1).expand_as(x)
        return self.last(torch.tanh(self.first(torch.cat([x, time], 1)) + self.classes(y)[:, :, None, None]))


def weights(run):
    return run.network.state_dict()


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture
def stop_at(monkeypatch):
    """A function: training stops, as by Ctrl-C, after so many steps."""

    def arrange(step):
        real = loop.Trainer._stopped
        monkeypatch.setattr(loop.Trainer, "_stopped", lambda self, stop: self.step == step or real(self, stop))

    return arrange


@pytest.mark.one_alignment
def test_a_resumed_run_ends_with_the_same_weights(tmp_path, stop_at, monkeypatch):
    whole = fit(tmp_path / "whole", ToyData(), Net(2), CONFIG)
    stop_at(5)
    with pytest.raises(KeyboardInterrupt, match=r"step 5 of 8; train\(\.\.\., resume=True\)"):
        fit(tmp_path / "run", ToyData(), Net(2), CONFIG)
    monkeypatch.undo()
    resumed = fit(tmp_path / "run", ToyData(), Net(2, seed=9), CONFIG, resume=True)  # its first weights do not matter
    assert same(weights(whole), weights(resumed))
    assert not same(weights(whole), Net(2).state_dict())
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "run")]
    assert files[0] == files[1]


def test_the_run_knows_network_and_data_and_opens_with_the_network(tmp_path):
    run = fit(tmp_path / "run", ToyData(), Net(2), CONFIG)
    config = load_config(tmp_path / "run")
    assert config == run.config
    assert config.network.module == f"{Net.__module__}.Net"
    assert config.network.parameters == sum(p.numel() for p in Net().parameters())
    assert config.data == DataConfig(path="python://ToyData")
    assert config.fingerprint is not None
    assert config.shape == ToyData().shape
    opened = open_run(str(tmp_path / "run"), network=Net(2, seed=3))
    assert same(weights(run), weights(opened))
    labels, sampler = class_labels(config, 4), SamplerConfig(steps=3, w=0.5)
    # On one device both see the same blocks; what torch rounds differently at other places in memory is not asked.
    one, two = (generate(each, labels, sampler, path=True) for each in (run, opened))
    assert torch.allclose(one.path, two.path, atol=1e-5)
    assert one.path.shape == (4, 4, *config.shape)
    assert one.nfe == 6
    with pytest.raises(
        ValueError, match=r"with a network given in Python, .*Net, .*open_run\(.*network=Net\(\.\.\.\)\)"
    ):
        open_run(tmp_path / "run")
    with pytest.raises(ValueError, match=r"does not fit .*classes.weight should be float32 \(3, 7\)"):
        open_run(tmp_path / "run", network=Net(width=7))
    with pytest.raises(ValueError, match=r"Net.null_class, .* must be 2, the number of classes, got 0"):
        open_run(tmp_path / "run", network=Net(0))
    with pytest.raises(ValueError, match=r"must be a torch.nn.Module, got <class"):
        open_run(tmp_path / "run", network=Net)


@pytest.mark.one_alignment
def test_a_network_without_null_class_is_trained_without_dropping_classes(tmp_path):
    with pytest.warns(UserWarning, match=r"no null_class.*set null_class = 2.*label_drop=0"):
        run = fit(tmp_path / "run", ToyData(), Net(), CONFIG)
    assert run.config.label_drop == 0
    with pytest.raises(ValueError, match="label_drop 0 and cannot be guided"):
        generate(run, class_labels(run.config, 2), SamplerConfig(steps=2, w=1.0))
    with pytest.raises(ValueError, match="numbers of classes, 0 to 1"):
        generate(run, torch.tensor([2]), SamplerConfig(steps=2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        meant = fit(tmp_path / "meant", ToyData(), Net(), dataclasses.replace(CONFIG, label_drop=0.0))
        images = from_tensors(ToyData().x)
        alone = fit(tmp_path / "alone", images, Net(), CONFIG)  # of one class there is nothing to warn of
    assert same(weights(run), weights(meant))
    assert alone.config.class_names == ("all",)
    assert alone.config.label_drop == 0


class Wrong(Net):
    """Does one thing wrong."""

    def __init__(self, what):
        super().__init__(5 if what == "null_class" else 2)
        self.what = what
        if what == "shared":
            self.again = self.first

    def forward(self, x, t, y):
        u = super().forward(x, t, y)
        answers = {
            "shape": lambda: u[:, :, :2],
            "dtype": lambda: u.double(),
            "nan": lambda: u * float("nan"),
            "constant": lambda: u.detach(),
            "tuple": lambda: (u,),
            "in place": lambda: u + x.mul_(2),
            "error": lambda: self.missing(u),
        }
        return answers.get(self.what, lambda: u)()


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("shape", r"must return a velocity like x, torch.float32 \(2, 1, 4, 4\), got torch.float32 \(2, 1, 2, 4\)"),
        ("dtype", r"like x, torch.float32 .*, got torch.float64"),
        ("tuple", r"like x, torch.float32 .*, got tuple"),
        ("nan", "not finite"),
        ("constant", "nothing to train"),
        ("in place", "changes x in place"),
        ("shared", "one parameter by two names, first.weight and again.weight"),
        ("error", r"forward\(x, t, y\) failed for x \(2, 1, 4, 4\) float32, .*AttributeError: .*missing"),
        ("null_class", "must be 2, the number of classes, got 5"),
    ],
)
def test_a_wrong_network_is_refused_at_once(tmp_path, what, words):
    network = Wrong(what)
    with pytest.raises(ValueError, match=rf"Wrong.*{words}"):
        fit(tmp_path / "run", ToyData(), network, CONFIG)
    assert not (tmp_path / "run").exists()
    assert network.training


def test_ours_on_own_data_is_sampled_by_commands_and_no_command_takes_other_images(tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    fit(run, ToyData(), TINY, CONFIG)
    assert load_config(run).network == TINY
    assert sample.main([str(run), "--steps", "2", "--num", "4"]) == 0
    assert report.main([str(run)]) == 0
    assert "python://ToyData" in (run / "report.html").read_text()
    # Pipelines save networks of ours.
    assert KacPipeline.from_pretrained(run).unet.null_class == 2
    told = "was trained on data given in Python (ToyData), which cannot be loaded from its config"
    for module, argv in (
        (evaluate, [str(run)]),
        (evaluate, [str(run), "--data.path", str(tmp_path)]),
        (diagnose, [str(run)]),
        (distill, [str(run)]),
        (train, ["--run", str(run), "--resume"]),
    ):
        assert told in refusal(module, argv, capsys), (module.__name__, argv)
    with pytest.raises(ValueError, match="a network of distillkac's own, which is built from its config: omit network"):
        open_run(run, network=Net())


def test_no_command_takes_another_network(tmp_path, capsys):
    run = tmp_path / "run"
    fit(run, ToyData(), Net(2), CONFIG)
    for module, argv in (
        (sample, [str(run)]),
        (distill, [str(run)]),
        (diagnose, [str(run)]),
        (export, [str(run), "--out", str(tmp_path / "x.pt2")]),
        (train, ["--run", str(run), "--resume"]),
    ):
        text = refusal(module, argv, capsys)
        assert "was trained with a network given in Python" in text, module.__name__
        assert "open_run" in text
    with pytest.raises(ValueError, match="network given in Python"):
        KacPipeline.from_pretrained(run)
    assert report.main([str(run)]) == 0


@pytest.mark.parametrize(
    "labels", [[0, 1], torch.zeros(2), torch.zeros(0, dtype=torch.int64), torch.zeros(1, 1).long()]
)
def test_labels_are_as_class_labels_makes_them(tmp_path, labels):
    run = fit(tmp_path / "run", ToyData(), Net(2), dataclasses.replace(CONFIG, steps=1))
    with pytest.raises(ValueError, match=r"labels must be \(n,\) int64, n >= 1, as class_labels makes them"):
        generate(run, labels, SamplerConfig(steps=1))


@pytest.mark.one_alignment
def test_buffers_and_frozen_parts_go_with_the_network(tmp_path, stop_at, monkeypatch):
    """Batch statistics are saved, a frozen layer stays, and a resumed run is the same."""

    class Normed(Net):
        def __init__(self):
            super().__init__(2)
            self.norm = nn.BatchNorm2d(1)
            self.first.requires_grad_(False)

        def forward(self, x, t, y):
            return super().forward(self.norm(x), t, y)

    before = Normed().first.weight.clone()
    whole = fit(tmp_path / "whole", ToyData(), Normed(), CONFIG)
    stop_at(5)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "run", ToyData(), Normed(), CONFIG)
    monkeypatch.undo()
    resumed = fit(tmp_path / "run", ToyData(), Normed(), CONFIG, resume=True)
    assert same(weights(whole), weights(resumed))
    assert torch.equal(whole.network.first.weight, before)
    assert whole.network.norm.num_batches_tracked == 8
    assert whole.config.network.parameters == sum(p.numel() for p in Normed().parameters() if p.requires_grad)


def test_a_run_is_not_resumed_as_another(tmp_path):
    short = dataclasses.replace(CONFIG, steps=4)
    fit(tmp_path / "run", ToyData(), Net(2), short)
    others = from_tensors(ToyData().x, ToyData().y, ("dark", "bright"))
    with pytest.raises(ValueError, match="already holds a checkpoint"):
        fit(tmp_path / "run", ToyData(), Net(2), CONFIG)
    with pytest.raises(ValueError, match=r"python://ImageDataset: not the images that .*run was trained on"):
        fit(tmp_path / "run", others, Net(2), CONFIG, resume=True)
    with pytest.raises(ValueError, match=r"trained with the network Net, .* cannot change to the network unet"):
        fit(tmp_path / "run", ToyData(), TINY, CONFIG, resume=True)
    with pytest.raises(ValueError, match=r"does not fit .*classes.weight"):
        fit(tmp_path / "run", ToyData(), Net(2, width=7), CONFIG, resume=True)
    assert fit(tmp_path / "run", ToyData(), Net(2), CONFIG, resume=True).config.steps == 8


def test_what_is_said_twice_must_agree(tmp_path):
    flipped = dataclasses.replace(CONFIG, data=DataConfig(flip=True))
    with pytest.raises(ValueError, match=r"config.data and the data that is given say different things"):
        fit(tmp_path / "run", ToyData(), Net(2), flipped)
    with pytest.raises(ValueError, match=r"config.network and the network"):
        fit(tmp_path / "run", ToyData(), Net(2), dataclasses.replace(CONFIG, network=TINY))
    with pytest.raises(ValueError, match=r"config.network and the network"):
        fit(tmp_path / "run", ToyData(), NetworkConfig(), dataclasses.replace(CONFIG, network=TINY))
    for network in (Net, CONFIG):
        with pytest.raises(ValueError, match=r"network must be a torch.nn.Module or a NetworkConfig, got "):
            fit(tmp_path / "run", ToyData(), network)
    run = fit(tmp_path / "run", ToyData(), Net(2), CONFIG)
    again = fit(tmp_path / "again", ToyData(), Net(2), run.config)  # the config of a run may be given again
    assert again.config == run.config
    with pytest.raises(ValueError, match=r"config.network is .*Net, given in Python: give the network itself"):
        fit(tmp_path / "third", ToyData(), None, run.config)


def test_images_that_the_package_reads_are_kept_by_their_place(tmp_path, monkeypatch):
    run = fit(tmp_path / "run", DataConfig(), Net10(), dataclasses.replace(CONFIG, steps=2))
    assert run.config.data == DataConfig()
    assert run.config.fingerprint is not None
    (tmp_path / "images").mkdir()
    with pytest.raises(ValueError, match=r"--run .* lies inside the folder of the images"):
        fit(tmp_path / "images" / "run", DataConfig(path=str(tmp_path / "images")), Net10(), CONFIG)


class Net10(Net):
    def __init__(self):
        super().__init__(10)
        self.classes = nn.Embedding(11, 6)


@pytest.mark.one_alignment
def test_trainings_of_one_program_may_have_different_precisions(tmp_path):
    AcceleratorState._reset_state(reset_partial_state=True)
    half = dataclasses.replace(CONFIG, optim=dataclasses.replace(OPTIM, precision="bf16"), steps=2)
    fit(tmp_path / "one", ToyData(), Net(2), dataclasses.replace(CONFIG, steps=2))
    run = fit(tmp_path / "two", ToyData(), Net(2), half)
    assert run.config.optim.precision == "bf16"
    again = fit(tmp_path / "three", ToyData(), Net(2), dataclasses.replace(CONFIG, steps=2))
    assert same(weights(again), weights(open_run(tmp_path / "one", network=Net())))
    AcceleratorState._reset_state(reset_partial_state=True)
