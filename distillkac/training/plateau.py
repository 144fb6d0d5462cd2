"""Whether figures that shall fall have stopped falling."""

import math
from collections.abc import Sequence

WINDOW = 4
"""Measurements that are compared with as many before them, for a plateau."""
ERRORS = 2.0
"""An improvement counts if it is larger than so many of its standard errors."""


def plateau(values: Sequence[float]) -> bool:
    """Whether figures that shall fall have stopped falling beyond their noise.

    The mean of the last WINDOW is compared with that of the WINDOW before. Their noise is estimated from second differences,
    which a steady fall does not move: of independent noise with variance v their mean square is 6 v. It has stopped if the
    mean fell by at most ERRORS standard errors (2 v / WINDOW)^(1/2) of that difference. Never with fewer than 2 WINDOW values.
    """
    if len(values) < 2 * WINDOW:
        return False
    now = values[-2 * WINDOW :]
    bends = [a - 2 * b + c for a, b, c in zip(now, now[1:], now[2:], strict=False)]
    variance = sum(bend * bend for bend in bends) / (6 * len(bends))
    fell = (sum(now[:WINDOW]) - sum(now[WINDOW:])) / WINDOW
    return fell <= ERRORS * math.sqrt(2 * variance / WINDOW)
