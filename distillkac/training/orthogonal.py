"""Matrices with the directions of given ones and all singular values near 1, by Newton-Schulz steps: the updates of Muon."""

from collections.abc import Callable

import torch
from torch import Tensor

from distillkac.runs.recorded import cuda_graph

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # of s, s^3, s^5: steep at 0, and near 1 after five steps
NEWTON_SCHULZ_STEPS = 5
EPS = 1e-7  # added to the norm of a matrix, so that no gradient is no update
TOGETHER = 2**22  # numbers of the matrices that a GPU makes orthogonal at once, which it has copies of meanwhile


def orthogonalized(matrix: Tensor) -> Tensor:
    """U f(S) V^T of a matrix U S V^T (rows, columns), f(S) near 1: five Newton-Schulz steps, in the dtype of the matrix; of a
    batch (B, rows, columns) that of each.

    Singular values of at least 0.002 of the Frobenius norm come to 0.68 to 1.21; smaller ones grow, to less. Zero stays zero.
    """
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.mT if tall else matrix  # the products below are smallest with fewer rows than columns
    x = x / (torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True) + EPS)
    products = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # torch's types do not know it
    exact = x.device.type == "cpu" and x.dtype.itemsize >= 4 and products.fp32_precision in ("none", "ieee")
    stepped = _by_gram if exact and 2 * x.shape[-2] <= x.shape[-1] else _by_itself
    x = stepped(x)
    return (x.mT if tall else x).contiguous()


def _by_itself(x: Tensor) -> Tensor:
    """The steps x <- (a + b G + c G^2) x with G = x x^T."""
    a, b, c = NEWTON_SCHULZ
    product = torch.addmm if x.ndim == 2 else torch.baddbmm
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = product(x, product(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _by_gram(x: Tensor) -> Tensor:
    """The same steps of a wide matrix on G alone, by two products with all its columns where the others take ten: with the
    factor P of a step G becomes P G P, and x is multiplied by all of them at the end.

    Of float32 products only: an error of G grows by a^2 = 12 a step where G is small, in four from 1e-7 to 2e-3, but from that
    of TF32 or bfloat16 to more than the answer.
    """
    a, b, c = NEWTON_SCHULZ
    product = torch.addmm if x.ndim == 2 else torch.baddbmm
    gram, factors = x @ x.mT, None
    for step in range(NEWTON_SCHULZ_STEPS):
        factor = product(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=-2, dim2=-1).add_(a)
        factors = factor if factors is None else factor @ factors
        if step + 1 < NEWTON_SCHULZ_STEPS:
            gram = factor @ gram @ factor
    assert factors is not None
    return factors @ x


def all_orthogonalized(matrices: list[Tensor]) -> list[Tensor]:
    """orthogonalized() of each matrix (rows, columns)."""
    parts = list(matrices)
    for places in alike(matrices):
        if len(places) == 1:
            parts[places[0]] = orthogonalized(matrices[places[0]])
            continue
        for i, part in zip(places, orthogonalized(torch.stack([matrices[i] for i in places])), strict=True):
            parts[i] = part
    return parts


class Recording:
    """all_orthogonalized() of matrices of these shapes, recorded: hundreds of products, each of which takes longer to be
    started than to be computed, are started at once. The answer is overwritten by the next one.

    record: see runs.recorded.Recorder.
    """

    def __init__(self, matrices: list[Tensor], record: Callable = cuda_graph):
        self.matrices = [matrix.clone() for matrix in matrices]
        self.replay, self.parts = record(lambda: all_orthogonalized(self.matrices))

    def __call__(self, matrices: list[Tensor]) -> list[Tensor]:
        torch._foreach_copy_(self.matrices, matrices)
        self.replay()
        return self.parts


def alike(tensors: list[Tensor]) -> list[list[int]]:
    """The places of those that are made orthogonal at once: on a GPU, where starting a product of small matrices takes longer
    than the product, those of one shape and dtype, up to TOGETHER numbers; on a CPU each alone, which is faster there."""
    found: list[list[int]] = []
    batches: dict[tuple, list[int]] = {}
    for i, tensor in enumerate(tensors):
        kind = tensor.shape, tensor.dtype, tensor.device
        batch = batches.get(kind, [])
        if tensor.device.type != "cpu" and batch and (len(batch) + 1) * tensor.numel() <= TOGETHER:
            batch.append(i)
        else:
            batches[kind] = [i]
            found.append(batches[kind])
    return found


def found_together(directions: list[Tensor]) -> list[Tensor]:
    """orthogonalized() of each matrix (rows, columns), of which every process of torch's group finds some."""
    from torch import distributed

    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    updates = [torch.empty_like(each) for each in directions]
    exchanges = []
    for owner, mine in enumerate(shares([(each.shape[0], each.shape[1]) for each in directions], ranks)):
        parts = all_orthogonalized([directions[i] for i in mine]) if owner == rank else [updates[i] for i in mine]
        if not parts:
            continue
        together = torch.cat([part.flatten() for part in parts])
        exchanges.append((mine, together, distributed.broadcast(together, owner, async_op=True)))
    for mine, together, exchange in exchanges:
        exchange.wait()
        for i, part in zip(mine, together.split([updates[i].numel() for i in mine]), strict=True):
            updates[i] = part.view_as(updates[i])
    return updates


def shares(shapes: list[tuple[int, int]], ranks: int) -> list[list[int]]:
    """Which matrices, by their places in the list, each process makes orthogonal: about as many products each."""
    work = [0] * ranks
    made: list[list[int]] = [[] for _ in range(ranks)]
    for place in sorted(range(len(shapes)), key=lambda i: (-(min(shapes[i]) ** 2) * max(shapes[i]), i)):
        least = work.index(min(work))
        work[least] += min(shapes[place]) ** 2 * max(shapes[place])
        made[least].append(place)
    return made
