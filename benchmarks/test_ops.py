"""Contests of the ops: float32, one thread, every SIMD level. The bars are the ratios that are asked for.

Column "out" writes into tensors that are there already, "in place" into arguments, "allocating" into fresh tensors. Every
contender is checked against the float64 reference first.
"""

from functools import partial

import pytest
import torch

from benchmarks import baselines, checks
from benchmarks.problems import (
    COLUMNS,
    H_PREV,
    PROCESSES,
    RATES,
    SHAPES,
    THIN_GRID,
    H,
    W,
    label,
    public_table,
    tensors,
    thin_id,
    times,
)
from benchmarks.race import Rival, at_least, at_most
from distillkac import ops
from distillkac.ops import reference

columns = pytest.mark.parametrize("column", COLUMNS)
processes = pytest.mark.parametrize("process", PROCESSES)
thin_grid = pytest.mark.parametrize("problem", THIN_GRID, ids=thin_id)


def noise_contest(device, process, shape, a, c, column):
    """(ours, torch.randn, t) for kac_noise, ours checked."""
    t, out = times(shape[0], device), torch.empty(shape, device=device)
    into = {"out": out} if column == "out" else {}
    ours = partial(ops.kac_noise, t, shape[1:], process, a, c, 1, **into)
    checks.noise(ours(), t, process, a, c)
    return ours, out.normal_ if column == "out" else partial(torch.randn, shape, device=device), t


@columns
@pytest.mark.parametrize(("a", "c"), RATES, ids=label)
@pytest.mark.parametrize("shape", SHAPES, ids=label)
@processes
def test_kac_noise(race, level, device, process, shape, a, c, column):
    ours, randn, t = noise_contest(device, process, shape, a, c, column)
    bars = {"telegraph": (at_least(3.5, 1.7), at_least(45, 25)), "planar": (at_least(2, 1.2), None)}
    bars = bars.get(process, (None, None))
    table = public_table(a, c, device)
    checks.noise(table.sample(t, shape[1:]), t, "telegraph", a, c, slack=0.01)
    rivals = {"torch.randn": Rival(randn, bars[0])}
    rivals["table sampler"] = Rival(partial(table.sample, t, shape[1:]), bars[1])
    race(ours, rivals, 4, op="kac_noise", process=process, shape=shape, a=a, c=c, column=column)


@columns
@pytest.mark.parametrize(
    ("process", "shape", "bar"),
    [
        ("telegraph", (3072, 64), at_least(1.5)),
        ("planar", (3072, 64), at_least(1.5)),
        ("quad", (3072, 64), None),
        ("telegraph", (196608, 1), at_least(0.5)),
    ],
    ids=("telegraph-rows-of-64", "planar-rows-of-64", "quad-rows-of-64", "telegraph-a-time-per-element"),
)
def test_kac_noise_of_short_rows(race, level, device, process, shape, bar, column):
    a, c = RATES[1]
    ours, randn, _ = noise_contest(device, process, shape, a, c, column)
    rivals = {"torch.randn": Rival(randn, bar)}
    race(ours, rivals, 4, op="kac_noise", process=process, shape=shape, a=a, c=c, column=column)


@columns
@thin_grid
def test_kac_velocity(race, level, device, problem, column):
    shape, a, c = problem
    t, out = times(shape[0], device), torch.empty(shape, device=device)
    k = ops.kac_noise(t, shape[1:], "telegraph", a, c, 1)
    ours = partial(ops.kac_velocity, k, t, "telegraph", a, c, **({"out": out} if column == "out" else {}))
    bessel = partial(baselines.bessel_velocity, k, t, a, c)
    for contender in (ours, bessel):
        checks.velocity(contender(), k, t, a, c)
    rivals = {"float64 Bessel": Rival(bessel, at_least(250, 150))}
    race(ours, rivals, 8, op="kac_velocity", process="telegraph", shape=shape, a=a, c=c, column=column)


@columns
@thin_grid
@processes
def test_kac_pair(race, level, device, process, problem, column):
    shape, a, c = problem
    t, table = times(shape[0], device), public_table(a, c, device)
    x0, z, *out = tensors(4, shape, device)
    public = partial(baselines.public_pair, table, x0, t)
    checks.pair(*public(), x0, t, "telegraph", a, c, slack=0.01)
    rivals = {"public pipeline": Rival(public, at_least(100, 50))}
    if column == "out":
        ours = partial(ops.kac_pair, x0, t, process, a, c, seed=1, out=tuple(out))
        gaussian = partial(baselines.gaussian_pair_into, x0, t, z, *out)
        gaussian()
        checks.gaussian_pair(*out, x0, t)
        rivals["12-byte pass"] = Rival(partial(torch.add, x0, z, out=out[0]), at_most(3, 6))
    else:
        ours = partial(ops.kac_pair, x0, t, process, a, c, seed=1)
        gaussian = partial(baselines.gaussian_pair, x0, t)
        checks.gaussian_pair(*gaussian(), x0, t)
    rivals["Gaussian pair"] = Rival(gaussian, at_least(3, 1.6))
    checks.pair(*ours(), x0, t, process, a, c)
    race(ours, rivals, 12, op="kac_pair", process=process, shape=shape, a=a, c=c, column=column)


