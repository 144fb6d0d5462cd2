"""The same bits whatever the threads, the process, the SIMD level and the split of a batch: every op.

More of it: SIMD levels and threads on large rows in tests/ops/test_op_bits.py, CUDA against CPU in
tests/kernels/test_cuda_on_cpu.py and tests/gpu, training runs in tests/training/test_training.py.
"""

import hashlib
import json
import math
import os
import subprocess
import sys
from itertools import pairwise

import pytest
import torch

from distillkac import ops
from tests.ops.op_cases import CASES, GROUPS, PROCESSES, A, C, rows, run, tensors

# Rows in one work unit, in several, shorter than a vector, and more rows than are set up together.
SHAPES = [(3, 50_000), (40, 3, 16, 16), (700, 6), (5000, 2)]


def fitting(shape, process):
    """The shape, its last side a multiple of what the process moves together."""
    return (*shape[:-1], math.lcm(shape[-1], GROUPS[process]))


def results(process, shape):
    """{name: tensors} of every op, the loss with its gradient."""
    shape = fitting(shape, process)
    inputs = tensors(shape)
    every = {name: run(name, inputs, process) for name in CASES}
    gradient = torch.empty(shape)
    delta = rows(shape[0], 9, 0.1, 1)
    every["endpoint_loss"] = (ops.endpoint_loss(*inputs[:3], delta, rows(shape[0], 10, 0.5, 2), out=gradient), gradient)
    return every


def digest(threads):
    """One number for all bits of all ops."""
    torch.set_num_threads(threads)
    total = hashlib.sha256()
    for process in PROCESSES:
        for shape in SHAPES:
            for tensors_of_op in results(process, shape).values():
                for tensor in tensors_of_op:
                    total.update(tensor.numpy().tobytes())
    return total.hexdigest()


def test_fresh_processes_with_any_number_of_threads(threads):
    """Two other interpreters with 2 and 4 threads, hashes of strings salted anew, against this one with 1."""
    code = (
        "import json, sys; from tests.ops.test_determinism import digest; print(json.dumps([digest(int(sys.argv[1]))]))"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(count)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": str(count), "PYTHONHASHSEED": str(count)},
        )
        for count in (2, 4)
    ]
    threads(1)
    here = digest(1)
    for process in started:
        output, _ = process.communicate()
        assert process.returncode == 0
        assert json.loads(output) == [here]


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("shape", SHAPES)
def test_threads(process, shape, threads):
    threads(1)
    first = results(process, shape)
    for count in (2, 4):
        threads(count)
        for name, again in results(process, shape).items():
            for one, other in zip(first[name], again, strict=True):
                assert torch.equal(one, other), name


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("shape", [(7, 3, 40), (131, 6)])
def test_any_split_of_the_batch(process, shape):
    """Every op on parts of the rows, each with its first row's number. Gradients of the mean scale with the batch."""
    shape = fitting(shape, process)
    inputs, count = tensors(shape), shape[0]
    t, w, h = rows(count, 2), rows(count, 6, 0, 4), rows(count, 7, 0.1, 1)
    above = rows(count, 3, 1, 3)

    def every(part, batch_share=1.0):
        x, u, v, p = (value[part] for value in inputs)
        offset = 11 + part.start
        gradient = torch.empty(x.shape)
        loss = ops.endpoint_loss(x, u, v, h[part], w[part], out=gradient)
        return {
            "kac_noise": (ops.kac_noise(t[part], shape[1:], process, A, C, 5, offset),),
            "kac_velocity": (ops.kac_velocity(x, above[part], process, A, C),),
            "kac_pair": ops.kac_pair(x, t[part], process, A, C, "cosine", "quadratic", 6, offset),
            "guided_velocity": (ops.guided_velocity(u, v, w[part], 0.5, process),),
            "guided_step": ops.guided_step(x, u, v, p, w[part], h[part], above[part], 0.5, process),
            "loss": (loss.double() * batch_share,),
            "gradient": (gradient.double() * batch_share,),
        }

    whole = every(slice(0, count))
    for cuts in ([0, 1, count], [0, 3, 4, count], [0, count - 1, count], [*range(0, count, 5), count]):
        parts = [every(slice(a, b), (b - a) / count) for a, b in pairwise(cuts) if b > a]
        for name in whole:
            for place, expected in enumerate(whole[name]):
                if name == "loss":
                    total = sum(part[name][place] for part in parts)
                    assert abs(total - expected) <= 3e-7 * expected
                    continue
                joined = torch.cat([part[name][place] for part in parts])
                if name == "gradient":  # 1 / batch is rounded differently
                    torch.testing.assert_close(joined, expected, rtol=2e-7, atol=0)
                else:
                    assert torch.equal(joined, expected), name


def test_repeated_calls_and_other_ops_between(threads):
    """No state is kept between calls: order and repetition change nothing."""
    threads(2)
    first = results("telegraph", (40, 3, 16, 16))
    results("planar", (700, 6))
    torch.manual_seed(1)
    again = results("telegraph", (40, 3, 16, 16))
    for name in first:
        assert all(torch.equal(a, b) for a, b in zip(first[name], again[name], strict=True)), name
