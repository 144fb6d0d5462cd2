"""Distillation: the stages of a plan, and what the students of each learn from their teacher."""

from typing import TYPE_CHECKING

from distillkac.base.lazy import importer

if TYPE_CHECKING:
    from distillkac.distillation.chain import distill
    from distillkac.distillation.consistency import ConsistencyDistillation
    from distillkac.distillation.consistency_options import ConsistencyConfig
    from distillkac.distillation.endpoint import EndpointDistillation, StudentStates
    from distillkac.distillation.inverse import RealUID
    from distillkac.distillation.inverse_options import InverseConfig
    from distillkac.distillation.pairs import PairsDistillation
    from distillkac.distillation.pairs_options import PairsConfig
    from distillkac.distillation.recipes import RECIPES
    from distillkac.distillation.reconstruction import ShiftedReconstruction
    from distillkac.distillation.reconstruction_options import ReconstructionConfig
    from distillkac.distillation.stages import DistillConfig

__all__ = [
    "RECIPES",
    "ConsistencyConfig",
    "ConsistencyDistillation",
    "DistillConfig",
    "EndpointDistillation",
    "InverseConfig",
    "PairsConfig",
    "PairsDistillation",
    "RealUID",
    "ReconstructionConfig",
    "ShiftedReconstruction",
    "StudentStates",
    "distill",
]

# The chain trains, for which accelerate takes seconds to import.
__getattr__, __dir__ = importer(
    __name__,
    {
        "chain": ("distill",),
        "consistency": ("ConsistencyDistillation",),
        "consistency_options": ("ConsistencyConfig",),
        "endpoint": ("EndpointDistillation", "StudentStates"),
        "inverse": ("RealUID",),
        "inverse_options": ("InverseConfig",),
        "pairs": ("PairsDistillation",),
        "pairs_options": ("PairsConfig",),
        "reconstruction": ("ShiftedReconstruction",),
        "reconstruction_options": ("ReconstructionConfig",),
        "recipes": ("RECIPES",),
        "stages": ("DistillConfig",),
    },
)
