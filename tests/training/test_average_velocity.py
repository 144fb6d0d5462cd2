"""Average velocities: the derivative along a path, the optimum of the objective, and the networks that take the end of a
step."""

import dataclasses

import pytest
import torch
from torch import nn

from distillkac.flow.networks import NetworkConfig, VelocityNet
from distillkac.flow.processes import Gaussian, Planar, Telegraph
from distillkac.runs.objectives import AverageVelocityConfig
from distillkac.runs.optim_config import OptimConfig
from distillkac.training.average_velocity import FLOOR, AverageVelocity, forward_derivative
from distillkac.training.batches import Batch
from distillkac.training.objectives import has_forward_mode, objective_for, settled
from tests.distillation.batches import BATCH
from tests.toys import SHAPE, TINY, run_config

SEED = 4
NETWORKS = {
    "unet": NetworkConfig(channels=(8, 16), head_dim=8, attention=(0,), interval_embedding=True),
    "dit": NetworkConfig("dit", channels=(16,), head_dim=8, interval_embedding=True),
    "rotary": NetworkConfig("dit", channels=(16,), head_dim=8, qk_norm=True, rotary=True, interval_embedding=True),
}
BACKBONES = pytest.mark.parametrize("backbone", NETWORKS)


def objective(process, **options):
    return AverageVelocity(process, None, 0.0, SEED, AverageVelocityConfig(**{"derivative": "difference"} | options))


def stirred(backbone):
    """A network whose every part has something to say."""
    torch.manual_seed(1)
    network = VelocityNet(NETWORKS[backbone], SHAPE, 2)
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return network


# The networks


@BACKBONES
def test_a_network_that_takes_the_end_of_a_step_begins_as_the_plain_one(backbone):
    torch.manual_seed(0)
    network = VelocityNet(NETWORKS[backbone], SHAPE, 2)
    for name, parameter in network.named_parameters():
        if "interval" not in name:
            parameter.data += 0.1 * torch.randn_like(parameter)
    plain = VelocityNet(dataclasses.replace(NETWORKS[backbone], interval_embedding=False), SHAPE, 2)
    kept = {name.replace(".plain", ""): value for name, value in network.state_dict().items() if "interval" not in name}
    plain.load_state_dict(kept)
    x, t, y = torch.randn(3, *SHAPE), torch.tensor([0.2, 0.7, 1.0]), torch.tensor([0, 2, 1])
    torch.testing.assert_close(network(x, t, y, r=t / 3), plain(x, t, y))
    assert any("interval" in name for name, _ in network.named_parameters())


@BACKBONES
def test_it_listens_to_the_end_of_the_step_once_it_has_learned(backbone):
    network = stirred(backbone)
    x, t, y = torch.randn(2, *SHAPE), torch.tensor([0.5, 0.9]), torch.tensor([0, 1])
    near, far = network(x, t, y, r=t), network(x, t, y, r=0 * t)
    assert (near - far).abs().max() > 1e-3
    with pytest.raises(ValueError, match=r"takes r \(interval_embedding\), got none"):
        network(x, t, y)
    with pytest.raises(ValueError, match=r"takes no r \(interval_embedding\), got one"):
        VelocityNet(TINY, SHAPE, 2)(x, t, y, r=t)


# The derivative


@BACKBONES
def test_forward_mode_is_the_derivative_along_the_path(backbone):
    """Against central differences, in float64."""
    network = stirred(backbone).double().eval()
    x, v = torch.randn(2, 3, *SHAPE, dtype=torch.float64)
    t, y = torch.tensor([0.3, 0.6, 0.9], dtype=torch.float64), torch.tensor([0, 1, 2])

    def answer(x, t):
        return network(x, t, y, r=torch.tensor([0.1, 0.6, 0.0]).double())

    with torch.no_grad():
        found, h = forward_derivative(answer, x, t, v), 1e-4
        known = (answer(x + h * v, t + h) - answer(x - h * v, t - h)) / (2 * h)
    # The features of diffusers' times are float32, which limits the difference, not the derivative.
    torch.testing.assert_close(found, known, rtol=1e-2, atol=1e-2 * known.abs().max().item())


