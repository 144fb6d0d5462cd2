"""The processes: laws, the bridge, the finite-speed bound, independence of how a batch is split."""

import math

import mpmath
import pytest
import torch

from distillkac.base.random import SampleOrder, derive_seed, generator, normal_rows
from distillkac.flow import processes
from distillkac.flow.noise_stream import NoiseStream
from distillkac.flow.processes import Gaussian, Planar, Process, Quad, Telegraph
from distillkac.ops.schedules import F_NAMES, G_NAMES

ALL = (Telegraph(9.0, 3.0), Planar(9.0, 3.0), Quad(9.0, 3.0), Gaussian(0.7))
SIZE = (3, 4, 6)


def test_derive_seed_is_stable_and_unambiguous():
    # Known answer: a change here would silently change every published run.
    assert derive_seed(0, "noise") == 4030203833695839874
    names = [("a",), ("b",), ("a", 1), ("a", "1"), ("a1",), ("a", "b"), ("ab",), (), ("a", 1, 0)]
    assert len({derive_seed(0, *n) for n in names}) == len(names)
    assert derive_seed(1, "a") != derive_seed(0, "a")
    assert all(0 <= derive_seed(seed, "x") < 2**63 for seed in (-5, 0, 2**70))


def test_sample_order_is_a_permutation_per_epoch_and_splits_anywhere():
    order = SampleOrder(7, seed=3)
    whole = order(0, 21)
    for epoch in range(3):
        assert sorted(whole[7 * epoch : 7 * epoch + 7].tolist()) == list(range(7))
    assert len({tuple(epoch) for epoch in whole.view(3, 7).tolist()}) == 3
    parts = torch.cat([SampleOrder(7, seed=3)(a, b) for a, b in ((0, 5), (5, 5), (5, 16), (16, 21))])
    assert torch.equal(whole, parts)
    assert not torch.equal(whole, SampleOrder(7, seed=4)(0, 21))
    with pytest.raises(ValueError, match="empty"):
        SampleOrder(0, seed=0)


@pytest.mark.parametrize("process", ALL, ids=lambda p: p.name)
def test_rows_do_not_depend_on_the_split(process):
    t = torch.linspace(0, 1, 9)
    x0 = torch.rand(9, *SIZE, generator=generator(0, "x0")) * 2 - 1
    whole = process.pair(x0, t, seed=5)
    parts = [process.pair(x0[a:b], t[a:b], seed=5, offset=a) for a, b in ((0, 4), (4, 5), (5, 9))]
    for k in range(2):
        assert torch.equal(whole[k], torch.cat([part[k] for part in parts]))
    assert torch.equal(process.prior(6, SIZE, 1)[2:], process.prior(4, SIZE, 1, offset=2))
    assert not torch.equal(process.prior(6, SIZE, 1), process.prior(6, SIZE, 2))


@pytest.mark.parametrize("process", ALL, ids=lambda p: p.name)
def test_two_times_of_a_path_have_the_bits_of_two_pairs(process):
    t, t_to = torch.linspace(0, 1, 9), torch.linspace(1, 0, 9) ** 2
    x0 = torch.rand(9, *SIZE, generator=generator(0, "x0")) * 2 - 1
    got = process.pair_to(x0, t, t_to, 5, 3)
    assert all(map(torch.equal, got, (*process.pair(x0, t, 5, 3), process.pair(x0, t_to, 5, 3)[0])))
    assert all(map(torch.equal, got, Process.pair_to(process, x0, t, t_to, 5, 3)))  # what others inherit
    assert torch.equal(got[2][-1], x0[-1])  # at t = 0 the data themselves


