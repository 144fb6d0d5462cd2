"""Errors beside the speed, against the float64 reference: every SIMD level gives the same bits, so one is measured."""

import pytest
import torch

from benchmarks import checks
from benchmarks.problems import H_PREV, MEDIUM, PROCESSES, H, W, tensors, times
from distillkac import ops
from distillkac.ops import reference

C = 2.0  # c t is then exact in float32 at t = 1, and reference and kernel agree on where the cone lies
LAMBDAS = torch.logspace(-3, 3, 13, dtype=torch.float64).tolist()
DRAWS, BATCH = 10**8, (64, 65536)


@pytest.mark.parametrize("process", PROCESSES)
def test_velocity_error(measure, device, process):
    """Largest error at 2^18 displacements inside the cone, for every lambda; half of them close to it."""

    def errors():
        worst_ulp = worst_relative = 0.0
        for i, lam in enumerate(LAMBDAS):
            k, t = displacements(i, process).to(device), torch.ones(4, device=device)
            v = ops.kac_velocity(k, t, process, lam, C).cpu().double()
            exact = reference.kac_velocity(k.cpu(), t.cpu(), process, lam, C)
            error, size = (v - exact).abs(), exact.abs()
            worst_ulp = max(worst_ulp, float((error / ulp(size)).max()))
            worst_relative = max(worst_relative, float((error / size).max()))
        return {"max_ulp": worst_ulp, "max_relative": worst_relative}

    measure(errors, op="kac_velocity", process=process, series="accuracy")


def displacements(seed, process):
    """(4, 65536) float32 strictly inside |k| < c, for planar as pairs, for quad as fours."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.rand(4, 65536, generator=generator, dtype=torch.float64)
    size[2:] = 1 - 10 ** (-6 * size[2:])  # from 0 to 1e-6 before the cone
    angle = 2 * torch.pi * torch.rand(4, 65536, generator=generator, dtype=torch.float64)
    if process == "quad":
        size = size.clamp(
            max=1 - 1e-5
        )  # nearer to the sphere, where the velocity jumps, k does not tell which side it is on
        way = torch.randn(4, 16384, 4, generator=generator, dtype=torch.float64)
        return (C * size[:, ::4, None] * way / way.norm(dim=-1, keepdim=True)).flatten(1).float()
    if process == "planar":
        size, angle = size[:, ::2], angle[:, ::2]
        return (C * torch.stack([size * angle.cos(), size * angle.sin()], -1).flatten(1)).float()
    return (C * torch.where(angle < torch.pi, size, -size)).float()


def ulp(size):
    """Unit in the last place of float32 at numbers >= 0, float64."""
    return torch.exp2(torch.floor(torch.log2(size.clamp(min=2.0**-126))) - 23)


@pytest.mark.parametrize("lam", [0.1, 9.0, 25.0, 1000.0])
@pytest.mark.parametrize("process", PROCESSES)
def test_noise_law(measure, device, process, lam):
    """Kolmogorov-Smirnov distance of 1e8 draws over its 5% critical value, at 2048 equal bins of |K|."""
    t, out = torch.ones(BATCH[0], device=device), torch.empty(BATCH, device=device)
    batches = -(-DRAWS // out.numel())

    def draw(i):
        k = ops.kac_noise(t, BATCH[1:], process, lam, 1.0, 11, i * BATCH[0], out=out)
        return k.abs() if process == "telegraph" else checks.lengths(k, process)

    def distance():
        return {"draws": batches * out.numel(), "ks_over_critical": checks.ks_ratio(draw, batches, process, lam)}

    measure(distance, op="kac_noise", process=process, lam=lam, series="accuracy")


def test_guided_step_error(measure, device):
    x, u_cond, u_uncond, u_prev = tensors(4, MEDIUM, device)

    def errors():
        arguments = (x, u_cond, u_uncond, u_prev, W, H, H_PREV)
        pairs = zip(ops.guided_step(*arguments), reference.guided_step(*(cpu(v) for v in arguments)), strict=True)
        return {"max_relative": max(checks.relative_error(got, exact) for got, exact in pairs)}

    measure(errors, op="guided_step", series="accuracy")


def test_endpoint_loss_error(measure, device):
    x, u, x_end = tensors(3, MEDIUM, device)
    delta = times(len(x), device) + 0.1
    u.requires_grad_()

    def errors():
        got = ops.endpoint_loss(x, u, x_end, delta)
        precise = [cpu(v).detach().double() for v in (x, u, x_end, delta)]
        precise[1].requires_grad_()
        exact = reference.endpoint_loss(*precise)
        gradients = torch.autograd.grad(got, u)[0], torch.autograd.grad(exact, precise[1])[0]
        return {
            "max_relative": checks.relative_error(got, exact.detach()),
            "max_relative_gradient": checks.relative_error(*gradients),
        }

    measure(errors, op="endpoint_loss", series="accuracy")


def cpu(value):
    return value.cpu() if isinstance(value, torch.Tensor) else value
