"""Result shapes of the ops without values (fake tensors), for torch.compile and the device meta."""

import torch
from torch import Tensor

NAMES = ("kac_noise", "kac_velocity", "kac_pair", "kac_pair.to", "guided_velocity", "guided_step", "endpoint_loss")
OUT_NAMES = (
    "kac_noise.out",
    "kac_velocity.out",
    "kac_pair.out",
    "kac_pair.to_out",
    "guided_step.out",
    "endpoint_loss.out",
)


def register() -> None:
    """Registers them for every op."""
    _register_noise()
    _register_steps()
    for name in OUT_NAMES[:-1]:
        _register_filling(name)


def _one_device(op: str, **arguments: object) -> None:
    """A meta or fake tensor beside a real one would leave the result without values."""
    tensors = {name: value for name, value in arguments.items() if isinstance(value, torch.Tensor)}
    first, *rest = tensors
    for name in rest:
        if tensors[name].device != tensors[first].device:
            raise ValueError(
                f"{op}: {name} must be on the device of {first}, {tensors[first].device}, got {tensors[name].device}"
            )


def _batched(op: str, name: str, x: object) -> Tensor:
    if not isinstance(x, torch.Tensor):  # torch lets None pass for a tensor
        raise ValueError(f"{op}: {name} must be a tensor, got {x}")
    if x.dim() < 1:
        raise ValueError(f"{op}: {name} must have a batch dimension, (B, ...), got shape ()")
    return x


def _contiguous_like(x: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _register_noise() -> None:
    fake = torch.library.register_fake

    @fake("distillkac::kac_noise")
    def _(t, size, process, a, c, seed, seed_tensor, offset, dtype):
        _one_device("kac_noise", t=t, seed=seed_tensor)
        return _batched("kac_noise", "t", t).new_empty((t.shape[0], *size), dtype=dtype)

    @fake("distillkac::kac_velocity")
    def _(k, t, process, a, c):
        _one_device("kac_velocity", k=k, t=t)
        return _contiguous_like(_batched("kac_velocity", "k", k))

    @fake("distillkac::kac_pair")
    def _(x0, t, process, a, c, f, g, kappa, seed, seed_tensor, offset):
        _one_device("kac_pair", x0=x0, t=t, seed=seed_tensor)
        return _contiguous_like(_batched("kac_pair", "x0", x0)), _contiguous_like(x0)

    @fake("distillkac::kac_pair.to")
    def _(x0, t, t_to, process, a, c, f, g, kappa, seed, seed_tensor, offset):
        _one_device("kac_pair", x0=x0, t=t, t_to=t_to, seed=seed_tensor)
        return _contiguous_like(_batched("kac_pair", "x0", x0)), _contiguous_like(x0), _contiguous_like(x0)


def _register_steps() -> None:
    fake = torch.library.register_fake

    @fake("distillkac::guided_velocity")
    def _(u_cond, u_uncond, w, w_rows, max_speed, process):
        _one_device("guided_velocity", u_cond=u_cond, u_uncond=u_uncond, w=w_rows)
        return _contiguous_like(_batched("guided_velocity", "u_cond", u_cond))

    @fake("distillkac::guided_step")
    def _(x, u_cond, u_uncond, u_prev, w, h, h_prev, w_rows, h_rows, h_prev_rows, max_speed, process):
        states = {"x": x, "u_cond": u_cond, "u_uncond": u_uncond, "u_prev": u_prev}
        _one_device("guided_step", **states, w=w_rows, h=h_rows, h_prev=h_prev_rows)
        return _contiguous_like(_batched("guided_step", "x", x)), _contiguous_like(x)

    @fake("distillkac::endpoint_loss")
    def _(x, u, x_end, delta, weight):
        _one_device("endpoint_loss", x=x, u=u, x_end=x_end, delta=delta, weight=weight)
        _batched("endpoint_loss", "x", x)
        return x.new_empty((), dtype=torch.float32), x.new_empty(x.shape, dtype=torch.float32)

    @fake("distillkac::endpoint_loss.out")
    def _(x, u, x_end, delta, weight, grad_u):
        _one_device("endpoint_loss", x=x, u=u, x_end=x_end, delta=delta, weight=weight, out=grad_u)
        return x.new_empty((), dtype=torch.float32)


def _register_filling(name: str) -> None:
    op = name.partition(".")[0]

    @torch.library.register_fake(f"distillkac::{name}")
    def _(*arguments: object) -> None:
        _one_device(op, **{f"argument {place}": value for place, value in enumerate(arguments)})
