"""The distillation methods beside data-state endpoint distillation: each optimises what it says."""

from itertools import pairwise

import pytest
import torch

from distillkac.base.random import derive_seed
from distillkac.data import class_means, from_tensors
from distillkac.distillation.endpoint import EndpointDistillation, StudentStates
from distillkac.distillation.reconstruction import ReconstructionConfig, ShiftedReconstruction
from distillkac.flow.exact_start import ExactStart
from distillkac.flow.guidance import GuidedVelocity
from distillkac.flow.integrators import integrate, restart_chain, time_grid
from distillkac.flow.processes import Planar, Quad, Telegraph
from distillkac.flow.shaping import Shaping
from tests.distillation.batches import BATCH, DATA, Affine, every_process
from tests.toys import SHAPE

# Backward states


@every_process
def test_backward_states_are_where_the_students_own_steps_lead(process):
    times, student = time_grid(4, 1.5), Affine()
    states = StudentStates(process, times, 1.0, seed=5)
    k, start, x = states(student, BATCH)
    assert set(k.tolist()) == {0, 1, 2, 3}
    grid = times.float()
    for b in range(12):
        row = process.prior(1, SHAPE, derive_seed(5, "prior"), BATCH.first + b)
        for t, t_next in pairwise(grid[: k[b] + 1].tolist()):
            row = row - (t - t_next) * student(row, torch.tensor([t]), BATCH.y[b : b + 1])
        torch.testing.assert_close(x[b], row[0].detach(), rtol=1e-5, atol=1e-6)
        assert start[b] == grid[k[b]]


def test_a_mixed_batch_has_states_of_both_kinds_and_the_first_interval_always_starts_from_noise():
    process, times = Telegraph(), time_grid(4, 1.5)
    kinds = {share: StudentStates(process, times, share, seed=5)(Affine(), BATCH)[2] for share in (0.0, 0.5, 1.0)}
    own = (kinds[0.5] == kinds[1.0]).flatten(1).all(1)
    data = (kinds[0.5] == kinds[0.0]).flatten(1).all(1)
    assert (own | data).all()
    assert own.any()
    assert data.any()


def test_on_its_own_states_a_student_repairs_its_own_mistakes():
    """Teacher u = (x - m) / t leads to m from wherever; trained from backward states, so does the student."""
    teacher = GuidedVelocity(lambda x, t, y: (x - 0.5) / t.view(-1, 1, 1, 1).clamp(min=1e-3))
    grid = time_grid(4, 1.0)
    states = StudentStates(Telegraph(25.0, 2.0), grid[::2], 1.0, 1)
    objective = EndpointDistillation(teacher, states, grid, "euler", 1)
    x = states(lambda x, t, y: 0 * x, BATCH)[2]
    assert (x - Telegraph(25.0, 2.0).prior(12, SHAPE, derive_seed(1, "prior"), BATCH.first)).abs().max() == 0
    assert objective(lambda x, t, y: (x - 0.5) / t.view(-1, 1, 1, 1), BATCH) < 1e-9


# Shifted reconstruction


@every_process
@pytest.mark.parametrize(("power", "noise"), [(1.0, "own"), (2.0, "own"), (1.0, "fresh"), (2.0, "fresh")])
def test_reconstruction_is_the_formula(process, power, noise):
    teacher, student, seed = Affine(-0.2, 0.4, 0.3), Affine(), 4
    states = StudentStates(process, time_grid(3, 1.5), 0.0, seed)
    config = ReconstructionConfig(scale=0.7, power=power, noise=noise, steps=5)
    loss = ShiftedReconstruction(GuidedVelocity(teacher), states, config, 1.5, "ab2", seed)(student, BATCH)
    _, start, x = states(student, BATCH)
    total = 0.0
    for b in range(12):
        t, y = start[b : b + 1], BATCH.y[b : b + 1]
        guess = x[b : b + 1] - t * student(x[b : b + 1], t, y)
        gamma = 0.7 * t**power
        noised = process.bridge(guess.detach(), gamma, derive_seed(seed, "shift"), BATCH.first + b)
        if noise == "own":
            spread = process.std(gamma) / process.std(t)
            noised = (1 - gamma) * guess.detach() + spread.float() * (x[b : b + 1] - (1 - t) * guess.detach())
        repaired = integrate(GuidedVelocity(teacher), noised, y, gamma.double() * time_grid(5, 1.5), "ab2")
        total += ((guess - repaired) ** 2).mean().item() / t.item() ** 2 / 12
    assert loss.item() == pytest.approx(total, rel=1e-4)
    loss.backward()
    assert student.weight.grad != 0
    assert teacher.weight.grad is None


