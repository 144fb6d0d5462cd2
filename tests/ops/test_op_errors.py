"""A wrong argument is a ValueError that names op, argument, what was wanted and what came."""

import re

import pytest
import torch

from distillkac import ops
from distillkac.ops import reference

T, X = torch.ones(3), torch.zeros(3, 8)
NAN = float("nan")


def noise(**changes):
    return ops.kac_noise(**{"t": T, "size": (8,), "process": "telegraph", "a": 9.0, "c": 3.0, "seed": 0} | changes)


def velocity(**changes):
    return ops.kac_velocity(**{"k": X, "t": T, "process": "telegraph", "a": 9.0, "c": 3.0} | changes)


def pair(**changes):
    return ops.kac_pair(**{"x0": X, "t": T, "process": "telegraph", "a": 9.0, "c": 3.0} | changes)


def guide(**changes):
    return ops.guided_velocity(**{"u_cond": X, "u_uncond": X, "w": 1.0} | changes)


def step(**changes):
    given = {"x": X, "u_cond": X, "u_uncond": X, "u_prev": X, "w": 1.0, "h": 0.1, "h_prev": 0.1} | changes
    return ops.guided_step(**given)


def loss(**changes):
    return ops.endpoint_loss(**{"x": X, "u": X, "x_end": X, "delta": T} | changes)


X9, X64, X0 = torch.zeros(3, 9), torch.zeros(3, 8).double(), torch.zeros(3, 0)
STRIDED = torch.zeros(8, 3).T

