"""The examples for flow_matching and torchcfm, against the real packages: the law is ours to the bit, the velocity is the
derivative of the path and on average the exact field, and trained by their loops and solved by their solvers noise becomes
the data. A wrong sign and a wrong direction of time are planted, and noticed."""

import dataclasses

import pytest
import torch
from PIL import Image

from distillkac.base.random import generator
from distillkac.flow.exact_flow import ExactFlow, sliced_wasserstein
from distillkac.flow.processes import Planar, Telegraph
from tests.places import ROOT, script

PROCESSES = [Planar(), Telegraph(), Planar(a=9, c=3, f="cosine", g="quadratic"), Telegraph(a=9, c=3, f="cosine")]
by_process = pytest.mark.parametrize("process", PROCESSES, ids=lambda p: f"{p.name}-{p.f}-{p.g}")
FEW_TURNS = [Planar(a=5, c=2), Telegraph(a=5, c=2, f="cosine", g="quadratic")]
CORNERS = torch.tensor([[0.7, 0.7], [-0.7, 0.7], [0.7, -0.7], [-0.7, -0.7]])
SHARES = torch.tensor([0.4, 0.3, 0.2, 0.1])


def flow_matching():
    return script(ROOT / "examples" / "flow_matching_path.py")


def torchcfm():
    return script(ROOT / "examples" / "torchcfm_matcher.py")


class OfTheirs:
    """Both libraries behind one interface: `make(process)`, then `pair(maker, x0, x1, t)` -> (t, x_t, dx_t) in their time."""

    def __init__(self, module, kind):
        self.module, self.kind = module, kind

    def pair(self, made, x0, x1, t):
        if hasattr(made, "sample"):
            sample = made.sample(x_0=x0, x_1=x1, t=t)
            return sample.t, sample.x_t, sample.dx_t
        return made.sample_location_and_conditional_flow(x0, x1, t)

    def noise_like(self, made, x):
        return made.source_like(x) if hasattr(made, "source_like") else made.sample_noise_like(x)


@pytest.fixture(params=["flow_matching", "torchcfm"])
def theirs(request):
    module = {"flow_matching": flow_matching, "torchcfm": torchcfm}[request.param]()
    return OfTheirs(module, module.KacProbPath if request.param == "flow_matching" else module.KacFlowMatcher)


def corners(n: int, seed: int = 0) -> torch.Tensor:
    """(n, 2) float64: four points with unequal shares, so that a flow which only shrinks noise is far from them."""
    return CORNERS.double()[torch.multinomial(SHARES, n, True, generator=generator(seed, "corners"))]


def wrong_sign(made):
    """The velocity from data to noise, as distillkac has it."""
    return planted(made, lambda t, x_t, dx_t, other: (t, x_t, -dx_t))


def wrong_time(made):
    """distillkac's time taken for theirs: data at t = 0."""
    return planted(made, lambda t, x_t, dx_t, other: (t, *other(1 - t)))


def planted(made, change):
    """`made` with the pair (t, x_t, dx_t) changed; other(t) is the pair at another time."""
    if hasattr(made, "sample"):
        right = made.sample

        def sample(x_0, x_1, t):
            def other(t):
                at = right(x_0, x_1, t)
                return at.x_t, at.dx_t

            one = right(x_0, x_1, t)
            t, x_t, dx_t = change(t, one.x_t, one.dx_t, other)
            return dataclasses.replace(one, x_t=x_t, dx_t=dx_t)

        made.sample = sample
    else:
        right_pair = made.sample_location_and_conditional_flow

        def pair(x0, x1, t=None):
            t, xt, ut = right_pair(x0, x1, t)
            return change(t, xt, ut, lambda t: right_pair(x0, x1, t)[1:])

        made.sample_location_and_conditional_flow = pair
    return made


@by_process
def test_the_pair_is_ours_to_the_bit_and_new_at_every_call(theirs, process):
    made = theirs.kind(process, seed=7)
    x1, t = torch.randn(5, 3, 4, generator=generator(0, "x1")), torch.rand(5, generator=generator(0, "t"))
    for row in (0, 5):
        _, x_t, dx_t = theirs.pair(made, None, x1, t)
        ours, u = process.pair(x1, 1 - t, 7, row)
        assert torch.equal(x_t, ours)
        assert torch.equal(dx_t, -u)
    assert made.noise.next_row == 10
    assert torch.equal(theirs.noise_like(made, x1), process.prior(5, (3, 4), 7, 10))


