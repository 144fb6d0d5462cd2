"""At which times flow matching learns, and how much each counts."""

import math
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from distillkac import report, sample, train
from distillkac.base.random import derive_seed
from distillkac.evaluation import diagnosis
from distillkac.flow import Gaussian, Planar, Telegraph, time_grid
from distillkac.flow.time_shift import data_to_noise
from distillkac.runs import checkpoints
from distillkac.runs.config import RunConfig, load_config, save_config
from distillkac.runs.run import build_network, open_run
from distillkac.runs.sampler import SamplerConfig
from distillkac.runs.sampling import field_of
from distillkac.runs.times_config import TimesConfig, learned_at
from distillkac.training.batches import Batch
from distillkac.training.cost import cost, described
from distillkac.training.loop import Trainer
from distillkac.training.objective import FlowMatching
from distillkac.training.objectives import objective_for, trained
from distillkac.training.times import GAMMA, MinSNR, TimeLaw, WithUncertainty
from tests.toys import SHAPE, TINY_OPTIONS, ToyData, optim, refusal, run_config
from tests.training.resume_options import weights
from tests.training.test_crashes import same
from tests.training.test_distributed import agree, on_a_cpu, processes

MANY = 4096
BATCH = Batch(torch.zeros(MANY, *SHAPE), torch.zeros(MANY, dtype=torch.int64), 3, 0, MANY)


def farthest(t: torch.Tensor, cdf: torch.Tensor) -> float:
    """Between the distribution of t, sorted, and one with this function there."""
    steps = torch.arange(1, len(t) + 1) / len(t)
    return float(torch.maximum((steps - cdf).abs(), (steps - 1 / len(t) - cdf).abs()).max())


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-0.8, 1.6)])
def test_logit_normal_times_have_that_law_and_keep_their_strata(mean, std):
    law = TimeLaw(TimesConfig("logit-normal", mean, std), Telegraph(), 1.0)
    t = BATCH.stratified(5, "time", law=law).sort().values.double()
    cdf = torch.special.ndtr((torch.logit(t) - mean) / std)
    # One draw in each of n cells: independent ones would be as near as 1.36 / sqrt(n) in 19 of 20 tries, and never 1 / n.
    assert farthest(t, cdf) <= 1 / MANY + 1e-6
    assert farthest(t, t) > 0.03  # uniform they are not


def test_shifted_draws_are_nearer_to_noise_by_the_shift():
    process = Telegraph()
    law = TimeLaw(TimesConfig(shift=2.0), process, 2.0)
    t = BATCH.stratified(5, "time", law=law).sort().values.double()
    # Their law: P(t' <= x) is the time at which there is twice as much data beside the noise as at x.
    x = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    share = torch.stack([(t <= value).double().mean() for value in x])
    ratio = data_to_noise(share, process) / data_to_noise(x, process)
    torch.testing.assert_close(ratio, torch.full_like(ratio, 2.0), rtol=0.01, atol=0)
    assert float(t.max()) < 1


def test_parts_of_a_batch_have_the_times_of_the_whole():
    law = TimeLaw(TimesConfig("logit-normal", shift=0.5), Planar(), 0.5)
    whole = BATCH.stratified(5, "time", law=law)
    part = replace(BATCH, x0=BATCH.x0[:100], y=BATCH.y[:100], row=50).stratified(5, "time", law=law)
    assert torch.equal(part, whole[50:150])


def test_plain_times_are_drawn_as_before():
    config = run_config()
    objective = objective_for(config, build_network(config))
    assert (objective.law, objective.weight, objective.learned) == (None, None, False)
    assert objective_for(run_config(times=TimesConfig(shift="auto")), build_network(config)).law.shift == 4 / 32


@pytest.mark.parametrize(
    "process", [Gaussian(), Gaussian(0.4), Telegraph(), Planar(), Telegraph(f="cosine", g="quadratic")]
)
def test_min_snr_is_one_where_there_is_noise_and_clips_the_factor_of_the_datas_error(process):
    weight, t = MinSNR(process), torch.linspace(0, 1, 2001)
    found = weight(t)
    snr = data_to_noise(t.double(), process) ** 2
    assert (found[snr < GAMMA] == 1).all()
    assert (found[snr > 1.1 * GAMMA] < 1).all()
    assert float(found[0]) == 0
    assert (found.diff() >= 0).all()
    if process == Gaussian():
        # An error of the data is 1/t times as large in the velocity: weight / t^2 is bounded by its value where (1 - t)/t is
        # the root of GAMMA.
        at = 1 / (1 + math.sqrt(GAMMA))
        torch.testing.assert_close(found, ((t / at) ** 2).clamp(max=1), rtol=1e-5, atol=1e-7)