@pytest.mark.parametrize("process", ALL, ids=lambda p: p.name)
@pytest.mark.parametrize(("f", "g"), [("linear", "linear"), ("cosine", "quadratic"), ("exp", "linear")])
def test_pair_is_the_bridge_and_its_conditional_velocity(process, f, g):
    process = type(process)(**{**process.__dict__, "f": f, "g": g, "kappa": 2.0})
    t = torch.linspace(0.05, 1, 16, dtype=torch.float64)
    x0 = torch.rand(16, *SIZE, generator=generator(1, "x0")) * 2 - 1
    x_t, u = process.pair(x0, t, seed=9)
    torch.testing.assert_close(process.bridge(x0, t, seed=9), x_t, rtol=1e-5, atol=1e-5)
    value = {"linear": 1 - t, "cosine": torch.cos(math.pi / 2 * t), "exp": torch.exp(-2 * t)}[f]
    slope = {"linear": -1 + 0 * t, "cosine": -math.pi / 2 * torch.sin(math.pi / 2 * t), "exp": -2 * value}[f]
    age, rate = (t, 1 + 0 * t) if g == "linear" else (t**2, 2 * t)
    column = lambda v: v.view(-1, 1, 1, 1)  # noqa: E731
    k = process.noise(age, SIZE, 9).double()
    v = process.velocity(k.float(), age).double()
    torch.testing.assert_close(x_t.double(), column(value) * x0 + k, rtol=1e-5, atol=1e-5)
    # `pair` knows how far a particle is from the light cone; `velocity` must take it from the rounded k, and on the
    # planar circle v has a square-root edge: sqrt(float32 eps) is 3e-4.
    tolerance = 3e-3 if process.name == "planar" else 1e-4
    torch.testing.assert_close(u.double(), column(slope) * x0 + column(rate) * v, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("process", ALL, ids=lambda p: p.name)
def test_noise_has_the_variance_of_its_law(process):
    """Sample second moment within 6 standard errors of the closed form; 98 304 coordinates, fixed seed."""
    for t in (0.1, 1.0):
        k = process.noise(torch.full((256,), t), (8, 48), seed=11).double()
        if process.name == "gaussian":
            want = (process.sigma * t) ** 2
        else:
            lam, scale = process.a * t, (process.c / process.a) ** 2
            telegraph = scale * (lam - (1 - math.exp(-2 * lam)) / 2)
            planar = scale * (lam - 1 + math.exp(-lam))  # half of E r^2 of the planar flight
            want = {"telegraph": telegraph, "planar": planar, "quad": planar / 2}[process.name]
        square = k.square().flatten()
        assert abs(square.mean() - want) < 6 * square.std() / math.sqrt(len(square))


def test_targets_keep_the_finite_speed_bound():
    x0 = torch.where(torch.rand(512, 1, 8, 8, generator=generator(2, "x0")) < 0.5, -1.0, 1.0)
    t = torch.rand(512, generator=generator(2, "t"))
    for f in F_NAMES:
        for g in G_NAMES:
            telegraph, planar = Telegraph(3.0, 2.0, f, g, 1.5), Planar(3.0, 2.0, f, g, 1.5)
            fastest = telegraph.pair(x0, t, seed=0)[1].abs().max()
            assert 0.7 * telegraph.max_target_speed() < fastest <= telegraph.max_target_speed() * (1 + 1e-6)
            pairs = planar.pair(x0, t, seed=0)[1].unflatten(-1, (-1, 2)).norm(dim=-1)
            assert 0.6 * planar.max_target_speed() < pairs.max() <= planar.max_target_speed() * (1 + 1e-6)
    assert Telegraph(25.0, 2.0).max_target_speed() == 3.0
    assert Gaussian().max_target_speed() == float("inf")


def test_gaussian_is_plain_flow_matching():
    x0, t = torch.full((4, 2), 0.5), torch.tensor([0.0, 0.25, 0.5, 1.0])
    z = normal_rows(4, (2,), seed=3)
    x_t, u = Gaussian(2.0).pair(x0, t, seed=3)
    torch.testing.assert_close(x_t, (1 - t)[:, None] * x0 + 2 * t[:, None] * z)
    torch.testing.assert_close(u, 2 * z - x0)
    velocity = Gaussian(2.0).velocity(2 * t[:, None] * z, t)
    torch.testing.assert_close(velocity[1:], 2 * z[1:])
    assert torch.equal(velocity[0], torch.zeros(2))


@pytest.mark.parametrize("process", ALL, ids=lambda p: p.name)
def test_dict_round_trip(process):
    assert processes.from_dict(process.to_dict()) == process


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "brownian"}, "telegraph, planar, quad, gaussian"),
        ({"name": "telegraph", "sigma": 1.0}, "parameters are a, c"),
        ({"name": "planar", "a": -1.0}, "a must be positive"),
        ({"name": "telegraph", "c": float("nan")}, "c must be positive"),
        ({"name": "telegraph", "f": "quartic"}, "f must be one of"),
        ({"name": "gaussian", "g": "cubic"}, "g must be one of"),
    ],
)
def test_bad_parameters_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        processes.from_dict(values)


def test_planar_needs_an_even_width():
    Planar().check_shape((1, 8, 8))
    Telegraph().check_shape((1, 8, 7))
    with pytest.raises(ValueError, match="width must be even, got 7"):
        Planar().check_shape((1, 8, 7))


@pytest.mark.parametrize("process", [Telegraph(9.0, 3.0), Planar(9.0, 3.0), Gaussian(0.4)], ids=lambda p: p.name)
def test_std_is_that_of_the_noise(process):
    t = torch.tensor([1e-3, 0.05, 0.4, 1.0], dtype=torch.float64)
    drawn = process.noise(t, (1, 400, 400), seed=5).double().flatten(1)
    # The variance of 160 000 draws is within 5 standard errors; kurtosis at most 3, so sd(var) <= sqrt(2 / n) var.
    torch.testing.assert_close(drawn.square().mean(1), process.std(t) ** 2, rtol=5 * (2 / 160_000) ** 0.5, atol=0)


@pytest.mark.parametrize("process", [Telegraph(), Planar(f="cosine"), Gaussian(g="quadratic")], ids=lambda p: p.name)
def test_a_stream_draws_each_row_once(process):
    x0, t = torch.randn(4, 6), torch.rand(4)
    stream = NoiseStream(process, seed=5)
    got = [stream.pair(x0, t), stream.pair(x0[:3], t[:3]), stream.pair(x0, t)]
    for (x_t, u), first in zip(got, (0, 4, 7), strict=True):
        want = process.pair(x0[: len(x_t)], t[: len(x_t)], 5, first)
        assert torch.equal(x_t, want[0])
        assert torch.equal(u, want[1])
    later = NoiseStream(process, seed=5, next_row=stream.next_row)
    assert torch.equal(later.prior_like(x0), stream.prior_like(x0))
    assert torch.equal(stream.prior_like(x0), process.prior(4, (6,), 5, 15))


