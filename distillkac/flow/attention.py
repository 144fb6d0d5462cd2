"""Attention written out (scores, softmax, product), where torch would fuse it, for one call and whatever other threads do."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from torch.nn.attention import SDPBackend, sdpa_kernel

from distillkac.ops._arguments import tracing

__all__ = ["WrittenOut", "is_written_out", "written_out"]

_lock = threading.Lock()
_inside = 0
_kernels = contextlib.ExitStack()


def written_out() -> contextlib.AbstractContextManager[object]:
    """Inside, torch computes attention by its own products. What chooses is a setting of the whole program: the first thread
    that enters changes it, the last one that leaves puts it back."""
    return sdpa_kernel(SDPBackend.MATH) if tracing() else _counted()  # a compiler knows what the former means


class WrittenOut(contextlib.AbstractContextManager[None]):
    """written_out(), which may be entered once more after it was left."""

    def __enter__(self) -> None:
        self._now = written_out()
        self._now.__enter__()

    def __exit__(self, *what: Any) -> None:
        self._now.__exit__(*what)


def is_written_out() -> bool:
    """Whether a thread is inside now, outside of a compiler."""
    return not tracing() and _inside > 0


@contextlib.contextmanager
def _counted() -> Iterator[None]:
    global _inside
    with _lock:
        if _inside == 0:
            _kernels.enter_context(sdpa_kernel(SDPBackend.MATH))
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _kernels.close()
