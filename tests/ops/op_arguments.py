"""Hypothesis strategies for the ops' arguments: right ones of every layout and size, and wrong ones for every position."""

import decimal
import fractions
import math

import numpy as np
import torch
from hypothesis import strategies as some

from distillkac.ops.schedules import F_NAMES, G_NAMES

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Which arguments each op has, by kind.
TENSORS = {
    "kac_noise": (),
    "kac_velocity": ("k",),
    "kac_pair": ("x0",),
    "guided_velocity": ("u_cond", "u_uncond"),
    "guided_step": ("x", "u_cond", "u_uncond", "u_prev"),
    "endpoint_loss": ("x", "u", "x_end"),
}
ROWS = {"t", "t_to", "delta", "weight", "w", "h", "h_prev"}
NUMBERS = {"a", "c", "kappa", "max_speed"}
LAYOUTS = ("contiguous", "transposed", "every second", "unaligned", "expanded", "windows", "negated", "channels last")


def layout(kind, x):
    """A tensor of x's shape, in other memory; the same values except for "expanded" and "windows"."""
    if kind == "transposed":
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if kind == "every second":
        return torch.stack([x, torch.full_like(x, math.nan)], -1)[..., 0]
    if kind == "unaligned":
        padded = torch.full((x.numel() + 1,), math.nan, dtype=x.dtype)
        padded[1:] = x.flatten()
        return padded[1:].view(x.shape)
    if kind == "expanded" and len(x):
        return x[:1].expand(x.shape)
    if kind == "windows" and x.numel():
        return x.flatten().as_strided(
            x.shape, [0 if size == 1 else int(i == x.dim() - 1) for i, size in enumerate(x.shape)]
        )
    if kind == "negated" and x.dtype == torch.float32:
        return torch.complex(torch.zeros_like(x), -x).conj().imag
    if kind == "channels last" and x.dim() == 4:
        return x.to(memory_format=torch.channels_last)
    return x


@some.composite
def shapes(draw, process):
    rows = draw(some.sampled_from([0, 1, 2, 3, 3, 5, 17, 65, 70]))
    width = draw(some.sampled_from([1, 2, 7, 8, 15, 16, 17, 33, 64, 66, 127, 130, 300, 2049, 16390]))
    if width > 1000:
        rows = min(rows, 2)
    middle = draw(some.sampled_from([(), (), (1,), (2,), (3, 2), (0,)]))
    width += -width % {"telegraph": 1, "planar": 2, "quad": 4}[process]
    return (rows, *middle, width)


def values(draw, shape, dtype, scale):
    seed = draw(some.integers(0, 2**20))
    x = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1
    return (x * min(scale, 6e4) if dtype == torch.float16 else x * scale).to(dtype)


def per_row(draw, count, low, high):
    """(count,) values between low and high, evenly in the logarithm, as float32 or float64, perhaps strided."""
    seed, dtype = draw(some.integers(0, 2**20)), draw(some.sampled_from([torch.float32, torch.float64]))
    power = torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows = (low * (high / low) ** power).to(dtype)
    return layout(draw(some.sampled_from(["contiguous", "every second", "unaligned", "expanded"])), rows)


@some.composite
def right_arguments(draw, op):
    """Arguments that every op must accept. Rates, speeds, times and elements span what the docstrings promise."""
    process = draw(some.sampled_from(["telegraph", "planar", "quad"]))
    shape, dtype = draw(shapes(process)), draw(some.sampled_from(DTYPES))
    plain = draw(some.booleans())  # ordinary magnitudes half of the time
    scale = 1.0 if plain else 10.0 ** draw(some.integers(-30, 15))
    if op == "endpoint_loss" and 0 in shape:
        shape = tuple(max(size, 2) for size in shape)
    tensors = {
        name: layout(draw(some.sampled_from(LAYOUTS)), values(draw, shape, dtype, scale)) for name in TENSORS[op]
    }
    if op in ("kac_noise", "kac_velocity", "kac_pair"):
        return _noise_arguments(draw, op, process, shape, dtype, plain, tensors)
    return _field_arguments(draw, op, process, shape, plain, tensors)


