"""Forward mode: tangents go through every op as the reference's do, and are refused where an op has no derivative."""

import pytest
import torch
from torch.autograd import forward_ad

from distillkac import ops
from distillkac.ops import reference
from tests.ops.op_cases import CASES, DIFFERENTIABLE, PROCESSES, A, C, expected, rows, run, tensors

every_op = pytest.mark.parametrize("name", DIFFERENTIABLE)
every_process = pytest.mark.parametrize("process", PROCESSES)
# Of one: float32 tangents are right to 2e-6 of the largest, as gradients are; the others are rounded once at the end.
ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}


def flat(results):
    return results if isinstance(results, tuple) else (results,)


def close(got, want, dtype=torch.float32):
    got, want = flat(got), flat(want)
    assert len(got) == len(want)
    for g, e in zip(got, want, strict=True):
        # Rounded inputs of a sum that cancels leave an error of the largest.
        assert (g.double() - e).abs().max() <= 2 * ROUNDING[dtype] * e.abs().max()
        assert e.abs().max() > 0


def directions(inputs):
    return tuple(x.flip(0).to(x.dtype) * 2 + 0.1 for x in inputs)


@every_op
@every_process
@pytest.mark.parametrize("dtype", ROUNDING)
def test_tangents_are_those_of_the_reference(name, process, dtype):
    inputs = tuple(tensors((3, 5, 36), dtype)[: CASES[name][1]])
    moved = directions(inputs)
    value, got = torch.func.jvp(lambda *x: flat(run(name, x, process)), inputs, moved)
    exact, ways = ([x.double() for x in v] for v in (inputs, moved))
    _, want = torch.func.jvp(lambda *x: flat(expected(name, x, process)), tuple(exact), tuple(ways))
    close(got, want, dtype)
    assert all(map(torch.equal, value, flat(run(name, inputs, process))))
    assert all(g.dtype == v.dtype for g, v in zip(got, value, strict=True))


@every_op
def test_each_argument_alone_and_by_dual_numbers(name):
    """The parts add up to the whole, to the rounding of a sum of float32; an argument without a tangent has no part."""
    inputs = tensors((3, 8))[: CASES[name][1]]
    moved = directions(inputs)

    def tangents(places):
        with forward_ad.dual_level():
            given = [
                forward_ad.make_dual(x, v) if place in places else x
                for place, (x, v) in enumerate(zip(inputs, moved, strict=True))
            ]
            return [forward_ad.unpack_dual(result).tangent for result in flat(run(name, given, "planar"))]

    whole = tangents(range(len(inputs)))
    parts = [tangents([place]) for place in range(len(inputs))]
    for place, total in enumerate(whole):
        assert torch.allclose(sum(part[place] for part in parts), total, rtol=1e-5, atol=1e-6)


@every_process
@pytest.mark.parametrize("max_speed", [None, 0.5])
@pytest.mark.parametrize("kind", ["velocity", "euler", "ab2", "unguided"])
def test_tangents_of_the_guidance_weight_and_of_missing_parts(process, max_speed, kind):
    x, cond, uncond, prev = tensors((3, 36))
    w = rows(3, 5, 0, 4).float()

    def results(library, x, cond, uncond, prev, w):
        if kind == "velocity":
            return (library.guided_velocity(cond, uncond, w, max_speed, process),)
        without = (None if kind == "unguided" else uncond, prev if kind == "ab2" else None)
        return library.guided_step(x, cond, *without, w, 0.3, 0.2, max_speed, process)

    inputs = (x, cond, uncond, prev, w)
    exact = tuple(v.double() for v in inputs)
    got = torch.func.jvp(lambda *v: results(ops, *v), inputs, directions(inputs))[1]
    close(got, torch.func.jvp(lambda *v: results(reference, *v), exact, directions(exact))[1])


@every_op
@every_process
def test_tangents_have_gradients_and_tangents(name, process):
    """Reverse over forward is the transpose of forward over forward: both from the rule, by plain torch."""
    inputs = tuple(tensors((2, 8))[: CASES[name][1]])
    ways = tuple(v.flip(-1) for v in directions(inputs))

    def slope(*x):
        return sum(
            v.double().sin().sum() for v in torch.func.jvp(lambda *y: flat(run(name, y, process)), x, directions(x))[1]
        )

    leaves = [x.clone().requires_grad_() for x in inputs]
    with forward_ad.dual_level():
        given = [forward_ad.make_dual(x, v) for x, v in zip(leaves, directions(leaves), strict=True)]
        moved = [forward_ad.unpack_dual(v).tangent for v in flat(run(name, given, process))]
        grads = torch.autograd.grad(sum(v.double().sin().sum() for v in moved), leaves)
    back = sum((g.double() * w.double()).sum() for g, w in zip(grads, ways, strict=True))
    assert torch.allclose(torch.func.jvp(slope, inputs, ways)[1], back, rtol=1e-4, atol=1e-5)


