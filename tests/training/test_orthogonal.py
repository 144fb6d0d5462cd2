"""Matrices made orthogonal: each, those of one shape at once, and by a recording."""

import pytest
import torch

from distillkac.training import orthogonal
from tests.training.test_muon import noise


@pytest.mark.parametrize("shape", [(16, 144), (64, 16), (16, 16), (8, 3)])
@pytest.mark.parametrize("scale", [1e-4, 1e3])
def test_the_orthogonal_part_has_the_same_directions_and_singular_values_near_one(shape, scale):
    matrix = scale * noise(*shape)
    u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    inside = u.T @ orthogonal.orthogonalized(matrix).double() @ vh.T
    values, large = inside.diagonal(), s > 0.002 * s.square().sum().sqrt()
    torch.testing.assert_close(inside, values.diag(), rtol=0, atol=2e-4)
    assert values[large].min() > 0.68
    assert values.max() < 1.21
    assert large.sum() >= min(shape) - 1
    torch.testing.assert_close(orthogonal.orthogonalized(matrix.T), orthogonal.orthogonalized(matrix).T)


@pytest.mark.parametrize("shape", [(16, 144), (64, 16), (8, 8)])
def test_matrices_of_one_shape_are_made_orthogonal_at_once_as_each_is(shape):
    matrices = [10.0**seed * noise(*shape, seed=seed) for seed in range(3)]
    together = orthogonal.orthogonalized(torch.stack(matrices))
    for matrix, found in zip(matrices, together, strict=True):
        # Products of a batch may add in another order; five steps make of that some thousand units of the last place.
        torch.testing.assert_close(found, orthogonal.orthogonalized(matrix), rtol=1e-3, atol=1e-4)


def test_a_gpu_makes_matrices_of_one_shape_orthogonal_at_once_and_a_cpu_each_alone(monkeypatch):
    shapes = [(2, 3), (4, 4), (2, 3), (3, 2), (2, 3), (4, 4)]
    assert orthogonal.alike([torch.empty(shape) for shape in shapes]) == [[i] for i in range(6)]
    elsewhere = [torch.empty(shape, device="meta") for shape in shapes]
    assert orthogonal.alike(elsewhere) == [[0, 2, 4], [1, 5], [3]]
    assert orthogonal.alike([*elsewhere[:2], elsewhere[2].double()]) == [[0], [1], [2]]
    monkeypatch.setattr(orthogonal, "TOGETHER", 12)
    assert orthogonal.alike(elsewhere) == [[0, 2], [1], [3], [4], [5]]


def as_a_graph(compute):
    """Records as a CUDA graph does: what the computation reads and writes stays where it was."""
    answer = compute()

    def replay():
        for old, new in zip(answer, compute(), strict=True):
            old.copy_(new)

    return replay, answer


def test_a_recording_answers_for_the_matrices_that_it_is_given():
    first, second = ([noise(4, 6, seed=seed), noise(3, 3, seed=seed + 1)] for seed in (1, 5))
    recording = orthogonal.Recording(first, as_a_graph)
    for matrices in (first, second, first):
        kept = [matrix.clone() for matrix in matrices]
        for found, matrix in zip(recording(matrices), matrices, strict=True):
            torch.testing.assert_close(found, orthogonal.orthogonalized(matrix))
            found.mul_(3)  # as the optimizer does with its updates
        assert all(torch.equal(one, two) for one, two in zip(kept, matrices, strict=True))
