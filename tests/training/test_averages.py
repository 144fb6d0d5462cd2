"""Averages beside the run's own: what a run keeps of them, and the choice of one."""

import dataclasses
import json
import shutil

import pytest
import torch

from distillkac import distill, evaluate, sample, train
from distillkac.runs import checkpoints, kept
from distillkac.runs.optim_config import OptimConfig
from distillkac.runs.run import build_network
from distillkac.training import averages, resume
from distillkac.training.averages import Reconstruction, snapshots
from tests.toys import TINY_OPTIONS, run_config, trainer
from tests.training.test_crashes import same
from tests.training.test_distributed import on_a_cpu, processes

TINY = [*TINY_OPTIONS, "--preview", "0", "--optim.batch-size", "8"]
KEEPING = [*TINY, "--optim.averages", "0.05", "0.1", "--optim.decays", "0.9"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"averages": (0.3,)}, r"optim.averages must lie in \(0, 0.28\], got 0.3"),
        ({"averages": (0.1, 0.1)}, "optim.averages names one of its averages twice"),
        ({"decays": (1.0,)}, r"optim.decays must lie in \(0, 1\), got 1.0"),
        ({"snapshot_every": 5}, "optim.snapshot_every is of power averages"),
        ({"snapshot_every": 0, "averages": (0.1,)}, "optim.snapshot_every must be at least 1"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        OptimConfig(**options)


def test_a_dry_run_tells_what_averages_cost(tmp_path, capsys):
    options = ["--run", str(tmp_path / "run"), "--steps", "100", "--dry-run", *KEEPING]
    assert train.main(options) == 0
    assert "averages     3 beside the first, " in (shown := capsys.readouterr().out)
    assert "14 snapshots of " in shown  # every 7 steps: 100 / 16, rounded up
    assert train.main(options[: options.index("--optim.averages")]) == 0
    assert "averages" not in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------------- runs


def trained(folder, *options, steps=8):
    assert train.main(["--run", str(folder), "--steps", str(steps), *options]) == 0
    return folder


def files_of(folder):
    return {path.name: path.read_bytes() for path in (folder / kept.AVERAGES).iterdir()}


def test_averages_change_nothing_else_and_are_resumed_to_the_bit(tmp_path):
    options = [*KEEPING, "--optim.snapshot-every", "3"]
    plain, whole = trained(tmp_path / "plain", *TINY), trained(tmp_path / "whole", *options)
    cut = trained(tmp_path / "cut", *options, steps=5)
    # Of another training that got farther: gone, once this one goes on.
    averages.place(cut, 7).write_bytes(b"of another")
    assert train.main(["--run", str(cut), "--resume", "--steps", "8"]) == 0
    states = [checkpoints.load_state(folder) for folder in (plain, whole, cut)]
    assert sorted(states[1]["averages"]) == ["decay-0.9", "power-0.05", "power-0.1"]
    assert same(states[0], {name: value for name, value in states[1].items() if name != "averages"})
    assert (plain / checkpoints.EMA).read_bytes() == (whole / checkpoints.EMA).read_bytes()
    # The rate followed another schedule up to step 5, as --steps was 5.
    assert sorted(files_of(whole)) == sorted(files_of(cut)) == ["step-000003.safetensors", "step-000006.safetensors"]


def test_a_run_that_was_stopped_ends_with_the_same_averages(tmp_path):
    config = run_config(
        optim=OptimConfig(batch_size=12, averages=(0.05, 0.1), decays=(0.5,), snapshot_every=2), steps=8
    )
    whole, cut = trainer(tmp_path / "whole", config), trainer(tmp_path / "cut", config)
    whole.fit()
    cut._stopped = lambda _: cut.step == 5
    assert cut.fit().step == 5
    assert trainer(tmp_path / "cut", config).fit().finished
    states = [checkpoints.load_state(tmp_path / name) for name in ("whole", "cut")]
    assert same(*states)
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "cut")
    assert len(files_of(tmp_path / "cut")) == 4
    # A checkpoint with other averages than those of the config is refused by name.
    less = run_config(optim=OptimConfig(batch_size=12, averages=(0.05,)), steps=8)
    with pytest.raises(ValueError, match=r"has the further averages power-0.05, power-0.1, decay-0.5, but those of"):
        trainer(tmp_path / "cut", less)


def test_a_lost_step_is_made_again_with_its_averages(tmp_path):
    """`rewind` without a checkpoint goes back to the start, for the averages too."""
    config = run_config(optim=OptimConfig(batch_size=12, averages=(0.1,), decays=(0.9,), snapshot_every=100), steps=4)
    job = trainer(tmp_path / "run", config)
    batches = job.batches()
    for _ in range(3):
        job.advance(batches)
    first = {name: {k: v.clone() for k, v in own.items()} for name, own in job.averages.weights().items()}
    job.rewind()
    batches = job.batches()
    for _ in range(3):
        job.advance(batches)
    assert same(first, job.averages.weights())


