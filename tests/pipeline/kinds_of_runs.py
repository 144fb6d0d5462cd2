"""Teachers and students of every kind, untrained."""

import torch

from distillkac.pipeline import KacPipeline
from distillkac.runs.config import StudentConfig, save_config
from distillkac.training.objective import FlowMatching
from tests.toys import run_config, trainer

CPU = torch.device("cpu")
TWO = StudentConfig(teacher_steps=4, num_steps=2, rho=1.5, w=0.0)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def made(folder, **changes):
    config = run_config(steps=30, **changes)
    matching = FlowMatching(config.noise.build(), len(config.class_names), config.label_drop, config.seed)

    def objective(network, batch):
        weights = torch.zeros(len(batch.x0)) if network.guidance_embedding else None
        return matching(lambda x, t, y: network(x, t, y, weights), batch)

    trainer(folder, config, objective).fit()
    save_config(folder, config)
    return folder


def loaded(runs, name):
    folder = runs / name if name in ("teacher", "no-drop") else runs / name / "student-2"
    return folder, KacPipeline.from_pretrained(folder)
