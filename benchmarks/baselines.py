"""The competitors: plain implementations of our own, each naming what it mirrors."""

import torch


def gaussian_pair(x0, t):
    """Flow matching as torch users write it: x_t = (1 - t) x_0 + t z, u = z - x_0."""
    t = t.float().view(-1, *[1] * (x0.dim() - 1))
    z = torch.randn_like(x0)
    return (1 - t) * x0 + t * z, z - x0


def bessel_velocity(k, t, a, c):
    """The telegraph velocity through float64 Bessel functions, as the public Kac-flow code evaluates it."""
    x, t = k.double(), t.double().view(-1, *[1] * (k.dim() - 1))
    z = a / c * torch.sqrt((c * c * t * t - x * x).clamp(min=0))
    g = z * torch.special.i0e(z) / torch.special.i1e(z).clamp(min=1e-300)
    return torch.where(x.abs() >= c * t, c * x.sign(), a * x / (a * t + g)).float()


def guided_euler(x, u_cond, u_uncond, w, h):
    """Classifier-free guidance and an Euler step, eager torch."""
    u = u_cond + w * (u_cond - u_uncond)
    return x - h * u, u


def endpoint_loss(x, u, x_end, delta):
    """The endpoint loss by autograd."""
    delta = delta.view(-1, *[1] * (x.dim() - 1))
    return (((x - delta * u - x_end) / delta) ** 2).mean()