def test_the_loss_is_the_weighted_one():
    class Zero(nn.Module):
        null_class = 2

        def forward(self, x, t, y):
            return torch.zeros_like(x)

    process = Telegraph()
    weight = MinSNR(process)
    batch = Batch(torch.rand(64, *SHAPE), torch.zeros(64, dtype=torch.int64), 1, 0, 64)
    t = batch.stratified(4, "time")
    _, u = process.pair(batch.x0, t, derive_seed(4, "noise"), batch.first)
    rows = u.square().flatten(1).mean(1)
    common = process, 2, 0.1, 4
    torch.testing.assert_close(FlowMatching(*common)(Zero(), batch), rows.mean())
    torch.testing.assert_close(FlowMatching(*common, weight=weight)(Zero(), batch), (weight(t) * rows).mean())
    curve = WithUncertainty(nn.Linear(1, 1))
    curve.network = Zero()
    nn.init.normal_(curve.curve.weight, std=0.2)
    _, log = curve(batch.x0, t, batch.y)
    assert log.std() > 0.1
    assert not log._is_view()  # of which FSDP2 warns, where it is sharded
    learned = FlowMatching(*common, learned=True)(curve, batch)
    torch.testing.assert_close(learned, (rows / log.exp() + log).mean())


def test_the_curve_learns_the_logarithm_of_the_loss():
    """There its gradient is zero, and all times count alike."""
    curve = WithUncertainty(nn.Linear(1, 1)).curve.double()
    t = ((torch.arange(400) + 0.5) / 400).double()
    waves = torch.cos(torch.pi * t[:, None] * torch.arange(curve.in_features))
    loss = torch.exp(0.5 * torch.cos(torch.pi * t) - 1.5 + 0.2 * torch.cos(7 * torch.pi * t))

    def slope_at(weight):
        weight = weight.clone().requires_grad_()
        u = waves @ weight
        return torch.autograd.grad((loss / u.exp() + u).mean(), weight)[0]

    weight = torch.zeros(curve.in_features, dtype=torch.float64)
    weight[0], weight[1], weight[7] = -1.5, 0.5, 0.2
    assert slope_at(weight).abs().max() < 1e-12
    assert slope_at(weight + 0.1).abs().max() > 0.01


def test_the_curve_does_not_decay():
    network = WithUncertainty(nn.Linear(1, 1))
    *others, curve = network.param_groups()
    assert (curve["params"], curve["weight_decay"]) == (list(network.curve.parameters()), 0)
    assert all("weight_decay" not in group for group in others)


def learned_trainer(folder, config) -> Trainer:
    network, accelerator = build_network(config), Accelerator(cpu=True)
    objective, learner = objective_for(config, network), trained(config, network)
    return Trainer(learner, objective, ToyData(), folder, config.steps, config.optim, config.seed, accelerator)


@pytest.mark.one_alignment
@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_run_with_a_learned_weight_goes_on_with_the_same_bits(tmp_path, kind):
    config = run_config(
        weight="learned", times=TimesConfig("logit-normal", shift=2.0), optim=optim(optimizer=kind, save_every=100)
    )
    assert learned_trainer(tmp_path / "whole", config).fit().finished
    cut = learned_trainer(tmp_path / "cut", config)
    batches = cut.batches()
    for _ in range(5):
        cut.advance(batches)
    cut.save(tmp_path / "cut")
    assert learned_trainer(tmp_path / "cut", config).fit().finished
    one, two = (checkpoints.load_state(tmp_path / name) for name in ("whole", "cut"))
    assert same(one, two)
    assert one["model"]["curve.weight"].abs().max() > 1e-3  # it has learned something
    assert not [name for name in one["ema"] if "curve" in name]  # which is no part of what is sampled