@pytest.mark.parametrize("process", [Telegraph(), Planar(), Gaussian()], ids=lambda p: p.name)
def test_a_stream_goes_back_from_the_noise_it_drew(process):
    x0, stream = torch.randn(4, 6), NoiseStream(process, seed=5, next_row=9)
    x1 = stream.prior_like(x0)
    assert torch.equal(stream.pair(x0, torch.ones(4), x1)[0], x1)
    x_t, _ = stream.pair(2 * x0, torch.full((4,), 0.3), x1.clone())
    assert torch.equal(x_t, process.pair(2 * x0, torch.full((4,), 0.3), 5, 9)[0])
    stream.pair(x0, torch.ones(4))
    assert torch.equal(stream.pair(x0, torch.ones(4), x1)[0], x1), "the last prior, whatever pairs came after it"
    assert stream.next_row == 17


def test_a_stream_refuses_noise_that_it_does_not_know():
    x0, t, stream = torch.zeros(4, 6), torch.ones(4), NoiseStream(Planar())
    with pytest.raises(ValueError, match="not the noise that this stream drew last"):
        stream.pair(x0, t, torch.zeros(4, 6))
    old, new = stream.prior_like(x0), stream.prior_like(x0)
    for strange in (old, new.flip(0), new + 1e-6, new[:2], new.flatten(), torch.tensor(0.0), new.tolist()):
        with pytest.raises(ValueError, match=r"not the noise|shape of x0"):
            stream.pair(x0, t, strange)
    with pytest.raises(ValueError, match=r"shape of x0, \(2, 6\), got \(4, 6\)"):
        stream.pair(x0[:2], t[:2], new)
    with pytest.raises(ValueError, match='f = "exp" leaves data in x_1'):
        NoiseStream(Telegraph(f="exp"))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_stream_answers_in_the_dtype_of_the_data(dtype):
    x0 = torch.linspace(-1, 1, 24).view(4, 6).to(dtype)
    t = torch.tensor([0.0, 0.25, 0.5, 1.0]).to(dtype)  # exact in all of them
    x_t, u = NoiseStream(Planar()).pair(x0, t)
    assert x_t.dtype == u.dtype == dtype
    want = NoiseStream(Planar()).pair(x0.float(), t.float())
    torch.testing.assert_close(x_t.float(), want[0].to(dtype).float())
    stream = NoiseStream(Planar())
    x1 = stream.prior_like(x0)
    assert x1.dtype == dtype
    assert stream.pair(x0, t, x1)[0].shape == x0.shape


@pytest.mark.parametrize("process", ALL, ids=lambda p: p.name)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_bridge_has_the_dtype_of_the_data(process, dtype):
    x0, t = torch.full((2, 1, 4, 4), 0.5, dtype=dtype), torch.tensor([0.25, 0.75])
    x_t = process.bridge(x0, t, 3)
    assert x_t.dtype == dtype
    exact = process.bridge(x0.double(), t, 3)
    assert (x_t.double() - exact).abs().max() <= 4 * torch.finfo(dtype).eps * exact.abs().max() + 1e-6


@pytest.mark.parametrize("process", ALL, ids=lambda p: p.name)
@pytest.mark.parametrize("t", [torch.tensor([0.5]), torch.tensor(0.5), 0.5, torch.tensor([0, 1, 1])], ids=str)
def test_one_time_for_many_rows_is_refused(process, t):
    x0 = torch.zeros(3, 1, 4, 4)
    for drawn in (process.bridge, process.pair):
        with pytest.raises(ValueError, match=r"\(3,\)|\(B,\)|integers|int64"):
            drawn(x0, t, 0)
    assert process.bridge(x0[:1], torch.tensor([0.5]), 0).shape == (1, 1, 4, 4)


@pytest.mark.parametrize(("process", "rate", "share"), [(Telegraph, 2, 2), (Planar, 1, 1), (Quad, 1, 2)])
def test_std_has_all_its_digits_however_few_turns_are_expected(process, rate, share):
    """Var = (c / a)^2 (x - 1 + e^-x) / share with x = rate a t (docs/method.md, eq. 3), in 60 digits."""
    a, c = 25.0, 2.0
    times = torch.logspace(-20, 0, 81, dtype=torch.float64)
    with mpmath.workdps(60):
        turns = [rate * mpmath.mpf(a) * mpmath.mpf(t) for t in times.tolist()]
        exact = [float(c / mpmath.mpf(a) * mpmath.sqrt((x - 1 + mpmath.exp(-x)) / share)) for x in turns]
    torch.testing.assert_close(process(a, c).std(times), torch.tensor(exact, dtype=torch.float64), rtol=1e-12, atol=0)
