"""distillkac: train, guide, distil and sample finite-speed (Kac) image generators."""

__version__ = "0.1.0"

from distillkac import ops as ops
