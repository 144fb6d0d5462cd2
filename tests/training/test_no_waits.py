"""Nothing between two lines of the log waits for the device: every step of training and distillation, and sampling."""

import dataclasses

import pytest
import torch

from distillkac.distillation.consistency_options import ConsistencyConfig
from distillkac.distillation.cost import BlankPaths
from distillkac.distillation.grids import for_teacher
from distillkac.distillation.inverse_options import InverseConfig
from distillkac.distillation.objectives import generator_and_fake, inverse_objective, objective
from distillkac.distillation.pairs_options import PairsConfig
from distillkac.distillation.stages import DistillConfig, inverse_config, paths_config, stages_of, student_config
from distillkac.flow.guidance import GuidedVelocity
from distillkac.flow.integrators import integrate, restart_chain, time_grid
from distillkac.flow.networks import NetworkConfig
from distillkac.runs.config import RunConfig
from distillkac.runs.objectives import AverageVelocityConfig
from distillkac.runs.process_config import ProcessConfig
from distillkac.runs.run import build_network
from distillkac.runs.times_config import TimesConfig
from distillkac.scheduler import KacScheduler
from distillkac.training.batches import Batch
from distillkac.training.objectives import objective_for, trained
from tests.toys import SHAPE, ToyData, optim, run_config, trainer
from tests.waits import DEVICE, WaitError, no_waits

NETWORK = NetworkConfig(channels=(8, 16), head_dim=8, attention=(0,))
EVERY_PROCESS = pytest.mark.parametrize("process", ["telegraph", "planar", "quad", "gaussian"])
PROCESSES = pytest.mark.parametrize("process", ["telegraph", "gaussian"])  # from kernels, from torch


def config(process="telegraph", **changes) -> RunConfig:
    return run_config(**{"noise": ProcessConfig(process), "network": NETWORK} | changes)


def built(config: RunConfig) -> torch.nn.Module:
    return build_network(config).to(DEVICE)


def batch(step: int = 3) -> Batch:
    return Batch(torch.zeros(4, *SHAPE, device=DEVICE), torch.zeros(4, dtype=torch.int64, device=DEVICE), step, 0, 4)


def check(learns, network, step=3):
    with no_waits():
        learns(network, batch(step)).backward()


# The modes themselves


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.sum() > 0),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.cpu(),
        lambda x: torch.zeros(3).to(x.device),
        lambda x: torch.empty_like(x).copy_(torch.zeros(3)),
        lambda x: torch.tensor([1.0], device=x.device),
        lambda x: torch.as_tensor(1.0, device=x.device),
        lambda x: x[torch.tensor([0])],
    ],
)
def test_what_waits_is_found(wait):
    with pytest.raises(WaitError), no_waits():
        wait(torch.ones(3, device=DEVICE))


def test_what_does_not_wait_is_let_pass():
    x, number = torch.ones(3, device=DEVICE), torch.zeros(3, dtype=torch.int64).to(DEVICE)
    with no_waits():
        torch.where(x > 0, x, 0.0)[number]
        torch.zeros(3).to(DEVICE, non_blocking=True)
        torch.full((3,), 2.0, device=DEVICE)
        torch.zeros(3).tolist()


# Training


@PROCESSES
@pytest.mark.parametrize("backbone", ["unet", "dit"])
@pytest.mark.parametrize("kind", ["flow-matching", "consistency", "average-velocity"])
def test_what_a_run_learns_from_data(process, backbone, kind):
    network = NETWORK if backbone == "unet" else NetworkConfig("dit", channels=(16,), head_dim=8)
    own = {"average_velocity": AverageVelocityConfig(derivative="difference")} if kind == "average-velocity" else {}
    whole = config(process, network=network, objective=kind, **own)
    made = built(whole)
    check(objective_for(whole, made), made)


@EVERY_PROCESS
@pytest.mark.parametrize(
    "options",
    [
        {"times": TimesConfig("logit-normal", -0.5, 1.2, shift=2.0)},
        {"weight": "min-snr"},
        {"augment": 0.5, "network": dataclasses.replace(NETWORK, augment_embedding=True)},
    ],
    ids=["times", "min-snr", "augment"],
)
def test_times_weights_and_augmentation(process, options):
    whole = config(process, **options)
    made = built(whole)
    check(objective_for(whole, made), trained(whole, made))


@pytest.mark.parametrize(
    "options",
    [
        {"objective": "average-velocity", "average_velocity": AverageVelocityConfig(derivative="forward")},
        {"weight": "learned"},
    ],
    ids=["forward mode", "learned weight"],
)
def test_what_turns_autocast_off(options):
    """On a CPU: the device meta has no autocast."""
    whole = config(**options)
    network = build_network(whole)
    learns, here = objective_for(whole, network), Batch(*ToyData().__getitems__([0, 1, 2, 3]), 3, 0, 4)
    with no_waits(torch.device("cpu")):
        learns(trained(whole, network), here).backward()


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_whole_step_with_clipping_optimizer_and_average(tmp_path, optimizer, accumulate):
    """On a CPU, as fused optimizers have no meta device: nothing asks for a value of a tensor but the order of the data."""
    made = trainer(tmp_path, config(optim=optim(optimizer=optimizer, accumulate=accumulate)), data=ToyData())
    batches = made.batches()
    made.advance(batches)
    with no_waits(torch.device("cpu")):
        made.advance(batches)


