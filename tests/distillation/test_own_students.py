"""Students of own networks: copies of the teacher, or what a function makes; from images that are given."""

import dataclasses

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn

from distillkac.data import from_tensors
from distillkac.distillation import DistillConfig, InverseConfig, chain, distill
from distillkac.runs import OptimConfig, RunConfig, SamplerConfig, class_labels, generate, open_run
from distillkac.training import loop, train
from tests.toys import TINY, ToyData

OPTIM = OptimConfig(batch_size=8, lr=1e-3, warmup=2, log_every=2, save_every=4)
PLAN = DistillConfig(stages=(4, 2, 1), steps=(4, 4), optim=OPTIM)
DATA = ToyData()


class Net(nn.Module):
    """Its own attribute `module` must not be taken for a wrapper of torch's."""

    def __init__(self, guided=False, width=6, null_class=2, dropout=0.0):
        super().__init__()
        self.classes = nn.Embedding(3, width)
        self.module = nn.Sequential(nn.Conv2d(2, width, 3, padding=1), nn.Dropout(dropout))
        self.last = nn.Conv2d(width, 1, 3, padding=1)
        if null_class is not None:
            self.null_class = null_class
        if guided:
            self.guidance_embedding, self.weight = True, nn.Linear(1, width)
            nn.init.zeros_(self.weight.weight)
            nn.init.zeros_(self.weight.bias)

    def forward(self, x, t, y, w=None):
        hidden = self.module(torch.cat([x, t.view(-1, 1, 1, 1).expand_as(x)], 1))
        added = self.classes(y) + (0 if w is None else self.weight(w[:, None]))
        return self.last(torch.tanh(hidden + added[:, :, None, None]))


@pytest.fixture(autouse=True)
def no_precision_stays():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def teacher(tmp_path):
    torch.manual_seed(0)
    return train(tmp_path / "run", DATA, Net(dropout=0.2), RunConfig(steps=6, optim=OPTIM, preview=0))


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_students_are_copies_that_are_trained_and_found(teacher):
    before = {name: value.clone() for name, value in teacher.network.state_dict().items()}
    students = distill(teacher, DATA, config=PLAN)
    assert [student.folder.name for student in students] == ["student-2", "student-1"]
    assert same(teacher.network.state_dict(), before)
    assert not teacher.network.training
    for student, after in zip(students, (teacher, students[0]), strict=True):
        assert type(student.network) is Net
        assert student.config.network == teacher.config.network
        assert student.config.data.path == "python://ToyData"
        assert student.config.student.before is not None
        assert not same(student.network.state_dict(), after.network.state_dict())
        opened = open_run(student.folder, network=Net())
        assert same(opened.network.state_dict(), student.network.state_dict())
        steps = student.config.student.num_steps
        images = generate(student, class_labels(student.config, 4), SamplerConfig(steps=steps))
        assert images.nfe == steps


def test_a_student_starts_from_its_teachers_weights(teacher, monkeypatch):
    started = []
    real = chain.fit_run

    def fit_run(folder, config, network, *rest):
        started.append({name: value.clone() for name, value in network.state_dict().items()})
        return real(folder, config, network, *rest)

    monkeypatch.setattr(chain, "fit_run", fit_run)
    students = distill(teacher, DATA, config=PLAN)
    assert same(started[0], teacher.network.state_dict())
    assert same(started[1], students[0].network.state_dict())


@pytest.mark.one_alignment
def test_a_chain_that_was_stopped_ends_with_the_same_students(teacher, tmp_path, monkeypatch):
    whole = distill(teacher, DATA, config=PLAN, out=tmp_path / "whole")
    real, calls = loop.Trainer._stopped, []

    def stopped(self, stop):
        calls.append(self.step)
        return len(calls) == 7 or real(
            self, stop
        )  # two steps into the second student; of the first it is asked once more at its end

    monkeypatch.setattr(loop.Trainer, "_stopped", stopped)
    with pytest.raises(KeyboardInterrupt, match=r"student-1; distill\(\.\.\., resume=True\)"):
        distill(teacher, DATA, config=PLAN, out=tmp_path / "again")
    monkeypatch.undo()
    again = distill(teacher, DATA, config=PLAN, out=tmp_path / "again", resume=True)
    for one, two in zip(whole, again, strict=True):
        assert same(one.network.state_dict(), two.network.state_dict())


@pytest.mark.one_alignment
def test_ours_and_its_command_make_the_same_students(tmp_path):
    """On images that a command can load too."""
    from distillkac.data import DataConfig
    from distillkac.distill import main

    run = train(tmp_path / "run", DataConfig(), TINY, RunConfig(steps=2, optim=OPTIM, preview=0))
    config = dataclasses.replace(PLAN, steps=(2, 2), optim=DistillConfig().optim)
    made = distill(run, config=config, out=tmp_path / "python")
    options = ["--stages", "4,2,1", "--steps", "2", "2", "--out", str(tmp_path / "command")]
    assert main([str(run.folder), *options]) == 0
    for student in made:
        twin = tmp_path / "command" / student.folder.name
        for name in ("config.json", "model.safetensors", "ema.safetensors"):
            assert (student.folder / name).read_bytes() == (twin / name).read_bytes(), name


