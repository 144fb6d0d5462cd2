"""What Muon does otherwise on a GPU, on a CPU: which matrices are made orthogonal at once, and which by a recording."""

import pytest
import torch
from torch import nn

from distillkac.training import optimizer, orthogonal
from tests.training.test_muon import noise


def test_what_is_made_orthogonal_at_once_updates_the_weights_as_each_alone(monkeypatch):
    """The batches of a GPU, on a CPU: the places that a GPU would have, given by tensors that are nowhere."""
    alike, weights = orthogonal.alike, []
    for together in (False, True):
        if together:
            monkeypatch.setattr(orthogonal, "alike", lambda tensors: alike([tensor.to("meta") for tensor in tensors]))
        parameters = [nn.Parameter(noise(*shape)) for shape in [(4, 6), (4, 2, 3, 1), (6, 4), (4, 6)]]
        muon = optimizer.Muon([{"params": parameters, "muon": True}], 0.1, (0.9, 0.999), 0.5, True)
        for step in range(3):
            for number, parameter in enumerate(parameters):
                parameter.grad = noise(*parameter.shape, seed=10 * step + number)
            muon.step()
        weights.append(parameters)
    for one, two in zip(*weights, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


class OnTheGpu(torch.Tensor):
    """A tensor of the CPU that says it is elsewhere: what is decided by the device is decided as on a GPU."""

    @property
    def device(self):
        return torch.device("cuda", 0)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """A function that makes Muon's parameters of shapes such, and recordings by a stand-in, which are counted."""
    made = []

    class Recording:
        def __init__(self, directions):
            made.append([tuple(each.shape) for each in directions])

        def __call__(self, directions):
            return [orthogonal.orthogonalized(each.as_subclass(torch.Tensor)) for each in directions]

    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(orthogonal, "Recording", Recording)

    def muon(*shapes):
        parameters = [nn.Parameter(noise(*shape).as_subclass(OnTheGpu)) for shape in shapes]
        return optimizer.Muon([{"params": parameters, "muon": True}], 0.1, (0.9, 0.999), 0.0, True), parameters, made

    return muon


def step(muon, parameters, chosen):
    for number, parameter in enumerate(parameters):
        parameter.grad = noise(*parameter.shape).as_subclass(OnTheGpu) if number in chosen else None
    muon.step()


def test_all_matrices_of_a_small_network_are_in_one_recording(as_on_a_gpu):
    muon, parameters, made = as_on_a_gpu((4, 6), (6, 4), (4, 6))
    for _ in range(2):
        step(muon, parameters, {0, 1, 2})
    assert made == [[(4, 6), (6, 4), (4, 6)]]


def test_a_large_network_is_not_recorded(as_on_a_gpu, monkeypatch):
    """Nor any part of it, each of which would be small enough."""
    monkeypatch.setattr(optimizer, "RECORDED", 60)
    muon, parameters, made = as_on_a_gpu((4, 6), (6, 4), (4, 6))
    step(muon, parameters, {0, 1, 2})
    assert made == []
    assert not torch.equal(parameters[0].as_subclass(torch.Tensor), noise(4, 6))


def test_a_network_that_uses_other_layers_in_each_step_makes_few_recordings(as_on_a_gpu):
    muon, parameters, made = as_on_a_gpu(*[(3, 3 + number) for number in range(6)])
    for number in range(6):
        step(muon, parameters, {number})
    assert len(made) == optimizer.RECORDINGS == 4