def _noise_arguments(draw, op, process, shape, dtype, plain, tensors):
    a = draw(some.floats(0.1, 50)) if plain else 10.0 ** draw(some.floats(-20, 20))
    c = draw(some.floats(0.1, 9)) if plain else 10.0 ** draw(some.floats(-20, 20))
    last = min(1e8 / a, 1e29 / c, 1e15)
    times = per_row(draw, shape[0], 1e-3, 1.0) if plain and last > 1 else per_row(draw, shape[0], last * 1e-12, last)
    if draw(some.integers(0, 4)) == 0:
        times = times * 0
    common = {"t": times, "process": process, "a": a, "c": c}
    seeds = some.one_of(some.integers(-(2**63), 2**63 - 1), some.just("tensor"))
    seed = draw(seeds)
    seed = torch.tensor(draw(some.integers(-(2**63), 2**63 - 1))) if seed == "tensor" else seed
    random = {"seed": seed, "offset": draw(some.sampled_from([0, 1, 2**32 - 3, 2**62]))}
    if op == "kac_noise":
        return {**common, "size": shape[1:], **random, "dtype": dtype}
    if op == "kac_velocity":
        return {**common, **_displacement(draw, times, c, shape, dtype)}
    second = times.flip(0) * draw(some.sampled_from([0.0, 0.5, 1.0])) if draw(some.booleans()) else None
    if float(times.double().square().max() if len(times) else 0) * max(a / 1e9, c / 1e30) > 0.9:
        schedule = "linear"  # g = t^2 would leave the range
    else:
        schedule = draw(some.sampled_from(G_NAMES))
    f = draw(some.sampled_from(F_NAMES))
    kappa = draw(some.floats(1e-3, 1e3))
    return {**tensors, **common, "f": f, "g": schedule, "kappa": kappa, **random, "t_to": second}


def _displacement(draw, times, c, shape, dtype):
    """k that lies inside the cone |k| <= c t, and t."""
    if dtype == torch.float16 and float((times.double() * c).max() if len(times) else 0) > 6e4:
        times = times * 0
    # Inside the cone by enough for rounding to the dtype; pairs by sqrt(2) more, fours by 2.
    inside = torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 0.96 - 0.48
    radius = times.double() * c
    least = 1e-3 if dtype == torch.float16 else 1e-36  # below, rounding a displacement may bring it outside
    radius = torch.where(radius < least, 0.0, radius)
    k = (inside * radius.reshape(-1, *[1] * (len(shape) - 1))).to(dtype)
    kind = draw(some.sampled_from([kind for kind in LAYOUTS if kind not in ("expanded", "windows")]))
    return {"k": layout(kind, k), "t": times}


def _field_arguments(draw, op, process, shape, plain, tensors):
    def row(low, high):
        return per_row(draw, shape[0], low, high)

    def scalar_or_row(low, high):
        return row(low, high) if draw(some.booleans()) else draw(some.floats(low, high))

    max_speed = draw(some.one_of(some.none(), some.floats(0, 4), some.just(math.inf)))
    w = scalar_or_row(1e-3, 16) if plain else scalar_or_row(1e-10, 1e10)
    if op == "guided_velocity":
        return {**tensors, "w": w, "max_speed": max_speed, "process": process}
    if op == "guided_step":
        for name in ("u_uncond", "u_prev"):
            if draw(some.booleans()):
                tensors[name] = None
        steps = {"h": scalar_or_row(1e-3, 1), "h_prev": scalar_or_row(1e-3, 1)}
        return {**tensors, "w": w, **steps, "max_speed": max_speed, "process": process}
    weight = draw(some.sampled_from([None, "rows"]))
    return {**tensors, "delta": row(1e-3, 1), "weight": weight if weight is None else row(1e-3, 10)}


