"""Gradients, opcheck and torch.compile of every op, on the inputs of tests/ops/op_cases.py."""

import pytest
import torch

from distillkac import ops
from distillkac.ops import reference
from tests.ops.op_cases import (
    CASES,
    DIFFERENTIABLE,
    PROCESSES,
    A,
    C,
    expected,
    guide,
    loss,
    pair,
    rows,
    run,
    step,
    tensors,
    velocity,
)

lib = torch.ops.distillkac
every_process = pytest.mark.parametrize("process", PROCESSES)
# bfloat16 and float16 round the gradient once; float32 gradients of order 1 are right to 2e-6 (measured 6e-7).
ROUNDING = {torch.float32: 0, torch.bfloat16: 2**-8, torch.float16: 2**-11}


def gradients(results, inputs, dtype=torch.float32, seed=11):
    """Gradients of a fixed random combination of the results; its weights are rounded to dtype, whatever the results."""
    generator = torch.Generator().manual_seed(seed)
    total = 0
    for result in results:
        weight = torch.rand(result.shape, generator=generator) - 0.5 if result.dim() else torch.tensor(1.0)
        total = total + (result.double() * weight.to(dtype).double()).sum()
    return torch.autograd.grad(total, inputs)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
@every_process
@pytest.mark.parametrize("dtype", ROUNDING)
def test_gradient_is_that_of_the_reference(name, process, dtype):
    count = CASES[name][1]
    inputs = [x.requires_grad_() for x in tensors((3, 5, 36), dtype)[:count]]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    got, want = (
        gradients(run(name, inputs, process), inputs, dtype),
        gradients(expected(name, exact, process), exact, dtype),
    )
    for g, e in zip(got, want, strict=True):
        assert g.dtype == dtype
        tiny = 2**-25 if dtype == torch.float16 else 0
        largest = e.abs().max()
        assert (
            (g.double() - e).abs() <= 2e-6 * largest + 3 * ROUNDING[dtype] * (e.abs() + 0.02 * largest) + 3 * tiny
        ).all()
        assert largest > 0


@every_process
@pytest.mark.parametrize("max_speed", [None, 0.5])
@pytest.mark.parametrize("kind", ["velocity", "euler", "ab2", "unguided"])
def test_gradient_of_the_guidance_weight_and_of_missing_parts(process, max_speed, kind):
    x, cond, uncond, prev = (v.requires_grad_() for v in tensors((3, 36)))
    w = rows(3, 5, 0, 4).float().requires_grad_()

    def results(library, x, cond, uncond, prev, w):
        if kind == "velocity":
            return (library.guided_velocity(cond, uncond, w, max_speed, process),)
        without = (None if kind == "unguided" else uncond, prev if kind == "ab2" else None)
        return library.guided_step(x, cond, *without, w, 0.3, 0.2, max_speed, process)

    inputs = (x, cond, uncond, prev, w)
    exact = [v.detach().double().requires_grad_() for v in inputs]
    used = {"velocity": [1, 2, 4], "euler": [0, 1, 2, 4], "ab2": [0, 1, 2, 3, 4], "unguided": [0, 1]}[kind]
    got = gradients(results(ops, *inputs), [inputs[i] for i in used])
    want = gradients(results(reference, *exact), [exact[i] for i in used])
    for g, e in zip(got, want, strict=True):
        assert (g - e).abs().max() <= 5e-6 * e.abs().max()


@pytest.mark.parametrize("process", ["planar", "quad"])
def test_gradient_of_the_limit_far_from_one_and_of_no_limit(process):
    """Squares of such numbers are none of float32's; a limit of infinity is none."""
    for size in (3e-25, 3e25):
        u = torch.tensor([[size, 4 * size / 3, 0.0, 0.0]], requires_grad=True)
        (got,) = gradients((ops.guided_velocity(u, torch.zeros_like(u), 0.0, size / 3, process),), [u])
        exact = (u.detach().double() / size).requires_grad_()
        (want,) = gradients((reference.guided_velocity(exact, torch.zeros_like(exact), 0.0, 1 / 3, process),), [exact])
        assert (got - want).abs().max() <= 5e-6 * want.abs().max()
    u = torch.randn(2, 4, requires_grad=True)
    v = ops.guided_velocity(u, torch.zeros(2, 4), 1.0, float("inf"), process)
    (first,) = torch.autograd.grad(v.square().sum(), u, create_graph=True)
    assert torch.equal(torch.autograd.grad(first.sum(), u)[0], torch.full_like(u, 8.0))


