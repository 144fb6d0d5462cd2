"""Toy runs of two steps."""

import torch
from accelerate.state import AcceleratorState

from distillkac.runs import checkpoints
from distillkac.runs.config import save_config
from tests.toys import optim, run_config, trainer

FILES = {
    str(checkpoints.STATE): checkpoints.load_state,
    checkpoints.MODEL: lambda folder: checkpoints.load_weights(folder, checkpoints.MODEL),
    checkpoints.EMA: checkpoints.load_weights,
}


def made(folder, **changes):
    config = run_config(steps=2, optim=optim(batch_size=4), **changes)
    trainer(folder, config).fit()
    save_config(folder, config)
    AcceleratorState._reset_state(reset_partial_state=True)
    return folder


def same(one, two) -> bool:
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(same, one, two))
    return torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two
