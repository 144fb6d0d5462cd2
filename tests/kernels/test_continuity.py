"""The continuity equation: K_1 pushed back along dK/dt = v(t, K) has the law of K_t, for every process.

Going back in time the light cone closes faster than the particles inside it move; one that meets the cone stays on it,
where |v| = c: this fills the atoms of K_t, whose mass exp(-a t) grows towards t = 0. Inside, the telegraph's flow keeps
the order of particles, so it maps quantiles to quantiles; the planar flow does that to radii and keeps directions.
"""

import itertools
import math

import numpy as np
import pytest
import torch

from distillkac import ops
from distillkac.ops import reference
from tests.kernels import statistics_tools as st
from tests.kernels.planar_statistics import planar_law

A, C = 4.0, 1.0


def push_back(k, t_end, process, velocity, steps=400):
    """k (N,) or (N, 2) from t = 1 to t_end by Heun's method, particles that meet the cone staying on it. velocity(k, t)."""
    times = np.linspace(1.0, t_end, steps + 1)
    length = (lambda w: w.abs()) if process == "telegraph" else (lambda w: w.norm(dim=-1, keepdim=True))

    def onto_cone(w, t):
        size = length(w)
        return torch.where(size >= C * t, w * (C * t / size.clamp(min=1e-300)), w)

    on_cone = length(k) >= C
    for t, t_next in itertools.pairwise(times):
        v = velocity(k, t)
        guess = onto_cone(k - (t - t_next) * v, t_next)
        k_next = k - (t - t_next) * (v + velocity(guess, t_next)) / 2
        on_cone = on_cone | (length(k_next) >= C * t_next)
        k = torch.where(on_cone, k * (t_next * C / length(k).clamp(min=1e-300)), k_next)
    return k, on_cone


def within(k, t):
    """(N, 4), those on the sphere brought as far inside as no longer counts as on it."""
    return k * (C * t * (1 - 2e-6) / k.norm(dim=-1, keepdim=True).clamp(min=1e-300)).clamp(max=1)


def exact_velocity(process, factor=1.0):
    def velocity(k, t):
        # float64, and the value just inside for particles that are not on the cone
        inside = k.clamp(-C * t * (1 - 1e-13), C * t * (1 - 1e-13)) if process == "telegraph" else k
        inside = within(k, t) if process == "quad" else inside
        time = torch.tensor([t], dtype=torch.float64)
        return factor * reference.kac_velocity(inside.reshape(1, -1), time, process, A, C).reshape(k.shape)

    return velocity


def op_velocity(process, factor=1.0):
    """The same by the kernel in float32; positions stay in float64."""

    def velocity(k, t):
        top = np.nextafter(np.float32(C * t), np.float32(0))
        k32 = k.float().clamp(-top, top) if process == "telegraph" else k.float()
        k32 = within(k, t).float() if process == "quad" else k32
        v = ops.kac_velocity(k32.reshape(1, -1), torch.tensor([t], dtype=torch.float64), process, A, C)
        return factor * v.double().reshape(k.shape)

    return velocity


def telegraph_cdf(k, t):
    """P(K_t <= k) at k (N,) inside the cone."""
    inside = reference.telegraph_cdf_abs(k.abs() / (C * t), A * t)
    return 0.5 + torch.sign(k) * inside / 2


@pytest.mark.parametrize("t_end", [0.7, 0.3, 0.1])
@pytest.mark.parametrize("make", [exact_velocity, op_velocity])
def test_telegraph_flow_maps_quantiles_to_quantiles(t_end, make):
    """Deterministic: F_t(flow(k)) = F_1(k) inside, and exactly those with P(|K_1| > |k|) < exp(-a t) reach the cone."""
    k = torch.linspace(-0.999, 0.999, 400, dtype=torch.float64)
    before = telegraph_cdf(k, 1.0)
    after, on_cone = push_back(k, t_end, "telegraph", make("telegraph"))
    atom = math.exp(-A * t_end) / 2
    clear = (torch.minimum(before, 1 - before) - atom).abs() > 1e-3
    assert torch.equal(on_cone[clear], (torch.minimum(before, 1 - before) < atom)[clear])
    inside = clear & ~on_cone
    assert inside.sum() > 20
    assert on_cone.sum() > 20
    assert (telegraph_cdf(after[inside], t_end) - before[inside]).abs().max() <= 2e-5  # measured 6e-6, Heun's error


@pytest.mark.parametrize("t_end", [0.7, 0.3, 0.1])
@pytest.mark.parametrize("make", [exact_velocity, op_velocity])
def test_planar_flow_keeps_age_and_direction(t_end, make):
    """P(|K_t| <= r) = 1 - exp(-a (t - s/c)), so t - s/c is constant along the flow until s = 0: then |K| = c t."""
    radius = torch.linspace(0.01, 0.9999, 500, dtype=torch.float64)
    angle = torch.linspace(0, 40, 500, dtype=torch.float64)
    k = radius[:, None] * torch.stack([angle.cos(), angle.sin()], -1)
    after, on_circle = push_back(k, t_end, "planar", make("planar"), steps=1500)
    on_circle = on_circle[:, 0]
    age = 1 - (1 - radius**2).sqrt() / C
    clear = (age - t_end).abs() > 2e-3
    assert torch.equal(on_circle[clear], (age > t_end)[clear])
    length = after.norm(dim=-1)
    inside = clear & ~on_circle
    assert inside.sum() > 20
    assert on_circle.sum() > 20
    exact = ((C * t_end) ** 2 - (t_end - age[inside]) ** 2).sqrt()
    assert (length[inside] - exact).abs().max() <= 1e-4 * t_end
    cross = after[:, 0] * k[:, 1] - after[:, 1] * k[:, 0]
    assert (cross.abs() / (length * radius)).max() <= 1e-6


