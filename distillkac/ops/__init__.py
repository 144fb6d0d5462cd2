"""The six ops. CPU and CUDA kernels, the same values on every machine; autograd, torch.compile and CUDA graphs work.

Common to all:
- the first dimension is the batch, one time (weight, step) per row; t: (B,) float32 or float64.
- elements are float32, or bfloat16/float16 in and out with float32 arithmetic inside. Any strides; results are contiguous.
- `process`: "telegraph" (every coordinate alone), "planar" (neighbouring elements of the last axis in pairs, W even) or
  "quad" (four neighbouring elements of the last axis together, W divisible by 4).
- 0 < a <= 1e30 is the flip rate [1/time], 1e-30 <= c <= 1e20 the speed [pixel units/time]; a * t <= 1e9 and c * t <= 1e30.
- finite elements up to 1e18 give finite results wherever these fit in float32 (float16); NaN stays NaN.
- results never share memory with arguments; an `out` must not overlap an argument, unless it is all of it (in place).
- a wrong argument is a ValueError that names op, argument, wanted and got, and changes nothing. Values are checked on the CPU;
  on CUDA, where a check would wait for the device, rows with t < 0 or NaN come back as NaN.
- "differentiable" means gradients and forward mode (torch.func.jvp, dual tensors). A tangent where an op has no derivative, or
  beside `out`, is a ValueError; torch.func.grad is refused by torch, torch.func.vmap is a call for each.
- randomness: `seed` is an int, a torch.Generator (one number is drawn from it) or an int64 tensor of one element on the
  op's device, which a CUDA graph replay reads anew. Element i of row b depends on (seed, offset + b, i) alone: not on the
  device, the threads, the SIMD level or how a batch is split.
- the same seed (offset, process, a, c) at several times is one path: K moves on with t as the flow moves it, dK/dt = v(t, K),
  and keeps its quantile; of `kac_pair` dx_t/dt = u (docs/method.md, section 3).
"""

from collections.abc import Sequence
from typing import Literal, overload

import torch
from torch import Tensor

from distillkac._kernels import native as _native
from distillkac.ops import _arguments as given
from distillkac.ops import _quick, _rules
from distillkac.ops._arguments import tracing
from distillkac.ops.schedules import FName, GName

__all__ = [
    "ProcessName",
    "Rows",
    "Seed",
    "endpoint_loss",
    "guided_step",
    "guided_velocity",
    "kac_noise",
    "kac_pair",
    "kac_velocity",
]

_lib = torch.ops.distillkac
_rules.register(with_cuda=bool(_native.build_info()["cuda"]))

Seed = int | Tensor | torch.Generator
ProcessName = Literal["telegraph", "planar", "quad"]
Rows = float | Tensor
"""One number for all rows, or (B,)."""


def kac_noise(
    t: Tensor,
    size: Sequence[int],
    process: ProcessName,
    a: float,
    c: float,
    seed: Seed,
    offset: int = 0,
    dtype: torch.dtype = torch.float32,
    out: Tensor | None = None,
) -> Tensor:
    """Displacements K_t of the Kac process after time t (docs/method.md, sections 2, 4 and 5).

    t: (B,), t >= 0. size: the shape of one row. offset: number of the first row, >= 0.
    Returns (B, *size), |K| <= c*t (per pair for planar, per four for quad); `out`, a contiguous (B, *size) tensor, is filled
    if given.
    Not differentiable.
    """
    done = NotImplemented
    if tracing():
        pass
    elif out is None:
        done = _quick.noise(None, t, size, process, a, c, seed, None, offset, dtype)
    elif type(out) is type(t) is Tensor and type(size) is tuple and out.shape == (*t.shape, *size):
        done = _quick.noise_into(out, t, process, a, c, seed, None, offset)
    if done is not NotImplemented:
        return done
    op = "kac_noise"
    given.fixed_rows(op, t=t)
    given.names(op, process=process)
    size, offset = given.extents(op, size), given.integer(op, "offset", offset)
    a, c = given.number(op, "a", a), given.number(op, "c", c)
    seed, seed_tensor = given.seed_of(op, seed)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{op}: dtype must be a torch.dtype, got {given.shown(dtype)}")
    if out is not None:
        given.outputs(op, out)
        if t.dim() == 1 and tuple(out.shape) != (t.shape[0], *size):
            raise ValueError(f"{op}: out must have shape {(t.shape[0], *size)}, got {tuple(out.shape)}")
        _lib.kac_noise.out(t, out, process, a, c, seed, seed_tensor, offset)
        return given.written(out)
    return _lib.kac_noise.default(t, size, process, a, c, seed, seed_tensor, offset, dtype)


