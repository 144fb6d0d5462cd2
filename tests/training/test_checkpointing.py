"""`--network.checkpointing`: the same gradients in less memory, whatever asks for them."""

import dataclasses

import pytest
import torch

from distillkac import train
from distillkac.distillation.features import BlockAnswers
from distillkac.flow.networks import NetworkConfig, VelocityNet
from distillkac.flow.processes import Telegraph
from distillkac.runs.config import RunConfig, StudentConfig
from distillkac.runs.objectives import AverageVelocityConfig
from distillkac.runs.presets import PRESETS
from distillkac.runs.run import build_network
from distillkac.training import resume
from distillkac.training.activations import activation_bytes
from distillkac.training.average_velocity import AverageVelocity
from distillkac.training.objective import FlowMatching
from tests.distillation.batches import BATCH
from tests.toys import SHAPE, optim, run_config, trainer

NETWORKS = {
    "unet": NetworkConfig(channels=(8, 16), head_dim=8, attention=(0,), dropout=0.5),
    "dit": NetworkConfig("dit", channels=(16,), layers=3, head_dim=8, dropout=0.5),
}
BACKBONES = pytest.mark.parametrize("backbone", NETWORKS)


def two_of(config):
    """The network with and without, with the same weights, every part of which has something to say."""
    torch.manual_seed(1)
    plain = VelocityNet(config, SHAPE, 2).train()
    for parameter in plain.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    other = VelocityNet(dataclasses.replace(config, checkpointing=True), SHAPE, 2).train()
    other.load_state_dict(plain.state_dict())
    return plain, other


def check_gradients(networks, loss):
    """That `loss` has the same gradients in both, and different ones under another seed."""
    found = []
    for network, seed in ((networks[0], 5), (networks[1], 5), (networks[1], 6)):
        network.zero_grad()
        torch.manual_seed(seed)
        loss(network).backward()
        found.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
    assert len(found[0]) == len(found[1]) > 0
    for one, two in zip(found[0], found[1], strict=True):
        # The same operations on the same numbers, of which torch promises no bits.
        torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-7)
    assert not all(torch.allclose(one, two) for one, two in zip(found[0], found[2], strict=True))  # dropout


@BACKBONES
def test_the_gradients_are_the_same_with_dropout_too(backbone):
    objective = FlowMatching(Telegraph(25.0, 2.0), 2, 0.1, 0)
    check_gradients(two_of(NETWORKS[backbone]), lambda network: objective(network, BATCH))


@BACKBONES
def test_attention_that_is_written_out_is_so_in_the_second_computation(backbone):
    """In bfloat16 on a CPU, of few positions: torch would fuse it there, which has other tensors to keep."""
    networks = two_of(dataclasses.replace(NETWORKS[backbone], dropout=0.0))
    for network in networks:
        with torch.autocast("cpu", torch.bfloat16):
            u = network(BATCH.x0, torch.linspace(0.1, 1, len(BATCH.x0)), BATCH.y)
        u.float().square().sum().backward()
    for one, two in zip(*(network.parameters() for network in networks), strict=True):
        torch.testing.assert_close(two.grad, one.grad, rtol=1e-2, atol=1e-2 * float(one.grad.abs().max()))


@BACKBONES
@pytest.mark.parametrize("derivative", ["forward", "difference"])
def test_average_velocities_too(backbone, derivative):
    config = dataclasses.replace(NETWORKS[backbone], interval_embedding=True)
    learns = AverageVelocity(Telegraph(25.0, 2.0), 2, 0.1, 0, AverageVelocityConfig(derivative=derivative))
    check_gradients(two_of(config), lambda network: learns(network, BATCH))


@BACKBONES
def test_features_of_the_blocks_too(backbone):
    """As the heads of inverse distillation read them, from hooks on the blocks."""
    networks = two_of(NETWORKS[backbone])
    answers = {id(network): BlockAnswers(network, "test") for network in networks}

    def loss(network):
        u = network(BATCH.x0, torch.full((len(BATCH.y),), 0.3), BATCH.y)
        return u.mean() + sum(answer.square().mean() for answer in answers[id(network)].seen)

    check_gradients(networks, loss)


def memory(config: RunConfig) -> int:
    network = build_network(config).train()
    x, y = torch.zeros(1, *config.shape), torch.zeros(1, dtype=torch.int64)
    return activation_bytes(network, lambda: network(x, torch.full((1,), 0.5), y).square().mean())


@pytest.mark.parametrize(
    "preset",
    [pytest.param("cifar10", marks=pytest.mark.slow), pytest.param("celeba64", marks=pytest.mark.slow), "fashion"],
)
def test_the_memory_of_a_batch_is_less_than(preset):
    """About halved for the large networks; the smallest one has a block as large as all that is spared."""
    config = PRESETS[preset]
    less = dataclasses.replace(config, network=dataclasses.replace(config.network, checkpointing=True))
    assert memory(less) < {"fashion": 0.75}.get(preset, 0.56) * memory(config)


def test_a_dry_run_shows_the_difference(capsys):
    options = ["--dry-run", "--network.channels", "32", "32", "--network.layers", "3"]
    shown = []
    for more in ([], ["--network.checkpointing", "--optim.compile"]):
        assert train.main([*options, *more]) == 0
        shown.append({line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()})
    assert shown[1]["memory"].endswith("the blocks computed twice (--network.checkpointing)")
    assert shown[1]["time"].endswith("before --optim.compile, whose gain is not guessed")
    assert "compil" not in shown[0]["time"]
    before, after = (float(lines["memory"].split(",")[1].split()[0]) for lines in shown)
    assert after < 0.6 * before


def test_a_run_goes_on_with_it_and_without(tmp_path):
    config = run_config(optim=optim())
    other = dataclasses.replace(config, network=dataclasses.replace(config.network, checkpointing=True))
    assert list(resume.all_changes(config, other)) == list(resume.all_changes(other, config)) == []
    part = trainer(tmp_path, other)
    batches = part.batches()
    for _ in range(3):
        part.advance(batches)
    part.save(tmp_path)
    assert trainer(tmp_path, config).fit().finished


def test_an_exported_network_computes_nothing_twice():
    plain, other = (network.eval() for network in two_of(NETWORKS["unet"]))
    inputs = torch.randn(2, *SHAPE), torch.tensor([0.2, 0.9]), torch.tensor([0, 1])
    program = torch.export.export(other, inputs)
    assert "checkpoint" not in str(program.graph)
    torch.testing.assert_close(program.module()(*inputs), plain(*inputs))


@pytest.mark.parametrize("option", resume.SWITCHES)
def test_what_a_student_learns_is_not_switched_on_or_off_by_a_resume(option):
    """What stands in its config only where it is used; of others on one side an earlier version may not have known."""
    plain, new = ("--inverse.beta 0.9",), "--backward 0.0"
    with_it = (*plain, f"{option} 0.5")
    student = StudentConfig(4, 1, 1.0, 0.0, method="inverse", options=plain)
    one = run_config(student=student)
    two = run_config(student=dataclasses.replace(student, options=with_it))
    assert list(resume.all_changes(one, two)) == [(f"no {option}", f"{option} 0.5")]
    assert list(resume.all_changes(two, one)) == [(f"{option} 0.5", f"no {option}")]
    other = run_config(student=dataclasses.replace(student, options=(*plain, new)))
    assert list(resume.all_changes(one, other)) == list(resume.all_changes(two, two)) == []
