"""Matrices made orthogonal: each, those of one shape at once, and by a recording."""

import math

import pytest
import torch

from distillkac.training import orthogonal
from distillkac.training.cost import flops
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


def spread(shape, smallest):
    """A matrix whose singular values are spread evenly, on a logarithmic scale, from 1 down to `smallest`."""
    u, s, vh = torch.linalg.svd(noise(*shape).double(), full_matrices=False)
    values = torch.logspace(0, math.log10(smallest), len(s), dtype=torch.float64)
    return ((u * values) @ vh).float()


@pytest.mark.parametrize("smallest", [1.0, 1e-2, 1e-4, 1e-7])
@pytest.mark.parametrize("shape", [(32, 288), (144, 16), (2, 24, 48), (16, 32), (16, 31)])
def test_the_steps_are_those_of_float64_however_small_a_singular_value_is(shape, smallest):
    """A wide matrix takes them by the products of its rows, whose errors grow: 2e-3 was the largest seen."""
    matrix = torch.stack([spread(shape[1:], smallest)] * 2) if len(shape) == 3 else spread(shape, smallest)
    wide = matrix.mT if matrix.shape[-2] > matrix.shape[-1] else matrix
    wanted = orthogonal._by_itself(
        wide.double() / (torch.linalg.vector_norm(wide.double(), dim=(-2, -1), keepdim=True))
    )
    found = orthogonal.orthogonalized(matrix)
    gap = (found if wide is matrix else found.mT).double() - wanted
    assert torch.linalg.matrix_norm(gap, 2).max() < 5e-3


def test_a_wide_matrix_takes_two_products_with_all_its_columns_but_only_of_exact_ones():
    """What is less exact than float32 would end in nonsense by this way."""
    rows, columns = 16, 160
    pair = 2 * rows * rows * columns  # operations of a product with all columns
    few = flops(lambda: orthogonal.orthogonalized(noise(rows, columns)))
    assert 2 * pair < few < 5 * pair
    products = torch.backends.mkldnn.matmul
    before = products.fp32_precision
    try:
        products.fp32_precision = "bf16"  # as torch.set_float32_matmul_precision("medium") has it
        assert flops(lambda: orthogonal.orthogonalized(noise(rows, columns))) > 10 * pair
    finally:
        products.fp32_precision = before
    for inexact in (torch.empty(rows, columns, device="meta"), noise(rows, columns).bfloat16()):
        assert flops(lambda inexact=inexact: orthogonal.orthogonalized(inexact)) > 10 * pair


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