WRONG = [
    *[
        (call, {"a": a}, "a must be a positive number, got")
        for call in (noise, velocity, pair)
        for a in (0.0, -1.0, NAN)
    ],
    *[(call, {"c": -2.0}, "c must be a positive number, got -2") for call in (noise, velocity, pair)],
    *[(call, {"c": 1e21}, "c must be at most 1e+20, got 1e+21") for call in (noise, velocity, pair)],
    *[(call, {"a": "9"}, "a must be a number, got '9' (str)") for call in (noise, velocity, pair)],
    *[(call, {"t": None}, "t must be a tensor (B,), one value a row, got None") for call in (noise, velocity, pair)],
    *[(call, {"process": 3}, "process must be a string, got 3 (int)") for call in (noise, velocity, pair, guide, step)],
    *[(call, {"offset": 1.5}, "offset must be an int, got 1.5 (float)") for call in (noise, pair)],
    *[(call, {"seed": True}, "seed must be an int, got True") for call in (noise, pair)],
    *[(call, {"w": w}, "w must be a finite number, got") for call in (guide, step) for w in (NAN, 1e39)],
    *[(call, {"w": torch.full((3,), NAN)}, "w") for call in (guide, step)],
    *[(call, {"w": "1"}, "w must be a number or a tensor (B,), got '1' (str)") for call in (guide, step)],
    (guide, {"max_speed": "1"}, "max_speed must be a number, got '1' (str)"),
    (step, {"h": None}, "h must be a number or a tensor (B,), got None"),
    (
        step,
        {"h": 1e30, "h_prev": 1e-30},
        "h_prev must not be 0, and w, h, h_prev and h (1 + h / (2 h_prev)) must be finite",
    ),
    (
        loss,
        {"delta": torch.full((3,), NAN)},
        "delta must not be 0, and delta, weight and weight / delta^2 must be finite",
    ),
    (loss, {"weight": torch.full((3,), float("inf"))}, "weight / delta^2 must be finite"),
    (noise, {"size": 8}, "size must be a tuple, the shape of one row such as (3, 32, 32), got 8 (int)"),
    (noise, {"size": (2**40, 2**40)}, "size must make fewer than 2^60 elements"),
    (noise, {"size": (0, 2**62)}, "size must make fewer than 2^60 elements"),
    (noise, {"dtype": "float32"}, "dtype must be a torch.dtype, got 'float32' (str)"),
    (velocity, {"k": X.to_sparse()}, "k must be a dense strided tensor, got layout torch.sparse_coo"),
    (velocity, {"k": X.to("meta")}, "t must be on the device of k, meta, got cpu"),
    (velocity, {"t": T.to("meta")}, "t must be on the device of k, cpu, got meta"),
    (
        velocity,
        {"k": torch.zeros(1).expand(2**31 + 1, 8), "t": torch.zeros(1).expand(2**31 + 1)},
        "more than 2^31 elements",
    ),
    (pair, {"x0": None}, "x0 must be a tensor (B, ...), got None"),
    (pair, {"out": X}, "out must be a tuple of 2 tensors, got a tensor of shape (3, 8), torch.float32"),
    *[
        (call, {"process": "x"}, "process must be 'telegraph', 'planar' or 'quad', got 'x'")
        for call in (noise, velocity, pair, guide)
    ],
    (step, {"process": "Planar"}, "process must be 'telegraph', 'planar' or 'quad', got 'Planar'"),
    *[(call, {"t": T.long()}, "t must be float32 or float64 (") for call in (noise, velocity, pair)],
    *[(call, {"t": T.half()}, "got float16 (3,)") for call in (noise, velocity, pair)],
    *[(call, {"t": torch.ones(3, 1)}, "got float32 (3, 1)") for call in (noise, velocity, pair)],
    *[(call, {"t": torch.ones(2)}, "t must be float32 or float64 (3,), got float32 (2,)") for call in (velocity, pair)],
    *[
        (call, {"t": torch.tensor([1.0, t, 1.0])}, "t must be finite and >= 0")
        for call in (noise, velocity, pair)
        for t in (-1e-9, NAN, float("inf"))
    ],
    *[(call, {"a": 1e10}, "<= 1e9") for call in (noise, velocity, pair)],
    *[(call, {"t": torch.ones(3, requires_grad=True)}, "t is not differentiable") for call in (noise, velocity, pair)],
    (
        noise,
        {"size": (4, 7), "process": "planar"},
        "size must have an even last dimension, because planar pairs neighbouring elements; got 7",
    ),
    (noise, {"size": (), "process": "planar"}, "size must have an even last dimension"),
    (
        noise,
        {"size": (4, 6), "process": "quad"},
        "size must have a last dimension divisible by 4, because quad groups four neighbouring elements; got 6",
    ),
    (noise, {"size": (-1,)}, "size must hold numbers >= 0, got -1"),
    (noise, {"offset": -1}, "offset must be >= 0, got -1"),
    (
        noise,
        {"seed": torch.zeros(2, dtype=torch.int64)},
        "seed must be an int or an int64 tensor of one element, got int64 (2,)",
    ),
    (pair, {"seed": torch.zeros(1)}, "seed must be an int or an int64 tensor of one element, got float32 (1,)"),
    (noise, {"dtype": torch.float64}, "dtype must be float32, bfloat16 or float16, got float64"),
    (noise, {"out": X9}, "out must have shape (3, 8), got (3, 9)"),
    (noise, {"out": X64}, "must be float32, bfloat16 or float16, got float64"),
    (noise, {"out": STRIDED}, "out must be contiguous"),
    (velocity, {"k": X64}, "k must be float32, bfloat16 or float16, got float64"),
    (velocity, {"k": torch.tensor(1.0)}, "k must have a batch dimension"),
    (velocity, {"k": X9, "process": "planar"}, "k must have an even last dimension"),
    (velocity, {"k": X + 3.0001}, "|k| <= c*t"),
    (velocity, {"k": X - 3.0001}, "|k| <= c*t"),
    (velocity, {"k": X + 2.2, "process": "planar"}, "|k| <= c*t"),  # 3.11 as a pair
    (pair, {"x0": X9, "process": "planar"}, "x0 must have an even last dimension"),
    (pair, {"x0": X9, "process": "quad"}, "x0 must have a last dimension divisible by 4"),
    (velocity, {"k": X9, "process": "quad"}, "k must have a last dimension divisible by 4"),
    (velocity, {"k": X + 1.6, "process": "quad"}, "|k| <= c*t"),  # 3.2 as four
    (pair, {"x0": X.long()}, "x0 must be float32, bfloat16 or float16, got int64"),
    (pair, {"f": "x"}, "f must be 'linear', 'cosine' or 'exp', got 'x'"),
    (pair, {"g": "x"}, "g must be 'linear' or 'quadratic', got 'x'"),
    *[(pair, {"kappa": kappa}, "kappa must lie in (0, 1e6], got") for kappa in (0.0, -1.0, NAN)],
    (pair, {"out": (X9, X)}, "out[0] must be float32 (3, 8) like the other tensors, got float32 (3, 9)"),
    (pair, {"out": (X.clone(), X64)}, "out[1] must be float32 (3, 8) like the other tensors, got float64 (3, 8)"),
    (pair, {"out": (STRIDED, X.clone())}, "out must be contiguous"),
    (pair, {"offset": -5}, "offset must be >= 0, got -5"),
    (pair, {"t_to": 0.5}, "t_to must be a tensor (B,), one value a row, got 0.5 (float)"),
    (pair, {"t_to": torch.ones(2)}, "t_to must be float32 or float64 (3,), got float32 (2,)"),
    (pair, {"t_to": T.long()}, "t_to must be float32 or float64 (3,), got int64 (3,)"),
    (pair, {"t_to": T.to("meta")}, "t_to must be on the device of x0, cpu, got meta"),
    (pair, {"t_to": torch.ones(3, requires_grad=True)}, "t_to is not differentiable here; pass t_to.detach()"),
    *[(pair, {"t_to": torch.tensor([1.0, t, 1.0])}, "t and t_to must be finite and >= 0") for t in (-1e-9, NAN)],
    (pair, {"t": -T, "t_to": T}, "t and t_to must be finite and >= 0"),
    (pair, {"t_to": T, "out": (X.clone(), X.clone())}, "out must be a tuple of 3 tensors, got"),
    (pair, {"out": (X.clone(), X.clone(), X.clone())}, "out must be a tuple of 2 tensors, got"),
    (pair, {"t_to": T, "out": (X.clone(), X.clone(), X9)}, "out[2] must be float32 (3, 8) like the other tensors"),
    (pair, {"t_to": T, "out": (X.clone(), X.clone(), STRIDED)}, "out must be contiguous"),
    (pair, {"t_to": T, "out": (X, X.clone(), X)}, "out must be three different tensors, got the same one twice"),
    (guide, {"u_uncond": X9}, "u_uncond must be float32 (3, 8) like the other tensors, got float32 (3, 9)"),
    (guide, {"u_uncond": X.half()}, "u_uncond must be float32 (3, 8) like the other tensors, got float16 (3, 8)"),
    (guide, {"w": torch.ones(2)}, "w must be float32 or float64 (3,), got float32 (2,)"),
    (guide, {"w": torch.ones(3).long()}, "w must be float32 or float64 (3,), got int64 (3,)"),
    *[
        (call, {"max_speed": speed}, "max_speed must be >= 0 or None, got")
        for call in (guide, step)
        for speed in (-1.0, NAN)
    ],
    (guide, {"u_cond": X9, "u_uncond": X9, "process": "planar", "max_speed": 1.0}, "even last dimension"),
    (guide, {"u_cond": X9, "u_uncond": X9, "process": "quad", "max_speed": 1.0}, "last dimension divisible by 4"),
    *[
        (step, {name: X9}, f"{name} must be float32 (3, 8) like the other tensors")
        for name in ("u_cond", "u_uncond", "u_prev")
    ],
    *[
        (step, {name: torch.ones(4)}, f"{name} must be float32 or float64 (3,), got float32 (4,)")
        for name in ("w", "h", "h_prev")
    ],
    *[(step, {name: torch.ones(3, requires_grad=True)}, f"{name} is not differentiable") for name in ("h", "h_prev")],
    (step, {"h_prev": 0.0}, "h_prev must be the length of the step before, got 0"),
    (step, {"h_prev": None}, "h_prev must be the length of the step before"),
    (step, {"out": (X9, X9.clone())}, "out[0] must be float32 (3, 8)"),
    (step, {"out": (X.clone(), STRIDED)}, "out must be contiguous"),
    *[(loss, {name: X9}, f"{name} must be float32 (3, 8) like the other tensors") for name in ("u", "x_end")],
    (loss, {"delta": torch.ones(3, 1)}, "delta must be float32 or float64 (3,), got float32 (3, 1)"),
    (loss, {"delta": torch.tensor([1.0, 0.0, 1.0])}, "delta must not be 0"),
    (loss, {"weight": torch.ones(2)}, "weight must be float32 or float64 (3,), got float32 (2,)"),
    (loss, {"weight": torch.ones(3, requires_grad=True)}, "weight is not differentiable"),
    (loss, {"x": X0, "u": X0, "x_end": X0}, "x must not be empty (the mean over no elements), got float32 (3, 0)"),
]
NAMES = {noise: "kac_noise", velocity: "kac_velocity", pair: "kac_pair", guide: "guided_velocity", step: "guided_step"}
NAMES[loss] = "endpoint_loss"


