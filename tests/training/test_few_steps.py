"""Runs that learn few steps from data alone: what is refused, how they are sampled, resumed and told apart."""

import dataclasses
import json

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn

from distillkac import _pipeline_card, diagnose, distill, evaluate, sample
from distillkac.evaluation import ship
from distillkac.evaluation.rows import title_of
from distillkac.flow.guidance import GuidedVelocity
from distillkac.flow.integrators import integrate, restart_chain, time_grid
from distillkac.flow.processes import Telegraph
from distillkac.pipeline import KacPipeline
from distillkac.runs import checkpoints, graphs, open_run
from distillkac.runs.config import RunConfig, load_config, save_config
from distillkac.runs.objectives import AverageVelocityConfig, ConsistencyTraining
from distillkac.runs.optim_config import OptimConfig
from distillkac.runs.run import build_network
from distillkac.runs.sampler import SamplerConfig, SamplerOptions, Trained
from distillkac.runs.sampling import class_labels, generate
from distillkac.scheduler import KacScheduler
from distillkac.training import resume
from distillkac.training.cost import cost
from distillkac.training.fit import own_accelerate
from distillkac.training.objectives import objective_for
from distillkac.training.teacher import train
from tests.distillation.batches import Affine
from tests.toys import SHAPE, ToyData, optim, refused, run_config, trainer

FEW = ("consistency", "average-velocity")
DIFFERENCE = AverageVelocityConfig(derivative="difference")
few = pytest.mark.parametrize("objective", FEW)


