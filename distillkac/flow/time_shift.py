"""Times shifted to where the noise beside the data is a given number of times as large (docs/method.md, section 10).

With r(t) = f(t) / (standard deviation of K_{g(t)}), the ratio of data to noise, the shift by s leads from t to the t' with

    r(t') - r(1) = (r(t) - r(1)) / s.

r(1) is 0 but for the processes that leave some data at t = 1, whose last time would have to move beyond it. So 0 and 1 stay
where they are, and the shift by 1 / s leads back.
"""

import torch
from torch import Tensor

from distillkac.flow.processes import Process

__all__ = ["data_to_noise", "shifted", "time_of"]

HALVINGS = 64  # of [0, 1], whose numbers of float64 are 2^-53 apart


def shifted(t: Tensor, process: Process, shift: float) -> Tensor:
    """t': like t, any shape, in [0, 1]. Found in float64, on the device of t. shift: s > 0; 1 changes nothing."""
    if shift == 1:
        return t
    last = data_to_noise(torch.ones(1, dtype=torch.float64, device=t.device), process)
    aim = (data_to_noise(t.double().flatten(), process) - last) / shift + last
    found = time_of(aim, process).view(t.shape).to(t.dtype)
    return torch.where((t <= 0) | (t >= 1), t, found)


def data_to_noise(t: Tensor, process: Process) -> Tensor:
    """r(t), which falls with time, from infinity at 0. t: (n,) float64."""
    f, g = process.scales(t)
    return f / process.std(g).nan_to_num(nan=0.0)  # next to 0 a variance may be rounded to below it


def time_of(ratio: Tensor, process: Process) -> Tensor:
    """The times at which data_to_noise is `ratio`, (n,) float64; 1 where it is never so small.

    By bisection, to rounding: it needs neither slopes of the process nor a first guess, and r is no simple function of t.
    """
    low, high = torch.zeros_like(ratio), torch.ones_like(ratio)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        late = data_to_noise(middle, process) < ratio
        low, high = torch.where(late, low, middle), torch.where(late, middle, high)
    return (low + high) / 2
