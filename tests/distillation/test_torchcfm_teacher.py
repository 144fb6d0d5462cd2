"""A network that torchcfm's own matcher trained: taken in, sampled as torchcfm samples it, and distilled to one step."""

import pytest
import torch
from torch import nn

from distillkac.data import from_tensors
from distillkac.distillation import DistillConfig, PairsConfig, distill
from distillkac.flow import Gaussian, GuidedVelocity, VelocityFrom, integrate, sliced_wasserstein, time_grid
from distillkac.runs import OptimConfig, SamplerConfig, adopt, generate, open_run

pytest.importorskip("torchcfm", reason="torchcfm is not installed; docs/recipes.md says how to install it")
CORNERS = torch.tensor([[0.7, 0.7], [-0.7, 0.7], [0.7, -0.7]])


class Theirs(nn.Module):
    """In the manner of torchcfm's tutorials: vectors (B, 2) and their time, from noise to data."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2))

    def forward(self, x, t):
        return self.net(torch.cat([x, t[:, None]], 1))


class FromNoise(nn.Module):
    """As docs/teachers.md has it, for images (B, 1, 1, 2)."""

    def __init__(self, theirs):
        super().__init__()
        self.theirs = theirs

    def forward(self, x, t, y):
        return -self.theirs(x.flatten(1), 1 - t).view_as(x)


def trained() -> Theirs:
    from torchcfm import ConditionalFlowMatcher

    torch.manual_seed(0)
    matcher, model = ConditionalFlowMatcher(sigma=0.0), Theirs()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(400):
        x1 = CORNERS[torch.randint(3, (256,))]
        t, xt, ut = matcher.sample_location_and_conditional_flow(torch.randn_like(x1), x1)
        loss = (model(xt, t) - ut).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def test_it_is_taken_in_and_distilled(tmp_path):
    theirs = trained()
    teacher = VelocityFrom(FromNoise(theirs), Gaussian(), "velocity")
    images = CORNERS[torch.arange(600) % 3].view(-1, 1, 1, 2)
    run = adopt(teacher, tmp_path / "run", from_tensors(images))
    x = z = torch.randn(2000, 2)
    with torch.no_grad():
        for step in range(20):  # Euler's steps, in their time
            x = x + theirs(x, torch.full((len(x),), step / 20)) / 20
        ours = integrate(GuidedVelocity(run.network), z.view(-1, 1, 1, 2), None, time_grid(20, 1.0), "euler")
    torch.testing.assert_close(ours.flatten(1), x, rtol=1e-4, atol=1e-4)
    data = images.flatten(1)
    assert sliced_wasserstein(x, data) < 0.15
    optim = OptimConfig(batch_size=128, lr=3e-3, warmup=2, weight_decay=0.0)
    plan = DistillConfig(stages=(16, 1), steps=(150,), method="pairs", pairs=PairsConfig(2048), optim=optim)
    (student,) = distill(run, from_tensors(images), config=plan)
    again = open_run(student.folder, network=VelocityFrom(FromNoise(Theirs()), Gaussian(), "velocity"))
    labels = torch.zeros(1000, dtype=torch.int64)
    one, raw = (generate(r, labels, SamplerConfig(1)).images.flatten(1) for r in (again, run))
    assert sliced_wasserstein(one, data) < 0.6 * sliced_wasserstein(raw, data)


@pytest.mark.parametrize(
    "turned", [lambda model: lambda x, t, y: model(x, 1 - t), lambda model: lambda x, t, y: -model(x, t)]
)
def test_time_and_sign_turned_by_half_are_noticed(turned):
    field = VelocityFrom(turned(trained()), Gaussian(), "velocity")
    with torch.no_grad():
        ends = integrate(GuidedVelocity(field), torch.randn(1000, 2), None, time_grid(20, 1.0), "euler")
    assert sliced_wasserstein(ends, CORNERS.repeat(300, 1)) > 0.2