def kac_velocity(k: Tensor, t: Tensor, process: ProcessName, a: float, c: float, out: Tensor | None = None) -> Tensor:
    """Velocity of the Kac flow at displacement k after time t (docs/method.md, eqs. 4 and 7).

    k: (B, ...), |k| <= c*t (ValueError beyond rounding; NaN on CUDA). t: (B,), t >= 0.
    Returns (B, ...), |v| <= c, relative error <= 5e-7; `out`, contiguous and like k, is filled if given (then without
    autograd). Differentiable in k.
    |k| = float32(c*t), which the sampler gives to particles that never turned, counts as on the light cone: there v = c.
    For quad that is |k| within the rounding of its type below c*t: 1e-6, 2**-10 and 2**-7 for float32, float16, bfloat16,
    and of its smallest numbers.
    In bfloat16 the cone is lost to rounding; for training use `kac_pair`, which knows the atoms.
    """
    if not tracing() and (done := _quick.velocity(out, k, t, process, a, c)) is not NotImplemented:
        return done
    op = "kac_velocity"
    given.tensors(op, k=k)
    given.fixed_rows(op, t=t)
    given.names(op, process=process)
    a, c = given.number(op, "a", a), given.number(op, "c", c)
    if out is not None:
        given.outputs(op, out)
        _lib.kac_velocity.out(k, t, out, process, a, c)
        return given.written(out)
    return _lib.kac_velocity.default(k, t, process, a, c)


@overload
def kac_pair(
    x0: Tensor,
    t: Tensor,
    process: ProcessName,
    a: float,
    c: float,
    f: FName = "linear",
    g: GName = "linear",
    seed: Seed = 0,
    offset: int = 0,
    kappa: float = 1.0,
    out: tuple[Tensor, Tensor] | None = None,
    t_to: None = None,
) -> tuple[Tensor, Tensor]: ...


@overload
def kac_pair(
    x0: Tensor,
    t: Tensor,
    process: ProcessName,
    a: float,
    c: float,
    f: FName = "linear",
    g: GName = "linear",
    seed: Seed = 0,
    offset: int = 0,
    kappa: float = 1.0,
    out: tuple[Tensor, Tensor, Tensor] | None = None,
    *,
    t_to: Tensor,
) -> tuple[Tensor, Tensor, Tensor]: ...


