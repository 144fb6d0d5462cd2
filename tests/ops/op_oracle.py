"""What an op may answer: the reference's values in float64, and how far from them float32 arithmetic may be."""

import torch

from distillkac import ops
from distillkac.ops import reference
from distillkac.ops.schedules import f_schedule, g_schedule
from tests.ops.op_cases import GROUPS

# Unit roundoff of the element type, and its absolute part (half the smallest subnormal).
ROUNDING = {torch.float32: (2**-24, 1e-37), torch.bfloat16: (2**-8, 1e-37), torch.float16: (2**-11, 2**-24)}
MOST = torch.finfo(torch.float32).max
EPSILON = 1e-6  # of the magnitudes that enter a float32 result; ten roundings and the kernels' own 5e-7


def assert_near(got, truth, allowed, dtype):
    """|got - truth| <= allowed plus the rounding of dtype; the infinity of a sign where what is allowed does not fit in it."""
    assert got.dtype == dtype
    assert got.shape == truth.shape
    assert got.is_contiguous()
    relative, absolute = ROUNDING[dtype]
    got, largest = got.double(), 0.999 * torch.finfo(dtype).max
    bound = allowed + relative * truth.abs() + absolute
    near = (got - truth).abs() <= bound
    too_large = (truth * got.sign() + allowed > largest) & (got.abs() >= 0.99 * largest)
    unknown = ~truth.isfinite() | ~bound.isfinite()  # what was not finite may stay so
    wrong = ~(near | too_large | unknown)
    assert not wrong.any(), f"got {got[wrong][:4]}, want {truth[wrong][:4]} within {bound.expand_as(truth)[wrong][:4]}"


