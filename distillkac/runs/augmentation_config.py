"""How images are changed before they are learned, as options: augmentation whose labels the network is given."""

from dataclasses import dataclass
from typing import Any

from distillkac.base.ranges import in_ranges
from distillkac.flow.network_config import NetworkConfig


@dataclass(frozen=True)
@in_ranges(
    "augmentation",
    mirror="[0, 1]",
    upside_down="[0, 1]",
    scale="[0, 1]",
    rotate="[0, 180]",
    stretch="[0, 1]",
    translate="[0, 1]",
)
class AugmentationConfig:
    """What --augment does to an image, each with that probability and independently; 0 leaves one out."""

    mirror: float = 0.5
    """Chance to be mirrored, left to right, of an image that this is tried on."""
    upside_down: float = 0.5
    """The same from top to bottom."""
    scale: float = 0.2
    """Standard deviation of log2 of the size."""
    rotate: float = 180.0
    """Largest angle in degrees, either way."""
    stretch: float = 0.2
    """Standard deviation of log2 of the length along a random direction; across it the image shrinks by as much."""
    translate: float = 0.125
    """Standard deviation of a shift in either direction, as a share of the side."""


def check_augmentation(config: Any) -> None:
    """Raises ValueError if a RunConfig asks for augmentation that cannot be, or has options of one that is off."""
    if config.augment == 0:
        if config.augmentation != AugmentationConfig():
            raise ValueError(
                "augmentation.* say what augment does, which is off: give augment, the probability of each"
            )
        if isinstance(config.network, NetworkConfig) and config.network.augment_embedding:
            raise ValueError("network.augment_embedding is set by augment, which is off: omit it, or give augment")
        return
    if not any(vars(config.augmentation).values()):
        raise ValueError("augment has nothing to do: every augmentation.* is 0")
    if config.objective != "flow-matching":
        raise ValueError(f"augment is of the objective flow-matching, got objective {config.objective}: omit it")
    if not isinstance(config.network, NetworkConfig) or config.network.backbone != "unet":
        name = (
            "the dit" if isinstance(config.network, NetworkConfig) else "this network, which is not built from options,"
        )
        raise ValueError(
            f"augment gives the network labels of what was done to an image, and {name} takes none: omit it"
        )
    if config.latent is not None:
        raise ValueError("augment turns and scales images, and these are latents: omit it")