def kac_pair(
    x0: Tensor,
    t: Tensor,
    process: ProcessName,
    a: float,
    c: float,
    f: FName = "linear",
    g: GName = "linear",
    seed: Seed = 0,
    offset: int = 0,
    kappa: float = 1.0,
    out: tuple[Tensor, ...] | None = None,
    t_to: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """A training pair in one pass: x_t = f(t) x_0 + K_{g(t)} and u = f'(t) x_0 + g'(t) v(g(t), K) (docs/method.md, eq. 8).

    x0: (B, ...). t: (B,), >= 0 (a flow lives on [0, 1]). f: "linear", "cosine" or "exp" (rate kappa); g: "linear" or
    "quadratic". t_to: (B,), >= 0, another time of the same path for every row, before t or after it.
    Returns (x_t, u), with t_to (x_t, u, x_to), all like x0: x_to has the bits that a second call at t_to would give x_t, for
    about half of its cost. `out` = what is returned, contiguous, is filled if given (then without autograd).
    |u| <= |f'| |x0| + g' c. Differentiable in x0.
    """
    if not tracing():
        if t_to is None:
            done = _quick.pair(out, x0, t, process, a, c, f, g, kappa, seed, None, offset)
        else:
            done = _quick.pair_to(out, x0, t, t_to, process, a, c, f, g, kappa, seed, None, offset)
        if done is not NotImplemented:
            return done
    op = "kac_pair"
    given.tensors(op, x0=x0)
    given.fixed_rows(op, t=t)
    given.names(op, process=process, f=f, g=g)
    a, c, kappa = given.number(op, "a", a), given.number(op, "c", c), given.number(op, "kappa", kappa)
    offset = given.integer(op, "offset", offset)
    seed, seed_tensor = given.seed_of(op, seed)
    rest = (process, a, c, f, g, kappa, seed, seed_tensor, offset)
    if t_to is not None:
        given.fixed_rows(op, t_to=t_to)
        if out is None:
            return _lib.kac_pair.to(x0, t, t_to, *rest)
        given.outputs(op, out, 3)
        _lib.kac_pair.to_out(x0, t, t_to, *out, *rest)
        return given.written(out)
    if out is not None:
        given.outputs(op, out, 2)
        _lib.kac_pair.out(x0, t, *out, *rest)
        return given.written(out)
    return _lib.kac_pair.default(x0, t, *rest)


def guided_velocity(
    u_cond: Tensor, u_uncond: Tensor, w: Rows, max_speed: float | None = None, process: ProcessName = "telegraph"
) -> Tensor:
    """Classifier-free guidance of velocities: u = u_cond + w (u_cond - u_uncond) (docs/method.md, eq. 10).

    u_cond, u_uncond: (B, ...). w: float or (B,); w = 0 is no guidance, diffusers' `guidance_scale` is 1 + w.
    max_speed: >= 0, bounds each coordinate (telegraph), or the length of each pair (planar) or four (quad).
    Returns u like u_cond. Differentiable in u_cond, u_uncond and w.
    """
    if (
        not tracing()
        and (done := _quick.guided(None, u_cond, u_uncond, w, None, max_speed, process)) is not NotImplemented
    ):
        return done
    op = "guided_velocity"
    given.tensors(op, u_cond=u_cond, u_uncond=u_uncond)
    given.names(op, process=process)
    max_speed = None if max_speed is None else given.number(op, "max_speed", max_speed)
    w, w_rows = given.row_scalar(op, "w", w, u_cond)
    return _lib.guided_velocity.default(u_cond, u_uncond, w, w_rows, max_speed, process)


def guided_step(
    x: Tensor,
    u_cond: Tensor,
    u_uncond: Tensor | None,
    u_prev: Tensor | None,
    w: Rows | None,
    h: Rows,
    h_prev: Rows | None,
    max_speed: float | None = None,
    process: ProcessName = "telegraph",
    out: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Guidance and one sampling step from t to t - h in one pass (docs/method.md, eqs. 10 and 11).

    x, u_cond: (B, ...). u_uncond: like x, or None for no guidance. u_prev: the u of the step before for Adams-Bashforth 2,
    x_next = x - h ((1 + r) u - r u_prev) with r = h / (2 h_prev), or None for Euler. w, h, h_prev: float or (B,).
    Returns (x_next, u). `out` = (x_next, u), contiguous; out=(x, u_prev) works in place (then without autograd).
    Differentiable in x, u_cond, u_uncond, u_prev and w.
    """
    w, h_prev = 0.0 if w is None and u_uncond is None else w, 0.0 if h_prev is None else h_prev
    if not tracing():
        done = _quick.step(out, x, u_cond, u_uncond, u_prev, w, h, h_prev, None, None, None, max_speed, process)
        if done is not NotImplemented:
            return done
    op = "guided_step"
    given.tensors(op, x=x, u_cond=u_cond)
    if u_uncond is not None:
        given.tensors(op, u_uncond=u_uncond)
    if u_prev is not None:
        given.tensors(op, u_prev=u_prev)
    given.names(op, process=process)
    max_speed = None if max_speed is None else given.number(op, "max_speed", max_speed)
    w, w_rows = given.row_scalar(op, "w", w, x, optional=u_uncond is None)
    h, h_rows = given.row_scalar(op, "h", h, x)
    h_prev, h_prev_rows = given.row_scalar(op, "h_prev", h_prev, x, optional=True)
    if h_rows is not None:
        given.fixed_rows(op, h=h_rows)
    if h_prev_rows is not None:
        given.fixed_rows(op, h_prev=h_prev_rows)
    rows = (w, h, h_prev, w_rows, h_rows, h_prev_rows, max_speed, process)
    if out is not None:
        given.outputs(op, out, 2)
        _lib.guided_step.out(x, u_cond, u_uncond, u_prev, *out, *rows)
        return given.written(out)
    return _lib.guided_step.default(x, u_cond, u_uncond, u_prev, *rows)


def endpoint_loss(
    x: Tensor, u: Tensor, x_end: Tensor, delta: Tensor, weight: Tensor | None = None, out: Tensor | None = None
) -> Tensor:
    """Endpoint distillation loss, mean_b weight_b ||(x - delta_b u) - x_end||^2 / (delta_b^2 D) (docs/method.md, eq. 12).

    x, u, x_end: (B, ...) with D elements a row; one Euler step of length delta (B,) from x should reach x_end. weight: (B,).
    Squares are taken in float32: residuals beyond 1e18 make the loss infinite, or NaN with weight 0.
    Returns a float32 scalar, the same for any number of threads. The gradient is made in the same pass: `out`, a contiguous
    float32 tensor of u's shape, receives d loss / d u if given (then without autograd).
    Differentiable in x, u and x_end.
    """
    if not tracing() and (done := _quick.loss(out, x, u, x_end, delta, weight)) is not NotImplemented:
        return done[0] if out is None else done
    op = "endpoint_loss"
    given.tensors(op, x=x, u=u, x_end=x_end)
    given.fixed_rows(op, delta=delta, **({} if weight is None else {"weight": weight}))
    if out is not None:
        given.outputs(op, out)
        loss = _lib.endpoint_loss.out(x, u, x_end, delta, weight, out)
        given.written(out)
        return loss
    return _lib.endpoint_loss.default(x, u, x_end, delta, weight)[0]