def test_train_sample_and_resume(tmp_path, capsys):
    run = tmp_path / "run"
    options = [
        *TINY_OPTIONS,
        "--optim.batch-size",
        "8",
        "--preview",
        "0",
        "--times.draw",
        "logit-normal",
        "--times.shift",
        "2",
    ]
    assert train.main(["--run", str(run), "--steps", "2", "--weight", "learned", *options]) == 0
    assert train.main(["--run", str(run), "--steps", "3", "--resume"]) == 0
    config = load_config(run)
    assert (config.weight, config.times) == ("learned", TimesConfig("logit-normal", shift=2.0))
    opened = open_run(run, "cpu")
    _, grid, method = field_of(opened, SamplerConfig(5))
    assert torch.equal(grid, time_grid(5, 1.0, 2.0, Telegraph()))  # shifted as in training, and by no exponent besides
    assert method == "ab2"
    _, plain, _ = field_of(opened, SamplerConfig(5, shift=1.0))
    assert torch.equal(plain, time_grid(5, 1.0))
    assert (
        sample.main([str(run), "--num", "1", "--steps", "2", "--shift", "0.5", "--out", str(tmp_path / "image.png")])
        == 0
    )
    said = refusal(train, ["--run", str(run), "--resume", "--steps", "4", "--times.shift", "1"], capsys)
    assert "was trained with --times.shift 2, which --resume cannot change to --times.shift 1" in said
    said = refusal(train, ["--run", str(run), "--resume", "--steps", "4", "--weight", "uniform"], capsys)
    assert "was trained with --weight learned, which --resume cannot change to --weight uniform" in said


def test_what_exact_parts_learn_is_the_same_cut_in_two(tmp_path):
    """Times and weights follow from the rows, whoever has them."""
    options = ["--steps", "2", *TINY_OPTIONS, "--preview", "0", "--optim.batch-size", "8", "--optim.exact-parts", "2"]
    options += ["--weight", "learned", "--times.draw", "logit-normal"]
    for name in ("one", "two"):
        assert train.main(["--run", str(tmp_path / name), *options]) == 0
    assert weights(tmp_path / "one") == weights(tmp_path / "two")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--times.mean", "1"], "times.mean and times.std are of logit-normal times: omit them, or give times.draw"),
        (["--times.draw", "logit-normal", "--times.std", "0"], "times.std must be positive and finite, got 0.0"),
        (["--times.shift", "0"], "times.shift must lie in [1/64, 64], got 0.0"),
        (
            ["--times.shift", "2", "--objective", "consistency"],
            "times.shift is of the objective flow-matching, got objective consistency: omit it",
        ),
        (
            ["--times.draw", "logit-normal", "--objective", "average-velocity"],
            "times.draw is of the objective flow-matching, got objective average-velocity, which has its own: "
            "average_velocity.times: omit it",
        ),
        (
            ["--weight", "min-snr", "--objective", "consistency"],
            "weight min-snr is of the objective flow-matching, got objective consistency: omit it",
        ),
    ],
)
def test_what_would_not_be_looked_at_is_refused(tmp_path, capsys, options, said):
    assert said in refusal(train, ["--run", str(tmp_path), *options], capsys)


def test_reports_show_what_a_run_learned_at(tmp_path, capsys):
    times = TimesConfig("logit-normal", -0.4, shift="auto")
    config = RunConfig(shape=(1, 64, 64), class_names=("a",), times=times, weight="learned", augment=0.12)
    assert learned_at(config) == "times logit-normal (-0.4, 1), shifted by 2; weight learned"
    section = diagnosis._training_section(config)["training"]
    assert (section["times"]["mean"], section["weight"], section["augment"]) == (-0.4, "learned", 0.12)
    assert "times logit-normal (-0.4, 1), shifted by 2; weight learned; augment 0.12" in capsys.readouterr().out
    save_config(tmp_path, config)
    page = report.page(tmp_path)
    for name, value in (
        ("times.draw", "logit-normal"),
        ("times.shift", "auto"),
        ("weight", "learned"),
        ("augment", "0.12"),
    ):
        assert f"<td>{name}</td><td>{value}</td>" in page
    assert "learns at    times logit-normal" in described(
        config, cost(run_config(weight="learned"), torch.device("cpu")), torch.device("cpu")
    )


@on_a_cpu
def test_two_processes_and_two_with_sharded_weights_go_on_as_one(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    options = [
        *TINY_OPTIONS,
        "--preview",
        "0",
        "--optim.batch-size",
        "16",
        "--optim.log-every",
        "1",
        "--augment",
        "0.5",
    ]
    options += ["--times.draw", "logit-normal", "--weight", "learned", "--optim.lr", "0.02", "--optim.warmup", "0"]
    for steps in ("2", "4", "5"):
        go_on = ["--resume"] if one.exists() else []
        assert train.main(["--run", str(one), "--steps", steps, *options, *go_on]) == 0
    processes(2, "distillkac.train", "--run", str(two), "--steps", "2", *options)
    processes(2, "distillkac.train", "--run", str(two), "--resume", "--steps", "4", "--optim.shard")
    assert train.main(["--run", str(two), "--resume", "--steps", "5"]) == 0
    agree(one, two)