@pytest.mark.parametrize(
    ("call", "changes", "message"), WRONG, ids=[f"{NAMES[c]}-{next(iter(d))}-{i}" for i, (c, d, _) in enumerate(WRONG)]
)
def test_wrong_argument(call, changes, message):
    call()  # what is not changed is right
    with pytest.raises(ValueError, match=f"^{NAMES[call]}: .*{re.escape(message)}"):
        call(**changes)


@pytest.mark.parametrize("call", [noise, pair])
def test_seed_beyond_64_bits(call):
    with pytest.raises(ValueError, match="seed must fit in 64 bits with sign, got 9223372036854775808"):
        call(seed=2**63)


def test_displacements_a_rounding_outside_the_cone_are_accepted():
    c, t = 0.1, torch.tensor([0.7], dtype=torch.float64)
    outside = torch.tensor([[c * 0.7]]).float() * (1 + 5e-7)
    assert ops.kac_velocity(outside, t, "telegraph", 9.0, c).item() == pytest.approx(c)
    for dtype, ulp in ((torch.bfloat16, 2**-8), (torch.float16, 2**-11)):
        k = torch.tensor([[c * 0.7 * (1 + ulp / 2)]]).to(dtype)
        assert ops.kac_velocity(k, t, "telegraph", 9.0, c).abs().item() <= c * (1 + ulp)


