"""Calls leave nothing behind: neither results that are right, nor gradients, nor refusals."""

import contextlib
import ctypes

import pytest
import torch

from tests.ops.op_cases import CASES, DIFFERENTIABLE, run, tensors

LIBC = ctypes.CDLL(None)
pytestmark = pytest.mark.skipif(not hasattr(LIBC, "mallinfo2"), reason="needs glibc's mallinfo2")
CALLS, ROUNDS = 300, 4


class Usage(ctypes.Structure):
    """What glibc's malloc says of itself."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in [
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        ]
    ]


def in_use() -> int:
    """Bytes that were asked of malloc and not given back."""
    LIBC.mallinfo2.restype = Usage
    return LIBC.mallinfo2().uordblks


def growth(call) -> float:
    """Bytes a call: what stays at every call stays in every round."""
    rounds = []
    for _ in range(ROUNDS):
        before = in_use()
        for _ in range(CALLS):
            call()
        rounds.append((in_use() - before) / CALLS)
    return min(rounds)


@pytest.mark.parametrize("process", ["telegraph", "planar", "quad"])
@pytest.mark.parametrize("name", CASES)
def test_calls_leave_no_memory_behind(name, process):
    inputs = tensors((2, 8))
    assert growth(lambda: run(name, inputs, process)) < 1


@pytest.mark.parametrize("name", CASES)
def test_refusals_leave_no_memory_behind(name):
    inputs = [*tensors((2, 7))[:-1], torch.zeros(3, 7)]  # planar rows must be even

    def refused():
        with contextlib.suppress(ValueError):
            run(name, inputs, "planar" if name != "endpoint_loss" else "circle")

    assert growth(refused) < 1


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_leave_no_memory_behind(name):
    inputs = [x.requires_grad_() for x in tensors((2, 8))]

    def backward():
        result = run(name, inputs, "telegraph")
        torch.autograd.grad(sum(part.sum() for part in result), inputs[: CASES[name][1]], allow_unused=True)

    assert growth(backward) < 1
