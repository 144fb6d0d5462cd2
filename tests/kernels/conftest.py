"""What several files of this room need: the CUDA kernels, compiled once for every architecture that is built."""

import sys

import pytest

from tests.places import CSRC

sys.path.insert(0, str(CSRC / "tools"))

import sass


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """{(op, architecture): (cubin, what ptxas said)}."""
    if sass.find_nvcc() is None:
        pytest.skip("needs nvcc")
    jobs = [(op, architecture) for op in sass.OPS for architecture in sass.ARCHITECTURES]
    return sass.compile_all(tmp_path_factory.mktemp("cubins"), jobs)