@columns
@pytest.mark.parametrize("shape", [*SHAPES, (3072, 64)], ids=label)
@processes
def test_kac_pair_at_two_times(race, level, device, process, shape, column):
    """One call with t_to= beside the two calls that it stands for, whose bits it has."""
    (a, c), t = RATES[1], times(shape[0], device)
    x0, *out = tensors(5, shape, device)
    call = partial(ops.kac_pair, x0, process=process, a=a, c=c, seed=1)
    first, other, both = ({"out": tuple(out[i:k])} if column == "out" else {} for i, k in ((0, 2), (2, 4), (0, 3)))
    ours = partial(call, t=t, t_to=t.flip(0), **both)

    def two_calls():
        return *call(t=t, **first), call(t=t.flip(0), **other)[0]

    wanted = [part.clone() for part in two_calls()]
    assert all(map(torch.equal, ours(), wanted))
    rivals = {"two calls": Rival(two_calls, at_least(1.5))}
    race(ours, rivals, 16, op="kac_pair_to", process=process, shape=shape, a=a, c=c, column=column)


def step_into(x, u_cond, u_uncond, u_prev, x_next, u, *step):
    ops.guided_step(x, u_cond, u_uncond, u_prev, *step, out=(x_next, u))


@pytest.mark.parametrize("column", ["in place", *COLUMNS])
@pytest.mark.parametrize("shape", SHAPES, ids=label)
def test_guided_step(race, level, device, shape, column):
    step, inputs = (W, H, H_PREV), tensors(4, shape, device)
    exact = reference.guided_step(*checks.head(*inputs), *step)
    if column == "allocating":
        contenders = [ops.guided_step, baselines.guided_step, baselines.compiled("guided_step")]
        ours, eager, compiled = (partial(function, *inputs, *step) for function in contenders)
        for contender in (ours, eager, compiled):
            checks.close(checks.head(*contender()), exact)
        rivals = {"eager torch": Rival(eager, at_least(2.5)), "torch.compile": Rival(compiled)}
    else:
        contenders = [step_into, baselines.guided_step_into, baselines.compiled("guided_step_copied")]
        for function in contenders:
            arguments, out = with_out(inputs, column)
            function(*arguments, *out, *step)
            checks.close(checks.head(*out), exact)
        arguments, out = with_out(inputs, column)
        ours, into, compiled, passes = (
            partial(f, *arguments, *out, *step) for f in (*contenders, baselines.two_passes)
        )
        rivals = {
            "eager torch": Rival(partial(baselines.guided_step, *arguments, *step), at_least(3.5)),
            "eager torch, out=": Rival(into),
            "torch.compile": Rival(compiled, at_least(1.1)),
            "24-byte pass": Rival(passes, at_most(1.1)),
        }
    race(ours, rivals, 24, op="guided_step", shape=shape, column=column)


def with_out(inputs, column):
    """(copies of x, u_cond, u_uncond, u_prev; where x_next and u go)."""
    inputs = [tensor.clone() for tensor in inputs]
    return inputs, (inputs[0], inputs[3]) if column == "in place" else [torch.empty_like(inputs[0]) for _ in range(2)]


@columns
@pytest.mark.parametrize("shape", SHAPES, ids=label)
def test_endpoint_loss(race, level, device, shape, column):
    *inputs, gradient = tensors(4, shape, device)
    arguments = (*inputs, times(shape[0], device) + 0.1)
    eager = partial(baselines.endpoint_loss_and_gradient, *arguments)
    compiled = partial(eager, loss=baselines.compiled("endpoint_loss"))
    if column == "out":
        ours = partial(ops.endpoint_loss, *arguments, out=gradient)
        joint = partial(baselines.compiled("gradient_copied"), *arguments, gradient)
        bars = at_least(5), at_least(1.4)
        contenders = [eager, compiled, lambda: (ours(), gradient), lambda: (joint(), gradient)]
    else:
        ours = partial(baselines.endpoint_loss_and_gradient, *arguments, loss=ops.endpoint_loss)
        joint = partial(baselines.compiled("gradient_and_loss"), *arguments)
        bars = at_least(4), None
        contenders = [eager, compiled, ours, lambda: joint()[::-1]]
    loss, exact = baselines.endpoint_loss_and_gradient(*(v.double() for v in arguments), loss=reference.endpoint_loss)
    for contender in contenders:
        checks.close(contender(), (loss, exact))
    rivals = {
        "eager autograd": Rival(eager, bars[0]),
        "torch.compile, backward": Rival(compiled, bars[1]),
        "torch.compile, grad_and_value": Rival(joint, bars[1]),
    }
    if column == "out":
        x, u, x_end = inputs
        rivals["16-byte pass"] = Rival(partial(torch.addcmul, x, u, x_end, out=gradient), at_most(1.3))
    race(ours, rivals, 16, op="endpoint_loss", shape=shape, column=column)
