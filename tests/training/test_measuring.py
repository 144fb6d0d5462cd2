"""A training that is measured on the way: nothing of it reaches the weights; the best is kept; plateau and copying end it."""

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

from distillkac import distill, evaluate, report, sample, train
from distillkac.base.commands import INTERRUPTED
from distillkac.distillation import DistillConfig
from distillkac.evaluation import training_figures
from distillkac.runs import RunConfig, checkpoints
from distillkac.runs.optim_config import OptimConfig
from distillkac.training import loop, measuring
from distillkac.training import train as train_in_python
from tests.toys import TINY, TINY_OPTIONS, ToyData
from tests.training.test_crashes import same

OPTIONS = [*TINY_OPTIONS, "--preview", "0", "--optim.batch-size", "8"]
MEASURED = [*OPTIONS, "--optim.measure-every", "2", "--optim.measure-images", "40"]
CLOCK = ("seconds", "spent", "elapsed")


@pytest.fixture(autouse=True)
def fresh_accelerate():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def patient(monkeypatch):
    """No test waits until 5% of its time are enough for a measurement."""
    monkeypatch.setattr(measuring, "SHARE", 1e9)


def figures_of(folder):
    """(step, figures) of each measurement, without what the clock said."""
    lines = [line for line in checkpoints.MetricsLog.read(folder) if "measured" in line]
    return [(line["step"], {k: v for k, v in line["measured"].items() if k not in CLOCK}) for line in lines]


def lines_of(folder):
    lines = checkpoints.MetricsLog.read(folder)
    return [{k: v for k, v in line.items() if k != "samples_per_second"} for line in lines if "loss" in line]


# ------------------------------------------------------------------------------------------------------ the command


def test_nothing_of_measuring_reaches_the_training(tmp_path, patient):
    """Weights, average, optimizer and losses to the bit; stopped and resumed in the middle, the same figures at the same steps
    and the same best checkpoint."""
    options = ["--steps", "8", "--optim.save-every", "3", "--optim.log-every", "1"]
    for name, more in (("plain", OPTIONS), ("whole", MEASURED)):
        assert train.main(["--run", str(tmp_path / name), *options, *more]) == 0
    plain, whole, cut = (tmp_path / name for name in ("plain", "whole", "cut"))
    assert same(*(checkpoints.load_state(folder) for folder in (plain, whole)))
    assert lines_of(plain) == lines_of(whole)
    found = figures_of(whole)
    assert [step for step, _ in found] == [2, 4, 6, 8]
    assert set(found[0][1]) == {
        *("images", "frechet", "frechet_train", "accuracy", "diversity", "nn_ratio"),
        *("copying", "copying_held_out", "copying_p"),
    }
    best = min(found, key=lambda line: line[1]["frechet"])[0]
    assert checkpoints.load_weights(whole / "best")[1] == best
    stopped_at(cut, 5, options)
    assert [step for step, _ in figures_of(cut)] == [2, 4]
    assert train.main(["--run", str(cut), "--resume"]) == 0
    assert figures_of(cut) == found
    assert same(*(checkpoints.load_state(folder) for folder in (cut, whole)))
    assert (cut / "best" / checkpoints.EMA).read_bytes() == (whole / "best" / checkpoints.EMA).read_bytes()


