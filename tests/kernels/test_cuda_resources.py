"""No CUDA kernel keeps more than a few registers in local memory, for any of the architectures that are built: around the
calls before and after its loop. In the loop it has none: test_sass.py, whose counts know no access to it."""

import sys

import pytest

from tests.places import CSRC

sys.path.insert(0, str(CSRC / "tools"))

from sass import ARCHITECTURES, resources

# Instantiations: three element types, and three processes or speed limits; pairs also at two times, and the loss has its sum.
KERNELS = {
    "kac_noise": 9,
    "kac_velocity": 9,
    "kac_pair": 18,
    "guided_velocity": 9,
    "guided_step": 9,
    "endpoint_loss": 4,
}


FEW = 64  # bytes


def problems(log):
    """What spills or takes local memory."""
    return [
        (function, architecture, what, number)
        for function, architecture, _, numbers in resources(log)
        for what, number in numbers.items()
        if what not in ("registers", "smem") and number > FEW
    ]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("op", KERNELS)
def test_hardly_any_spills_and_local_memory(compiled, op, architecture):
    _, log = compiled[op, architecture]
    assert sum(is_kernel for _, _, is_kernel, _ in resources(log)) == KERNELS[op]
    assert problems(log) == []
    assert all(numbers["registers"] <= 128 for _, _, is_kernel, numbers in resources(log) if is_kernel)


def test_every_cuda_op_is_looked_at():
    assert sorted(KERNELS) == sorted(path.stem for path in (CSRC / "ops").glob("*.cu"))


def test_spills_are_noticed():
    log = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Zkernel' for 'sm_100'
ptxas info    : Function properties for _Zkernel
    72 bytes stack frame, 96 bytes spill stores, 64 bytes spill loads
ptxas info    : Used 168 registers, used 1 barriers, 592 bytes smem
ptxas info    : Function properties for _Zhelper
    0 bytes stack frame, 0 bytes spill stores, 80 bytes spill loads
"""
    assert problems(log) == [
        ("_Zkernel", "sm_100", "stack frame", 72),
        ("_Zkernel", "sm_100", "spill stores", 96),
        ("_Zhelper", "sm_100", "spill loads", 80),
    ]
    assert [is_kernel for _, _, is_kernel, _ in resources(log)] == [True, False]
