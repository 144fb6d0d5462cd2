"""A mistyped option or folder is answered by the one that was meant; long work shows how far it is; dry runs."""

import re
import sys
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from distillkac import compare, diagnose, distill, evaluate, export, report, sample, train
from distillkac.base import options, paths
from distillkac.base.files import write_json
from distillkac.distillation.cost import costs
from distillkac.distillation.inverse_options import InverseConfig
from distillkac.distillation.stages import DistillConfig
from distillkac.runs.config import load_config, save_config
from distillkac.runs.run import build_network, open_run
from distillkac.runs.sampling import SamplerConfig, class_labels, generate
from tests.toys import run_config

COMMANDS = (train, distill, sample, evaluate, compare, diagnose, export, report)


@pytest.fixture
def run(toy_run):
    return toy_run


@pytest.mark.parametrize(
    ("module", "argv", "meant"),
    [
        (train, ["--lrr", "1e-3"], "no option --lrr; did you mean --optim.lr?"),
        (train, ["--lr=1e-3"], "no option --lr; did you mean --optim.lr?"),
        (train, ["--batchsize", "8"], "no option --batchsize; did you mean --optim.batch-size?"),
        (train, ["--optim.batch_sise", "8"], "did you mean --optim.batch-size?"),
        (train, ["--no-resum"], "did you mean --no-resume?"),
        (distill, ["x", "--stage", "4,1"], "no option --stage; did you mean --stages?"),
        (distill, ["x", "--fake-updates", "2"], "did you mean --inverse.fake-updates?"),
        (sample, ["x", "--guidance", "2", "--step", "3"], "no option --step; did you mean --steps?"),
        (evaluate, ["x", "--teachersteps", "2"], "did you mean --teacher-steps?"),
        (compare, ["--worker", "2"], "did you mean --workers?"),
        (diagnose, ["x", "--maxspeed", "2"], "did you mean --max-speed?"),
        (export, ["x", "--outt", "y.onnx"], "did you mean --out?"),
        (report, ["x", "--ou", "y.html"], "did you mean --out?"),
    ],
)
def test_a_mistyped_option_is_answered_by_the_right_one(module, argv, meant, capsys):
    with pytest.raises(SystemExit) as stop:
        module.main(argv)
    assert stop.value.code == 2
    assert meant in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["--zzqqxx", "1"], ["--process", "telegraf"], ["--steps", "many"]])
def test_nothing_is_suggested_where_nothing_is_near(argv, capsys):
    with pytest.raises(SystemExit):
        train.main(argv)
    error = capsys.readouterr().err
    assert "did you mean" not in error
    if argv[1] == "telegraf":
        assert "telegraph" in error  # the choices are listed


@pytest.mark.parametrize("module", [m for m in COMMANDS if m not in (train, compare)], ids=lambda m: m.__name__)
def test_a_missing_run_is_answered_by_those_near(run, module, capsys):
    needs = ["--out", str(run.parent / "x.onnx")] if module is export else []
    for wrong in (run.parent / "dmeo", run.parent):
        assert module.main([str(wrong), *needs]) == 1
        error = capsys.readouterr().err
        assert f"{wrong} is no run folder" in error
        assert f"did you mean {run}?" in error
    assert module.main([str(run.parent / "zz qqxx"), *needs]) == 1
    error = capsys.readouterr().err
    assert "did you mean" not in error
    assert error.endswith(f"train one: python -m distillkac.train --run '{run.parent}/zz qqxx'\n")


def test_what_is_no_run_is_told_what_it_is(run, tmp_path, capsys):
    def said(folder):
        assert sample.main([str(folder), "--num", "1"]) == 1
        return capsys.readouterr().err

    assert f"students of {run} are made by python -m distillkac.distill" in said(run / "student-9")
    (tmp_path / "x.npz").write_bytes(b"")
    assert "x.npz is no run folder: it is a file; name the folder" in said(tmp_path / "x.npz")
    (tmp_path / "pipe" / "unet").mkdir(parents=True)
    for name in ("model_index.json", "unet/config.json"):
        (tmp_path / "pipe" / name).write_text("{}")
    assert "it is a saved pipeline (model_index.json); load it in Python, KacPipeline" in said(tmp_path / "pipe")


