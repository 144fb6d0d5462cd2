"""Displacements that the samplers draw are displacements to kac_velocity, also where their type has few digits left."""

import pytest
import torch

from distillkac import ops

SMALLEST = {torch.float16: 2.0**-24, torch.bfloat16: 2.0**-133, torch.float32: 2.0**-149}


@pytest.mark.parametrize("process", ["telegraph", "planar", "quad"])
@pytest.mark.parametrize("dtype", SMALLEST, ids=str)
@pytest.mark.parametrize("a", [1e-3, 25.0])
def test_what_is_drawn_is_taken(process, dtype, a):
    """Radii from a fraction of the smallest number to 2^20 of them, where almost nobody has turned: on the cone."""
    c = 1e-30 if dtype != torch.float16 else 2.0
    for step in range(-2, 20):
        radius = SMALLEST[dtype] * 2.0**step * 1.37
        t = torch.full((8,), radius / c, dtype=torch.float64)
        k = ops.kac_noise(t, (256,), process, a, c, seed=3, dtype=dtype)
        v = ops.kac_velocity(k, t, process, a, c)
        assert torch.isfinite(v).all()
        size = 1 if process == "telegraph" else 2 if process == "planar" else 4
        speeds = v.double().div(c).unflatten(-1, (-1, size)).norm(dim=-1)
        assert speeds.max() < 1.01
        if process == "quad" and a < 1 and step >= 2:  # on the sphere but for rounding, where the others are lost to it
            assert speeds.min() > 0.98


@pytest.mark.parametrize("process", ["telegraph", "planar", "quad"])
@pytest.mark.parametrize("dtype", SMALLEST, ids=str)
def test_what_is_further_out_is_refused(process, dtype):
    c = 1e-30 if dtype != torch.float16 else 2.0
    radius = SMALLEST[dtype] * 64
    t = torch.full((1,), radius / c, dtype=torch.float64)
    k = torch.zeros(1, 8, dtype=dtype)
    k[0, 4] = SMALLEST[dtype] * 67
    with pytest.raises(ValueError, match="no particle gets further"):
        ops.kac_velocity(k, t, process, 25.0, c)
    k[0, 4] = SMALLEST[dtype]
    with pytest.raises(ValueError, match="no particle gets further"):
        ops.kac_velocity(k, torch.zeros(1), process, 25.0, c)


@pytest.mark.parametrize("c", [9e-31, 1e-60, 1.1e20])
def test_speeds_that_float32_cannot_have_are_refused(c):
    with pytest.raises(ValueError, match="c must be at"):
        ops.kac_pair(torch.zeros(2, 4), torch.ones(2), "telegraph", 25.0, c, seed=1)
