"""Guidance: the formula, the interval, the speed limit, and how many evaluations it costs."""

import numpy as np
import pytest
import torch

from distillkac.flow import Telegraph, integrate, restart_chain, time_grid, trajectory_chain
from distillkac.flow.guidance import GuidedVelocity


class Linear:
    """A known field: u = (1 + y) x t, with class 3 as "no class"; records the batches it saw."""

    null_class = 3

    def __init__(self):
        self.batches = []

    def __call__(self, x, t, y):
        self.batches.append(len(x))
        return (1 + y).view(-1, 1).float() * x * t.view(-1, 1)


X, Y = torch.tensor([[1.0, -2.0], [0.5, 4.0]]), torch.tensor([0, 2])
COND = torch.tensor([[1.0, -2.0], [1.5, 12.0]])
NULL = 4 * X


def test_unguided_is_one_evaluation_of_the_plain_batch():
    net = Linear()
    field = GuidedVelocity(net)
    torch.testing.assert_close(field(X, 0.5, Y), 0.5 * COND)
    assert net.batches == [2]
    assert field.nfe == 1


@pytest.mark.parametrize("w", [2.0, torch.tensor([2.0, 0.5])])
def test_guided_is_the_formula_in_one_forward_of_both(w):
    net = Linear()
    field = GuidedVelocity(net, w)
    weight = torch.as_tensor(w).expand(2)[:, None]
    torch.testing.assert_close(field(X, 1.0, Y), COND + weight * (COND - NULL))
    assert net.batches == [4]
    assert field.nfe == 2


def test_outside_the_interval_one_unguided_evaluation():
    net = Linear()
    field = GuidedVelocity(net, 2.0, interval=(0.25, 0.75))
    torch.testing.assert_close(field(X, 0.8, Y), 0.8 * COND)
    torch.testing.assert_close(field(X, 0.75, Y), 0.75 * (COND + 2 * (COND - NULL)))
    assert net.batches == [2, 4]
    assert field.nfe == 3
    # With a time for each row, each row obeys the interval.
    mixed = field(X, torch.tensor([0.8, 0.5]), Y)
    torch.testing.assert_close(mixed[0], 0.8 * COND[0])
    torch.testing.assert_close(mixed[1], 0.5 * (COND + 2 * (COND - NULL))[1])


@pytest.mark.parametrize("w", [0.0, 3.0])
def test_max_speed_limits_coordinates_or_pairs(w):
    free = GuidedVelocity(Linear(), w)(X, 1.0, Y)
    limit = free.abs().mean().item()
    torch.testing.assert_close(GuidedVelocity(Linear(), w, max_speed=limit)(X, 1.0, Y), free.clamp(-limit, limit))
    pairs = GuidedVelocity(Linear(), w, max_speed=limit, speed_norm="planar")(X, 1.0, Y)
    torch.testing.assert_close(pairs, free * (limit / free.norm(dim=1, keepdim=True)).clamp(max=1))


def test_guidance_acts_at_both_ends_of_its_interval_for_one_time_as_for_many():
    field, guided = GuidedVelocity(Linear(), 2.0, interval=(0.25, 0.75)), COND + 2 * (COND - NULL)
    for t in (0.25, 0.75):
        torch.testing.assert_close(field(X, t, Y), t * guided)
        torch.testing.assert_close(field(X, torch.tensor([t, t]), Y), t * guided)


def test_both_halves_of_a_guided_batch_are_told_the_end_of_the_step():
    heard = []

    class Listening:
        interval_embedding, null_class = True, 3

        def __call__(self, x, t, y, r):
            heard.append((y.tolist(), t.tolist(), r.tolist()))
            return x

    GuidedVelocity(Listening(), 1.0)(X, 0.75, Y, 0.25)
    assert heard == [([0, 2, 3, 3], [0.75] * 4, [0.25] * 4)]


class Conditioned:
    guidance_embedding = True

    def __call__(self, x, t, y, w):
        return x * w[:, None]


def test_an_embedded_weight_goes_into_the_network():
    field = GuidedVelocity(Conditioned(), torch.tensor([2.0, 3.0]))
    torch.testing.assert_close(field(X, 0.5, Y), X * torch.tensor([[2.0], [3.0]]))
    assert field.nfe == 1


def test_an_embedded_weight_is_nought_outside_the_interval():
    field = GuidedVelocity(Conditioned(), 2.0, interval=(0.25, 0.75))
    torch.testing.assert_close(field(X, 0.8, Y), 0 * X)
    torch.testing.assert_close(field(X, torch.tensor([0.8, 0.5]), Y), X * torch.tensor([[0.0], [2.0]]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"w": -1.0}, "w must be finite and at least 0"),
        ({"w": float("nan")}, "w must be finite"),
        ({"interval": (0.5, 0.2)}, "interval"),
        ({"interval": (0.0, 1.5)}, "interval"),
        ({"max_speed": 0.0}, "max_speed must be positive"),
        ({"speed_norm": "gaussian"}, "speed_norm must be one of telegraph, planar, quad, got 'gaussian'"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        GuidedVelocity(Linear(), **options)


def test_what_guidance_needs_and_is_missing_is_named():
    """Without classes, or a label for "no class", a field works as long as it guides nothing."""
    assert torch.equal(GuidedVelocity(lambda x, t, y: 2 * x)(X, 0.5, None), 2 * X)
    with pytest.raises(ValueError, match=r"guidance needs class labels y \(B,\), got None"):
        GuidedVelocity(Linear(), 1.0)(X, 0.5, None)
    with pytest.raises(ValueError, match="guidance needs the network's null_class"):
        GuidedVelocity(lambda x, t, y: 2 * x, 1.0)(X, 0.5, Y)


def test_a_weight_may_be_a_whole_number():
    t = torch.tensor([0.8, 0.5])
    expected = GuidedVelocity(Linear(), 2.0, interval=(0.25, 0.75))(X, t, Y)
    for w in (2, np.float32(2), np.int64(2)):
        assert torch.equal(GuidedVelocity(Linear(), w, interval=(0.25, 0.75))(X, t, Y), expected)
    with pytest.raises(ValueError, match="guidance weight w must be a number"):
        GuidedVelocity(Linear(), "2")


ANSWERS = {
    "stretched": lambda x: x.mean(1, keepdim=True),
    "one row": lambda x: x[:1],
    "float64": lambda x: x.double(),
    "bfloat16": lambda x: x.bfloat16(),
    "tuple": lambda x: (x,),
}


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("options", [{}, {"w": 1.0}, {"max_speed": 2.0}], ids=str)
def test_every_sampler_refuses_an_answer_that_is_not_like_the_state(answer, options):
    class Wrong(Linear):
        def __call__(self, x, t, y):
            return ANSWERS[answer](x)

    field, grid, process = GuidedVelocity(Wrong(), **options), time_grid(3), Telegraph()
    for sampler in (
        lambda: integrate(field, X, Y, grid),
        lambda: restart_chain(field, X, Y, grid, process, 0.5, 0),
        lambda: trajectory_chain(field, X, Y, grid, process, 0.5, 0),
    ):
        with pytest.raises(ValueError, match=r"Wrong must answer with a velocity like x, torch.float32"):
            sampler()
