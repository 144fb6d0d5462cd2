"""Where tensors are sent."""

import pytest

from distillkac.base.tensors import sent


class Told:
    """Stands for a tensor, and says how it was copied."""

    def to(self, device, non_blocking):
        return device, non_blocking


@pytest.mark.parametrize(("device", "at_once"), [("cuda", True), ("cuda:1", True), (None, True), ("cpu", False)])
def test_a_copy_to_the_cpu_is_waited_for(device, at_once):
    """One from a GPU is read by the program itself, which would not wait for it."""
    assert sent(Told(), device) == (device, at_once)
