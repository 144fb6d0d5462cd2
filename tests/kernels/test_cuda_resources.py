"""No CUDA kernel keeps more than a few registers in local memory, for any of the architectures that are built: around the
calls before and after its loop. In the loop it has none: test_sass.py, whose counts know no access to it."""

import subprocess
import sys

import pytest

from tests.places import CSRC

sys.path.insert(0, str(CSRC / "tools"))

from sass import ARCHITECTURES, FLAGS, find_nvcc, resources

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


COPIES = """#include "cuda_common.cuh"
DK_NAMESPACE_BEGIN
__global__ void copies(const float* from, float* to) {
  __shared__ Ahead<float> ahead;
  float x[4];
  ahead.ask(Whole<1>{}, 0, from);
  ahead.get(Whole<1>{}, 0, from, x);
  to[threadIdx.x] = x[0];
}
DK_NAMESPACE_END
"""


@pytest.mark.parametrize("architecture", ["75", "80"])
def test_older_gpus_can_be_built_for(tmp_path, architecture):
    """docs/install.md promises those from sm_75 on, which have no copies into shared memory behind a kernel's back."""
    if (nvcc := find_nvcc()) is None:
        pytest.skip("needs nvcc")
    (tmp_path / "copies.cu").write_text(COPIES)
    target = tmp_path / "copies.cubin"
    command = [
        str(nvcc),
        *FLAGS,
        f"-I{CSRC / 'ops'}",
        f"-arch=sm_{architecture}",
        "-cubin",
        str(tmp_path / "copies.cu"),
    ]
    run = subprocess.run([*command, "-o", str(target)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert target.stat().st_size


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