@pytest.mark.parametrize("t_end", [0.7, 0.3, 0.1])
@pytest.mark.parametrize("make", [exact_velocity, op_velocity])
def test_quad_flow_keeps_quantile_and_direction(t_end, make):
    """P(|K_t| > r) is constant along the flow until it is exp(-a t): then |K| = c t."""
    radius = torch.linspace(0.01, 0.9999, 500, dtype=torch.float64)
    angle = torch.linspace(0, 40, 500, dtype=torch.float64)
    k = radius[:, None] * torch.stack([angle.cos() * 0.6, angle.sin() * 0.6, 0 * angle + 0.48, 0 * angle + 0.64], -1)
    before = 1 - reference.quad_cdf_radius(radius / C, A)
    after, on_sphere = push_back(k, t_end, "quad", make("quad"), steps=800)
    on_sphere, atom = on_sphere[:, 0], math.exp(-A * t_end)
    clear = (before - atom).abs() > 2e-3
    assert torch.equal(on_sphere[clear], (before < atom)[clear])
    length = after.norm(dim=-1)
    inside = clear & ~on_sphere
    assert inside.sum() > 20
    assert on_sphere.sum() > 20
    quantile = 1 - reference.quad_cdf_radius(length[inside] / (C * t_end), A * t_end)
    assert (quantile - before[inside]).abs().max() <= 2e-5
    assert (after / length[:, None] - k / radius[:, None]).abs().max() <= 1e-6


def law_p_values(process, t_end, velocity):
    """Samples of K_1 by the kernel, pushed back: p-values of the law of K_t, atoms included."""
    # Near the light circle s changes like a square root: the planar flow needs smaller steps and bears fewer particles.
    n, steps = (50_000, 200) if process == "telegraph" else (20_000, round(600 * (1 - t_end)))
    if process == "telegraph":
        k = ops.kac_noise(torch.ones(1), (n,), process, A, C, 21)[0].double()
        law = st.telegraph_law(A * t_end)
    else:
        k = ops.kac_noise(torch.ones(1), (2 * n,), process, A, C, 21)[0].double().reshape(-1, 2)
        at_circle = k.norm(dim=-1, keepdim=True)
        k = torch.where(at_circle > 1 - 3e-7, k / at_circle * (1 + 1e-15), k)
        law = planar_law(A * t_end)
    after, on_cone = push_back(k, t_end, process, velocity, steps)
    on_cone = on_cone.reshape(-1)
    xi = (after if process == "telegraph" else after.norm(dim=-1)) / (C * t_end)
    p = {"atoms": st.binomial_p(int(on_cone.sum()), n, law.atom)}
    size = xi.abs()[~on_cone]
    if process == "telegraph":
        edges, cdf = law.edges, law.cdf
        p["sign"] = st.binomial_p(int((xi > 0).sum()), n, 0.5)
    else:
        edges, cdf = law.radii, law.radius_cdf / law.mass
        turn = torch.remainder(torch.atan2(after[:, 1], after[:, 0]) / (2 * math.pi), 1.0)
        p["angle"] = st.chi2_p(torch.bincount((turn * 64).long().clamp(max=63), minlength=64), np.full(64, n / 64))
    p["law"] = st.ks_p(
        torch.bincount(torch.bucketize(size, torch.from_numpy(edges)), minlength=len(edges) + 1).numpy(), cdf
    )
    return p


@pytest.mark.parametrize("process", ["telegraph", "planar"])
@pytest.mark.parametrize("t_end", [0.5, 0.15])
def test_samples_pushed_back_have_the_law(process, t_end):
    """5e4 or 2e4 particles; levels as in tests/kernels/statistics_tools.py: Kolmogorov-Smirnov at 3e-5, sqrt(n) D < 2.4."""
    assert not st.failures(law_p_values(process, t_end, op_velocity(process)))


@pytest.mark.parametrize("process", ["telegraph", "planar"])
def test_a_velocity_five_percent_off_is_noticed_in_the_law(process):
    assert st.failures(law_p_values(process, 0.5, op_velocity(process, 0.95)))


@pytest.mark.parametrize(
    "test",
    [
        test_telegraph_flow_maps_quantiles_to_quantiles,
        test_planar_flow_keeps_age_and_direction,
        test_quad_flow_keeps_quantile_and_direction,
    ],
)
def test_a_velocity_a_thousandth_off_is_noticed_in_the_flow(test):
    with pytest.raises(AssertionError):
        test(0.3, lambda process: op_velocity(process, 0.999))
