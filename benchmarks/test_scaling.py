"""Throughput in series: against size, lambda, threads, batch and resolution; float32, the highest SIMD level."""

import os
from functools import partial

import pytest
import torch

from benchmarks import baselines, checks
from benchmarks.problems import (
    BYTES,
    H_PREV,
    LARGE,
    PROCESSES,
    RATES,
    SMALL,
    H,
    W,
    label,
    op_calls,
    public_table,
    tensors,
    times,
)
from benchmarks.race import Rival, at_least
from distillkac import ops

A, C = RATES[1]
LAMBDAS = [10.0**i for i in range(-3, 4)]
COMPUTE_BOUND = ("kac_noise", "kac_velocity", "kac_pair")
THREADS = sorted({2**i for i in range(10) if 2**i <= os.cpu_count()} | {os.cpu_count()})

pytestmark = pytest.mark.usefixtures("one_thread")


def of_size(elements: int) -> tuple[int, int]:
    """(rows, columns) with that many elements, at most 10,000 of them a row."""
    return (max(1, elements // 10_000), min(elements, 10_000))


@pytest.mark.parametrize("elements", [10**i for i in range(3, 9)], ids=label)
def test_noise_against_size(race, device, elements):
    shape = of_size(elements)
    t, out = times(shape[0], device), torch.empty(shape, device=device)
    draw = {process: partial(ops.kac_noise, t, shape[1:], process, A, C, 1, out=out) for process in PROCESSES}
    for process in PROCESSES:
        checks.noise(draw[process](), t, process, A, C)
    rivals = {f"kac_noise {process}": draw[process] for process in PROCESSES[1:]} | {"torch.randn": out.normal_}
    race(draw["telegraph"], rivals, 4, op="kac_noise", process="telegraph", shape=shape, series="size")


@pytest.mark.parametrize("elements", [10**i for i in range(3, 8)], ids=label)
def test_guided_step_against_size(race, device, elements):
    shape = of_size(elements)
    *inputs, x_next, u = tensors(6, shape, device)
    step = partial(ops.guided_step, *inputs, W, H, H_PREV, out=(x_next, u))
    rivals = {
        "eager torch": partial(baselines.guided_step, *inputs, W, H, H_PREV),
        "24-byte pass": partial(baselines.two_passes, *inputs, x_next, u),
    }
    checks.close(step(), [v.double() for v in rivals["eager torch"]()])
    race(step, rivals, 24, op="guided_step", shape=shape, series="size")


@pytest.mark.parametrize("elements", [10**i for i in range(3, 8)], ids=label)
def test_endpoint_loss_against_size(race, device, elements):
    shape = of_size(elements)
    *inputs, gradient = tensors(4, shape, device)
    arguments = (*inputs, times(shape[0], device) + 0.1)
    loss = partial(ops.endpoint_loss, *arguments, out=gradient)
    rivals = {
        "eager autograd": partial(baselines.endpoint_loss_and_gradient, *arguments),
        "16-byte pass": partial(torch.addcmul, *inputs, out=gradient),
    }
    checks.close((loss(), gradient), [v.double() for v in rivals["eager autograd"]()], rtol=1e-5)
    race(loss, rivals, 16, op="endpoint_loss", shape=shape, series="size")


@pytest.mark.parametrize("lam", LAMBDAS, ids=label)
@pytest.mark.parametrize("op", COMPUTE_BOUND)
def test_against_lambda(race, device, op, lam):
    """lambda = a t with t = 1 in every row."""
    t, (x0, *out) = torch.ones(SMALL[0], device=device), tensors(3, SMALL, device)
    table = public_table(lam, C, device, nodes=20)
    k = {process: ops.kac_noise(t, SMALL[1:], process, lam, C, 1) for process in PROCESSES}
    ours = {
        "kac_noise": lambda process: partial(ops.kac_noise, t, SMALL[1:], process, lam, C, 1, out=out[0]),
        "kac_velocity": lambda process: partial(ops.kac_velocity, k[process], t, process, lam, C, out=out[0]),
        "kac_pair": lambda process: partial(ops.kac_pair, x0, t, process, lam, C, seed=1, out=tuple(out)),
    }[op]
    rivals = {f"{op} {process}": ours(process) for process in PROCESSES[1:]} | {
        "kac_noise": {"table sampler": partial(table.sample, t, SMALL[1:])},
        "kac_velocity": {"float64 Bessel": partial(baselines.bessel_velocity, k["telegraph"], t, lam, C)},
        "kac_pair": {"public pipeline": partial(baselines.public_pair, table, x0, t)},
    }[op]
    checks.noise(k["telegraph"], t, "telegraph", lam, C)
    race(ours("telegraph"), rivals, BYTES[op], op=op, process="telegraph", shape=SMALL, lam=lam, series="lambda")


@pytest.mark.parametrize("shape", [SMALL, LARGE], ids=label)
@pytest.mark.parametrize("threads", THREADS[1:])
@pytest.mark.parametrize("op", BYTES)
def test_against_threads(race, on_cpu, op, threads, shape):
    """Several threads beside one; where the memory is the limit no ratio is asked for."""
    call = op_calls(shape, torch.device("cpu"))[op]
    bar = at_least(1.8) if threads == 2 and op in COMPUTE_BOUND else None
    ours = Rival(call, prepare=partial(torch.set_num_threads, threads))
    one = Rival(call, bar, prepare=partial(torch.set_num_threads, 1))
    race(ours, {"one thread": one}, BYTES[op], op=op, shape=shape, threads=threads, series="threads")


@pytest.mark.parametrize(
    ("series", "shape"),
    [("batch", (batch, 3, 32, 32)) for batch in (1, 4, 16, 64, 256, 1024)]
    + [("resolution", (8, 3, side, side)) for side in (8, 16, 32, 64, 128, 256, 512)],
    ids=lambda value: value if isinstance(value, str) else label(value),
)
def test_pair_against_shape(race, device, series, shape):
    t, (x0, z, *out) = times(shape[0], device), tensors(4, shape, device)
    pair = partial(ops.kac_pair, x0, t, "telegraph", A, C, seed=1, out=tuple(out))
    rivals = {"Gaussian pair": partial(baselines.gaussian_pair_into, x0, t, z, *out)}
    checks.pair(*pair(), x0, t, "telegraph", A, C)
    race(pair, rivals, 12, op="kac_pair", process="telegraph", shape=shape, series=series)