@pytest.mark.one_alignment
def test_inverse_distillation_of_an_own_network(teacher, tmp_path):
    plan = dataclasses.replace(PLAN, inverse=InverseConfig(steps=2))
    *_, last = distill(teacher, DATA, config=plan)
    assert last.folder.name == "student-1-inverse"
    assert type(last.network) is Net
    assert same(open_run(last.folder, network=Net()).network.state_dict(), last.network.state_dict())
    alone = DistillConfig(stages=(1,), steps=(), inverse=InverseConfig(steps=2), optim=OPTIM)
    with pytest.warns(
        UserWarning, match=r"optim.warmup is of stages, and stages 1 is inverse distillation alone.*not looked at"
    ):
        (only,) = distill(teacher, DATA, config=alone, out=tmp_path / "alone", start=teacher.folder / "student-1")
    assert same(only.network.state_dict(), last.network.state_dict())
    random = dataclasses.replace(alone, inverse=InverseConfig(steps=2, start="random"))
    with pytest.raises(ValueError, match=r'inverse.start "random" needs network=, a function that makes a new .*Net'):
        distill(teacher, DATA, config=random, out=tmp_path / "random")
    (fresh,) = distill(teacher, DATA, Net, random, out=tmp_path / "random")
    assert fresh.config.student.before is None


def test_w_as_an_input_needs_a_network_that_takes_it(teacher):
    plan = dataclasses.replace(PLAN, w_max=2.0)
    with pytest.raises(ValueError, match=r"w_max makes w an input .*Net takes none: give network="):
        distill(teacher, DATA, config=plan)
    with pytest.raises(ValueError, match="Net must have guidance_embedding = True"):
        distill(teacher, DATA, Net, plan)
    students = distill(teacher, DATA, lambda: Net(guided=True), plan)
    assert all(student.config.network.guidance_embedding for student in students)
    opened = open_run(students[0].folder, network=Net(guided=True))
    labels = class_labels(opened.config, 4)
    plain, guided = (generate(opened, labels, SamplerConfig(steps=2, w=w)).images for w in (0.0, 2.0))
    assert not torch.equal(plain, guided)
    with pytest.raises(ValueError, match=r"trained with guidance_embedding = True, .* this Net says the opposite"):
        open_run(students[0].folder, network=Net())
    with pytest.raises(ValueError, match="takes the guidance weight w as an input, which students do"):
        train(teacher.folder.with_name("other"), DATA, Net(guided=True), RunConfig(steps=2, optim=OPTIM))


def test_mixed_precision_stays_with_the_training(teacher):
    """Students that are returned compute as those that are opened later do."""
    plan = dataclasses.replace(PLAN, optim=dataclasses.replace(OPTIM, precision="bf16"))
    for run in (*distill(teacher, DATA, config=plan), teacher):
        assert "forward" not in vars(run.network)
        t = torch.ones(2)
        with torch.no_grad():
            u = run.network(DATA.x[:2], t, DATA.y[:2])
        opened = open_run(run.folder, network=Net())
        assert torch.allclose(u, opened.network(DATA.x[:2], t, DATA.y[:2]), atol=1e-6)


def test_what_does_not_belong_to_the_teacher_is_refused(teacher, tmp_path):
    others = from_tensors(DATA.x, DATA.y, DATA.class_names)
    for changes, words in (
        ({"dataset": None}, r"trained on data given in Python \(ToyData\), which cannot be loaded"),
        ({"dataset": others}, "not the images that .*run was trained on"),
        ({"dataset": ToyData(shape=(1, 4, 6))}, r"trained on images \(1, 4, 4\), these are \(1, 4, 6\)"),
        (
            {"network": lambda: Net(width=7)},
            r"Net cannot start from its teacher: classes.weight is \(3, 6\) there, \(3, 7\)",
        ),
        ({"network": lambda: Net(guided=True)}, "must have guidance_embedding = False"),
        ({"network": Net()}, "a function that makes a new module"),
        ({"network": lambda: 1}, "it made a int"),
    ):
        with pytest.raises(ValueError, match=words):
            distill(**({"run": teacher, "dataset": DATA, "config": PLAN} | changes))
    with pytest.raises(ValueError, match="run must be what train or open_run returned"):
        distill(teacher.folder, DATA, config=PLAN)
    assert not list(teacher.folder.glob("student-*"))
    ours = train(tmp_path / "ours", DATA, TINY, RunConfig(steps=2, optim=OPTIM, preview=0))
    with pytest.raises(ValueError, match="a network of distillkac's own, and so have its students: omit network"):
        distill(ours, DATA, Net, PLAN)


def test_without_null_class_there_is_no_guidance_to_fold_in_but_an_exact_start(tmp_path):
    config = RunConfig(steps=2, optim=OPTIM, preview=0, label_drop=0.0)
    run = train(tmp_path / "run", DATA, Net(null_class=None), config)
    with pytest.raises(ValueError, match="label_drop 0 and cannot be guided"):
        distill(run, DATA, config=dataclasses.replace(PLAN, w=1.0))
    students = distill(run, DATA, config=dataclasses.replace(PLAN, exact_start=True))
    assert len(students) == 2


def test_a_teacher_in_train_mode_teaches_in_eval_mode(teacher, monkeypatch):
    """Else its students would learn from dropout, and its batch norms would move."""
    seen = []
    monkeypatch.setattr(chain.Chain, "__call__", lambda self: iter(seen.append(self.network.training) or ()))
    teacher.network.train()
    assert distill(teacher, DATA, config=PLAN) == []
    assert seen == [False]
    assert teacher.network.training
