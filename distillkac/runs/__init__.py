"""A run is a folder: its config, its checkpoints, its data, and images drawn from its networks."""

from typing import TYPE_CHECKING

from distillkac.base.lazy import importer

if TYPE_CHECKING:
    from distillkac.runs.adoption import adopt
    from distillkac.runs.class_shares import reference_labels
    from distillkac.runs.config import RunConfig, load_config
    from distillkac.runs.optim_config import OptimConfig
    from distillkac.runs.own_network import OwnNetwork
    from distillkac.runs.pictures import save_animation, save_grid, to_uint8
    from distillkac.runs.plots import save_curves, save_trajectory
    from distillkac.runs.presets import PRESETS
    from distillkac.runs.process_config import ProcessConfig
    from distillkac.runs.run import Run, open_run, students
    from distillkac.runs.sampler import SamplerConfig
    from distillkac.runs.sampling import Samples, choose, class_labels, field_of, generate

__all__ = [
    "PRESETS",
    "OptimConfig",
    "OwnNetwork",
    "ProcessConfig",
    "Run",
    "RunConfig",
    "SamplerConfig",
    "Samples",
    "adopt",
    "choose",
    "class_labels",
    "field_of",
    "generate",
    "load_config",
    "open_run",
    "reference_labels",
    "save_animation",
    "save_curves",
    "save_grid",
    "save_trajectory",
    "students",
    "to_uint8",
]

# Torch, matplotlib and others are imported when something is computed or drawn, not for the options of a command.
__getattr__, __dir__ = importer(
    __name__,
    {
        "adoption": ("adopt",),
        "config": ("OptimConfig", "RunConfig", "load_config"),
        "process_config": ("ProcessConfig",),
        "own_network": ("OwnNetwork",),
        "pictures": ("save_animation", "save_grid", "to_uint8"),
        "plots": ("save_curves", "save_trajectory"),
        "presets": ("PRESETS",),
        "class_shares": ("reference_labels",),
        "run": ("Run", "open_run", "students"),
        "sampler": ("SamplerConfig",),
        "sampling": ("Samples", "choose", "class_labels", "field_of", "generate"),
    },
)
