"""The calls of the ops that need no check: what most calls are, told from the rest in C++ (csrc/binding/quick_call.cpp)."""

from collections.abc import Callable
from typing import Any

import torch

from distillkac._kernels import native as _native

_lib = torch.ops.distillkac


def _call(op: str, out: str | None, tensors: int, *kinds: tuple[type, ...]) -> Callable[..., Any]:
    """What a call of plain tensors, floats and ints that wants no gradient goes by; for all else it is NotImplemented.

    op, out: the overload that returns new tensors, and the one that fills those of `out`. tensors: how many come first.
    kinds: the types that the rest may have. Nothing else is checked: checks take longer than a small op does. If the call
    fails, NotImplemented: then the checks say what is wrong, or the same call once more; nothing is written by a refused one.
    """

    def overload(name: str) -> Any:
        op, _, kind = name.partition(".")
        return getattr(getattr(_lib, op), kind or "default")._op

    return _native.QuickCall(overload(op), None if out is None else overload(out), tensors, kinds)


_none, _random = type(None), (int, type(None), int)
_KAC, _PAIRS = (str, float, float), (str, float, float, str, str, float, *_random)
_LIMITS = ((_none, str), (float, str))
_STEPS = tuple((float, float, float, _none, _none, _none, *limit) for limit in _LIMITS)
noise = _call("kac_noise", None, 1, (tuple, *_KAC, *_random, torch.dtype))
noise_into = _call("kac_noise", "kac_noise.out", 1, (*_KAC, *_random))
velocity = _call("kac_velocity", "kac_velocity.out", 2, _KAC)
pair = _call("kac_pair", "kac_pair.out", 2, _PAIRS)
pair_to = _call("kac_pair.to", "kac_pair.to_out", 3, _PAIRS)
guided = _call("guided_velocity", None, 2, *((float, _none, *limit) for limit in _LIMITS))
step = _call("guided_step", "guided_step.out", 4, *_STEPS)
loss = _call("endpoint_loss", "endpoint_loss.out", 5, ())
