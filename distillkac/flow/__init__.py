"""Flows between data and noise: the processes, the velocity field of a network with its guidance, and its integrators.

Everything but the networks takes a plain callable (x, t, y) -> velocity as the network and needs torch and numpy alone; the
networks are of diffusers' parts: docs/library.md.
"""

from typing import TYPE_CHECKING

from distillkac.base.lazy import importer

if TYPE_CHECKING:
    from distillkac.flow.exact_flow import ExactFlow, push, sampling_floor, sliced_wasserstein
    from distillkac.flow.exact_start import ExactStart
    from distillkac.flow.guidance import GuidedVelocity
    from distillkac.flow.integrators import integrate, restart_chain, time_grid
    from distillkac.flow.methods import METHODS
    from distillkac.flow.network_config import NetworkConfig
    from distillkac.flow.networks import VelocityNet
    from distillkac.flow.noise_stream import NoiseStream
    from distillkac.flow.path_energy import PathEnergy
    from distillkac.flow.probability_paths import PATHS, add_path
    from distillkac.flow.processes import PROCESSES, Gaussian, Planar, Process, Quad, Telegraph, from_dict
    from distillkac.flow.shaping import Shaping
    from distillkac.flow.trajectory import trajectory_chain
    from distillkac.flow.velocity_from import VelocityFrom

__all__ = [
    "METHODS",
    "PATHS",
    "PROCESSES",
    "ExactFlow",
    "ExactStart",
    "Gaussian",
    "GuidedVelocity",
    "NetworkConfig",
    "NoiseStream",
    "PathEnergy",
    "Planar",
    "Process",
    "Quad",
    "Shaping",
    "Telegraph",
    "VelocityFrom",
    "VelocityNet",
    "add_path",
    "from_dict",
    "integrate",
    "push",
    "restart_chain",
    "sampling_floor",
    "sliced_wasserstein",
    "time_grid",
    "trajectory_chain",
]

# Torch is imported when something is computed, not for the options of a command.
__getattr__, __dir__ = importer(
    __name__,
    {
        "exact_flow": ("ExactFlow", "push", "sampling_floor", "sliced_wasserstein"),
        "exact_start": ("ExactStart",),
        "guidance": ("GuidedVelocity",),
        "integrators": ("integrate", "restart_chain", "time_grid"),
        "methods": ("METHODS",),
        "network_config": ("NetworkConfig",),
        "networks": ("VelocityNet",),
        "noise_stream": ("NoiseStream",),
        "path_energy": ("PathEnergy",),
        "probability_paths": ("PATHS", "add_path"),
        "processes": ("PROCESSES", "Gaussian", "Planar", "Process", "Quad", "Telegraph", "from_dict"),
        "shaping": ("Shaping",),
        "trajectory": ("trajectory_chain",),
        "velocity_from": ("VelocityFrom",),
    },
)