def test_simd_level_names_what_there_is():
    with pytest.raises(ValueError, match=r"set_simd_level: level must be one of [a-z0-9, ]+ \(.*\), got 'sse9'"):
        ops._native.set_simd_level("sse9")


def test_a_float16_loss_keeps_its_gradient_under_a_loss_scale():
    """The gradient is below the smallest float16 here, the scale above the largest: both are used in float32."""
    x = torch.ones(3, 100_000).half()
    u = (x * 0.01).requires_grad_()
    (ops.endpoint_loss(x, u, x, torch.ones(3)) * 65536).backward()
    assert u.grad[0, 0].item() == pytest.approx(2 * 0.01 * 65536 / 300_000, rel=2e-3)


def test_mistakes_in_python_arguments_name_the_op():
    t, z = torch.ones(2), torch.zeros(2, 4)
    for call, words in (
        (lambda: ops.kac_noise(0.5, (4,), "telegraph", 9.0, 3.0, 1), r"kac_noise: t must be a tensor \(B,\).* got 0.5"),
        (lambda: ops.kac_noise(t, (4,), "telegraph", 9.0, 3.0, None), "kac_noise: seed must be an int.* got None"),
        (lambda: ops.kac_noise(t, (4,), "telegraph", 9.0, 3.0, 2**64), "kac_noise: seed must fit in 64 bits"),
        (
            lambda: ops.kac_noise(t, (4,), "telegraph", 9.0, 3.0, 1, 2**63 - 1),
            "kac_noise: offset plus the number of rows",
        ),
        (lambda: ops.kac_pair(z, -t, "telegraph", 9.0, 3.0, g="quadratic"), "kac_pair: t must be finite and >= 0"),
        (lambda: ops.kac_pair(z, t, "telegraph", 9.0, 3.0, out=(z, z)), "kac_pair: out must be two different tensors"),
        (lambda: ops.guided_step(z, z, None, z, 0.0, 0.1, t * 0), "guided_step: h_prev must not be 0"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    leaf = torch.zeros(2, 4, requires_grad=True)
    with pytest.raises(ValueError, match="kac_noise: out must not require grad"):
        ops.kac_noise(t, (4,), "telegraph", 9.0, 3.0, 1, out=leaf)


@pytest.mark.parametrize("shift", [1, 5])
def test_out_that_shares_a_part_of_an_argument_is_refused(shift):
    """The kernel would overwrite what it has yet to read; the same memory as a whole is in place, and copies are fine."""
    memory = torch.zeros(3 * 8 + shift)
    x, out = memory[:-shift].view(3, 8), memory[shift:].view(3, 8)
    for call, changes in (
        (velocity, {"k": x, "out": out}),
        (pair, {"x0": x, "out": (out, X.clone())}),
        (pair, {"out": (x, out)}),
        (pair, {"t_to": T, "out": (x, X.clone(), out)}),
        (pair, {"t_to": T, "out": (X.clone(), x, out)}),
        (pair, {"x0": x, "t_to": T, "out": (X.clone(), X.clone(), out)}),
        (step, {"u_prev": x, "out": (X.clone(), out)}),
        (loss, {"u": x, "out": out}),
    ):
        with pytest.raises(ValueError, match=f"^{NAMES[call]}: out.* must not overlap .* in memory"):
            call(**changes)
    square = torch.rand(8, 8)
    t = torch.ones(8)
    wanted = velocity(k=square.T.contiguous(), t=t)
    assert torch.equal(velocity(k=square.T, t=t, out=square), wanted)  # a strided argument was copied before


@pytest.mark.parametrize("process", ["telegraph", "planar", "quad"])
def test_any_unit_of_time_and_space(process):
    """Velocities at a t = 4 (1e9 too) in units from 1e-20 to 1e20, and at t = 0: no overflow inside."""
    xi = torch.linspace(-0.49, 0.49, 8, dtype=torch.float64)
    for a in (1e-20, 1e-9, 1.0, 1e9, 1e20):
        for c in (1e-20, 1e-3, 1.0, 300.0, 1e20):
            for lam in (1e-12, 4.0, 0.99e9):
                t = torch.tensor([lam / a], dtype=torch.float64)
                if not 1e-37 < c * t.item() < 1e30:
                    continue
                k = (xi * c * t.item()).float()[None]
                got, truth = ops.kac_velocity(k, t, process, a, c), reference.kac_velocity(k, t, process, a, c)
                assert ((got - truth).abs() <= 1e-6 * truth.abs() + 1e-37).all(), (a, c, lam)
            zero = ops.kac_velocity(torch.zeros(1, 8), torch.zeros(1), process, a, c)
            assert (zero.double().abs() <= c * (1 + 1e-6)).all()


def test_the_reference_names_its_mistakes_too():
    for call in (
        lambda: reference.kac_noise(T, (8,), "quat", 9.0, 3.0, 0),
        lambda: reference.kac_velocity(X, T, "quat", 9.0, 3.0),
        lambda: reference.guided_velocity(X, X, 1.0, None, "quat"),
    ):
        with pytest.raises(ValueError, match="process must be 'telegraph', 'planar' or 'quad', got 'quat'"):
            call()
    with pytest.raises(ValueError, match="w must be the weight"):
        reference.guided_step(X, X, X, None, None, 0.1, None)
    assert torch.equal(reference.guided_step(X, X, None, None, None, 0.1, None)[0], X.double())
    one, other = (reference.kac_noise(T, (8,), "planar", 9.0, 3.0, seed) for seed in (-1, 2**63 - 1))
    assert not torch.equal(one, other)  # every seed of 64 bits has draws of its own