def test_reconstruction_is_nought_where_the_student_already_predicts_what_the_teacher_repairs_to():
    teacher = GuidedVelocity(lambda x, t, y: (x - 0.5) / t.view(-1, 1, 1, 1))  # ends in 0.5 from anywhere
    states = StudentStates(Telegraph(), time_grid(2, 1.5), 0.0, 1)
    objective = ShiftedReconstruction(teacher, states, ReconstructionConfig(), 1.5, "euler", 1)
    assert objective(lambda x, t, y: (x - 0.5) / t.view(-1, 1, 1, 1), BATCH) < 1e-9
    assert objective(lambda x, t, y: (x - 0.4) / t.view(-1, 1, 1, 1), BATCH) > 0.005


@pytest.mark.parametrize("options", [{"scale": 1.0}, {"scale": 0.0}, {"power": 0.5}, {"steps": 0}])
def test_impossible_shifts_are_refused(options):
    with pytest.raises(ValueError, match=rf"reconstruction\.{next(iter(options))} must"):
        ReconstructionConfig(**options)


# Noise correction


def test_class_means():
    means = class_means(DATA, chunk=7)
    for label in (0, 1):
        torch.testing.assert_close(means[label], DATA.x[DATA.y == label].mean(0))
    torch.testing.assert_close(means[2], DATA.x.mean(0))
    few = from_tensors(torch.tensor([-1.0, -1, -1, 1]).view(4, 1, 1, 1), torch.tensor([0, 0, 0, 1]))
    assert class_means(few).flatten().tolist() == [-1, 1, -0.5]  # of all images, not of the classes' means


@every_process
@pytest.mark.parametrize("f", ["linear", "cosine"])
def test_exact_start_is_the_mean_of_the_targets_at_one(process, f):
    """u(1, x | y) is the mean of f' x_0 + g' v over x_0 of class y, whatever x: here over the data set itself."""
    process = type(process)(f=f)
    field = ExactStart(Affine(), process, class_means(DATA), w=2.0)
    x, y = process.prior(6, SHAPE, 3), torch.tensor([0, 1, 0, 1, 2, 2])
    v = process.velocity(x, torch.ones(6))
    df = {"linear": -1.0, "cosine": -torch.pi / 2}[f]
    for b in range(6):
        chosen = DATA.x if y[b] == 2 else DATA.x[DATA.y == y[b]]
        expected = (df * chosen + v[b]).mean(0)
        torch.testing.assert_close(field.exact(x, y)[b], expected, rtol=1e-5, atol=1e-5)


def test_exact_start_replaces_the_network_at_one_and_nowhere_else():
    process, network = Telegraph(), Affine()
    means, y = class_means(DATA), BATCH.y
    x = process.prior(12, SHAPE, 3)
    plain, field = GuidedVelocity(network, 1.5), ExactStart(network, process, means, w=1.5)
    torch.testing.assert_close(field(x, 0.7, y), plain(x, 0.7, y))
    assert field.nfe == 2
    null = torch.full_like(y, 2)
    expected = 2.5 * field.exact(x, y) - 1.5 * field.exact(x, null)
    torch.testing.assert_close(field(x, 1.0, y), expected)
    assert field.nfe == 2  # without an evaluation
    t = torch.where(torch.arange(12) % 3 == 0, 1.0, 0.6)
    mixed = field(x, t, y)
    torch.testing.assert_close(mixed[::3], expected[::3])
    torch.testing.assert_close(mixed[1::3], plain(x, t, y)[1::3])