@by_process
def test_ends_and_derivative(theirs, process):
    """At t = 0 the noise, at t = 1 the data, and dx_t the derivative by t of the path between them."""
    made = theirs.kind(process, seed=1)
    x1 = torch.randn(2000, 2, generator=generator(0, "x1"))
    x0 = theirs.noise_like(made, x1)

    def at(t):
        return theirs.pair(made, x0, x1, torch.full((2000,), t, dtype=torch.float64))

    assert torch.equal(at(0.0)[1], x0)
    assert torch.equal(at(1.0)[1], x1)
    for t in (0.2, 0.6, 0.9):
        slope = (at(t + 5e-4)[1] - at(t - 5e-4)[1]) / 1e-3
        assert (at(t)[2] - slope).abs().quantile(0.99) < 1e-3, t  # the rest leave the cone, where the velocity jumps


def field_z(theirs, made, process):
    """z scores of E[(dx_t - u(x_t, t)) phi(x_t, t)] for several phi; u is the exact field, in their time and sign."""
    n, flow = 20_000, ExactFlow(process, CORNERS.double())
    x1 = CORNERS[torch.randint(4, (n,), generator=generator(1, "which"))]
    t = 0.98 * torch.rand(n, dtype=torch.float64, generator=generator(1, "t"))
    t, x_t, dx_t = theirs.pair(made, theirs.noise_like(made, x1), x1, t)
    left = dx_t + flow(x_t, 1 - t)
    scores = []
    for phi in (torch.ones_like(x_t), x_t, x_t.sin() * (3 * t[:, None].float()).cos()):
        products = left * phi
        scores.append(products.mean(0) / (products.std(0) / n**0.5))
    return torch.stack(scores).abs().max()


@pytest.mark.parametrize("process", FEW_TURNS, ids=lambda p: p.name)
def test_the_velocity_is_on_average_the_exact_field(theirs, process):
    """Of 6 z scores one is above 4.5 once in 24,000 seeds. With a wrong sign or time it is 18 to 54."""
    assert field_z(theirs, theirs.kind(process), process) < 4.5
    for plant in (wrong_sign, wrong_time):
        assert field_z(theirs, plant(theirs.kind(process)), process) > 10


def distance(theirs, made):
    """Of samples by their solver to the data, after 300 steps of their loop."""
    network = theirs.module.train(made, corners, 300, batch=256)
    ends = theirs.module.solve(network, theirs.noise_like(made, torch.empty(2000, 2)), torch.tensor([0.0, 1.0]))[-1]
    return sliced_wasserstein(ends, corners(2000))


BAR = 0.13  # measured: 0.06 to 0.08 if right, 0.20 to 0.22 in wrong time, above 0.5 of wrong sign; the noise has 0.4


@pytest.mark.parametrize("process", [PROCESSES[0], PROCESSES[3]], ids=lambda p: p.name)
def test_noise_becomes_the_data_in_their_hands(theirs, process):
    assert distance(theirs, theirs.kind(process)) < BAR


@pytest.mark.parametrize("plant", [wrong_sign, wrong_time])
def test_a_wrong_direction_fails(theirs, plant):
    assert distance(theirs, plant(theirs.kind(Planar()))) > 1.3 * BAR


def test_noise_that_the_path_does_not_know_is_refused(theirs):
    made = theirs.kind(Planar())
    x1, t = torch.zeros(6, 2), torch.full((6,), 0.5)
    with pytest.raises(ValueError, match="not the noise that this stream drew last"):
        theirs.pair(made, torch.randn(6, 2), x1, t)
    old, new = theirs.noise_like(made, x1), theirs.noise_like(made, x1)
    for strange in (old, new.flip(0), 2 * new, new[:3]):
        with pytest.raises((ValueError, AssertionError)):
            theirs.pair(made, strange, x1, t)
    row = made.noise.next_row
    first, again = theirs.pair(made, new.clone(), x1, t)[1], theirs.pair(made, new, x1, t)[1]
    assert torch.equal(first, again)
    assert made.noise.next_row == row, "given noise is not drawn again"


def test_mistakes(theirs):
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"t must be in \[0, 1\], 0 noise and 1 data"):
            theirs.pair(theirs.kind(Planar()), None, torch.zeros(2, 2), torch.tensor([0.5, wrong]))
    with pytest.raises((ValueError, AssertionError)):
        theirs.pair(theirs.kind(Planar()), None, torch.zeros(2, 2), torch.tensor([0.5]))
    with pytest.raises(ValueError, match="even last dimension"):
        theirs.pair(theirs.kind(Planar()), None, torch.zeros(2, 3), torch.rand(2))
    with pytest.raises(ValueError, match='f = "exp" leaves data'):
        theirs.kind(Planar(f="exp"))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtypes_and_gradients(theirs, dtype):
    """Results are like the data, within the rounding of the coarser of float32 and its dtype; gradients reach the data."""
    x1 = torch.randn(8, 4, generator=generator(0, "x1")).to(dtype).requires_grad_()
    t = torch.rand(8, generator=generator(0, "t")).to(dtype)
    _, x_t, dx_t = theirs.pair(theirs.kind(Planar(), seed=3), None, x1, t)
    assert x_t.dtype == dx_t.dtype == dtype
    eps = max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
    same = theirs.pair(theirs.kind(Planar(), seed=3), None, x1.detach().float(), t.float())
    for got, want in zip((x_t, dx_t), same[1:], strict=True):
        torch.testing.assert_close(got.detach().float(), want, rtol=4 * eps, atol=4 * eps)
    (x_t.sum() + 2 * dx_t.sum()).backward()
    torch.testing.assert_close(x1.grad, (t + 2)[:, None].expand(8, 4), rtol=4 * eps, atol=4 * eps)


