"""A displacement K at one age of the process, carried to another: back along its flow, or onward by the process itself.

`back` is the conditional flow, dK/dtau = v(tau, K), and draws nothing. `onward` draws K at a later age given K now, so that
K keeps the law of the process. For the Gaussian process increments are independent. A Kac process remembers its direction as
well, which K alone does not tell; but the law of the direction given K is known, and the same for the first direction and
the last, since the process read backwards is the same process. With D the direction at the age of k, dK the displacement of
a process of the further age, whose first direction is D, and v the velocity of the flow:

    telegraph: the direction at K is +1 with probability (1 + v / c) / 2; so dK has the sign of k with probability
               (1 + |v_k| |v_dK| / c^2) / 2, where v_dK is the velocity at dK of the further age;
    planar:    the direction's angle from that of K has density S / (2 pi (c t - |K| cos angle)), S = sqrt(c^2 t^2 - |K|^2):
               a wrapped Cauchy law of parameter |v| / c. The angle from k to dK is the difference of two such, which is
               wrapped Cauchy again, of parameter |v_k| |v_dK| / c^2.

So |dK| is drawn as all noise is, and its direction by one uniform number (docs/method.md, section 6).
"""

import math

import torch

from distillkac.base.random import derive_seed, uniform_rows
from distillkac.base.tensors import sent
from distillkac.flow.processes import Gaussian, Planar, Process, Telegraph

__all__ = ["back", "cone_kept", "known", "onward"]

LOG_STEP, MOST_STEPS = 0.05, 128  # of the telegraph's flow, in the logarithm of the age
INSIDE = 1 - 1e-6  # of the light cone, where the telegraph's velocity still is that of particles that turned


def back(process: Process, k: torch.Tensor, age: float, to: float) -> torch.Tensor:
    """Where the conditional flow that leads to k at `age` is at the age `to`. k: (B, ...). 0 <= to <= age, common to all rows.

    Exact for planar and Gaussian; the telegraph's flow is integrated, with errors of about 1e-6 of the cone. Returns like k.
    Raises ValueError for a process whose flow is not known, or ages out of order.
    """
    law = known(process)
    _check(age, to, back=True)
    if to == age:
        return k
    if to == 0:
        return torch.zeros_like(k)
    if isinstance(law, Gaussian):
        return k * (to / age)
    if isinstance(law, Planar):
        # s of eq. 6 falls at speed c until the particle is one that has not turned yet.
        pairs = k.double().unflatten(-1, (-1, 2))
        size, c = pairs.norm(dim=-1, keepdim=True), law.c
        s = ((c * age - size) * (c * age + size)).clamp(min=0).sqrt()
        s = (s - c * (age - to)).clamp(min=0)
        radius = ((c * to - s) * (c * to + s)).clamp(min=0).sqrt()
        return (pairs * (radius / size.clamp(min=1e-300))).flatten(-2).to(k.dtype)
    return _telegraph_back(law, k, age, to)


def _telegraph_back(process: Telegraph, k: torch.Tensor, age: float, to: float) -> torch.Tensor:
    """Runge-Kutta 4 for xi = K / (c tau), d xi / d log tau = v / c - xi.

    A path meets the light cone, where v jumps to c, and stays there. The velocity inside is held on beyond it, so that xi
    passes 1 smoothly, and never returns; what has passed is on the cone.
    """
    c = process.c
    count = min(MOST_STEPS, math.ceil(math.log(age / to) / LOG_STEP))
    step = math.log(to / age) / count

    def slope(xi: torch.Tensor, log_age: float) -> torch.Tensor:
        tau = math.exp(log_age)
        ages = torch.full((len(k),), tau, dtype=torch.float64, device=k.device)
        inner = (xi.clamp(-INSIDE, INSIDE) * (c * tau)).float()
        return process.velocity(inner, ages).double() / c - xi

    xi, now = k.double() / (c * age), math.log(age)
    for _ in range(count):
        first = slope(xi, now)
        second = slope(xi + step / 2 * first, now + step / 2)
        third = slope(xi + step / 2 * second, now + step / 2)
        fourth = slope(xi + step * third, now + step)
        xi, now = xi + step / 6 * (first + 2 * second + 2 * third + fourth), now + step
    return (xi.clamp(-1, 1) * (c * to)).to(k.dtype)


