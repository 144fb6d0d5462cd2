"""Names of the integrators (integrators.py), and the exponent of their time grids where none is given. No torch here: they
are options of commands."""

from typing import Literal, get_args

__all__ = ["EVEN_UP_TO", "METHODS", "USUAL_RHO", "Method", "rho_in"]

Method = Literal["euler", "heun", "ab2"]
METHODS: tuple[Method, ...] = get_args(Method)
USUAL_RHO = 2.0
"""Exponent of the grid of a teacher of small images that is sampled as it is, in many steps."""
EVEN_UP_TO = 6
"""Up to so many steps an even grid is better (docs/results.md has the table)."""


def rho_in(steps: int, many: float = USUAL_RHO) -> float:
    """The exponent of the time grid of a teacher that is sampled as it is in so many steps: at most 1 in up to EVEN_UP_TO, else
    `many`, which is its usual one. The one rule wherever none is given; students keep the times that they were taught.

    In few steps most of the error is made where the image is decided, early; in many at the data, where an exponent above 1
    puts the steps.
    """
    return min(many, 1.0) if steps <= EVEN_UP_TO else many
