"""Ops on arrays of other libraries: the same numbers, shared memory, the library's own arrays back."""

import sys
import types

import numpy as np
import pytest
import torch

from distillkac import ops
from distillkac.ops import interop

T = np.linspace(0.1, 1, 6).astype(np.float32)
X0 = np.random.default_rng(0).uniform(-1, 1, (6, 3, 4)).astype(np.float32)


def tensors(*arrays):
    return tuple(torch.from_numpy(array) for array in arrays)


def test_every_op_takes_and_gives_numpy_arrays():
    x0, t = tensors(X0, T)
    u, w = np.sin(X0), np.cos(X0)
    us, ws = tensors(u, w)
    k = interop.kac_noise(T, (3, 4), "telegraph", 9.0, 3.0, 5)
    cases = [
        (k, ops.kac_noise(t, (3, 4), "telegraph", 9.0, 3.0, 5)),
        (
            interop.kac_velocity(k, T, "telegraph", a=9.0, c=3.0),
            ops.kac_velocity(torch.from_numpy(k), t, "telegraph", 9.0, 3.0),
        ),
        (interop.kac_pair(X0, T, "planar", 9.0, 3.0, seed=2), ops.kac_pair(x0, t, "planar", 9.0, 3.0, seed=2)),
        (interop.guided_velocity(u, w, 1.5, max_speed=0.5), ops.guided_velocity(us, ws, 1.5, max_speed=0.5)),
        (interop.guided_step(X0, u, w, None, T, 0.1, None), ops.guided_step(x0, us, ws, None, t, 0.1, None)),
        (interop.endpoint_loss(X0, u, w, T), ops.endpoint_loss(x0, us, ws, t)),
    ]
    for given, expected in cases:
        pairs = zip(given, expected, strict=True) if isinstance(given, tuple) else [(given, expected)]
        for array, tensor in pairs:
            assert isinstance(array, np.ndarray)
            np.testing.assert_array_equal(array, tensor.numpy())


def test_out_is_filled_and_returned():
    out = np.zeros((6, 3, 4), np.float32)
    assert interop.kac_noise(T, (3, 4), "telegraph", 9.0, 3.0, 5, out=out) is out
    assert np.abs(out).max() > 0
    for kind in (tuple, list):
        pair = kind((np.zeros_like(X0), np.zeros_like(X0)))
        assert interop.kac_pair(X0, T, "telegraph", 9.0, 3.0, seed=2, out=pair) is pair
        assert pair[0].any()
    gradient = np.zeros_like(X0)
    loss = interop.endpoint_loss(X0, X0 / 2, X0 / 3, T, out=gradient)
    assert loss.shape == ()
    assert gradient.any()


def test_arrays_of_any_memory_layout():
    expected = interop.kac_velocity(X0 / 9, T, "telegraph", 9.0, 3.0)
    frozen = X0 / 9
    frozen.flags.writeable = False
    np.testing.assert_array_equal(interop.kac_velocity(frozen, T, "telegraph", 9.0, 3.0), expected)
    backwards = interop.kac_velocity((X0 / 9)[::-1], T[::-1], "telegraph", 9.0, 3.0)
    np.testing.assert_array_equal(backwards, expected[::-1])


@pytest.fixture
def other(monkeypatch):
    """A stand-in for CuPy: an array type that speaks DLPack, and a module with from_dlpack."""
    library = types.ModuleType("otherlib")

    class Array:
        def __init__(self, tensor):
            self.tensor = tensor

        def __dlpack__(self, **options):
            return self.tensor.__dlpack__(**options)

        def __dlpack_device__(self):
            return self.tensor.__dlpack_device__()

    Array.__module__ = "otherlib.core"
    library.from_dlpack = lambda source: Array(torch.from_dlpack(source))
    monkeypatch.setitem(sys.modules, "otherlib", library)
    return Array


def assert_own_noise(array_type):
    result = interop.kac_noise(array_type(torch.from_numpy(T)), (3, 4), "planar", 9.0, 3.0, 5)
    assert isinstance(result, array_type)
    assert torch.equal(result.tensor, ops.kac_noise(torch.from_numpy(T), (3, 4), "planar", 9.0, 3.0, 5))


def test_another_library_gets_its_own_arrays_back(other):
    assert_own_noise(other)


def test_a_library_whose_arrays_name_its_functions(other, monkeypatch):
    """JAX: the module of its arrays is not the one with from_dlpack; the array API's standard says where that is."""
    library = sys.modules["otherlib"]
    other.__array_namespace__ = lambda self: library
    other.__module__ = "jaxlib._jax"
    monkeypatch.setitem(sys.modules, "jaxlib", types.ModuleType("jaxlib"))
    assert_own_noise(other)
    out = other(torch.zeros(6, 3, 4))
    with pytest.raises(ValueError, match="kac_noise: out cannot be filled: arrays of jaxlib never change; omit out"):
        interop.kac_noise(T, (3, 4), "planar", 9.0, 3.0, 5, out=out)
    assert not out.tensor.any()


def test_a_mask_is_not_lost():
    with pytest.raises(ValueError, match="kac_pair: x0 is a masked array"):
        interop.kac_pair(np.ma.masked_less(X0, 0), T, "telegraph", 9.0, 3.0, seed=2)


def test_mistakes_are_those_of_the_ops():
    with pytest.raises(ValueError, match="needs at least one array"):
        interop.guided_velocity(1.0, 2.0, 0.5)
    with pytest.raises(ValueError, match="process must be"):
        interop.kac_noise(T, (3, 4), "brownian", 9.0, 3.0, 5)
    assert "Displacements K_t" in interop.kac_noise.__doc__