def _wrong_tensors(x):
    """Tensors like x with one thing changed; not all are refused (NaN, a Parameter)."""
    shape = tuple(x.shape)
    yield from (None, [0.5], "x", 3.0, np.zeros(shape, np.float32), torch.zeros)
    yield from (x.to(dtype) for dtype in (torch.int64, torch.bool, torch.uint8, torch.float64, torch.complex64))
    yield x.to("meta")
    yield x.float().to_sparse()
    yield torch.quantize_per_tensor(x.float().nan_to_num(), 0.1, 0, torch.quint8)
    yield torch.nested.nested_tensor([torch.zeros(3), torch.zeros(4)])
    yield torch.tensor(0.5)
    yield x.unsqueeze(0)
    yield x.flatten()
    yield x[:0]
    yield x[..., :0]
    yield torch.cat([x, x])
    yield torch.full_like(x, math.nan)
    yield torch.full_like(x, math.inf)
    yield torch.full_like(x, torch.finfo(x.dtype).max if x.dtype.is_floating_point else 1)
    yield torch.nn.Parameter(x.float().contiguous())
    # More than 2^31 elements in the memory of one, 2^62 and more, and many rows of none.
    yield torch.zeros(1, dtype=x.dtype).expand(2**31 + 2, *shape[1:])
    yield torch.zeros(1, dtype=x.dtype).expand(*shape[:1], *[1] * (len(shape) - 1), 2**40)
    yield torch.zeros(1, dtype=x.dtype).expand(2**33)
    yield torch.zeros(2**17, dtype=x.dtype).as_strided((2**16, 2**16), (1, 1))
    yield torch.zeros(0, dtype=x.dtype).as_strided((2**34, 0), (0, 1))


def _wrong_rows(t):
    yield from _wrong_tensors(t)
    yield from (torch.full_like(t, value) for value in (-1.0, -1e-30, 0.0, 1e12, 1e30, 1e-30))
    yield t.reshape(-1, 1)


WRONG_NUMBERS = [
    *(0, -1, 0.0, -0.0, -2.5, math.nan, math.inf, -math.inf, 1e300, 1e-300, 1e38, 1e25, 5e-324, 10**400, -(10**400)),
    *(True, "9", None, [1.0], (2.0,), {}, 1j, b"1", np.float32(2), np.float64(2), np.int8(3), np.array(3.0)),
    *(fractions.Fraction(5, 2), decimal.Decimal("2.5"), torch.tensor(2.0), torch.zeros(3, 3), float),
]
WRONG_INTEGERS = [
    *(0, -1, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64, 10**30, True, False, 1.5, math.nan, "1", b"1", None, [1]),
    *(np.int64(3), np.uint64(2**64 - 1), np.float64(1), np.array(3), 1j, fractions.Fraction(3)),
]
WRONG_SEEDS = [
    *WRONG_INTEGERS,
    *(torch.tensor([3]), torch.tensor(3), torch.tensor(3).int(), torch.tensor([1, 2]), torch.tensor(1.0)),
    *(torch.tensor(True), torch.tensor(3, device="meta"), torch.zeros(0).long(), torch.tensor(3).to_sparse()),
    torch.zeros(1).long().expand(2**33),
]
WRONG_NAMES = ["x", "", "Planar", "planar\0", "telegraph ", "é" * 500, None, 3, b"planar", ["planar"], "linear", "exp"]
WRONG_SIZES = [
    *(8, None, "8", "", (), [], (-1,), (2**40, 2**40), (2**62,), (2**63,), (2.5,), (True,), ("3",), [4], (4, 0), 3.0),
    *(torch.Size([4]), np.array([4]), (np.int64(4),), (torch.tensor(4),), {4}, ((4,),), (0, 2**62), (2**62, 0)),
]
WRONG_DTYPES = [None, "float32", float, torch.float64, torch.complex64, torch.int32, torch.bool, np.float32, 6]


@some.composite
def wrong_value(draw, name, present):
    """A strange value for the argument `name`, in place of `present`."""
    pools = {"seed": WRONG_SEEDS, "offset": WRONG_INTEGERS, "size": WRONG_SIZES, "dtype": WRONG_DTYPES}
    if name in pools:
        return draw(some.sampled_from(pools[name]))
    if name in ("process", "f", "g"):
        return draw(some.sampled_from(WRONG_NAMES))
    if name in NUMBERS or (name in ROWS and not isinstance(present, torch.Tensor)):
        return draw(some.sampled_from(WRONG_NUMBERS))
    present = torch.zeros(3, 8) if present is None else present
    options = list(_wrong_rows(present) if name in ROWS else _wrong_tensors(present))
    return options[draw(some.integers(0, len(options) - 1))]