def test_exact_start_is_shaped_as_the_network_is():
    process, shaping, y = Telegraph(), Shaping(launch=0.5), BATCH.y
    x, means = process.prior(12, SHAPE, 3), class_means(DATA)
    plain, shaped = (ExactStart(Affine(), process, means, shaping=given) for given in (None, shaping))
    for t in (1.0, torch.where(torch.arange(12) % 3 == 0, 1.0, 0.6)):
        factor = shaping.factor(t)
        factor = factor.view(-1, 1, 1, 1) if torch.is_tensor(t) else factor
        torch.testing.assert_close(shaped(x, t, y), factor * plain(x, t, y))
    assert shaping.factor(1.0) == 1.5


@pytest.mark.parametrize("slow", [Telegraph(4.0, 0.6), Planar(4.0, 0.6), Quad(4.0, 0.6)], ids=lambda p: p.name)
def test_exact_start_of_a_batch_with_data_that_reach_further_than_any_noise(slow):
    """Rows before t = 1 are not asked for: the ops refuse displacements that the process cannot have."""
    field, y = ExactStart(Affine(), slow, class_means(DATA)), BATCH.y
    t = torch.where(torch.arange(12) % 3 == 0, 1.0, 0.2)
    x = torch.where((t == 1).view(-1, 1, 1, 1), slow.prior(12, SHAPE, 3), torch.full((12, *SHAPE), 1.5))
    mixed = field(x, t, y)
    torch.testing.assert_close(mixed[::3], field.exact(x[::3], y[::3]))
    torch.testing.assert_close(mixed[1::3], GuidedVelocity(Affine())(x, t, y)[1::3])


def test_exact_start_needs_a_prior_without_data():
    with pytest.raises(ValueError, match="noise correction needs f"):
        ExactStart(Affine(), Telegraph(f="exp"), class_means(DATA))


# Restarts


@every_process
def test_restarts_of_share_nought_are_the_chain_and_of_share_one_forget_the_path(process):
    field, grid, x = GuidedVelocity(Affine()), time_grid(4, 1.5), process.prior(12, SHAPE, 3)
    chain = restart_chain(field, x, BATCH.y, grid, process, 0.0, 7)
    torch.testing.assert_close(chain, integrate(field, x, BATCH.y, grid, "euler"))
    # A field that always points at the same images: with share 1 every state is those images, noised anew.
    aim = GuidedVelocity(lambda x, t, y: (x - DATA.x[:12]) / t.view(-1, 1, 1, 1))
    path = restart_chain(aim, x, BATCH.y, grid, process, 1.0, 7, offset=30, path=True)
    for step, state in enumerate(path[1:-1]):
        at = torch.full((12,), grid[step + 1].item())
        expected = process.bridge(DATA.x[:12], at, derive_seed(7, "restart", step), 30)
        torch.testing.assert_close(state, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(path[-1], DATA.x[:12], rtol=1e-4, atol=1e-5)


@every_process
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_a_share_of_coordinates_restarts_and_any_split_gives_the_same(process, share):
    count = 400
    data = DATA.x[:1].expand(count, *SHAPE)
    aim = GuidedVelocity(lambda x, t, y: (x - data[: len(x)]) / t.view(-1, 1, 1, 1))
    grid, x, y = time_grid(2, 1.0), process.prior(count, SHAPE, 3), torch.zeros(count, dtype=torch.int64)
    moved = restart_chain(aim, x, y, grid, process, share, 7, path=True)[1]
    kept = integrate(aim, x, y, grid, "euler", path=True)[1]
    fresh = moved != kept
    assert abs(fresh.float().mean() - share) < 0.03
    if process.name == "planar":
        assert torch.equal(fresh[..., 0::2], fresh[..., 1::2])
    tail = restart_chain(aim, x[250:], y[250:], grid, process, share, 7, offset=250, path=True)[1]
    torch.testing.assert_close(tail, moved[250:])