# Distillation

METHODS = {
    "endpoint": {},
    "endpoint, own states": {"backward": 0.5},
    "endpoint, exact start": {"exact_start": True, "w": 1.0},
    "endpoint, any w": {"w_max": 2.0, "backward": 0.5},
    "reconstruction": {"method": "reconstruction", "w": 1.5},
    "pairs": {"method": "pairs", "pairs": PairsConfig(count=8, features=0.5), "backward": 0.5},
    "pairs, any w": {"method": "pairs", "pairs": PairsConfig(count=8), "w_max": 2.0},
    "consistency": {"method": "consistency", "consistency": ConsistencyConfig(teacher_steps=2)},
    "consistency, on paths": {
        "method": "consistency",
        "consistency": ConsistencyConfig(teacher_steps=0),
    },
}
INVERSE = {
    "inverse": {"inverse": InverseConfig(steps=2)},
    "inverse, heads": {"inverse": InverseConfig(steps=2, adversarial=0.1)},
    "inverse, pairs": {"inverse": InverseConfig(steps=2, pairs=1.0), "pairs": PairsConfig(count=8)},
    "inverse, steps": {
        **{"stages": (4,), "inverse": InverseConfig(steps=2, num_steps=4, restart=0.5, pairs=1.0)},
        "pairs": PairsConfig(count=8, teacher_steps=4),
    },
}


def distillation(**options) -> DistillConfig:
    usual = {} if options.get("method") == "consistency" else {"stages": (4, 2, 1), "steps": (2, 2)}
    return for_teacher(DistillConfig(**usual | options), run_config())


@PROCESSES
@pytest.mark.parametrize("method", METHODS)
def test_every_method(process, method):
    run, plan = config(process), distillation(**METHODS[method])
    teacher = built(run).eval().requires_grad_(False)
    means = torch.zeros(3, *SHAPE) if plan.exact_start else None
    found, before = paths_config(run, "", plan, means), teacher
    paths = None if found is None else BlankPaths(found, DEVICE)
    for stage in stages_of(plan):
        student = built(student_config(run, stage, plan)).train()
        check(objective(before, teacher, run.noise.build(), stage, plan, means, paths), student)
        before = student.eval()


@PROCESSES
@pytest.mark.parametrize("kind", INVERSE)
def test_inverse_distillation(process, kind):
    run = config(process)
    plan = distillation(**INVERSE[kind])
    teacher = built(run).eval().requires_grad_(False)
    pair = generator_and_fake(build_network(inverse_config(run, plan)).to(DEVICE), teacher, plan, SHAPE)
    found = paths_config(run, "", plan, None)
    learns = inverse_objective(teacher, run.noise.build(), plan, None if found is None else BlankPaths(found, DEVICE))
    for update in range(learns.updates):
        check(learns, pair, update)


# Sampling


@PROCESSES
@pytest.mark.parametrize("w", [0.0, 2.0])
@pytest.mark.parametrize("method", ["euler", "heun", "ab2"])
def test_sampling(process, w, method):
    run = config(process)
    field = GuidedVelocity(built(run).eval(), w, (0.1, 0.8) if w else (0.0, 1.0), 2.0, run.noise.build().speed_norm)
    with torch.no_grad(), no_waits():
        x = run.noise.build().prior(4, SHAPE, 1, 0, DEVICE)
        integrate(field, x, batch().y, time_grid(4), method)
        integrate(field, x, batch().y, time_grid(4)[:, None].expand(5, 4).to(DEVICE, non_blocking=True), method)


@EVERY_PROCESS
@pytest.mark.parametrize("share", [0.4, 1.0])
def test_sampling_with_fresh_noise(process, share):
    run = config(process)
    field = GuidedVelocity(built(run).eval(), 1.0)
    with torch.no_grad(), no_waits():
        x = run.noise.build().prior(4, SHAPE, 1, 0, DEVICE)
        restart_chain(field, x, batch().y, time_grid(4), run.noise.build(), share, seed=2)


def test_sampling_of_a_student_that_takes_w_and_of_average_velocities():
    network = dataclasses.replace(NETWORK, guidance_embedding=True)
    whole = config(network=network, objective="average-velocity")
    field = GuidedVelocity(built(whole).eval(), 1.0)
    with torch.no_grad(), no_waits():
        integrate(field, torch.zeros(4, *SHAPE, device=DEVICE), batch().y, time_grid(2), "euler")


@EVERY_PROCESS
def test_training_by_a_scheduler_of_diffusers(process):
    """What a training loop of diffusers calls each step."""
    x, t = torch.zeros(4, *SHAPE, device=DEVICE), torch.full((4,), 0.5, device=DEVICE)
    scheduler = KacScheduler(process)
    with no_waits():
        noise = scheduler.sample_noise(x, t)
        scheduler.add_noise(x, noise, t)
        scheduler.get_velocity(x, noise, t)
