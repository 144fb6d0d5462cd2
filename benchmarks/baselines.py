"""The competitors: plain implementations of our own, each naming what it mirrors.

What is called "public Kac code" is github.com/JChemseddine/telegraphers, written here in our own words with its data
types, its order of operations and its number of passes.
"""

import functools

import numpy as np
import torch
from scipy import special

# A rival that silently fell back to eager torch after too many shapes would be no rival.
torch._dynamo.config.recompile_limit = 64
torch._dynamo.config.fail_on_recompile_limit_hit = True


def column(t: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """(B,) shaped to multiply `like` (B, ...)."""
    return t.view(-1, *[1] * (like.dim() - 1))


class TableSampler:
    """The telegraph sampler of the public Kac code: inverse CDFs at equidistant times, read bilinearly.

    The table holds, for `nodes` + 1 times in [0, end], the quantiles of |K_t| given a turn at `quantiles` + 1 equidistant
    levels, float32. The public code takes 50,000 nodes. A row has one time and reads two rows of the table, so 1,000
    nodes are the same work for a draw, and kinder to the caches.
    """

    def __init__(self, a: float, c: float, end: float = 1.0, nodes: int = 1000, quantiles: int = 4096, device=None):
        self.a, self.c, self.nodes, self.quantiles, self.step = a, c, nodes, quantiles, end / nodes
        levels = np.linspace(0, 1, quantiles + 1)
        table = np.zeros((nodes + 1, quantiles + 1), dtype=np.float32)
        for j in range(1, nodes + 1):
            reach = c * j * self.step
            x = np.linspace(0, reach, quantiles + 1)
            density = self._density(x, reach)
            mass = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) * np.diff(x) / 2)])
            table[j] = np.interp(levels, mass / mass[-1], x)
        self.table = torch.from_numpy(table).to(device)

    def _density(self, x, reach):
        """Density of the particles that turned, up to a constant factor: I0(z) + I1(z) reach / r."""
        r = np.sqrt(np.clip(reach**2 - x**2, (1e-6 * reach) ** 2, None))
        z = self.a / self.c * r
        scale = np.exp(z - self.a / self.c * reach)
        return (special.i0e(z) + special.i1e(z) * reach / r) * scale

    def sample(self, t: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
        """K_t: t (B,) -> (B, *size)."""
        t = t.view(-1, *[1] * len(size)).expand(-1, *size)
        mix, level = torch.rand(t.shape, device=t.device), torch.rand(t.shape, device=t.device)
        atom = mix < torch.exp(-self.a * t)
        place = t / self.step
        j = place.floor().long().clamp(0, self.nodes - 1)
        alpha = place - j
        place = level.clamp(max=(self.quantiles - 1) / self.quantiles) * self.quantiles
        k = place.floor().long()
        beta = place - k
        below = (1 - beta) * self.table[j, k] + beta * self.table[j, k + 1]
        above = (1 - beta) * self.table[j + 1, k] + beta * self.table[j + 1, k + 1]
        size_of_k = torch.where(atom, self.c * t, (1 - alpha) * below + alpha * above)
        sign = torch.where(torch.rand(t.shape, device=t.device) < 0.5, -1.0, 1.0)
        return sign * size_of_k


def bessel_velocity(k, t, a, c):
    """The telegraph velocity of the public Kac code: float64 Bessel functions, I1/I0 in the denominator."""
    x, t = k.double(), column(t.double(), k)
    reach = c * t
    r = torch.sqrt((reach * reach - x * x).clamp(min=0))
    z = a / c * r
    ratio = torch.where(z < 1e-12, z / 2, torch.special.i1e(z) / torch.special.i0e(z))
    denominator = torch.where(z < 1e-12, t + 2 / a, t + r / c / ratio)
    inside = x / denominator
    return torch.where(x.abs() >= reach - 1e-6 * reach, torch.sign(x) * c, inside).float()


def public_pair(table: TableSampler, x0, t):
    """The training pair of the public Kac code, f = 1 - t and g = t: table, x_t, and the velocity of x_t - f x_0."""
    f = column(1 - t, x0)
    x_t = f * x0 + table.sample(t, tuple(x0.shape[1:]))
    return x_t, bessel_velocity(x_t - f * x0, t, table.a, table.c) - x0


def gaussian_pair(x0, t):
    """Flow matching as torch users write it: x_t = (1 - t) x_0 + t z, u = z - x_0."""
    t, z = column(t, x0), torch.randn_like(x0)
    return (1 - t) * x0 + t * z, z - x0


def gaussian_pair_into(x0, t, z, x_t, u):
    """The same into tensors that are there already, in the fewest passes that eager torch has for it."""
    z.normal_()
    torch.lerp(x0, z, column(t, x0), out=x_t)
    torch.sub(z, x0, out=u)


def guided_step(x, u_cond, u_uncond, u_prev, w, h, h_prev):
    """Classifier-free guidance and a step of Adams-Bashforth 2 as torch users write them."""
    u = u_cond + w * (u_cond - u_uncond)
    r = h / (2 * h_prev)
    return x - h * ((1 + r) * u - r * u_prev), u


def guided_step_into(x, u_cond, u_uncond, u_prev, x_next, u, w, h, h_prev):
    """The same with out=, in the fewest passes that eager torch has for it; x_next may be x and u may be u_prev."""
    r = h / (2 * h_prev)
    torch.add(x, u_prev, alpha=h * r, out=x_next)
    torch.lerp(u_uncond, u_cond, 1 + w, out=u)
    x_next.sub_(u, alpha=h * (1 + r))


def two_passes(x, u_cond, u_uncond, u_prev, x_next, u, *step):
    """Reads and writes what guided_step does, 24 bytes an element, with one addition for every element written."""
    torch.add(x, u_cond, out=x_next)
    torch.add(u_prev, u_uncond, out=u)


def endpoint_loss(x, u, x_end, delta):
    """The endpoint loss as torch users write it."""
    delta = column(delta, x)
    return (((x - delta * u - x_end) / delta) ** 2).mean()


def endpoint_loss_and_gradient(x, u, x_end, delta, loss=endpoint_loss):
    """(loss, d loss/d u) by autograd."""
    u = u.detach().requires_grad_()
    value = loss(x, u, x_end, delta)
    return value.detach(), torch.autograd.grad(value, u)[0]


# The same under torch.compile, one kernel per function and shape. copy_ into an argument costs inductor no pass.


def guided_step_copied(x, u_cond, u_uncond, u_prev, x_next, u, w, h, h_prev):
    results = guided_step(x, u_cond, u_uncond, u_prev, w, h, h_prev)
    x_next.copy_(results[0])
    u.copy_(results[1])


def gradient_and_loss(x, u, x_end, delta):
    return torch.func.grad_and_value(endpoint_loss, argnums=1)(x, u, x_end, delta)


def gradient_copied(x, u, x_end, delta, out):
    gradient, value = gradient_and_loss(x, u, x_end, delta)
    out.copy_(gradient)
    return value


@functools.cache
def compiled(name: str):
    """torch.compile of the function of that name here, for fixed shapes."""
    return torch.compile(globals()[name], dynamic=False, fullgraph=True)


# On CUDA, CuPy where it is installed.


def cupy_normal(out: torch.Tensor):
    """A function that fills `out` through CuPy's generator, cupy.random.Generator.standard_normal."""
    import cupy

    generator, array = cupy.random.default_rng(1), cupy.from_dlpack(out)
    return lambda: generator.standard_normal(array.shape, dtype=cupy.float32, out=array)


def cupy_velocity(k, t, a, c, out):
    """A function that writes the telegraph velocity into `out` by one CuPy kernel on CUDA's Bessel functions, float64."""
    import cupy

    kernel = cupy.ElementwiseKernel(
        "float32 k, float32 t, float64 a, float64 c",
        "float32 v",
        """
        const double x = k, reach = c * t, r = sqrt(fmax(reach * reach - x * x, 0.0)), z = a / c * r;
        const double ratio = cyl_bessel_i1(z) / cyl_bessel_i0(z);
        const double denominator = z < 1e-12 ? t + 2.0 / a : t + r / c / ratio;
        v = fabs(x) >= reach * (1 - 1e-6) ? copysign(c, x) : x / denominator;
        """,
        "kac_velocity",
    )
    arrays = [cupy.from_dlpack(v) for v in (k, column(t, k), out)]
    return lambda: kernel(arrays[0], arrays[1], a, c, arrays[2])