class Smooth(nn.Module):
    interval_embedding = True

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.7, -0.4, 0.9]))

    def forward(self, x, t, y, r):
        t, r = t.view(-1, 1, 1, 1), r.view(-1, 1, 1, 1)
        a, b, c = self.weight
        return a * torch.tanh(x) + b * torch.sin(2 * t) * x + c * (t - r) * (1 + x)


@pytest.mark.parametrize("process", [Gaussian(0.4), Telegraph(), Planar()], ids=lambda process: process.name)
def test_both_derivatives_give_one_objective(process):
    x0 = torch.rand(2000, *SHAPE, generator=torch.Generator().manual_seed(3)) * 2 - 1
    batch, network, found = Batch(x0, torch.zeros(2000, dtype=torch.int64), 0, 0, 2000), Smooth(), []
    for derivative in ("forward", "difference"):
        loss = objective(process, derivative=derivative, step=1e-3, velocity=0.3, power=0.0)(network, batch)
        found.append((loss, *torch.autograd.grad(loss, list(network.parameters()))))
    for exact, near in zip(*found, strict=True):
        torch.testing.assert_close(near, exact, rtol=0.02, atol=2e-3)


def test_where_torch_cannot_differentiate_forward_auto_takes_the_difference():
    class NoForwardMode(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, slope):
            return slope

    class Opaque(Smooth):
        def forward(self, x, t, y, r):
            return NoForwardMode.apply(super().forward(x, t, y, r))

    assert has_forward_mode(Smooth(), SHAPE)
    assert not has_forward_mode(Opaque(), SHAPE)
    config = run_config(objective="average-velocity")
    assert settled(config, Smooth()).average_velocity.derivative == "forward"
    assert settled(config, Opaque()).average_velocity.derivative == "difference"
    sharded = dataclasses.replace(config, optim=OptimConfig(shard=True))
    assert settled(sharded, Smooth()).average_velocity.derivative == "difference"
    plain = run_config()
    assert settled(plain, Smooth()) is plain


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"step": 0.01}, "average_velocity.step 0.01 is of the derivative difference, and the one here is forward"),
        ({"mean": 0.0}, "mean and deviation are of logit-normal times, and the times are uniform"),
        ({"deviation": 2.0, "derivative": "difference"}, "are of logit-normal times"),
    ],
)
def test_options_that_nothing_looks_at_are_refused(options, sentence):
    config = run_config(objective="average-velocity", average_velocity=AverageVelocityConfig(**options))
    with pytest.raises(ValueError, match=sentence):
        settled(config, Smooth())


@BACKBONES
def test_our_own_networks_have_a_forward_mode(backbone):
    assert has_forward_mode(VelocityNet(NETWORKS[backbone], SHAPE, 2).train(), SHAPE)


# The objective


class NormalAverages(nn.Module):
    """Of data N(0, s^2) and Gaussian noise a state keeps its quantile: x_r = x_t std_r / std_t, here to a power."""

    interval_embedding = True

    def __init__(self, power, s=0.7, sigma=0.4):
        super().__init__()
        self.power, self.s, self.sigma = nn.Parameter(torch.tensor(power)), s, sigma

    def forward(self, x, t, y, r):
        def variance(t):
            return ((1 - t) * self.s) ** 2 + (self.sigma * t) ** 2

        near = t - r < 1e-3
        length = torch.where(near, 1.0, t - r)
        average = (1 - (variance(r) / variance(t)) ** (self.power / 2)) / length
        now = self.power * (self.sigma**2 * t - self.s**2 * (1 - t)) / variance(t)
        return x * torch.where(near, now, average).view(-1, 1, 1, 1)


