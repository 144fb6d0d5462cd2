"""The CUDA kernels, run on the CPU, with the signatures of distillkac.ops (float64 row scalars only)."""

import ctypes
import math

import torch

from distillkac.ops.schedules import F_NAMES, G_NAMES

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
PROCESSES = {"telegraph": 0, "planar": 1, "quad": 2}
LOSS_CHUNK = 2048


def _argument(value):
    if isinstance(value, torch.Tensor):
        return ctypes.c_void_p(value.data_ptr())
    if value is None:
        return ctypes.c_void_p(None)
    return ctypes.c_double(value) if isinstance(value, float) else ctypes.c_int64(value)


class Emulated:
    def __init__(self, library):
        self.library = ctypes.CDLL(str(library))

    def _call(self, name, *arguments):
        assert getattr(self.library, name)(*map(_argument, arguments)) == 0

    def kac_noise(self, t, size, process, a, c, seed, offset=0, dtype=torch.float32):
        out = torch.empty(len(t), *size, dtype=dtype)
        width = math.prod(size)
        self._call("kac_noise", out, t, len(t), width, DTYPES[dtype], PROCESSES[process], a, c, seed, offset)
        return out

    def kac_velocity(self, k, t, process, a, c):
        v = torch.empty_like(k)
        self._call("kac_velocity", k, v, t, *_rows(k), DTYPES[k.dtype], PROCESSES[process], a, c)
        return v

    def kac_pair(self, x0, t, process, a, c, f="linear", g="linear", seed=0, offset=0, kappa=1.0, t_to=None):
        x_t, u = torch.empty_like(x0), torch.empty_like(x0)
        x_to = None if t_to is None else torch.empty_like(x0)
        schedules = (F_NAMES.index(f), G_NAMES.index(g), kappa)  # in the order of csrc/kernels.h
        kind = (DTYPES[x0.dtype], PROCESSES[process])
        self._call("kac_pair", x0, x_t, u, x_to, t, t_to, *_rows(x0), *kind, a, c, *schedules, seed, offset)
        return (x_t, u) if x_to is None else (x_t, u, x_to)

    def guided_velocity(self, u_cond, u_uncond, w, max_speed=None, process="telegraph"):
        u = torch.empty_like(u_cond)
        limit = math.inf if max_speed is None else max_speed
        self._call("guided_velocity", u_cond, u_uncond, u, w, *_rows(u), DTYPES[u.dtype], PROCESSES[process], limit)
        return u

    def guided_step(self, x, u_cond, u_uncond, u_prev, w, h, h_prev, max_speed=None, process="telegraph", out=None):
        x_next, u = out or (torch.empty_like(x), torch.empty_like(x))
        limit = math.inf if max_speed is None else max_speed
        tensors = (x, u_cond, u_uncond, u_prev, x_next, u, w, h, h_prev)
        self._call("guided_step", *tensors, *_rows(x), DTYPES[x.dtype], PROCESSES[process], limit)
        return x_next, u

    def endpoint_loss(self, x, u, x_end, delta, weight):
        """Returns (loss, gradient to u)."""
        rows, width = _rows(x)
        grad_u, loss = torch.empty(u.shape), torch.empty(())  # float32 for every dtype
        partial_sums = torch.empty(rows * -(-width // LOSS_CHUNK), dtype=torch.float64)
        self._call(
            "endpoint_loss", x, u, x_end, grad_u, delta, weight, rows, width, DTYPES[x.dtype], partial_sums, loss
        )
        return loss, grad_u


def _rows(x):
    return x.shape[0], math.prod(x.shape[1:])
