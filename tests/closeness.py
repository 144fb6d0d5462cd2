"""Equal, where torch's own kernels computed it: equal up to their rounding.

Our ops have the same bits on every CPU. torch's matrix products, convolutions and reductions have not: their order of
summation follows from the CPU, its capability level, the number of threads, the shape of the batch, and where in memory the
operands begin. Bits may only be asked for where all of these are one, as for two trainings in one process; such tests are
marked `one_alignment`. Everything else is compared here.
"""

import torch

RELATIVE, ABSOLUTE = 1e-4, 1e-5
"""float32 rounds at 6e-8. Through the tiny networks of the tests and a few steps of integration, two levels of a CPU or two
alignments were seen to differ by 1e-6 of images in [-1, 1]; these leave a factor of ten, and images of another seed, class or
network differ by a thousand times as much."""


def assert_same(got: torch.Tensor, wanted: torch.Tensor) -> None:
    """Equal up to the rounding of torch's kernels."""
    torch.testing.assert_close(got, wanted, rtol=RELATIVE, atol=ABSOLUTE)


def assert_other(one: torch.Tensor, two: torch.Tensor) -> None:
    """Different by more than rounding could: somewhere by a hundred times the tolerance."""
    gap = (one - two).abs().max().item()
    assert gap > 100 * (ABSOLUTE + RELATIVE * two.abs().max().item()), f"differ by only {gap}"
