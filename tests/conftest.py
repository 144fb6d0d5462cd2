"""Shared by all tests: the SIMD level and the number of threads are put back after a test changed them."""

import pytest
import torch

from distillkac._kernels import native


@pytest.fixture
def simd_level():
    """A function that forces a SIMD level for this test."""
    before = native.simd_level()
    yield native.set_simd_level
    native.set_simd_level(before)


@pytest.fixture
def threads():
    """A function that sets torch's number of threads for this test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
