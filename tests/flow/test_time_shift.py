"""Shifted times: where the noise beside the data is so many times as large, for every process."""

import pytest
import torch

from distillkac.flow import Gaussian, Planar, Quad, Telegraph, time_grid
from distillkac.flow.time_shift import data_to_noise, shifted

PROCESSES = {
    "telegraph": Telegraph(),
    "slow turns": Telegraph(a=0.5, c=1.0, f="cosine", g="quadratic"),
    "planar": Planar(),
    "quad": Quad(),
    "gaussian": Gaussian(0.7),
    "vp": Gaussian(path="vp"),
    "edm": Gaussian(path="edm"),
    "adopted": Gaussian(tau_max=0.9),
    "exp": Telegraph(f="exp"),
}
TIMES = torch.linspace(0, 1, 1001, dtype=torch.float64)


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())
@pytest.mark.parametrize("shift", [0.25, 3.0])
def test_a_shift_keeps_both_ends_and_the_order_and_leads_back(process, shift):
    there = shifted(TIMES, process, shift)
    assert (float(there[0]), float(there[-1])) == (0.0, 1.0)
    assert (there.diff() > 0).all()
    assert ((there > TIMES) if shift > 1 else (there < TIMES))[1:-1].all()
    torch.testing.assert_close(shifted(there, process, 1 / shift), TIMES, rtol=0, atol=1e-12)
    twice = shifted(there, process, 1.5)
    torch.testing.assert_close(twice, shifted(TIMES, process, 1.5 * shift), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["telegraph", "slow turns", "planar", "quad", "gaussian"])
def test_the_noise_beside_the_data_is_so_many_times_as_large(name):
    """(1 - t')^2 / sigma^2(t') = (1 - t)^2 / (s^2 sigma^2(t)), where no data is left at t = 1."""
    process, t = PROCESSES[name], TIMES[50:-50]
    ratio = data_to_noise(t, process) / data_to_noise(shifted(t, process, 2.5), process)
    torch.testing.assert_close(ratio, torch.full_like(ratio, 2.5), rtol=1e-11, atol=0)


def test_of_a_straight_gaussian_path_it_is_a_known_function():
    torch.testing.assert_close(shifted(TIMES, Gaussian(0.3), 4.0), 4 * TIMES / (1 + 3 * TIMES), rtol=0, atol=1e-15)


def test_no_shift_changes_no_bit():
    t = torch.rand(7)
    assert shifted(t, Telegraph(), 1.0) is t
    assert torch.equal(time_grid(7, 2.0, 1.0, Telegraph()), time_grid(7, 2.0))


def test_times_next_to_the_data_are_shifted_too():
    """Where the spread of the telegraph process is lost in rounding."""
    t = torch.tensor([0.0, 1e-300, 1e-20, 1e-12, 1e-9, 1e-6], dtype=torch.float64)
    there = shifted(t, Telegraph(), 2.0)
    assert torch.isfinite(there).all()
    assert (there.diff() >= 0).all()
    assert there[-1] == pytest.approx(2e-6, rel=1e-3)  # ballistic: spread c t
    single = shifted(t.float(), Telegraph(), 2.0)
    assert single.dtype == torch.float32


def test_a_grid_is_shifted_by_its_process():
    torch.testing.assert_close(time_grid(4, 1.0, 3.0, Gaussian()), torch.tensor([1, 0.9, 0.75, 0.5, 0]).double())
    with pytest.raises(ValueError, match=r"how far shift 3\.0 moves a time is a matter of the process: give it"):
        time_grid(4, 1.0, 3.0)


def test_a_shifted_grid_is_even_before_it_is_shifted_where_no_exponent_is_given():
    torch.testing.assert_close(time_grid(20, shift=3.0, process=Gaussian()), time_grid(20, 1.0, 3.0, Gaussian()))


@pytest.mark.parametrize("process", [Telegraph(), Planar(a=3.0), Quad(a=3.0), Telegraph(a=1e-3), Gaussian(0.7)])
def test_the_slope_of_the_logarithm_of_the_spread(process):
    t = torch.logspace(-9, 0, 200, dtype=torch.float64)
    closed = process.log_std_slope(t)
    assert float(closed[0] * t[0]) == pytest.approx(1, abs=1e-6)
    late = t[t * getattr(process, "a", 1.0) > 1e-3].clone().requires_grad_()
    (slope,) = torch.autograd.grad(process.std(late).log().sum(), late)
    torch.testing.assert_close(process.log_std_slope(late.detach()), slope, rtol=1e-8, atol=0)
    assert (closed.diff() < 0).all()  # nor does it jump where the series ends