@every_op
def test_tangents_beside_a_graph(name):
    """With a gradient wanted too, value and tangent both have theirs."""
    leaves = [x.requires_grad_() for x in tensors((2, 8))[: CASES[name][1]]]
    with forward_ad.dual_level():
        given = [forward_ad.make_dual(x, torch.ones_like(x)) for x in leaves]
        results = [forward_ad.unpack_dual(v) for v in flat(run(name, given, "telegraph"))]
    plain = flat(run(name, leaves, "telegraph"))
    got, want = (
        torch.autograd.grad(sum(v.sum() for v in values), leaves) for values in ([r.primal for r in results], plain)
    )
    assert all(map(torch.equal, got, want))
    assert all(r.tangent.abs().max() > 0 for r in results)


X, U, V, W = tensors((3, 8))
T = torch.ones(3)
REFUSED = {
    "kac_noise: t ": (lambda t: ops.kac_noise(t, (8,), "telegraph", A, C, 1), T),
    "kac_velocity: t ": (lambda t: ops.kac_velocity(X, t, "planar", A, C), T),
    "kac_pair: t ": (lambda t: ops.kac_pair(X, t, "telegraph", A, C), T),
    "kac_pair: t_to ": (lambda t: ops.kac_pair(X, T, "telegraph", A, C, t_to=t), T),
    "guided_step: h ": (lambda h: ops.guided_step(X, U, V, W, 1.5, h, 0.2), T),
    "guided_step: h_prev ": (lambda h: ops.guided_step(X, U, V, W, 1.5, 0.2, h), T),
    "endpoint_loss: delta ": (lambda delta: ops.endpoint_loss(X, U, V, delta), T),
    "endpoint_loss: weight ": (lambda weight: ops.endpoint_loss(X, U, V, T, weight), T),
    "kac_velocity: out= ": (lambda x: ops.kac_velocity(x, T, "planar", A, C, out=torch.empty(3, 8)), X),
    "kac_noise: out= ": (lambda t: ops.kac_noise(t, (8,), "telegraph", A, C, 1, out=torch.empty(3, 8)), T),
    "kac_pair: out= ": (
        lambda x: ops.kac_pair(x, T, "telegraph", A, C, out=(torch.empty(3, 8), torch.empty(3, 8))),
        X,
    ),
    "guided_step: out= ": (
        lambda x: ops.guided_step(X, x, None, None, None, 0.1, None, out=(torch.empty(3, 8), torch.empty(3, 8))),
        X,
    ),
    "endpoint_loss: out= ": (lambda x: ops.endpoint_loss(x, U, V, T, out=torch.empty(3, 8)), X),
}


@pytest.mark.parametrize("start", REFUSED)
def test_a_tangent_without_a_rule_is_refused(start):
    function, x = REFUSED[start]
    with pytest.raises(ValueError, match=f"^{start}"), forward_ad.dual_level():
        function(forward_ad.make_dual(x, torch.ones_like(x)))
    with pytest.raises(ValueError, match=f"^{start}"):
        torch.func.jvp(function, (x,), (torch.ones_like(x),))
    with pytest.raises(ValueError, match=f"^{start}"):  # of another level: the op's own has no tangent
        torch.func.jvp(
            lambda x: torch.func.jvp(lambda y: sum(map(torch.sum, flat(function(x)))), (T,), (T,)), (x,), (x,)
        )
    with forward_ad.dual_level():
        function(x)  # without one there is nothing to refuse


@every_op
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_transforms_of_batches(name):
    """vmap is a call for each; with jvp inside and outside as well."""
    count = CASES[name][1]
    inputs = tuple(torch.stack(v) for v in zip(*(tensors((3, 8), seed=s)[:count] for s in (1, 2)), strict=True))
    moved = directions(inputs)

    def function(*x):
        return flat(run(name, x, "planar"))

    def both(*x_and_moved):
        return torch.func.jvp(function, x_and_moved[:count], x_and_moved[count:])

    want = [both(*(v[i] for v in inputs), *(v[i] for v in moved)) for i in range(2)]
    inside = torch.func.vmap(both, randomness="same")(*inputs, *moved)  # the cases make their own times
    outside = torch.func.jvp(torch.func.vmap(function, randomness="same"), inputs, moved)
    for got in (inside, outside):
        for place in range(len(want[0][0])):
            assert torch.equal(got[0][place], torch.stack([w[0][place] for w in want]))
            assert torch.allclose(got[1][place], torch.stack([w[1][place] for w in want]), rtol=1e-5, atol=1e-6)


@every_op
def test_compiled_tangents(name):
    inputs = tuple(tensors((3, 8))[: CASES[name][1]])
    moved = directions(inputs)

    def function(*x):
        return torch.func.jvp(lambda *y: flat(run(name, y, "planar")), x, moved)[1]

    torch._dynamo.reset()
    for got, want in zip(torch.compile(function, backend="aot_eager")(*inputs), function(*inputs), strict=True):
        assert torch.allclose(got, want, rtol=1e-6, atol=1e-7)
