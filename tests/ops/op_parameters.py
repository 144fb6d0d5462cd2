"""What tests of all ops are parametrized by."""

import pytest
import torch

from tests.ops.op_cases import GROUPS, PROCESSES

# Unit roundoff of the result, on top of float32 arithmetic; the float16 term is half its smallest subnormal.
ROUNDING = {torch.float32: (0, 0), torch.bfloat16: (2**-8, 0), torch.float16: (2**-11, 2**-25)}
every_process = pytest.mark.parametrize("process", PROCESSES)


def whole(width, process):
    """The width, made up to whole groups."""
    return width + -width % GROUPS[process]
