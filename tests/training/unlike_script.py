"""A user's script that forgets to seed its network: each process would begin with other weights. `... unlike_script FOLDER`."""

import os
import sys
from pathlib import Path

from distillkac.runs import OptimConfig, RunConfig
from distillkac.training import train
from tests.toys import ToyData
from tests.training.test_own_networks import Net

if __name__ == "__main__":
    optim = OptimConfig(batch_size=16, warmup=2, log_every=1, exact_parts=2)
    config = RunConfig(steps=1, optim=optim, preview=0)
    try:
        train(Path(sys.argv[1]), ToyData(), Net(2, seed=int(os.environ["RANK"])), config)
    except ValueError as error:
        Path(f"{sys.argv[1]}-{os.environ['RANK']}.txt").write_text(str(error), encoding="utf-8")
