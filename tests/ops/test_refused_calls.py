"""A refused call changes nothing that the caller had, whatever it would have filled."""

import pytest
import torch

from distillkac import ops
from tests.ops.op_cases import PROCESSES, A, C, tensors

ROWS = 200
BAD = torch.full((ROWS,), 0.5)
BAD[150] = float("nan")
FAR = torch.where(torch.arange(ROWS * 32).view(ROWS, 32) == 150 * 32 + 3, 9 * C, 0.1)  # one particle outside the cone
GOOD, ZERO = torch.full((ROWS,), 0.5), torch.zeros(ROWS)
X, U, V, W = tensors((ROWS, 32))

# What is filled is what is read, wherever that is allowed.
REFUSED = {
    "kac_noise": (1, lambda out: ops.kac_noise(BAD, (32,), "telegraph", A, C, 1, out=out[0])),
    "kac_velocity": (1, lambda out: ops.kac_velocity(out[0], BAD, "telegraph", A, C, out=out[0])),
    **{
        f"kac_velocity {p}": (1, lambda out, p=p: ops.kac_velocity(out[0], GOOD, p, A, C, out=out[0]))
        for p in PROCESSES
    },
    **{
        f"kac_velocity int c, {p}": (1, lambda out, p=p: ops.kac_velocity(out[0], GOOD, p, A, 1, out=out[0]))
        for p in PROCESSES
    },
    "kac_pair": (2, lambda out: ops.kac_pair(out[0], BAD, "planar", A, C, "cosine", "quadratic", out=out)),
    "kac_pair t_to": (3, lambda out: ops.kac_pair(out[0], GOOD, "quad", A, C, out=out, t_to=BAD)),
    "guided_step w": (2, lambda out: ops.guided_step(out[0], U, V, out[1], BAD, 0.1, 0.1, out=out)),
    "guided_step h_prev": (2, lambda out: ops.guided_step(out[0], U, V, out[1], 1.0, GOOD, ZERO, out=out)),
    "endpoint_loss": (1, lambda out: ops.endpoint_loss(out[0], U, V, ZERO, out=out[0])),
    "endpoint_loss weight": (1, lambda out: ops.endpoint_loss(out[0], U, V, GOOD, BAD, out=out[0])),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_call_leaves_what_it_would_have_filled(name):
    count, call = REFUSED[name]
    before = (FAR if "velocity " in name else X, U, V)[:count]
    out = tuple(tensor.clone() for tensor in before)
    with pytest.raises(ValueError, match=f"^{name.split()[0]}: "):
        call(out)
    assert all(map(torch.equal, out, before))
    assert [tensor._version for tensor in out] == [0] * count