def test_gradient_of_the_velocity_on_the_cone_and_close_to_it():
    t = torch.ones(1, dtype=torch.float64)
    k = torch.tensor([[1.0, -1.0, 0.999999, 0.5, 0.0]], requires_grad=True)
    (grad,) = torch.autograd.grad(ops.kac_velocity(k, t, "telegraph", 9.0, 1.0).sum(), k)
    assert (grad[0, :2] == 0).all()
    exact = k.detach().double().requires_grad_()
    (want,) = torch.autograd.grad(reference.kac_velocity(exact, t, "telegraph", 9.0, 1.0).sum(), exact)
    assert torch.allclose(grad[0, 2:].double(), want[0, 2:], rtol=1e-5)
    for lam in (1e-4, 1.0, 300.0):
        k = torch.linspace(-0.99, 0.99, 200)[None].requires_grad_()
        exact = k.detach().double().requires_grad_()
        (grad,) = torch.autograd.grad(ops.kac_velocity(k, t, "telegraph", lam, 1.0).sum(), k)
        (want,) = torch.autograd.grad(reference.kac_velocity(exact, t, "telegraph", lam, 1.0).sum(), exact)
        assert torch.allclose(grad.double(), want, rtol=1e-5, atol=1e-30)


def test_gradient_of_the_quad_velocity_on_the_sphere_is_that_of_its_direction():
    """v = c x / |x| there: nothing along x, and across it c / |x|."""
    x = torch.tensor([[0.6, 0.0, 0.0, 0.8]], requires_grad=True)
    (grad,) = torch.autograd.grad(ops.kac_velocity(x, torch.ones(1), "quad", 9.0, 1.0)[0, 0], x)
    assert torch.allclose(grad, torch.tensor([[0.64, 0.0, 0.0, -0.48]]), atol=1e-6)


def test_gradient_of_the_planar_velocity_on_the_light_circle_is_that_of_a_straight_way():
    """v = x / t there. Outwards its slope is infinite, and only this part is kept."""
    x, grad_v = torch.tensor([[0.6, 0.8, 1.0, 0.0]], requires_grad=True), torch.tensor([[1.0, 0, 2, 3]])
    (grad,) = torch.autograd.grad(ops.kac_velocity(x, torch.ones(1), "planar", 9.0, 1.0), x, grad_v)
    assert torch.allclose(grad, grad_v)


def test_gradient_of_the_loss_weighs_rows():
    x, u, end = (v.requires_grad_() for v in tensors((3, 34))[:3])
    delta, weight = rows(3, 9, 0.1, 1), torch.tensor([0.0, 1.0, 3.0])
    got = torch.autograd.grad(ops.endpoint_loss(x, u, end, delta, weight), (x, u, end), torch.tensor(2.0))
    assert all((g[0] == 0).all() for g in got)
    residual = (weight / (3 * 34))[:, None] * 2 * 2 * ((x - end) / delta.float()[:, None] - u)
    for g, e in zip(
        got, (residual / delta.float()[:, None], -residual, -residual / delta.float()[:, None]), strict=True
    ):
        assert torch.allclose(g, e, rtol=1e-5, atol=1e-9)
    # Each alone, as where nothing else is trained.
    for i, alone in enumerate((x, u, end)):
        args = [v if v is alone else v.detach() for v in (x, u, end)]
        (grad,) = torch.autograd.grad(ops.endpoint_loss(*args, delta, weight), alone, torch.tensor(2.0))
        assert torch.equal(grad, got[i])


def test_the_scale_of_a_loss_multiplies_its_gradient_before_that_is_rounded_to_float16():
    """A gradient of 2.5e-9, which float16 has not, times a scale of 2^16, by which autocast trains."""
    x, u, end = (torch.full((1, 8), value, dtype=torch.float16) for value in (0.0, 1e-3, 0.0))
    loss = ops.endpoint_loss(x, u.requires_grad_(), end, torch.ones(1), torch.full((1,), 1e-5))
    (grad,) = torch.autograd.grad(loss, u, torch.tensor(2.0**16))
    assert torch.allclose(grad.float(), torch.full((1, 8), 2**16 * 1e-5 * 2 * 1e-3 / 8), rtol=2e-3, atol=0)


@pytest.mark.parametrize("name", [name for name in DIFFERENTIABLE if name != "kac_pair to t_to"])  # which it has not
@every_process
@pytest.mark.parametrize("max_speed", [None, 0.5])
def test_gradcheck_of_the_reference(name, process, max_speed):
    inputs = [x.double().requires_grad_() for x in tensors((2, 8))[: CASES[name][1]]]
    extra = (max_speed,) if name.startswith("guided") else ()
    function = {
        "kac_velocity": velocity,
        "kac_pair": pair,
        "guided_velocity": guide,
        "guided_step": step,
        "endpoint_loss": loss,
    }
    assert torch.autograd.gradcheck(lambda *v: function[name](reference, *v, process, *extra), inputs)


T = rows(3).double()
X, U, V, W = tensors((3, 4, 8))
HALF = (0.5, 1.5, 0.3)


