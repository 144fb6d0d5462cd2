"""benchmarks/resolution.py: when the noise tells which image it hides, on what is known of it."""

import pytest
import torch

from benchmarks import resolution
from distillkac.flow.processes import Planar, Telegraph


@pytest.fixture
def images():
    return torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("kind", [Telegraph, Planar])
def test_all_is_known_near_the_data_and_nothing_of_pure_noise(images, kind):
    process = kind(25.0, 2.0)
    shares = [resolution.known(process, images, t) for t in (0.05, 0.5, 0.8, 1.0)]
    assert shares[0] == pytest.approx(1, abs=1e-6)
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("kind", [Telegraph, Planar])
def test_wider_noise_on_wider_images_is_the_same_problem(images, kind):
    time = resolution.deciding_time(kind(25.0, 2.0), images)
    assert resolution.deciding_time(kind(25.0, 4.0), 2 * images) == pytest.approx(time, abs=0.002)
    assert resolution.deciding_time(kind(25.0, 4.0), images) < time - 0.05


def test_the_same_images_of_more_pixels_are_decided_earlier_and_a_shift_by_the_side_undoes_it(images):
    large = images.repeat_interleave(4, -1).repeat_interleave(4, -2)
    process = Telegraph(25.0, 2.0)
    small, later = (resolution.deciding_time(process, x) for x in (images, large))
    assert later > small + 0.1
    # Sums of 16 independent variables of equal weight are nearly normal, as those of one are not: hence the tolerance.
    share = [resolution.drawn_later(process, time, shift) for time, shift in ((small, 1.0), (later, 4.0), (later, 1.0))]
    assert share[1] == pytest.approx(share[0], abs=0.1)
    assert share[2] < share[0] / 2


def test_at_the_side_of_the_digits_every_variant_is_the_same():
    assert [(s.speed_of(8), s.shift_of(8)) for s in resolution.VARIANTS] == [(2.0, 1.0)] * len(resolution.VARIANTS)
    assert len(resolution.settings([8, 64], ["telegraph"])) == 1 + len(resolution.VARIANTS)
