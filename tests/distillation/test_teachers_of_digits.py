"""Other people's training loops on the digits, flow matching by torchcfm and v-prediction: taken in through Python, and
distilled to one step that is nearer to the digits than the teacher's own."""

import pytest
import torch
from torch import nn

from distillkac.data import DataConfig, from_tensors, load_training, read
from distillkac.distillation import DistillConfig, PairsConfig, distill
from distillkac.flow import Gaussian, VelocityFrom, sliced_wasserstein
from distillkac.runs import OptimConfig, SamplerConfig, adopt, generate, open_run


class Theirs(nn.Module):
    """Of vectors (B, 64) and a time."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(65, 256), nn.SiLU(), nn.Linear(256, 256), nn.SiLU(), nn.Linear(256, 64))

    def forward(self, x, t):
        return self.net(torch.cat([x, 2 * t[:, None] - 1], 1))


class OfImages(nn.Module):
    """For images (B, 1, 8, 8); turned: of one that counts time from noise to data."""

    def __init__(self, theirs, turned):
        super().__init__()
        self.theirs, self.turned = theirs, turned

    def forward(self, x, t, y):
        flat = x.flatten(1)
        return (-self.theirs(flat, 1 - t) if self.turned else self.theirs(flat, t)).view_as(x)


def torchcfm_batch(x0):
    matcher = pytest.importorskip("torchcfm", reason="torchcfm is not installed").ConditionalFlowMatcher(sigma=0.0)
    return matcher.sample_location_and_conditional_flow(torch.randn_like(x0), x0)


def v_batch(x0):
    t, eps = torch.rand(len(x0)), torch.randn_like(x0)
    alpha, sigma = torch.cos(torch.pi / 2 * t)[:, None], torch.sin(torch.pi / 2 * t)[:, None]
    return t, alpha * x0 + sigma * eps, alpha * eps - sigma * x0


TEACHERS = {  # their batch (time, state, what to answer); our process; what it predicts; whether time is turned
    "torchcfm": (torchcfm_batch, Gaussian(), "velocity", True),
    "v_prediction": (v_batch, Gaussian(path="cosine"), "v_prediction", False),
}


def digits() -> torch.Tensor:
    dataset = load_training(DataConfig(unconditional=True))
    return read(dataset, range(len(dataset)))[0]


@pytest.mark.parametrize("name", TEACHERS)
def test_it_is_taken_in_and_distilled(tmp_path, name):
    batch, process, prediction, turned = TEACHERS[name]
    images = digits()
    torch.manual_seed(0)
    theirs = Theirs()
    optimizer = torch.optim.Adam(theirs.parameters(), lr=2e-3)
    for _ in range(400):
        t, x, target = batch(images[torch.randint(len(images), (256,))].flatten(1))
        loss = (theirs(x, t) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def wrapped(model):
        return VelocityFrom(OfImages(model, turned), process, prediction)

    dataset = from_tensors(images)
    run = adopt(wrapped(theirs), tmp_path / "run", dataset)
    optim = OptimConfig(batch_size=128, lr=2e-3, warmup=2, weight_decay=0.0)
    plan = DistillConfig(stages=(16, 1), steps=(200,), method="pairs", pairs=PairsConfig(1024), optim=optim)
    (student,) = distill(run, dataset, config=plan)
    again = open_run(student.folder, network=wrapped(Theirs()))
    labels, data = torch.zeros(500, dtype=torch.int64), images.flatten(1)

    def distance(run, steps):
        return sliced_wasserstein(generate(run, labels, SamplerConfig(steps)).images.flatten(1), data)

    many, raw, one = distance(run, 16), distance(run, 1), distance(again, 1)
    assert many < 0.1
    assert one < 0.6 * raw
