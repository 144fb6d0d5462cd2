"""Muon: the update against a formula of its own in float64, and which parameters have it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from distillkac.distillation.inverse import GeneratorAndFake
from distillkac.flow.networks import NetworkConfig, VelocityNet
from distillkac.runs.optim_config import OptimConfig
from distillkac.runs.run import build_network
from distillkac.training import optimizer, orthogonal
from distillkac.training.learning_rate import learning_rate
from distillkac.training.loop import Trainer
from tests.toys import ToyData, optim, run_config

MUON = OptimConfig(optimizer="muon")
SHAPES = [(6, 4), (4, 6), (5, 5), (4, 3, 3, 3), (12, 2, 2, 2), (3, 4, 5)]


@pytest.fixture(autouse=True)
def fresh_accelerate():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------------------ the update


def formula(weight, gradients, lr, decay):
    """The weight after an update for each of the gradients, by the text of the issue, in float64 and numpy."""
    w = weight.double().numpy().reshape(len(weight), -1)
    m = np.zeros_like(w)
    for gradient in gradients:
        g = gradient.double().numpy().reshape(w.shape)
        m = 0.95 * m + 0.05 * g
        x = 0.05 * g + 0.95 * m
        x = x / np.sqrt((x * x).sum())
        for _ in range(5):
            x = 3.4445 * x - 4.7750 * (x @ x.T @ x) + 2.0315 * (x @ x.T @ x @ x.T @ x)
        w = w - lr * decay * w - lr * 0.2 * np.sqrt(max(w.shape)) * x
    return torch.from_numpy(w.reshape(weight.shape))


def check_formula(shape, device="cpu"):
    weight, gradients = noise(*shape), [noise(*shape, seed=seed) for seed in (1, 2, 3)]
    parameter = nn.Parameter(weight.to(device, copy=True))
    muon = optimizer.Muon([{"params": [parameter], "muon": True}], 0.1, (0.9, 0.999), 0.5, True)
    for gradient in gradients:
        parameter.grad = gradient.to(device, copy=True)
        muon.step()
        assert torch.equal(parameter.grad.cpu(), gradient)
    expected = formula(weight, gradients, 0.1, 0.5)
    torch.testing.assert_close(parameter.detach().cpu().double(), expected, rtol=1e-4, atol=1e-5)
    assert muon.state[parameter].keys() == {"momentum_buffer"}
    assert muon.state[parameter]["momentum_buffer"].dtype == torch.float32


@pytest.mark.parametrize("shape", SHAPES)
def test_updates_are_those_of_the_formula(shape):
    check_formula(shape)


@pytest.mark.parametrize(
    ("where", "name", "wrong"),
    [
        (optimizer, "UPDATE_RMS", 1.0),
        (optimizer, "MOMENTUM", 0.9),
        (orthogonal, "NEWTON_SCHULZ_STEPS", 4),
        (orthogonal, "NEWTON_SCHULZ", (3.4445, -4.7750, 2.0)),
        (orthogonal, "orthogonalized", lambda matrix: matrix / matrix.norm()),
    ],
)
def test_a_wrong_update_is_noticed(monkeypatch, where, name, wrong):
    monkeypatch.setattr(where, name, wrong)
    with pytest.raises(AssertionError, match="not close"):
        check_formula((4, 6))


@pytest.mark.parametrize("shared", [False, True])
def test_groups_without_any_gradient_are_passed_over(shared):
    """As those of a network that learns in turn with another."""
    still = [nn.Parameter(noise(4, 3)) for _ in range(2)]
    groups = [{"params": [each], "muon": muon} for each, muon in zip(still, (True, False), strict=True)]
    optimizer.Muon(groups, 0.1, (0.9, 0.999), 0.5, True, shared).step()
    assert all(torch.equal(each, noise(4, 3)) for each in still)


def test_no_gradient_is_no_update_and_a_zero_one_decays_alone():
    still, decayed = (nn.Parameter(noise(4, 3)) for _ in range(2))
    decayed.grad = torch.zeros(4, 3)
    muon = optimizer.Muon([{"params": [still, decayed], "muon": True}], 0.1, (0.9, 0.999), 0.5, True)
    muon.step()
    assert torch.equal(still, noise(4, 3))
    torch.testing.assert_close(decayed.detach(), 0.95 * noise(4, 3))
    assert not muon.state.get(still)


def test_the_rest_is_moved_as_adamw_moves_it():
    config = run_config(optim=replace(MUON, weight_decay=0.1, lr=0.01))
    network, other = build_network(config), build_network(config)
    muon, adamw = (
        optimizer.build(network, config.optim),
        optimizer.build(other, replace(config.optim, optimizer="adamw")),
    )
    assert type(adamw) is torch.optim.AdamW
    inner = {id(parameter) for parameter in optimizer.matrices(network)}
    for seed in range(3):
        for part in (network, other):
            for number, parameter in enumerate(part.parameters()):
                parameter.grad = noise(*parameter.shape, seed=1000 * seed + number)
        muon.step()
        adamw.step()
    for one, two in zip(network.parameters(), other.parameters(), strict=True):
        if id(one) in inner:
            assert (one - two).abs().max() > 1e-3
        else:
            torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-7)


# ------------------------------------------------------------------------------------------- which parameters have it


def left_to_adamw(network):
    """Names of the weights of two sides that Muon does not have, and how many it has."""
    groups = optimizer.parameter_groups(network, MUON)
    muon = {id(p) for group in groups if group["muon"] for p in group["params"]}
    everything = [p for group in groups for p in group["params"]]
    assert len({id(p) for p in everything}) == len(everything) == len(list(network.parameters()))
    return {name for name, p in network.named_parameters() if p.ndim > 1 and id(p) not in muon}, len(muon)


def test_of_a_unet_the_layers_between_the_convolutions_at_its_ends():
    network = VelocityNet(NetworkConfig(channels=(32, 64), guidance_embedding=True), (1, 8, 8), 10)
    ends = {"unet.conv_in.weight", "unet.conv_out.weight"}
    inputs = {"unet.time_embedding.linear_1.weight", "unet.time_embedding.linear_2.weight", "classes.weight"}
    assert left_to_adamw(network) == (ends | inputs | {"guidance.0.weight", "guidance.2.weight"}, 35)


def test_of_a_transformer_the_layers_of_its_blocks():
    network = VelocityNet(NetworkConfig(backbone="dit", channels=(16,), head_dim=8, layers=2), (1, 8, 8), 10)
    names, count = left_to_adamw(network)
    embedders = {name for name in names if ".norm1.emb." in name}
    assert names - embedders == {"dit.pos_embed.proj.weight", "dit.proj_out_2.weight"}
    assert (len(embedders), count) == (2 * 3, 2 * 7 + 1)


class Own(nn.Module):
    """One of each kind of parameter."""

    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(torch.zeros(16, 8))
        self.first = nn.Conv2d(1, 8, 3)
        self.norm, self.table = nn.LayerNorm([8, 4, 4]), nn.Embedding(3, 8)
        self.grouped, self.depthwise = nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(8, 8, 3, groups=8)
        self.conv, self.up, self.attention = (
            nn.Conv1d(8, 8, 3),
            nn.ConvTranspose2d(8, 4, 2),
            nn.MultiheadAttention(8, 2),
        )
        self.row, self.linear = nn.Linear(8, 1), nn.Linear(8, 8)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
        self.last = nn.Linear(8, 4)


def test_of_an_own_network_the_layers_between_its_first_and_its_last():
    names, count = left_to_adamw(Own())
    assert count == 5  # conv, up, linear, attention's two
    normed = {f"normed.parametrizations.weight.original{number}" for number in (0, 1)}
    others = {f"{name}.weight" for name in ("first", "norm", "table", "grouped", "depthwise", "row", "last")}
    assert names == {"position", "norm.bias"} | others | normed


def test_an_own_network_may_name_its_outer_layers():
    class Named(Own):
        def outer_layers(self):
            return [self.attention, self.linear]

    assert left_to_adamw(Named())[1] == 4  # first, conv, up, last
    for wrong in (
        lambda self: ["linear"],
        lambda self: [nn.Linear(2, 2)],
        lambda self: None,
        nn.ModuleList(),
        "linear",
    ):
        Named.outer_layers = wrong
        with pytest.raises(ValueError, match=r"Named\.outer_layers must be a method that returns a list of modules"):
            optimizer.build(Named(), MUON)


def test_a_network_with_nothing_for_muon_is_refused():
    with pytest.raises(
        ValueError, match="Sequential has no weight matrix between its first and its last layer: use adamw"
    ):
        optimizer.build(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), MUON)


def test_both_networks_of_inverse_distillation_have_it_at_their_own_rates(tmp_path):
    pair = GeneratorAndFake(build_network(run_config()), build_network(run_config(seed=1)), 4.0)
    parts = {1.0: pair.generator, 4.0: pair.fake}
    assert left_to_adamw(pair)[1] == 2 * left_to_adamw(pair.generator)[1] > 0
    before = {scale: [p.detach().clone() for p in optimizer.matrices(part)] for scale, part in parts.items()}

    def objective(network, batch):  # every weight has a gradient, of noise
        return sum((p * noise(*p.shape)).sum() for p in network.parameters())

    settings = optim(optimizer="muon", lr=0.01, weight_decay=0.0)
    job = Trainer(pair, objective, ToyData(), tmp_path, 9, settings, 0, Accelerator(cpu=True))
    job.advance(job.batches())
    rate = learning_rate(0, 9, settings)
    found = {(group["muon"], group["lr"] / rate) for group in job.optimizer.param_groups}
    assert found == {(muon, scale) for muon in (True, False) for scale in parts}
    for scale, part in parts.items():
        for weight, was in zip(optimizer.matrices(part), before[scale], strict=True):
            update = (weight.detach() - was).flatten(1) / (0.2 * max(was.flatten(1).shape) ** 0.5 * rate * scale)
            assert 0.68 < torch.linalg.matrix_norm(update, 2) < 1.21