@pytest.mark.parametrize("derivative", ["forward", "difference"])
@pytest.mark.parametrize("times", ["uniform", "logit-normal"])
def test_for_normal_data_the_gradient_vanishes_at_the_exact_averages(derivative, times):
    rows = 20_000
    x0 = 0.7 * torch.randn(rows, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    batch = Batch(x0, torch.zeros(rows, dtype=torch.int64), 0, 0, rows)
    learns, slopes = objective(Gaussian(0.4), derivative=derivative, times=times, velocity=0.25, power=0.0), {}
    for power in (0.8, 1.0, 1.2):
        network = NormalAverages(power)
        (slopes[power],) = torch.autograd.grad(learns(network, batch), list(network.parameters()))
    assert slopes[0.8] < 0 < slopes[1.2]
    assert abs(slopes[1.0]) < 0.1 * min(-slopes[0.8], slopes[1.2])


def test_a_difference_of_any_length_is_exact_where_paths_are_those_of_one_image():
    """All data are one image m, so the velocity of a pair is the flow's: with u right, the loss is nought, not only small."""

    class ToImage(nn.Module):
        interval_embedding = True

        def forward(self, x, t, y, r):
            return (x - 0.3) / t.view(-1, 1, 1, 1)  # linear paths: the average is the velocity

    batch = dataclasses.replace(BATCH, x0=torch.full_like(BATCH.x0, 0.3))
    for step in (0.005, 0.5):
        assert objective(Gaussian(0.4), step=step)(ToImage(), batch) < 1e-4


def test_times_are_in_order_and_shares_are_as_asked():
    x0, y = torch.zeros(4000, *SHAPE), torch.zeros(4000, dtype=torch.int64)
    batch = Batch(x0, y, 3, 0, 4000)
    for times in ("uniform", "logit-normal"):
        t, r = objective(Telegraph(), times=times, velocity=0.3, at_one=0.2).times(batch)
        assert (r <= t).all()
        assert r.min() >= 0
        assert t.max() <= 1
        assert abs((t == 1).float().mean() - 0.2) < 0.03
        assert abs((r == t).float().mean() - 0.3) < 0.03
    _, r = objective(Telegraph(), velocity=0.0, at_one=1.0).times(batch)
    assert r.max() < 1


def test_rows_weigh_alike_whatever_their_error_with_power_one():
    class Off(nn.Module):
        interval_embedding = True

        def forward(self, x, t, y, r):
            return torch.full_like(x, 30.0)

    assert abs(objective(Gaussian(0.4), velocity=1.0, power=1.0)(Off(), BATCH) - 1) < 1e-3
    assert objective(Gaussian(0.4), velocity=1.0, power=0.0)(Off(), BATCH) > 500


def test_the_weight_of_a_row_has_no_gradient():
    """error / (error + floor) with a fixed denominator: the slope is that of the error, divided by it."""

    class Scaled(nn.Module):
        interval_embedding = True

        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(0.7))

        def forward(self, x, t, y, r):
            return self.scale * x

    network, one = Scaled(), dataclasses.replace(BATCH, x0=BATCH.x0[:1], y=BATCH.y[:1])
    weighted, error = (objective(Telegraph(), derivative="difference", power=p)(network, one) for p in (1.0, 0.0))
    (found,), (slope,) = (torch.autograd.grad(loss, network.scale) for loss in (weighted, error))
    assert found.item() == pytest.approx(slope.item() / (error.item() + FLOOR), rel=1e-4)


@pytest.mark.parametrize("derivative", ["forward", "difference"])
def test_classes_are_dropped_in_all_that_the_network_is_asked(derivative):
    heard = []

    class Listening(nn.Module):
        interval_embedding = True

        def forward(self, x, t, y, r):
            heard.append(y)
            return 0 * x

    AverageVelocity(Telegraph(), 2, 0.5, 4, AverageVelocityConfig(derivative))(Listening(), BATCH)
    dropped = BATCH.uniform(4, "label") < 0.5
    assert 0 < dropped.sum() < len(dropped)
    assert all(torch.equal(y, torch.where(dropped, 2, BATCH.y)) for y in heard)


def test_a_network_and_an_objective_that_do_not_go_together_are_refused():
    config = run_config(objective="average-velocity")
    with pytest.raises(ValueError, match="takes the end of a step: give VelocityNet"):
        objective_for(config, VelocityNet(TINY, SHAPE, 2))
    with pytest.raises(ValueError, match="which objective flow-matching does not give"):
        objective_for(run_config(), Smooth())
