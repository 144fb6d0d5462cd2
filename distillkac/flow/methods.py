"""Names of the integrators (integrators.py). No torch here: they are options of commands."""

from typing import Literal, get_args

__all__ = ["METHODS", "Method"]

Method = Literal["euler", "heun", "ab2"]
METHODS: tuple[Method, ...] = get_args(Method)