def made(folder, objective, **changes):
    config = run_config(objective=objective, optim=optim(batch_size=4), **{"steps": 2} | changes)
    if objective == "average-velocity":
        config = dataclasses.replace(config, average_velocity=DIFFERENCE)
    network = build_network(config)
    trainer(folder, config, objective_for(config, network)).fit()
    save_config(folder, config)
    AcceleratorState._reset_state(reset_partial_state=True)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of either objective; only read."""
    return {objective: made(tmp_path_factory.mktemp("few") / objective, objective) for objective in FEW}


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"consistency": ConsistencyTraining(phases=2)}, r"consistency\.\* are options of the objective consistency"),
        ({"average_velocity": DIFFERENCE}, r"average_velocity\.\* are options of the objective average-velocity"),
        (
            {"objective": "consistency", "average_velocity": DIFFERENCE},
            r"average_velocity\.\* are options .* got objective consistency",
        ),
        ({"network": dataclasses.replace(run_config().network, interval_embedding=True)}, "average-velocity alone"),
        (
            {"objective": "average-velocity", "average_velocity": DIFFERENCE, "optim": OptimConfig(precision="bf16")},
            "difference needs the digits that bf16 does not have",
        ),
        (
            {
                "objective": "average-velocity",
                "average_velocity": AverageVelocityConfig(derivative="forward"),
                "optim": OptimConfig(shard=True),
            },
            "forward cannot differentiate weights that are spread",
        ),
    ],
)
def test_what_an_objective_does_not_use_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RunConfig(**options)


@pytest.mark.parametrize(
    "wrong",
    [{"step": 0.0}, {"velocity": 1.5}, {"at_one": -0.1}, {"deviation": 0.0}, {"power": 3.0}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_impossible_options_are_explained(wrong):
    with pytest.raises(ValueError, match=f"average_velocity.*{next(iter(wrong))}"):
        AverageVelocityConfig(**wrong)
    with pytest.raises(ValueError, match="gap must lie in"):
        ConsistencyTraining(gap=0.0)


def test_a_run_of_an_earlier_version_learned_velocities(tmp_path):
    save_config(tmp_path, run_config())
    content = json.loads((tmp_path / checkpoints.CONFIG).read_text())
    for name in ("objective", "consistency", "average_velocity"):
        del content[name]
    del content["network"]["interval_embedding"]
    (tmp_path / checkpoints.CONFIG).write_text(json.dumps(content))
    assert load_config(tmp_path) == run_config()
    assert load_config(tmp_path).objective == "flow-matching"


def test_a_run_is_not_resumed_with_another_objective(runs):
    with pytest.raises(ValueError, match=r"with --objective consistency.*cannot change to --objective flow-matching"):
        resume.check(runs["consistency"], run_config(steps=4), resume=True)
    saved = load_config(runs["average-velocity"])
    longer = dataclasses.replace(saved, steps=4, average_velocity=dataclasses.replace(DIFFERENCE, power=0.5))
    with pytest.raises(ValueError, match=r"--average-velocity\.power 1, which --resume cannot change to .*power 0\.5"):
        resume.check(runs["average-velocity"], longer, resume=True)


@few
def test_what_wants_the_flow_itself_refuses_such_a_run(runs, objective, capsys):
    folder = runs[objective]
    for module, words in (
        (distill, []),
        (diagnose, []),
        (ship, ["it", "--made-by", "x", "--title", "x", "--source", "x"]),
    ):
        told = refused(module, [folder, *words], capsys)
        assert f"was trained for {objective}" in told
        assert "train one with --objective flow-matching" in told


# Sampling


@few
def test_it_takes_any_number_of_euler_steps_and_any_w(runs, objective):
    trained = Trained.of(load_config(runs[objective]))
    assert trained.sampler().steps == 4
    assert trained.measured_steps() == (4, 2, 1)
    assert trained.settle(SamplerConfig(7, w=1.5), "it")[:3] == (1.5, 1.5, "euler")
    assert trained.settle(SamplerConfig(3), "it").restart == (0.5 if objective == "consistency" else 0.0)
    for integrator in ("ab2", "heun"):
        with pytest.raises(ValueError, match=f"trained for {objective}, whose steps are Euler steps: omit integrator"):
            trained.settle(SamplerConfig(3, integrator=integrator), "it")
    with pytest.raises(ValueError, match="cannot be guided"):
        dataclasses.replace(trained, label_drop=0.0).settle(SamplerConfig(3, w=1.0), "it")


def test_evaluate_measures_it_in_few_steps_unless_others_are_asked_for(runs):
    for counts, asked in (((4, 2, 1), {}), ((8,), {"teacher_steps": (8,)})):
        rows = evaluate._rows(evaluate.EvaluateArgs(runs["average-velocity"], sampler=SamplerOptions(w=1.0), **asked))
        assert [(sampler.steps, sampler.w) for _, sampler in rows] == [(count, 1.0) for count in counts]
    run = open_run(runs["average-velocity"], "cpu")
    assert title_of(run, SamplerConfig(2)) == "average-velocity, 2 steps"


class Listening(nn.Module):
    interval_embedding, null_class = True, 2

    def __init__(self):
        super().__init__()
        self.heard = []

    def forward(self, x, t, y, r):
        self.heard.append((t.tolist(), r.tolist()))
        return x * (1 + r.view(-1, 1, 1, 1))


def test_every_step_tells_the_network_where_it_leads():
    x, y, grid = torch.ones(1, *SHAPE), torch.zeros(1, dtype=torch.int64), time_grid(2, 1.0)
    network = Listening()
    field = GuidedVelocity(network)
    end = integrate(field, x, y, grid, "euler")
    assert network.heard == [([1.0], [0.5]), ([0.5], [0.0])]
    assert field.nfe == 2
    torch.testing.assert_close(end, x * (1 - 0.5 * 1.5) * (1 - 0.5))
    for method in ("ab2", "heun"):
        with pytest.raises(ValueError, match="each of which is one Euler step"):
            integrate(field, x, y, grid, method)
    network.heard.clear()
    GuidedVelocity(network, 1.0)(x, 0.8, y, 0.3)
    assert [len(rows) for rows in network.heard[0]] == [2, 2]
    network.heard.clear()
    field(x, 0.8, y)
    assert network.heard[0][1] == pytest.approx([0.8])
    with pytest.raises(ValueError, match="takes no end r of a step"):
        GuidedVelocity(Affine())(x, 0.8, y, 0.3)


def test_a_restart_predicts_the_data_by_a_step_to_them():
    x, y, grid = torch.ones(1, *SHAPE), torch.zeros(1, dtype=torch.int64), time_grid(2, 1.0)
    for share, ends in ((0.0, [0.5, 0.0]), (0.5, [0.5, 0.0, 0.0]), (1.0, [0.0, 0.0])):
        network = Listening()
        restart_chain(GuidedVelocity(network), x, y, grid, Telegraph(), share, 7)
        assert [r for _, (r,) in network.heard] == ends


def test_scheduler_pipeline_and_samples_make_the_same_steps(runs):
    run = open_run(runs["average-velocity"], "cpu")
    for parameter in run.network.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    pipeline = KacPipeline.from_pretrained(runs["average-velocity"], num_inference_steps=3)
    pipeline.unet.velocity.load_state_dict(run.network.state_dict())
    images = pipeline([0, 1], generator=torch.Generator().manual_seed(0), output_type="pt").images
    scheduler = KacScheduler.from_pretrained(runs["average-velocity"])
    scheduler.set_timesteps(3)
    x = scheduler.prior((2, *SHAPE), torch.Generator().manual_seed(0))
    start, y, known = x.clone(), torch.tensor([0, 1]), []
    with torch.no_grad():
        for t in scheduler.timesteps:
            u = run.network(x, t.expand(2), y, r=scheduler.next_timestep.expand(2))
            step = scheduler.step(u, t, x)
            x = step.prev_sample
            known.append(step.pred_original_sample is not None)
        chain = graphs.Chain(run, 3)(start, y)
        field = integrate(GuidedVelocity(run.network), start, y, time_grid(3, 1.5), "euler")
    assert known == [False, False, True]
    assert "It was trained for average-velocity, without a teacher" in _pipeline_card.text(pipeline, "it")
    for found in (images, chain, field):
        torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="all 3 steps are done"):
        scheduler.next_timestep  # noqa: B018
    with pytest.raises(ValueError, match="without fresh noise"):
        KacScheduler(integrator="euler", restart=0.5, average_velocity=True)
    pipeline.scheduler = KacScheduler(integrator="euler")
    with pytest.raises(ValueError, match="average_velocity must be True"):
        pipeline([0])


@few
def test_the_command_draws_from_such_a_run(runs, objective, tmp_path, capsys):
    out = tmp_path / "images.npz"
    assert sample.main([str(runs[objective]), "--num", "4", "--out", str(out)]) == 0
    assert f"{objective} ({runs[objective]}): 4 images, 4 steps, nfe 4" in capsys.readouterr().out
    run = open_run(runs[objective], "cpu")
    guided = generate(run, class_labels(run.config, 2), SamplerConfig(2, w=1.0))
    assert guided.nfe == 4


# Training


@few
@pytest.mark.parametrize("derivative", ["forward", "difference"])
def test_a_training_that_was_stopped_ends_with_the_same_weights(tmp_path, objective, derivative):
    if objective == "consistency" and derivative == "forward":
        pytest.skip("consistency has no derivative")
    config = run_config(objective=objective, steps=6, optim=optim(save_every=2, lr_end=1.0, optimizer="muon"))
    if objective == "average-velocity":
        config = dataclasses.replace(config, average_velocity=AverageVelocityConfig(derivative))
    learns, found = objective_for(config, build_network(config)), []
    for name, stops in (("whole", [6]), ("cut", [3, 6])):
        for steps in stops:
            one = trainer(tmp_path / name, config, learns)
            one.steps = steps
            fit = one.fit()
        found.append({**one.network.state_dict(), **{f"ema.{n}": v for n, v in fit.network.state_dict().items()}})
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_an_own_network_learns_average_velocities_and_its_run_keeps_what_auto_took(tmp_path, capsys):
    class Own(nn.Module):
        interval_embedding = True

        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(0.5))

        def forward(self, x, t, y, r):
            return self.scale * x * (1 + t - r).view(-1, 1, 1, 1)

    config = RunConfig(objective="average-velocity", steps=2, label_drop=0.0, preview=0, optim=optim(batch_size=4))
    run = train(tmp_path / "own", ToyData(), Own(), config)
    assert "--average-velocity.derivative forward" in capsys.readouterr().out
    assert run.name == "average-velocity"
    assert run.config == load_config(run.folder)
    assert run.config.network.interval_embedding
    assert generate(run, class_labels(run.config, 2), SamplerConfig(3)).nfe == 3
    train(tmp_path / "own", ToyData(), Own(), dataclasses.replace(config, steps=3), resume=True)
    with pytest.raises(ValueError, match="says the opposite"):
        open_run(run.folder, "cpu", network=Affine())


def test_forward_mode_goes_with_bfloat16(tmp_path):
    config = run_config(objective="average-velocity", steps=2, optim=optim(precision="bf16"))
    config = dataclasses.replace(config, average_velocity=AverageVelocityConfig("forward"))
    with own_accelerate():
        assert trainer(tmp_path, config, objective_for(config, build_network(config))).fit().finished


def test_what_a_step_costs_is_counted():
    counted = {}
    for objective in ("flow-matching", *FEW):
        counted[objective] = cost(run_config(objective=objective), torch.device("cpu"))["evaluations"]
    assert counted == {"flow-matching": 3, "consistency": 4, "average-velocity": 5}