def test_path_sample_holds_what_it_was_made_of():
    module = flow_matching()
    path = module.KacProbPath(Planar())
    x_1, t = torch.zeros(3, 2), torch.rand(3)
    x_0 = path.source_like(x_1)
    sample = path.sample(x_0=x_0, x_1=x_1, t=t)
    assert sample.x_0 is x_0
    assert sample.x_1 is x_1
    assert sample.t is t
    new = path.sample(None, x_1, t).x_0
    assert torch.equal(new, Planar().prior(3, (2,), 0, 3))


@pytest.mark.parametrize("shape", [None, (9,), (9, 1), (9, 1, 1)])
@by_process
def test_their_noise_rebuilds_the_state(process, shape):
    """xt = compute_mu_t + compute_sigma_t * eps, as in every matcher of torchcfm, with eps of variance 1."""
    matcher = torchcfm().KacFlowMatcher(process)
    x1 = torch.rand(9, 2, 4000)
    t = None if shape is None else torch.linspace(0, 1, 9).view(shape)
    t, xt, _, eps = matcher.sample_location_and_conditional_flow(None, x1, t, return_noise=True)
    sigma = matcher.compute_sigma_t(t).view(9, 1, 1)
    torch.testing.assert_close(matcher.compute_mu_t(None, x1, t) + sigma.float() * eps, xt, rtol=1e-5, atol=1e-5)
    noisy = t.flatten() < 1
    torch.testing.assert_close(eps.flatten(1).var(1)[noisy], torch.ones(int(noisy.sum())), rtol=0.1, atol=0)
    assert (eps[~noisy] == 0).all()


def test_their_parts_that_have_no_meaning_here_are_refused():
    matcher = torchcfm().KacFlowMatcher(Planar())
    x, t = torch.zeros(2, 2), torch.rand(2)
    for call in (
        lambda: matcher.sample_xt(x, x, t, x),
        lambda: matcher.compute_conditional_flow(x, x, t, x),
        lambda: matcher.compute_lambda(t),
    ):
        with pytest.raises(NotImplementedError):
            call()


def test_optimal_transport_moves_the_data_and_their_labels():
    module = torchcfm()
    matcher = module.ExactOptimalTransportKacFlowMatcher(Planar(), seed=2)
    x1, y1 = torch.randn(64, 2), torch.arange(64)
    x0 = matcher.sample_noise_like(x1)
    t, xt, ut, y0, moved = matcher.guided_sample_location_and_conditional_flow(x0, x1, y1, y1, torch.ones(64))
    assert torch.equal(xt, x1[moved]), "at t = 1 the data, with their labels"
    assert torch.equal(moved.sort().values, y1), "each of them once"
    assert torch.equal(y0, y1), "noise stays in its order"
    cost, by_chance = (x0 - x1[moved]).square().sum(), (x0 - x1).square().sum()
    assert cost < 0.6 * by_chance
    x_t, u = Planar().pair(x1[moved], 1 - t, 2)
    assert torch.equal(xt, x_t)
    assert torch.equal(ut, -u)
    assert len(matcher.sample_location_and_conditional_flow(None, x1, return_noise=True)) == 4
    assert distance(OfTheirs(module, None), module.ExactOptimalTransportKacFlowMatcher(Planar())) < BAR


@pytest.mark.parametrize("name", ["flow_matching_path", "torchcfm_matcher"])
def test_the_programs(name, tmp_path, capsys):
    module = {"flow_matching_path": flow_matching, "torchcfm_matcher": torchcfm}[name]()
    out = tmp_path / "new" / "picture.png"
    assert module.main(["--process", "telegraph", "--steps", "2", "--num", "50", "--out", str(out)]) == 0
    assert "sliced Wasserstein distance" in capsys.readouterr().out
    assert Image.open(out).size == (1560, 348)
    assert module.main(["--steps", "0"]) == 1
    with pytest.raises(SystemExit) as stop:
        module.main(["--help"])
    assert stop.value.code == 0
