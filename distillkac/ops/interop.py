"""The six ops for NumPy, CuPy, JAX and other arrays that speak DLPack: the same names and arguments as in `distillkac.ops`.

    from distillkac.ops import interop
    k = interop.kac_noise(np.full(64, 0.5, np.float32), (3, 32, 32), "telegraph", a=25.0, c=2.0, seed=1)   # a NumPy array

Arrays are shared, not copied (a NumPy array that may not be written is copied). Results are arrays of the library that
the first array argument comes from, and `out=` arrays are filled (JAX's cannot be: they never change). No gradients. Seeds
are ints.
"""

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from distillkac import ops

__all__ = ["endpoint_loss", "guided_step", "guided_velocity", "kac_noise", "kac_pair", "kac_velocity"]

Array = Any
"""Of NumPy, CuPy, ...: they have no type in common."""


def _to_torch(op: str, name: str, value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return tuple(_to_torch(op, name, item) for item in value)
    if isinstance(value, torch.Tensor) or not _is_array(value):
        return value
    if isinstance(value, np.ma.MaskedArray):
        raise ValueError(
            f"{op}: {name} is a masked array, and the ops know no masks; pass {name}.filled(...) of numbers"
        )
    if name == "out" and _library(value) in _NEVER_CHANGED:
        raise ValueError(f"{op}: out cannot be filled: arrays of {_library(value)} never change; omit out")
    try:
        if not isinstance(value, np.ndarray):
            return torch.utils.dlpack.from_dlpack(value)
        # Read-only memory is copied, because a tensor could write to it; so are negative strides, which torch has not.
        plain = value.flags.writeable and all(stride >= 0 for stride in value.strides)
        if name == "out" and not plain:
            raise ValueError("an array to be filled must be writeable and have no negative strides")
        return torch.from_numpy(value if plain else value.copy())
    except (TypeError, ValueError, BufferError) as error:
        raise ValueError(f"{op}: {name} cannot be used as a tensor: {error}") from None


def _from_torch(op: str, result: Any, like: Array) -> Any:
    if isinstance(result, tuple):
        return tuple(_from_torch(op, item, like) for item in result)
    if isinstance(like, torch.Tensor):
        return result
    if isinstance(like, np.ndarray):
        if result.dtype == torch.bfloat16:
            raise ValueError(f"{op}: dtype must be float32 or float16 for NumPy, which has no bfloat16")
        return result.numpy()
    namespace = like.__array_namespace__() if hasattr(like, "__array_namespace__") else sys.modules[_library(like)]
    return namespace.from_dlpack(result)


_NEVER_CHANGED = {"jax", "jaxlib", "tensorflow"}


def _library(array: Array) -> str:
    return type(array).__module__.partition(".")[0]


def _is_array(value: object) -> bool:
    return isinstance(value, torch.Tensor) or (hasattr(value, "__dlpack__") and not np.isscalar(value))


def _for_arrays(op: Callable[..., Any]) -> Callable[..., Any]:
    name, signature = op.__name__, inspect.signature(op)

    @functools.wraps(op, assigned=("__name__", "__doc__", "__qualname__"))
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        arguments = signature.bind(*args, **kwargs).arguments
        given = [value for value in arguments.values() if _is_array(value)]
        if not given:
            raise ValueError(f"{name}: needs at least one array (NumPy, CuPy, or another with __dlpack__), got none")
        with torch.no_grad():
            result = op(**{key: _to_torch(name, key, value) for key, value in arguments.items()})
        if (out := arguments.get("out")) is not None and op is not ops.endpoint_loss:
            pairs = zip(result, out, strict=True) if isinstance(result, tuple) else [(result, out)]
            for part, array in pairs:
                if part.is_cuda:
                    _from_torch(name, part, array)  # the library's stream waits for torch's from here on
            return out
        return _from_torch(name, result, given[0])

    return wrapped


kac_noise = _for_arrays(ops.kac_noise)
kac_velocity = _for_arrays(ops.kac_velocity)
kac_pair = _for_arrays(ops.kac_pair)
guided_velocity = _for_arrays(ops.guided_velocity)
guided_step = _for_arrays(ops.guided_step)
endpoint_loss = _for_arrays(ops.endpoint_loss)
