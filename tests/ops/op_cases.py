"""The six ops as functions of tensors of one shape, so that one test can be run over all of them."""

import torch

from distillkac import ops
from distillkac.ops import reference

GROUPS = {"telegraph": 1, "planar": 2, "quad": 4}  # neighbours that a process moves together
PROCESSES = tuple(GROUPS)
A, C = 9.0, 1.0


def rows(count, seed=0, low=0.0, high=1.0):
    """(count,) float64 in [low, high)."""
    generator = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(count, generator=generator, dtype=torch.float64)


def tensors(shape, dtype=torch.float32, count=4, seed=1):
    """`count` tensors in (-.49, .49): as displacements at c t >= 1 they lie inside the light cone, pairs and fours too."""
    generator = torch.Generator().manual_seed(seed)
    return [(0.98 * torch.rand(shape, generator=generator) - 0.49).to(dtype) for _ in range(count)]


def noise_like(library, x, process):
    dtype = x.dtype if library is ops else torch.float64
    return library.kac_noise(rows(len(x), 2), x.shape[1:], process, A, C, 5, dtype=dtype)


def velocity(library, k, process):
    return library.kac_velocity(k, rows(len(k), 3, 1, 3), process, A, C)


def pair(library, x0, process, f="cosine", g="quadratic"):
    return library.kac_pair(x0, rows(len(x0), 4), process, A, C, f, g, seed=6, kappa=0.7)


def pair_to(library, x0, process, f="cosine", g="quadratic"):
    """With the state at a second time of the path, earlier, later or 0."""
    t_to = rows(len(x0), 11) * (rows(len(x0), 12) < 0.9)
    return library.kac_pair(x0, rows(len(x0), 4), process, A, C, f, g, seed=6, kappa=0.7, t_to=t_to)


def guide(library, u_cond, u_uncond, process, max_speed=0.5):
    return library.guided_velocity(u_cond, u_uncond, rows(len(u_cond), 5, 0, 4), max_speed, process)


def step(library, x, u_cond, u_uncond, u_prev, process, max_speed=0.5):
    w, h, h_prev = rows(len(x), 6, 0, 4), rows(len(x), 7, 0.1, 1), rows(len(x), 8, 0.1, 1)
    return library.guided_step(x, u_cond, u_uncond, u_prev, w, h, h_prev, max_speed, process)


def loss(library, x, u, x_end, process):
    return library.endpoint_loss(x, u, x_end, rows(len(x), 9, 0.1, 1), rows(len(x), 10, 0.5, 2))


# name: (function, number of tensors). Every function is called as function(library, *tensors, process).
CASES = {
    "kac_noise": (noise_like, 1),
    "kac_velocity": (velocity, 1),
    "kac_pair": (pair, 1),
    "kac_pair to t_to": (pair_to, 1),
    "guided_velocity": (guide, 2),
    "guided_step": (step, 4),
    "endpoint_loss": (loss, 3),
}
# The noise of the reference has other bits; a gradient is defined for these.
DIFFERENTIABLE = [name for name in CASES if name != "kac_noise"]


def run(name, inputs, process, library=ops):
    """The op's results as a tuple."""
    function, count = CASES[name]
    result = function(library, *inputs[:count], process)
    return result if isinstance(result, tuple) else (result,)


def expected(name, inputs, process):
    """The results by the reference in float64, for the op's own displacements where it draws them."""
    if name == "kac_noise":
        return (noise_like(ops, inputs[0].float(), process).double(),)
    if not name.startswith("kac_pair"):
        return run(name, inputs, process, reference)
    x_t, u = expected_pair(inputs[0].double(), rows(len(inputs[0]), 4), process)
    if name == "kac_pair":
        return x_t, u
    t_to = rows(len(inputs[0]), 11) * (rows(len(inputs[0]), 12) < 0.9)
    return x_t, u, expected_pair(inputs[0].double(), t_to, process)[0]


def expected_pair(x0, t, process):
    g_t, dg_t = t * t, 2 * t
    k = ops.kac_noise(g_t, x0.shape[1:], process, A, C, 6).double()
    v = reference.kac_velocity(k, g_t, process, A, C)
    if process == "telegraph":  # atoms lie at float32(c t), which in float64 may be inside the cone
        atoms = k.abs() == reference.rows((C * g_t).float(), k)
        v = torch.where(atoms, torch.copysign(torch.full_like(k, C), k), v)
    f_t, df_t = torch.cos(torch.pi / 2 * t), -torch.pi / 2 * torch.sin(torch.pi / 2 * t)
    to_rows = lambda value: reference.rows(value, x0)  # noqa: E731
    return to_rows(f_t) * x0 + k, to_rows(df_t) * x0 + to_rows(dg_t) * v