def onward(process: Process, k: torch.Tensor, age: float, to: float, seed: int, offset: int = 0) -> torch.Tensor:
    """K at the age `to` given K = k at `age`, drawn by the process. k: (B, ...). 0 <= age <= to, common to all rows.

    If k has the law of the process at `age`, the answer has it at `to`. Row b depends on (seed, offset + b) alone. A k beyond
    the light cone counts as on it. Returns like k. Raises ValueError for a process whose law is not known, or ages out of
    order.
    """
    law = known(process)
    _check(age, to, back=False)
    if to == age:
        return k
    if isinstance(law, Gaussian):
        gap = math.sqrt((to - age) * (to + age))
        return k + process.noise(_rows(k, gap), tuple(k.shape[1:]), seed, offset).to(k.dtype)
    fresh = process.noise(_rows(k, to - age), tuple(k.shape[1:]), derive_seed(seed, "onward"), offset)
    if age == 0:
        return fresh.to(k.dtype)
    dtype, k = k.dtype, cone_kept(process, k.float(), age)
    drawn = sent(uniform_rows(len(k), _directions(process, k), derive_seed(seed, "direction"), offset), k.device)
    if isinstance(law, Telegraph):
        return _telegraph_turned(law, k, fresh, age, to, drawn).to(dtype)
    return _planar_turned(law, k, fresh, age, to, drawn).to(dtype)


def _telegraph_turned(
    process: Telegraph, k: torch.Tensor, fresh: torch.Tensor, age: float, to: float, drawn: torch.Tensor
) -> torch.Tensor:
    c = process.c
    memory = process.velocity(k, _rows(k, age)).abs() / c * (process.velocity(fresh, _rows(k, to - age)).abs() / c)
    way = torch.where(k < 0, -1.0, 1.0)
    moved = k + torch.where(drawn < (1 + memory) / 2, way, -way) * fresh.abs()
    # What never turned in both parts is on the cone to the bit, as the noise of one draw is.
    straight = (k.abs() >= _float32(c * age)) & (fresh.abs() >= _float32(c * (to - age)))
    return cone_kept(process, torch.where(straight, way * math.inf, moved), to)


def _planar_turned(
    process: Planar, k: torch.Tensor, fresh: torch.Tensor, age: float, to: float, drawn: torch.Tensor
) -> torch.Tensor:
    c = process.c
    pairs, step = k.double().unflatten(-1, (-1, 2)), fresh.double().unflatten(-1, (-1, 2)).norm(dim=-1)
    size = pairs.norm(dim=-1)

    def memory(radius: torch.Tensor, time: float) -> torch.Tensor:
        """|v| / c of eq. 7."""
        return radius / (c * time + ((c * time - radius) * (c * time + radius)).clamp(min=0).sqrt())

    both = (memory(size, age) * memory(step, to - age)).clamp(max=1)
    angle = 2 * torch.atan((1 - both) / (1 + both) * torch.tan(math.pi * (drawn.double() - 0.5)))
    unit = torch.where(size[..., None] > 0, pairs / size.clamp(min=1e-300)[..., None], pairs.new_tensor([1.0, 0.0]))
    x, y = unit.unbind(-1)
    turned = torch.stack([x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()], -1)
    return cone_kept(process, (pairs + step[..., None] * turned).flatten(-2).float(), to)


def cone_kept(process: Process, k: torch.Tensor, age: float) -> torch.Tensor:
    """k, and what lies beyond the light cone of this age, by rounding or as no displacement can, on it. k: (B, ...). Returns
    like k; of the Gaussian process, which has no cone, k itself."""
    if isinstance(process, Telegraph):
        cone = _float32(process.c * age)
        return k.clamp(-cone, cone)
    if isinstance(process, Planar):
        pairs = k.unflatten(-1, (-1, 2))
        size = pairs.norm(dim=-1, keepdim=True)
        return torch.where(size > process.c * age, pairs * (process.c * age / size.clamp(min=1e-30)), pairs).flatten(-2)
    return k


def _directions(process: Process, k: torch.Tensor) -> tuple[int, ...]:
    return tuple(k.shape[1:]) if isinstance(process, Telegraph) else (*k.shape[1:-1], k.shape[-1] // 2)


def _rows(k: torch.Tensor, time: float) -> torch.Tensor:
    return torch.full((len(k),), time, dtype=torch.float64, device=k.device)


def _float32(value: float) -> float:
    return float(torch.tensor(value, dtype=torch.float32))


def known(process: Process) -> Telegraph | Planar | Gaussian:
    """The process, if the law of its displacements given earlier ones is known. Raises ValueError for any other."""
    if not isinstance(process, (Telegraph, Planar, Gaussian)):
        raise ValueError(
            "gamma needs noise of which it is known how a displacement moves on, telegraph, planar or gaussian, got "
            f"{process.name}: draw a share of each step anew by restart"
        )
    return process


def _check(age: float, to: float, back: bool) -> None:
    if not (0 <= to <= age if back else 0 <= age <= to):
        wanted = "0 <= to <= age" if back else "0 <= age <= to"
        raise ValueError(f"ages must be {wanted}, got age {age} and to {to}")