def stopped_at(folder, step, options):
    """The same training up to `step`, where Ctrl-C comes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Trainer, "_stopped", lambda self, stop: self.step == step)
        assert train.main(["--run", str(folder), *options, *MEASURED]) == INTERRUPTED


def test_the_best_is_a_run_folder(tmp_path, patient, capsys, monkeypatch):
    run = tmp_path / "run"
    assert train.main(["--run", str(run), "--steps", "4", *MEASURED]) == 0
    best = run / "best"
    assert sorted(path.name for path in best.iterdir()) == [
        "config.json",
        "ema.safetensors",
        "model.safetensors",
        "state",
    ]
    assert sample.main([str(best), "--steps", "2", "--num", "2", "--out", str(tmp_path / "x.png")]) == 0
    assert evaluate.main([str(best), "--num", "40", "--teacher-steps", "1"]) == 0
    assert distill.main([str(best), "--stages", "2,1", "--steps", "1", "--optim.batch-size", "8"]) == 0
    assert train.main(["--run", str(best), "--resume", "--steps", "6"]) == 1
    assert "is a checkpoint that" in capsys.readouterr().err
    assert report.main([str(run)]) == 0
    assert "Measured 2 times on the way, by 40 images each" in (run / "report.html").read_text()
    (best / checkpoints.STATE).with_name(".training.pt.tmp").write_bytes(b"half")
    assert train.main(["--run", str(run), "--resume", "--steps", "5"]) == 0
    assert not list(best.rglob("*.tmp"))


@pytest.mark.parametrize("steps", [6, 7])
def test_a_best_checkpoint_that_was_not_copied_in_time_is_on_resume(tmp_path, patient, steps):
    """Also where no step is left to make."""
    run = tmp_path / "run"
    assert train.main(["--run", str(run), "--steps", "6", *MEASURED]) == 0
    last, values = figures_of(run)[-1], [line["frechet"] for _, line in figures_of(run)]
    assert last[0] == 6
    assert values[-1] == min(values), "the toy run is to get better; choose another seed"
    (run / "best" / checkpoints.CONFIG).unlink()  # as a crash leaves it
    assert train.main(["--run", str(run), "--resume", "--steps", str(steps)]) == 0
    assert checkpoints.load_weights(run / "best")[1] == 6
    assert (run / "best" / checkpoints.CONFIG).exists()


def test_an_own_evaluator_is_made_and_kept(tmp_path, patient, monkeypatch, capsys):
    """Of images that no shipped evaluator knows."""
    from distillkac.evaluation import classifier

    monkeypatch.setattr(classifier, "STEPS", 3)
    options = ["--data.builtin", "digits", "--data.unconditional", "--steps", "2"]
    assert train.main(["--run", str(tmp_path / "run"), *options, *MEASURED]) == 0
    assert "trained here" in capsys.readouterr().out
    assert (tmp_path / "run" / "classifier.safetensors").exists()
    assert set(figures_of(tmp_path / "run")[0][1]) >= {"frechet", "diversity"}


# -------------------------------------------------------------------------------------------------------- in Python


class Scripted:
    """Figures that were written down before."""

    def __init__(self, values, **more):
        self.values, self.more, self.prepared = list(values), more, 0

    def prepare(self):
        self.prepared += 1

    def __call__(self, images, labels):
        assert images.shape == (10, 1, 4, 4)
        assert labels.dtype == torch.int64
        return {"frechet": self.values.pop(0)} | self.more


def config(steps, **optim):
    optim = {"batch_size": 8, "warmup": 2, "measure_every": 1, "measure_images": 10} | optim
    return RunConfig(network=TINY, steps=steps, preview=0, optim=OptimConfig(**optim))


def test_a_plateau_ends_the_training_and_resume_goes_on(tmp_path, patient, capsys):
    values = [8.0, 4.0, 2.0, 1.0, 1.1, 0.9, 1.0, 1.1, 0.95, 1.05, 1.0, 1.0]
    run, scripted = tmp_path / "run", Scripted(values)
    made = train_in_python(run, ToyData(), config=config(20, stop="plateau"), measure=scripted)
    shown = capsys.readouterr().out
    assert scripted.prepared == 1
    step = len(figures_of(run))
    assert 8 < step <= 12
    assert f"ended at step {step} of 20: the Fréchet distance has stopped falling: " in shown
    assert "--resume --optim.stop none goes on" in shown
    weights, saved = checkpoints.load_weights(run)
    assert saved == step
    assert all(torch.equal(value, weights[name]) for name, value in made.network.state_dict().items())
    assert checkpoints.load_weights(run / "best")[1] == 6
    go_on = Scripted([0.5] * 20)
    train_in_python(run, ToyData(), config=config(20), measure=go_on, resume=True)
    assert checkpoints.load_weights(run)[1] == 20
    assert [line["frechet"] for _, line in figures_of(run)][:step] == values[:step]
    assert checkpoints.load_weights(run / "best")[1] == step + 1


def test_copying_ends_the_training(tmp_path, patient, capsys):
    run = tmp_path / "run"
    figures = Scripted([3.0] * 5, copying=0.4, copying_held_out=0.01, copying_p=1e-9)
    train_in_python(run, ToyData(), config=config(5), measure=figures)
    assert checkpoints.load_weights(run)[1] == 5  # nobody asked to stop
    figures = Scripted([3.0] * 5, copying=0.4, copying_held_out=0.01, copying_p=1e-9)
    train_in_python(tmp_path / "other", ToyData(), config=config(5, stop="copying"), measure=figures)
    assert "ended at step 1 of 5: it begins to copy: 40.0% of the samples are copies" in capsys.readouterr().out
    assert checkpoints.load_weights(tmp_path / "other")[1] == 1


def test_a_command_that_ends_like_that_has_done_its_work(tmp_path, patient, monkeypatch, capsys):
    """Code 0, as of a training that made all its steps."""
    monkeypatch.setattr(training_figures.TrainingFigures, "prepare", lambda self: None)
    written = {"frechet": 1.0, "copying": 1.0, "copying_held_out": 0.0, "copying_p": 0.0}
    monkeypatch.setattr(training_figures.TrainingFigures, "__call__", lambda *_: written)
    assert train.main(["--run", str(tmp_path), "--steps", "9", *MEASURED, "--optim.stop", "copying"]) == 0
    assert "ended at step 2 of 9" in capsys.readouterr().out


@pytest.mark.parametrize("answer", [{}, {"frechet": float("nan")}, {"accuracy": 1.0}])
def test_what_measures_must_tell_which_is_the_best(tmp_path, patient, answer):
    figures = Scripted([1.0])
    figures.__class__ = type("Wrong", (Scripted,), {"__call__": lambda *_: answer})
    with pytest.raises(ValueError, match='must return a finite "frechet"'):
        train_in_python(tmp_path / "run", ToyData(), config=config(2), measure=figures)


class Answering(Scripted):
    """Gives what it was told to, or raises it."""

    def __call__(self, images, labels):
        if isinstance(answer := self.values[0], Exception):
            raise answer
        return answer


@pytest.mark.parametrize("answer", [None, 1.0, {"frechet": "low"}, {"frechet": 1.0, "more": torch.ones(3)}])
def test_what_measures_must_return_numbers(tmp_path, patient, answer):
    with pytest.raises(ValueError, match="must return a dict of numbers, by name"):
        train_in_python(tmp_path / "run", ToyData(), config=config(2), measure=Answering([answer]))


@pytest.mark.parametrize("number", [torch.tensor(1.5), np.float32(1.5)])
def test_figures_may_be_numbers_of_torch_and_numpy(tmp_path, patient, number):
    train_in_python(tmp_path / "run", ToyData(), config=config(2), measure=Answering([{"frechet": number}]))
    assert [line["frechet"] for _, line in figures_of(tmp_path / "run")] == [1.5, 1.5]


def test_what_was_trained_is_saved_when_a_measurement_fails(tmp_path, patient):
    run = tmp_path / "run"
    with pytest.raises(RuntimeError, match="the evaluator broke"):
        train_in_python(run, ToyData(), config=config(2), measure=Answering([RuntimeError("the evaluator broke")]))
    assert checkpoints.load_weights(run)[1] == 1
    train_in_python(run, ToyData(), config=config(2), measure=Scripted([1.0]), resume=True)
    assert [step for step, _ in figures_of(run)] == [2]


def test_what_was_trained_is_saved_when_a_figure_cannot_be_written_down(tmp_path, patient, monkeypatch):
    """By a disk that is full, say."""
    monkeypatch.setattr(measuring.Measuring, "note", lambda *_: {}["the disk broke"])
    with pytest.raises(KeyError, match="the disk broke"):
        train_in_python(tmp_path / "run", ToyData(), config=config(2), measure=Scripted([1.0]))
    assert checkpoints.load_weights(tmp_path / "run")[1] == 1


@pytest.mark.parametrize("wrong", [lambda images, labels: {"frechet": 1.0}, Scripted, "fid"])
def test_what_measures_has_the_two_methods(tmp_path, wrong):
    with pytest.raises(ValueError, match=r"measure must be an object with the methods prepare\(\)"):
        train_in_python(tmp_path / "run", ToyData(), config=config(2), measure=wrong)
    assert not (tmp_path / "run").exists()


def test_what_measures_and_when_belong_together(tmp_path):
    with pytest.raises(ValueError, match=r"config.optim.measure_every needs measure="):
        train_in_python(tmp_path / "run", ToyData(), config=config(2))
    with pytest.raises(ValueError, match=r"measure= is given, but config.optim.measure_every is 0"):
        train_in_python(
            tmp_path / "run", ToyData(), config=config(2, measure_every=0, measure_images=None), measure=Scripted([])
        )
    for options in ({"stop": "plateau"}, {"measure_images": 10}):
        with pytest.raises(ValueError, match=r"is of measuring: give optim.measure_every"):
            OptimConfig(**options)
    with pytest.raises(ValueError, match="measure_every is of train: omit it, and measure students by evaluate"):
        DistillConfig(optim=OptimConfig(measure_every=100))


def test_a_measurement_that_would_never_come_is_refused(tmp_path, capsys):
    """A run that was asked to be measured, or to end by it, and has too few steps for that."""
    with pytest.raises(ValueError, match="measure_every 3 is more than the 2 steps of the run"):
        train_in_python(tmp_path / "run", ToyData(), config=config(2, measure_every=3), measure=Scripted([]))
    with pytest.raises(ValueError, match="plateau compares 8 measurements, and 15 steps have 7 with"):
        train_in_python(
            tmp_path / "run", ToyData(), config=config(15, measure_every=2, stop="plateau"), measure=Scripted([])
        )
    assert not (tmp_path / "run").exists()
    assert train.main(["--run", str(tmp_path / "run"), *MEASURED, "--steps", "1", "--dry-run"]) == 1
    assert "measure_every 2 is more than the 1 steps of the run" in capsys.readouterr().err


def test_the_best_of_a_run_without_a_checkpoint_is_not_written_over(tmp_path, patient):
    """Of one whose own weights were removed to begin anew, say: its best checkpoint is a run folder like any other."""
    run = tmp_path / "run"
    train_in_python(run, ToyData(), config=config(2), measure=Scripted([2.0, 1.0]))
    for name in (checkpoints.STATE, checkpoints.MODEL, checkpoints.EMA):
        (run / name).unlink()
    with pytest.raises(ValueError, match="holds weights of a run, but no"):
        train_in_python(run, ToyData(), config=config(2), measure=Scripted([]))
    assert checkpoints.load_weights(run / "best")[1] == 2


def test_a_run_that_goes_on_with_other_numbers_of_images_says_what_becomes_of_the_best(tmp_path, patient, capsys):
    run = tmp_path / "run"
    train_in_python(run, ToyData(), config=config(2), measure=Scripted([2.0, 1.0]))
    assert "does not compare" not in capsys.readouterr().out
    lenient = Scripted([])
    lenient.__class__ = type("Lenient", (Scripted,), {"__call__": lambda *_: {"frechet": 1.5}})
    train_in_python(run, ToyData(), config=config(3, measure_images=12), measure=lenient, resume=True)
    assert "was measured by 10 images, which does not compare with 12: best is chosen anew" in capsys.readouterr().out
