"""Speed of the ops beside their competitors, grouped so that one table holds both: pytest benchmarks --benchmark-only.

Every benchmark checks its result first. One thread, float32, 64 x 3 x 32 x 32, a = 25, c = 2.
"""

import pytest
import torch

from benchmarks import baselines
from distillkac import ops, reference

SHAPE, A, C = (64, 3, 32, 32), 25.0, 2.0
PROCESSES = ("telegraph", "planar")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def inputs(count):
    return [torch.randn(SHAPE, generator=torch.Generator().manual_seed(i)) for i in range(count)]


T = torch.rand(SHAPE[0], generator=torch.Generator().manual_seed(7))


@pytest.mark.benchmark(group="noise")
@pytest.mark.parametrize("process", PROCESSES)
def test_kac_noise(benchmark, process):
    out = torch.empty(SHAPE)
    ops.kac_noise(T, SHAPE[1:], process, A, C, 1, out=out)
    assert (out.abs() <= C * T.view(-1, 1, 1, 1) * (1 + 1e-6)).all()
    benchmark(ops.kac_noise, T, SHAPE[1:], process, A, C, 1, out=out)


@pytest.mark.benchmark(group="noise")
def test_torch_randn(benchmark):
    benchmark(torch.empty(SHAPE).normal_)


@pytest.mark.benchmark(group="velocity")
def test_kac_velocity(benchmark):
    k = ops.kac_noise(T, SHAPE[1:], "telegraph", A, C, 1)
    inside = k.abs() < 0.99 * C * T.view(-1, 1, 1, 1)
    exact = reference.kac_velocity(k, T, "telegraph", A, C)
    torch.testing.assert_close(
        ops.kac_velocity(k, T, "telegraph", A, C)[inside].double(), exact[inside], rtol=5e-7, atol=0
    )
    benchmark(ops.kac_velocity, k, T, "telegraph", A, C)


@pytest.mark.benchmark(group="velocity")
def test_bessel_velocity(benchmark):
    k = ops.kac_noise(T, SHAPE[1:], "telegraph", A, C, 1)
    benchmark(baselines.bessel_velocity, k, T, A, C)


@pytest.mark.benchmark(group="pair")
@pytest.mark.parametrize("process", PROCESSES)
def test_kac_pair(benchmark, process):
    (x0,) = inputs(1)
    x_t, _ = ops.kac_pair(x0, T, process, A, C, seed=1)
    noise = ops.kac_noise(T, SHAPE[1:], process, A, C, 1)
    torch.testing.assert_close(x_t, (1 - T.view(-1, 1, 1, 1)) * x0 + noise, rtol=1e-6, atol=1e-6)
    benchmark(ops.kac_pair, x0, T, process, A, C, seed=1)


@pytest.mark.benchmark(group="pair")
def test_gaussian_pair(benchmark):
    benchmark(baselines.gaussian_pair, *inputs(1), T)


@pytest.mark.benchmark(group="guided step")
def test_guided_step(benchmark):
    x, cond, uncond = inputs(3)
    for got, exact in zip(
        ops.guided_step(x, cond, uncond, None, 2.0, 0.1, None),
        baselines.guided_euler(x, cond, uncond, 2.0, 0.1),
        strict=True,
    ):
        torch.testing.assert_close(got, exact, rtol=1e-5, atol=1e-5)
    benchmark(ops.guided_step, x, cond, uncond, None, 2.0, 0.1, None)


@pytest.mark.benchmark(group="guided step")
def test_eager_guided_step(benchmark):
    benchmark(baselines.guided_euler, *inputs(3), 2.0, 0.1)


def loss_and_gradient(loss, x, u, x_end, delta):
    u = u.detach().requires_grad_()
    loss(x, u, x_end, delta).backward()
    return u.grad


@pytest.mark.benchmark(group="endpoint loss")
def test_endpoint_loss(benchmark):
    arguments = (*inputs(3), T + 0.1)
    got, exact = (loss_and_gradient(f, *arguments) for f in (ops.endpoint_loss, baselines.endpoint_loss))
    torch.testing.assert_close(got, exact, rtol=1e-4, atol=1e-9)
    benchmark(loss_and_gradient, ops.endpoint_loss, *arguments)


@pytest.mark.benchmark(group="endpoint loss")
def test_eager_endpoint_loss(benchmark):
    benchmark(loss_and_gradient, baselines.endpoint_loss, *inputs(3), T + 0.1)