def samples():
    """(overload, arguments): each overload, with and without its optional tensors, once asking for gradients."""
    seed, row = torch.tensor([5]), torch.ones(3)
    out, out2, out3 = torch.empty(3, 4, 8), torch.empty(3, 4, 8), torch.empty(3, 4, 8)
    for process in PROCESSES:
        yield lib.kac_noise.default, (T, [4, 8], process, A, C, 5, None, 2, torch.float32)
        yield lib.kac_noise.out, (T, out, process, A, C, 0, seed, 2)
        yield lib.kac_velocity.default, (X.clone().requires_grad_(), T + 1, process, A, C)
        yield lib.kac_pair.default, (X.clone().requires_grad_(), T, process, A, C, "exp", "quadratic", 0.7, 0, seed, 2)
        yield lib.kac_pair.out, (X, T, out, out2, process, A, C, "linear", "linear", 1.0, 5, None, 0)
        to = (X.clone().requires_grad_(), T, T.flip(0).float(), process, A, C)
        yield lib.kac_pair.to, (*to, "cosine", "quadratic", 0.7, 0, seed, 2)
        yield lib.kac_pair.to_out, (X, T, T / 2, out, out2, out3, process, A, C, "exp", "linear", 0.5, 5, None, 0)
        yield (
            lib.guided_velocity.default,
            (X.clone().requires_grad_(), U.clone().requires_grad_(), 2.0, None, 0.5, process),
        )
        yield lib.guided_velocity.default, (X, U.bfloat16().float(), 0.0, row.clone().requires_grad_(), None, process)
        leaves = [v.clone().requires_grad_() for v in (X, U, V, W)]
        yield lib.guided_step.default, (*leaves, *HALF, None, row, None, 0.5, process)
        yield lib.guided_step.default, (leaves[0], leaves[1], None, None, *HALF, None, None, None, None, process)
        yield lib.guided_step.out, (X, U, V, W, out, out2, *HALF, row, row, row, 0.5, process)
    yield lib.endpoint_loss.default, (*(v.clone().requires_grad_() for v in (X, U, V)), T + 1, None)
    yield lib.endpoint_loss.default, (X.bfloat16(), U.bfloat16(), V.bfloat16(), T + 1, row)


SAMPLES = list(samples())


@pytest.mark.parametrize("index", range(len(SAMPLES)), ids=[f"{op}-{i}" for i, (op, _) in enumerate(SAMPLES)])
def test_opcheck(index):
    op, arguments = SAMPLES[index]
    torch.library.opcheck(op, arguments)


def compiled_cases(process):
    """name: (function of tensors and row scalars, number of tensors)."""
    return {
        "kac_noise": (lambda x, t, s: ops.kac_noise(t, x.shape[1:], process, A, C, s, 3), 1),
        "kac_velocity": (lambda k, t, s: ops.kac_velocity(k, t + 1, process, A, C), 1),
        "kac_pair": (lambda x0, t, s: ops.kac_pair(x0, t, process, A, C, "cosine", "quadratic", s), 1),
        "kac_pair to t_to": (
            lambda x0, t, s: ops.kac_pair(x0, t, process, A, C, "cosine", "quadratic", s, t_to=t.flip(0)),
            1,
        ),
        "guided_velocity": (lambda u, v, t, s: ops.guided_velocity(u, v, t, 0.5, process), 2),
        "guided_step": (lambda x, u, v, p, t, s: ops.guided_step(x, u, v, p, t, 0.1, t + 1, 0.5, process), 4),
        "endpoint_loss": (lambda x, u, e, t, s: ops.endpoint_loss(x, u, e, t + 1), 3),
    }


@pytest.mark.parametrize("name", CASES)
@every_process
def test_compile(name, process):
    """One graph for all shapes, the same bits and gradients as eager; the seed is a tensor, so a new one draws anew."""
    torch._dynamo.reset()
    backend = "inductor" if (name, process) == ("guided_step", "planar") else "aot_eager"
    function, count = compiled_cases(process)[name]
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=backend)
    for seed, shape in enumerate(((3, 4, 8), (5, 8, 12))):
        inputs = [x.requires_grad_(name in DIFFERENTIABLE) for x in tensors(shape)[:count]]
        scalars = (rows(shape[0]), torch.tensor([seed]))
        got, want = compiled(*inputs, *scalars), function(*inputs, *scalars)
        got, want = (r if isinstance(r, tuple) else (r,) for r in (got, want))
        assert all(map(torch.equal, got, want))
        if name in DIFFERENTIABLE:
            for g, e in zip(gradients(got, inputs), gradients(want, inputs), strict=True):
                # inductor may contract the gradient formulas, which are plain torch
                assert torch.equal(g, e) if backend == "aot_eager" else torch.allclose(g, e, rtol=2e-6, atol=1e-7)
