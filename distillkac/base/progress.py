"""How far a long task is: a bar on a terminal, plain lines elsewhere, so that no log fills with bars drawn anew.

Every bar of the package is made here, on stderr. TQDM_DISABLE=1 switches bars off on a terminal too.
"""

import importlib
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

SECONDS = 60.0  # between two plain lines of a task that has no rhythm of its own


def on_terminal() -> bool:
    """Whether stderr is a terminal. A program without a console has no stderr, or a closed one."""
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):
        return False


def _width() -> dict[str, Any]:
    """As wide as the terminal; one that says it has no columns, as those of some containers do, would show nothing."""
    try:
        known = os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except (OSError, ValueError, AttributeError):  # no terminal
        known = False
    return {"dynamic_ncols": True} if known else {"ncols": 80, "nrows": 24}


class Bar(tqdm):
    """tqdm's bar. Off a terminal `update` writes a plain line every `seconds` instead (None: none); see `note`.

    items: what is gone through, if it is used as an iterator. total: how many steps there are, known or not. initial: those
    done before. main: False shows nothing, as on all processes of a launch but the first. leave: whether the finished bar
    stays on the screen.
    """

    def __init__(
        self,
        items: Iterable[Any] | None = None,
        *,
        title: str,
        unit: str = "it",
        total: int | None = None,
        initial: int = 0,
        main: bool = True,
        leave: bool = False,
        seconds: float | None = SECONDS,
    ) -> None:
        hidden = {} if main and on_terminal() else {"disable": True}  # else what TQDM_DISABLE says
        super().__init__(items, title, total, leave, initial=initial, unit=unit, **_width(), **hidden)
        self.title, self.unit, self.main, self.seconds = title, unit, main, seconds
        # A disabled bar of tqdm knows neither where it is nor where it goes.
        self.count, self.goal = initial, total if total is not None else getattr(items, "__len__", lambda: None)()
        self.started = self.told = time.monotonic()

    def __iter__(self) -> Iterator[Any]:
        if not self.disable:
            yield from super().__iter__()
            return
        for item in self.iterable:
            yield item
            self.update()

    def update(self, n: int = 1) -> bool | None:
        self.count += n
        if self.disable and self.seconds is not None and time.monotonic() - self.told >= self.seconds:
            self.note()
        return super().update(n)

    def note(self, text: str = "", **values: str) -> None:
        """Says where the task is: on a terminal `values` beside the bar, elsewhere a line with `text` and `values`."""
        if not self.disable:
            self.set_postfix(values, refresh=False)
            return
        if not self.main or sys.stderr is None:
            return
        self.told = time.monotonic()
        place = f"{self.count}/{self.goal}" if self.goal is not None else f"{self.count}"
        told = ", ".join(filter(None, [f"{self.unit} {place}", *(f"{name} {v}" for name, v in values.items()), text]))
        print(f"{self.title}: {told}", file=sys.stderr, flush=True)


@contextmanager
def quiet(library: str) -> Iterator[None]:
    """Inside, the bars of "diffusers" or "datasets", which they draw into any log, are shown on a terminal only."""
    name, active, off, on = _SWITCHES[library]
    try:
        switches = importlib.import_module(name)
    except ImportError:  # an extra that is not installed: whoever needs it says so
        switches = None
    if switches is None or on_terminal() or not getattr(switches, active)():
        yield
        return
    getattr(switches, off)()
    try:
        yield
    finally:
        getattr(switches, on)()


_SWITCHES = {  # module and functions: whether bars are on, off with them, on with them
    "diffusers": ("diffusers.utils.logging", "is_progress_bar_enabled", "disable_progress_bar", "enable_progress_bar"),
    "datasets": ("datasets.utils", "is_progress_bar_enabled", "disable_progress_bars", "enable_progress_bars"),
}