def test_sampling_shows_progress_rate_and_time_left_on_a_terminal_only(run, capsys, monkeypatch):
    loaded = open_run(run, torch.device("cpu"))
    labels = class_labels(loaded.config, 1100)  # three blocks of 512
    generate(loaded, labels, SamplerConfig(steps=2))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("tqdm.std.tqdm.monitor_interval", 0)
    generate(loaded, labels, SamplerConfig(steps=2))
    shown = capsys.readouterr().err
    assert "teacher, 2 steps" in shown
    assert re.search(r"\d+/1100 \[\d+:\d+<(\d+:\d+|\?), *[\d.]*\??k?(image/s|s/image)", shown)


def test_comparison_tells_what_is_measured_and_what_is_left(tmp_path, monkeypatch, capsys):
    """Networks are counted while the cells of the plan are still at work."""
    plan = compare.quick_plan((0,))
    total = compare.networks(plan)
    assert total == sum(
        len(plan.teacher_samples) + sum(len(method.samples) for method in plan.methods(setting))
        for setting in plan.settings
    )
    assert compare.measured(tmp_path, plan) == 0
    setting = plan.settings[0]
    write_json(compare.cell_folder(tmp_path, setting, 0) / compare.RESULTS, [{"method": "teacher"}] * 2)
    assert compare.measured(tmp_path, plan) == 2


def test_dry_run_of_a_distillation_prints_stages_and_cost_and_writes_nothing(run, tmp_path, capsys, monkeypatch):
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setattr("distillkac.training.cost.ENOUGH_SECONDS", 0.0)
    config = load_config(run)
    save_config(tmp_path / "digits", run_config(shape=(1, 8, 8), class_names=tuple("0123456789")))
    assert config.shape == (1, 4, 4)
    trainer_config = load_config(tmp_path / "digits")
    network = build_network(trainer_config)
    from distillkac.runs import checkpoints

    checkpoints.save(tmp_path / "digits", 1, network.state_dict(), network.state_dict(), {"state": {}}, 1)
    before = sorted(tmp_path.rglob("*"))
    options = ["--stages", "8,2,1", "--steps", "3", "5", "--optim.batch-size", "4", "--inverse.steps", "2"]
    assert distill.main([str(tmp_path / "digits"), *options, "--dry-run"]) == 0
    out = capsys.readouterr().out
    for line in (
        r"8 -> 2 +3 +12 ",
        r"2 -> 1 +5 +20 ",
        r"inverse +2 +\d+ ",
        r"in all: .* FLOP, about .* minutes on this cpu",
    ):
        assert re.search(line, out)
    assert str(tmp_path / "digits" / "student-1-inverse") in out
    assert sorted(tmp_path.rglob("*")) == before


def test_cost_of_a_distillation_follows_the_evaluations(run, tmp_path, monkeypatch):
    """An image costs N/M evaluations of the teacher and three of the student, doubled for a guided teacher."""
    monkeypatch.setattr("distillkac.training.cost.ENOUGH_SECONDS", 0.0)
    loaded = open_run(run, torch.device("cpu"))

    def flops(**changes):
        config = DistillConfig(**{"stages": (8, 2, 1), "steps": (1, 1), "rho": 1.5} | changes)
        found = costs(config, loaded.config, loaded.network, tmp_path, None)
        return [cost.flops / cost.images for cost in found]

    plain, guided = flops(), flops(w=1.0)
    one = plain[1] / (2 + 3)
    # The gradient of the first layer's input is not needed, so a backward pass is a little less than two forward ones.
    assert plain[0] == pytest.approx((4 + 3) * one, rel=0.05)
    assert guided[0] == pytest.approx((8 + 3) * one, rel=0.05)
    assert guided[1] == plain[1]
    assert len(flops(inverse=InverseConfig(steps=1))) == 3


@pytest.mark.parametrize(
    ("argv", "found"),
    [
        ([], ("paper", False, Path("runs/demo"))),
        (["--recipe", "best", "--run", "x"], ("best", False, Path("x"))),
        (["--recipe=best", "--other", "--resume", "1"], ("best", True, Path("runs/demo"))),
        (["--run"], ("paper", False, Path("runs/demo"))),  # without its value: `parse` says so
        (["--recipe", "best", "--run"], ("paper", False, Path("runs/demo"))),
        (["--run", "--recipe", "best"], ("paper", False, Path("runs/demo"))),
        (["--reci", "best"], ("paper", False, Path("runs/demo"))),  # no abbreviations
        (["--resume", "--resume"], ("paper", True, Path("runs/demo"))),
        (["--run", ""], ("paper", False, paths.EMPTY)),
    ],
)
def test_what_is_read_before_the_rest(argv, found):
    seen = options.peek(argv, recipe="paper", resume=False, run=Path("runs/demo"))
    assert (seen.recipe, seen.resume, seen.run) == found