def test_what_a_run_averages_may_not_change(tmp_path):
    run = trained(tmp_path / "run", *KEEPING, steps=2)
    config = dataclasses.replace(
        resume.load_config(run),
        optim=dataclasses.replace(resume.load_config(run).optim, averages=(), decays=(0.9, 0.99)),
    )
    with pytest.raises(
        ValueError, match=r"with --optim.averages 0.05 0.1 and --optim.decays 0.9, which --resume cannot"
    ):
        resume.check(run, config, resume=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(
        tmp_path_factory.mktemp("averages") / "run", *KEEPING, "--optim.keep", "2", "--optim.save-every", "8", steps=16
    )


def test_lengths_that_are_kept_are_reconstructed_as_they_are(run):
    state, made = checkpoints.load_state(run), Reconstruction(run)
    for length in (0.05, 0.1):
        for name, value in made.reconstructed(length).items():
            torch.testing.assert_close(value, state["averages"][f"power-{length}"].get(name, state["model"][name]))
    # After 8 steps, of the run or of the checkpoint that it keeps, the same.
    early = Reconstruction(run, 8).reconstructed(0.07)
    kept_one = Reconstruction(run / "checkpoints" / "step-000008").reconstructed(0.07)
    assert early.keys() == kept_one.keys()
    for name, value in early.items():
        torch.testing.assert_close(value, kept_one[name])


def test_what_a_run_cannot_reconstruct_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match=r"relative length 0.01 after 16 steps .* choose one nearer to 0.05 and 0.1"):
        Reconstruction(run).reconstructed(0.01)
    with pytest.raises(ValueError, match="has made 16 steps: there is no average after 17"):
        Reconstruction(run, 17)
    with pytest.raises(ValueError, match=r"kept no averages to choose from: train with --optim.averages 0.05 0.10"):
        Reconstruction(trained(tmp_path / "plain", *TINY, steps=1))
    assert [step for step, _ in snapshots(run, 3)] == [1, 2, 3]


def test_a_network_that_was_not_trained_here_kept_no_averages(tmp_path):
    weights = build_network(run_config()).state_dict()
    checkpoints.export(tmp_path, 0, weights, weights)
    with pytest.raises(ValueError, match="kept no averages to choose from"):
        Reconstruction(tmp_path)
    with pytest.raises(ValueError, match="has made 0 steps: there is no average after 1"):
        Reconstruction(tmp_path, 1)


def test_evaluate_measures_all_and_makes_the_best_the_model(run, tmp_path, capsys):
    mine = shutil.copytree(run, tmp_path / "mine")
    before, words = (mine / checkpoints.EMA).read_bytes(), ["--num", "40", "--teacher-steps", "2"]
    assert evaluate.main([str(mine), "--ema", "all", *words]) == 0
    shown = capsys.readouterr().out
    report = json.loads((mine / "averages.json").read_text())
    names = [row["name"] for row in report["rows"]]
    assert names[:2] == ["moving average", "decay 0.9"]
    assert {"power 0.05", "power 0.1", "power 0.2"} <= set(names)
    assert report["best"] == min(report["rows"], key=lambda row: row["frechet"])["name"]
    assert f"best: {report['best']}, by the Fréchet distance to the held-out images" in shown
    assert (mine / checkpoints.EMA).read_bytes() == before  # nobody asked for another
    assert evaluate.main([str(mine), "--ema", "0.08", *words, "--keep-best"]) == 0
    assert "ema.safetensors is now the average power 0.08, in place of the moving average" in capsys.readouterr().out
    assert json.loads((mine / "averages.json").read_text()) == report  # the table of all stays
    assert (mine / checkpoints.ORIGINAL).read_bytes() == before
    weights, step = checkpoints.load_weights(mine)
    assert step == 16
    for name, value in Reconstruction(mine).reconstructed(0.08).items():
        torch.testing.assert_close(weights[name], value)
    assert sample.main([str(mine), "--steps", "2", "--num", "2", "--out", str(tmp_path / "x.png")]) == 0
    # A second choice keeps the first original, and a training would lose the choice.
    assert evaluate.main([str(mine), "--ema", "0.05", *words, "--keep-best"]) == 0
    assert "in place of power 0.08" in capsys.readouterr().out
    assert (mine / checkpoints.ORIGINAL).read_bytes() == before
    assert train.main(["--run", str(mine), "--resume", "--steps", "20"]) == 1
    assert "move ema-original.safetensors to ema.safetensors here to go on" in capsys.readouterr().err
    (mine / checkpoints.ORIGINAL).replace(mine / checkpoints.EMA)
    assert train.main(["--run", str(mine), "--resume", "--steps", "17"]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ema", "best"], "--ema is all or a relative length such as 0.08, got 'best'"),
        (["--ema", "all", "--metrics", "fid"], "--ema measures by the classifier"),
        (["--keep-best"], "ema_step and keep_best are of --ema"),
        (["--ema", "0.1", "--ema-step", "8", "--keep-best"], "--keep-best is of the step that"),
        (["--ema", "0.29"], r"lies in (0, 0.28], got 0.29"),
    ],
)
def test_mistakes_of_evaluate(run, options, message, capsys):
    assert evaluate.main([str(run), "--num", "40", *options]) == 1
    assert message in capsys.readouterr().err


def test_students_have_averages_too(run, tmp_path, capsys):
    out = ["--out", str(tmp_path), "--optim.averages", "0.05", "0.1", "--optim.batch-size", "8"]
    assert distill.main([str(run), "--stages", "4,2", "--steps", "6", *out]) == 0
    assert evaluate.main([str(tmp_path / "student-2"), "--ema", "all", "--num", "40"]) == 0
    assert "power 0.1                        2         2" in capsys.readouterr().out


@on_a_cpu
def test_sharded_averages_are_those_of_one_process(tmp_path):
    options = [*KEEPING, "--optim.snapshot-every", "2"]
    one = trained(tmp_path / "one", *options, steps=4)
    processes(2, "distillkac.train", "--run", str(tmp_path / "two"), "--steps", "4", *options, "--optim.shard")
    states = [checkpoints.load_state(folder)["averages"] for folder in (one, tmp_path / "two")]
    assert states[0].keys() == states[1].keys()
    for name, weights in states[0].items():
        for key, value in weights.items():
            torch.testing.assert_close(states[1][name][key], value, rtol=1e-3, atol=1e-5)
    assert files_of(one).keys() == files_of(tmp_path / "two").keys()
