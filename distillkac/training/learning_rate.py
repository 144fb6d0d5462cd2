"""The learning rate of every step: warm-up, then a fall."""

import math

from distillkac.runs.optim_config import OptimConfig


def learning_rate(step: int, steps: int, optim: OptimConfig) -> float:
    """Linear warm-up to optim.lr, times a fall from 1 down to optim.lr_end: a cosine over all steps, or for wsd nothing until
    the last share `decay` of them and there 1 - sqrt (Hägele et al. 2024, arXiv 2405.18392, better than a line)."""
    if optim.schedule == "wsd":
        left = optim.decay * steps
        height = 1.0 - math.sqrt(max(0.0, step - (steps - left)) / left)
    else:
        height = 0.5 + 0.5 * math.cos(math.pi * step / steps)
    return optim.lr * min(1.0, (step + 1) / max(optim.warmup, 1)) * (optim.lr_end + (1 - optim.lr_end) * height)
