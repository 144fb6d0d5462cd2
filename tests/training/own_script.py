"""What a user's script does on several processes: trains a network of its own and distils it. `... own_script FOLDER`."""

import sys
from pathlib import Path

import torch
from torch import nn

from distillkac.distillation import DistillConfig, distill
from distillkac.runs import OptimConfig, RunConfig
from distillkac.training import train
from tests.toys import ToyData


class Net(nn.Module):
    null_class = 2

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.classes, self.last = nn.Embedding(3, 8), nn.Conv2d(10, 1, 3, padding=1)

    def forward(self, x, t, y):
        time = t.view(-1, 1, 1, 1).expand_as(x)
        classes = self.classes(y)[:, :, None, None].expand(-1, -1, *x.shape[2:])
        return self.last(torch.cat([x, time, classes], 1))


def main(folder: Path) -> None:
    optim = OptimConfig(batch_size=16, lr=1e-3, warmup=2, log_every=1)
    run = train(folder, ToyData(), Net(), RunConfig(steps=3, optim=optim, preview=0))
    distill(run, ToyData(), config=DistillConfig(stages=(2, 1), steps=(2,), w=1.0, optim=optim))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