def kac_noise(got, t, size, process, a, c, seed, offset=0, dtype=torch.float32, **_):
    """Inside the light cone, and row by row the same draws as alone."""
    assert got.shape == (len(t), *size)
    assert got.dtype == dtype
    assert got.is_contiguous()
    radius = reference.rows(t.double() * c, got)
    length = got.double()
    if process != "telegraph" and got.numel():
        group = GROUPS[process]
        length = torch.linalg.vector_norm(length.unflatten(-1, (-1, group)), dim=-1).repeat_interleave(group, -1)
    relative, absolute = ROUNDING[dtype]
    inside = length <= radius * (1 + 3e-7 + 2 * relative) + 2 * absolute
    assert (inside | (radius > 0.99 * torch.finfo(dtype).max)).all()
    if isinstance(seed, torch.Generator):
        return
    for b in {0, len(t) // 2, len(t) - 1} if len(t) else ():
        alone = ops.kac_noise(t[b : b + 1].contiguous(), tuple(size), process, a, c, seed, offset + b, dtype)
        assert torch.equal(alone[0], got[b])


def kac_velocity(got, k, t, process, a, c, **_):
    truth = _velocity(k.double(), t.double(), process, a, c)
    assert_near(got, truth, EPSILON * truth.abs(), k.dtype)


def _velocity(k, t, process, a, c):
    if a / c > 1e150:  # the reference's (a / c)^2 does not fit in float64
        return torch.full_like(k, torch.nan)
    v = reference.kac_velocity(k, t, process, a, c)
    if process == "telegraph":  # atoms lie at float32(c t), which in float64 may be inside the cone
        atoms = k.abs() == reference.rows((c * t).float(), k)
        return torch.where(atoms, torch.copysign(torch.full_like(k, c), k), v)
    return v


def kac_pair(got, x0, t, process, a, c, f="linear", g="linear", seed=0, offset=0, kappa=1.0, t_to=None, **_):
    dtype = x0.dtype
    if t_to is not None:
        f_to, g_to = f_schedule(t_to.double(), f, kappa)[0], g_schedule(t_to.double(), g)[0]
        k, kept = ops.kac_noise(g_to, x0.shape[1:], process, a, c, seed, offset).double(), x0.double()
        kept = reference.rows(f_to, kept) * kept
        assert_near(got[2], kept + k, EPSILON * (kept.abs() + k.abs()), dtype)
    x0, t = x0.double(), t.double()
    (f_t, df), (g_t, dg) = f_schedule(t, f, kappa), g_schedule(t, g)
    k = ops.kac_noise(g_t, x0.shape[1:], process, a, c, seed, offset).double()
    v = _velocity(k, g_t, process, a, c)
    f_t, df, dg = (reference.rows(value, x0) for value in (f_t, df, dg))
    assert_near(got[0], f_t * x0 + k, EPSILON * ((f_t * x0).abs() + k.abs()), dtype)
    near = EPSILON * ((df * x0).abs() + (dg * v).abs())
    if process == "planar" and k.numel():
        # v comes from the words, the reference's from the rounded K: 6e-7 in |K|^2 moves s by at most 6e-7 / s.
        square = (
            (k / reference.rows(c * g_t, k).clamp(min=1e-300)).unflatten(-1, (-1, 2)).square().sum(-1, keepdim=True)
        )
        s = (1 - square).clamp(min=6e-7).sqrt().expand(*square.shape[:-1], 2).flatten(-2)
        near = near + dg * c * torch.minimum(6e-7 / s, torch.tensor(2.0, dtype=torch.float64))
        near = near + torch.where(reference.rows(g_t * c, k) < 1e-30, 3 * dg * c, 0)  # K is subnormal: v cannot be told
    if process == "quad" and k.numel():
        near = near + dg * quad_rounding(k, reference.rows(c * g_t, k), reference.rows(a * g_t, k), c)
    assert_near(got[1], df * x0 + dg * v, near, dtype)


def quad_rounding(k, radius, lam, c):
    """How far the velocity at the rounded K may be from that of the words: the rounding moves z by 4e-7 lambda, where the
    factor (z + 3) / (z + 2) has the slope 1 / (z + 2)^2, and beside the sphere decides between 3/4 c and c."""
    square = (k / radius.clamp(min=1e-300)).unflatten(-1, (-1, 4)).square().sum(-1).repeat_interleave(4, -1)
    z = lam * (1 - square).clamp(min=0)
    beside = ((1 - square).abs() < 3e-6) | (radius < 1e-30)  # K may be subnormal: v cannot be told
    return torch.where(beside, 2 * c, c * torch.minimum(4e-7 * lam / (z + 2).square(), torch.ones_like(z)))


def _guided(u_cond, u_uncond, w, max_speed, process):
    """The guided velocity, and the size of what was added up for it."""
    u_uncond = u_cond if u_uncond is None else u_uncond
    u = reference.guided_velocity(u_cond, u_uncond, w, max_speed, process)
    both = u_cond.double().abs() + u_uncond.double().abs()
    size = u_cond.double().abs() + reference.rows(w, u_cond).abs() * both
    u = torch.where(both > MOST, torch.nan, u)  # w = 0 times an infinity, or infinities of two signs
    if process != "telegraph" and max_speed is not None and size.numel():
        group = GROUPS[process]
        size = size.unflatten(-1, (-1, group)).amax(-1).repeat_interleave(group, -1)
    return u, size


def guided_velocity(got, u_cond, u_uncond, w, max_speed=None, process="telegraph", **_):
    u, size = _guided(u_cond, u_uncond, w, max_speed, process)
    assert_near(got, u, EPSILON * size, u_cond.dtype)


def guided_step(got, x, u_cond, u_uncond, u_prev, w, h, h_prev, max_speed=None, process="telegraph", **_):
    u, size = _guided(u_cond, u_uncond, 0.0 if u_uncond is None else w, max_speed, process)
    assert_near(got[1], u, EPSILON * size, x.dtype)
    truth, _ = reference.guided_step(
        x, u_cond, u_uncond, u_prev, 0.0 if u_uncond is None else w, h, h_prev, max_speed, process
    )
    h = reference.rows(h, x)
    r = h / (2 * reference.rows(h_prev, x)) if u_prev is not None else 0 * h
    before = 0 if u_prev is None else u_prev.double().abs()
    slopes = (1 + r).abs() * size + r.abs() * before
    truth = torch.where(slopes > MOST, torch.nan, truth)  # infinite velocities, and h may be 0
    moved = h.abs() * slopes
    assert_near(got[0], truth, EPSILON * (x.double().abs() + moved), x.dtype)


def endpoint_loss(got, x, u, x_end, delta, weight=None, **_):
    truth = reference.endpoint_loss(x, u, x_end, delta, weight)
    x, u, x_end = x.double(), u.double(), x_end.double()
    delta, weight = reference.rows(delta, x), reference.rows(1.0 if weight is None else weight, x)
    lost = EPSILON * (x.abs() + x_end.abs() + (delta * u).abs())
    residual = ((x - delta * u) - x_end).abs()
    allowed = (
        weight.abs() / delta.square() * (2 * residual * lost + lost.square() + EPSILON * residual.square())
    ).mean()
    allowed = allowed + (weight / delta.square()).abs().max() * 2**-148  # squares below the normal numbers
    assert got.shape == ()
    if residual.max() > 1e18 and got.isinf():
        return
    assert_near(got.reshape(1), truth.reshape(1), allowed, torch.float32)
