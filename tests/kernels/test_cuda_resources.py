"""No CUDA kernel spills a register or needs local memory, for any of the architectures that are built."""

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.places import CSRC

ARCHITECTURES = ("80", "90", "100")
KERNELS = {  # instantiations: three element types, and two processes or speed limits; the loss also has its sum
    "kac_noise": 6,
    "kac_velocity": 6,
    "kac_pair": 6,
    "guided_velocity": 6,
    "guided_step": 6,
    "endpoint_loss": 4,
}


def find_nvcc():
    places = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    return shutil.which("nvcc") or next(
        (p for place in places if place and (p := shutil.which(f"{place}/bin/nvcc"))), None
    )


NVCC = find_nvcc()


def resources(log):
    """[(function, architecture, is a kernel, {what: number})] of what ptxas -v wrote."""
    found = []
    for part in re.split(r"(?=ptxas info\s+: (?:Compiling entry function|Function properties for))", log):
        if entry := re.match(r"ptxas info\s+: Compiling entry function '(\w+)' for '(\w+)'", part):
            kernel, architecture = entry.groups()
        elif function := re.match(r"ptxas info\s+: Function properties for (\w+)", part):
            numbers = {
                what: int(number)
                for number, what in re.findall(
                    r"(\d+) (?:bytes )?(stack frame|spill stores|spill loads|registers)", part
                )
            }
            found.append((function[1], architecture, function[1] == kernel, numbers))
    return found


def problems(log):
    """What spills or takes local memory."""
    return [
        (function, architecture, what, number)
        for function, architecture, _, numbers in resources(log)
        for what, number in numbers.items()
        if what != "registers" and number
    ]


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    if NVCC is None:
        pytest.skip("needs nvcc")
    folder = tmp_path_factory.mktemp("cubins")

    def compile_one(job):
        op, architecture = job
        command = [NVCC, "-std=c++17", "-O3", "--fmad=false", "-DDISTILLKAC_ARCH=cuda", f"-arch=sm_{architecture}"]
        target = folder / f"{op}_{architecture}.cubin"
        source = CSRC / "ops" / f"{op}.cu"
        run = subprocess.run(
            [*command, "-Xptxas", "-v", "-cubin", str(source), "-o", str(target)], capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr
        return job, run.stderr

    jobs = [(op, architecture) for op in KERNELS for architecture in ARCHITECTURES]
    with ThreadPoolExecutor(2) as pool:
        return dict(pool.map(compile_one, jobs))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("op", KERNELS)
def test_no_spills_and_no_local_memory(logs, op, architecture):
    log = logs[op, architecture]
    assert sum(is_kernel for _, _, is_kernel, _ in resources(log)) == KERNELS[op]
    assert problems(log) == []
    assert all(numbers["registers"] <= 168 for _, _, is_kernel, numbers in resources(log) if is_kernel)


def test_every_cuda_op_is_looked_at():
    assert sorted(KERNELS) == sorted(path.stem for path in (CSRC / "ops").glob("*.cu"))


def test_spills_are_noticed():
    log = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Zkernel' for 'sm_100'
ptxas info    : Function properties for _Zkernel
    16 bytes stack frame, 24 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 168 registers, used 1 barriers, 592 bytes smem
ptxas info    : Function properties for _Zhelper
    0 bytes stack frame, 0 bytes spill stores, 8 bytes spill loads
"""
    assert problems(log) == [
        ("_Zkernel", "sm_100", "stack frame", 16),
        ("_Zkernel", "sm_100", "spill stores", 24),
        ("_Zhelper", "sm_100", "spill loads", 8),
    ]
    assert [is_kernel for _, _, is_kernel, _ in resources(log)] == [True, False]
