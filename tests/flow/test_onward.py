"""Displacements carried back along their flow, and onward as the process moves: laws against simulation, path by path."""

import math

import pytest
import torch

from distillkac.base.random import generator
from distillkac.flow.onward import back, onward
from distillkac.flow.processes import Gaussian, Planar, Quad, Telegraph

SHAPE, SIZE = (400, 100), 40_000
PROCESSES = [Telegraph(3.0, 2.0), Telegraph(25.0, 2.0), Planar(3.0, 2.0), Planar(25.0, 2.0), Gaussian(0.4)]
by_process = pytest.mark.parametrize("process", PROCESSES, ids=lambda p: f"{p.name}-{vars(p).get('a', p.name)}")


def noise(process, age, seed):
    return process.noise(torch.full((SHAPE[0],), age, dtype=torch.float64), SHAPE[1:], seed)


def distance(x, y):
    """Kolmogorov-Smirnov, two samples of any shape."""
    x, y = (v.flatten().double().sort().values for v in (x, y))
    both = torch.cat([x, y])
    below = [torch.searchsorted(v, both, right=True) / len(v) for v in (x, y)]
    return float((below[0] - below[1]).abs().max())


def critical(n):
    """Of the two-sample distance, n each, at a probability of 1e-4."""
    return 2.23 * math.sqrt(2 / n)


def sizes(process, k, age):
    """What has the law's atoms: coordinates, or for planar lengths of pairs; next to the light cone, on it."""
    if isinstance(process, Gaussian):
        return k
    c = process.c * age
    if isinstance(process, Planar):
        k = k.double().unflatten(-1, (-1, 2)).norm(dim=-1)
    return torch.where(k.abs() > c * (1 - 1e-5), k.sign() * c, k)


def simulated(process, first, last):
    """Displacements at two ages of the same particles, from waiting times and directions: (400, 100) float64 each."""
    source = generator(5, process.name)
    pairs = isinstance(process, Planar)
    n = SIZE // 2 if pairs else SIZE
    turns = 20 + int(6 * process.a * last)
    waits = torch.empty(n, turns, dtype=torch.float64).exponential_(process.a, generator=source)
    ends = waits.cumsum(1)
    begins = ends - waits
    if pairs:
        angle = 2 * math.pi * torch.rand(n, turns, dtype=torch.float64, generator=source)
        ways = torch.stack([angle.cos(), angle.sin()], -1)
    else:
        start = torch.randint(0, 2, (n, 1), generator=source) * 2.0 - 1
        ways = (start * (-1.0) ** torch.arange(turns))[..., None].double()
    found = []
    for age in (first, last):
        spent = (ends.clamp(max=age) - begins).clamp(min=0)
        found.append((process.c * (spent[..., None] * ways).sum(1)).reshape(SHAPE))
    return found


@by_process
@pytest.mark.parametrize(("age", "to"), [(0.6, 0.3), (0.2, 0.05), (1.0, 0.01)])
def test_the_flow_keeps_the_law_on_its_way_back(process, age, to):
    moved = back(process, noise(process, age, 1), age, to)
    assert distance(sizes(process, moved, to), sizes(process, noise(process, to, 2), to)) < critical(SIZE // 2)


@by_process
def test_the_flow_back_is_the_one_that_the_velocity_leads_along(process):
    """Towards the data by a short step: dK/dt = v."""
    k, ages = noise(process, 0.5, 3).double(), torch.full((SHAPE[0],), 0.5, dtype=torch.float64)
    h = 1e-4
    moved = (k - back(process, k, 0.5, 0.5 - h)) / h
    far = (moved - process.velocity(k.float(), ages).double()).abs() > 0.02
    assert far.double().mean() < 0.001  # those of the telegraph that meet the light cone just there, where v jumps


@pytest.mark.parametrize("process", PROCESSES[:4], ids=lambda p: f"{p.name}-{p.a:g}")
def test_what_goes_onward_is_like_particles_that_were_followed(process):
    """Of a particle at two ages: where it ends, and how far it went on in the direction that it had come."""
    first, last = 0.2, 0.35
    early, late = simulated(process, first, last)
    drawn = onward(process, early.float(), first, last, seed=4).double()
    fair = early + noise(process, last - first, 6)  # which forgets the direction

    def gone_on(end):
        if isinstance(process, Planar):
            start, moved = (v.unflatten(-1, (-1, 2)) for v in (early, end - early))
            return (start * moved).sum(-1) / start.norm(dim=-1)
        return (end - early) * early.sign()

    limit = critical(SIZE // 2 if isinstance(process, Planar) else SIZE)
    assert distance(sizes(process, drawn, last), sizes(process, late, last)) < limit
    # To 1e-4, so that the roundings of atoms are no distance.
    assert distance(gone_on(drawn).round(decimals=4), gone_on(late).round(decimals=4)) < limit
    assert distance(gone_on(fair).round(decimals=4), gone_on(late).round(decimals=4)) > limit


@by_process
@pytest.mark.parametrize(("age", "to"), [(0.05, 0.3), (0.1, 0.12), (0.0, 0.4)])
def test_onward_keeps_the_law(process, age, to):
    moved = onward(process, noise(process, age, 1), age, to, seed=7)
    assert distance(sizes(process, moved, to), sizes(process, noise(process, to, 2), to)) < critical(SIZE // 2)


def test_particles_that_never_turned_are_on_the_cone_to_the_bit():
    process = Telegraph(3.0, 2.0)
    moved = onward(process, noise(process, 0.1, 1), 0.1, 0.3, seed=7)
    on = (moved.abs() == float(torch.tensor(0.6))).double().mean().item()
    assert on == pytest.approx(math.exp(-0.9), abs=0.012)  # 5 standard deviations
    assert moved.abs().max() == float(torch.tensor(0.6))


@by_process
def test_rows_depend_on_their_number_alone(process):
    k = noise(process, 0.1, 1)
    whole = onward(process, k, 0.1, 0.3, seed=7, offset=3)
    part = onward(process, k[200:], 0.1, 0.3, seed=7, offset=203)
    torch.testing.assert_close(part, whole[200:], rtol=1e-6, atol=1e-7)
    assert (whole != onward(process, k, 0.1, 0.3, seed=8, offset=3)).any()


def test_the_same_age_moves_nothing_and_others_are_refused():
    process, k = Telegraph(), torch.ones(2, 2) / 10
    assert back(process, k, 0.5, 0.5) is k
    assert onward(process, k, 0.5, 0.5, 0) is k
    assert (back(process, k, 0.5, 0.0) == 0).all()
    with pytest.raises(ValueError, match="ages must be 0 <= to <= age"):
        back(process, k, 0.3, 0.5)
    with pytest.raises(ValueError, match="ages must be 0 <= age <= to"):
        onward(process, k, 0.5, 0.3, 0)
    with pytest.raises(ValueError, match="got quad: draw a share of each step anew by restart"):
        back(Quad(), k, 0.5, 0.3)
