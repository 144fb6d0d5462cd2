"""The CUDA kernels under NVIDIA's compute-sanitizer: accesses, races in shared memory, barriers."""

import shutil
import subprocess
import sys

import pytest
import torch

from distillkac._kernels import native

TOOLS = ("memcheck", "racecheck", "synccheck")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use"),
    pytest.mark.skipif(not native.build_info()["cuda"], reason="built without CUDA kernels"),
    pytest.mark.skipif(shutil.which("compute-sanitizer") is None, reason="no compute-sanitizer on PATH"),
]
# Every op, process and dtype; widths below a group of four, odd, across work units, and rows no group is aligned to.
PROGRAM = """
import torch
from distillkac import ops
narrow = ((3, 2), (5, 34), (2, 3, 66), (2, 4102), (70, 6))
for process, shapes in (
    ("telegraph", (*narrow, (3, 33))), ("planar", narrow), ("quad", ((3, 4), (5, 36), (2, 3, 68), (2, 4100), (70, 12)))
):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for shape in shapes:
            x, u, v, p = (torch.rand(shape, device="cuda").to(dtype) for _ in range(4))
            t = torch.linspace(0.5, 1, shape[0], device="cuda", dtype=torch.float64)
            k = ops.kac_noise(t, shape[1:], process, 9.0, 3.0, 5, dtype=dtype)
            ops.kac_velocity(k if dtype == torch.float32 else k / 2, t, process, 9.0, 3.0)
            ops.kac_pair(x, t, process, 9.0, 3.0, "cosine", "quadratic", torch.tensor([5], device="cuda"))
            for max_speed in (None, 0.5):
                ops.guided_velocity(u, v, t, max_speed, process)
                ops.guided_step(x, u, v, p, t, t, t, max_speed, process)
                ops.guided_step(x, u, None, None, 0.0, 0.1, None, max_speed, process)
            ops.endpoint_loss(x, u, v, t, t)
torch.cuda.synchronize()
"""


@pytest.mark.parametrize("tool", TOOLS)
def test_no_findings(tool):
    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", sys.executable, "-c", PROGRAM]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
    assert "SUMMARY: 0" in result.stdout
