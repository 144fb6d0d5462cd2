"""What every `python -m distillkac.*` command does with warnings and mistakes: one sentence each."""

import contextlib
import ctypes
import functools
import io
import os
import select
import sys
import warnings
from pathlib import Path
from typing import Protocol

from distillkac.base import processes

INTERRUPTED = processes.INTERRUPTED
UNREAD = 141  # exit code of a command whose output nobody reads any more
PACKAGE = Path(__file__).parents[1]


def prog(verb: str) -> str:
    """A command as it was called, for its help: `distillkac train`, or `python -m distillkac.train`."""
    called = Path(sys.argv[0])
    if called.name == "distillkac":
        return f"distillkac {verb}"
    together = called.name == "__main__.py" and called.parent == PACKAGE
    return f"python -m distillkac {verb}" if together else f"python -m distillkac.{verb}"


_source_and_all = warnings.formatwarning


def told(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
    """A warning as a command shows it: our own as one sentence, without the place in the code that users do not look for."""
    if Path(filename).is_relative_to(PACKAGE):
        return f"warning: {message}\n"
    return _source_and_all(message, category, filename, lineno, line)


def wait_passively() -> None:
    """Has threads that wait for each other give their cores away, unless the environment says how they shall wait.

    By default they spin. Where anything else wants a core, the thread that is waited for may then not get one: training by two
    threads on two cores beside one other program ran at a twenty-fifth of its speed. OpenMP reads this once, when torch is
    loaded.
    """
    if "torch" not in sys.modules and "GOMP_SPINCOUNT" not in os.environ:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


# Of glibc's mallopt, by its numbers in malloc.h: what is given back to the system, how much the heap grows at once, and from
# which size on memory is asked of the system alone, 32 MiB at most.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def keep_freed_memory() -> None:
    """Has glibc keep up to 1 GiB of memory that is free again, unless the environment tunes its allocator.

    By default the images between the layers of a network, megabytes each, go back to the system in every step, which hands
    them out again page by page, cleared: up to a fifth of a training step. Elsewhere than under glibc nothing happens.
    """
    tuned = any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in os.environ.get("GLIBC_TUNABLES", "")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" and not tuned else None
    if mallopt is not None:
        for what, size in ((_M_MMAP_THRESHOLD, 32 << 20), (_M_TRIM_THRESHOLD, 1 << 30), (_M_TOP_PAD, 64 << 20)):
            mallopt(what, size)


class Main(Protocol):
    """An entry point. argv: the words after its name, None for those of the process. Returns the exit code."""

    def __call__(self, argv: list[str] | None = None) -> int: ...


def _unread() -> bool:
    """Whether nobody reads the output any more, as of `distillkac models | head -1`; some other pipe may have broken."""
    with contextlib.suppress(OSError, AttributeError):  # no file, and no poll where there is none
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    return False


def command(main: Main) -> Main:
    """Wraps an entry point: warnings, and mistakes of the user and of the disk, are told in one sentence; a mistake is exit
    code 1."""

    @functools.wraps(main)
    def wrapped(argv: list[str] | None = None) -> int:
        if isinstance(sys.stdout, io.TextIOWrapper):
            # A path or a class that the terminal cannot show is no reason to fail; stderr is so from the start.
            sys.stdout.reconfigure(errors="backslashreplace")
        warnings.formatwarning = told
        wait_passively()
        keep_freed_memory()
        try:
            return main(argv)
        except BrokenPipeError as error:
            if not _unread():
                print(f"error: {error}", file=sys.stderr)
                return 1
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left to say goes nowhere
            return UNREAD
        except (ValueError, FloatingPointError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except ImportError as error:
            if not str(error).startswith("distillkac: "):  # _kernels.py says what is wrong with the kernels
                raise
            print(f"error: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return INTERRUPTED
        except RuntimeError as error:
            if not processes.peer_is_gone(error):
                raise
            print(
                "error: another process that shares this work has ended: see what it says; a training goes on by --resume",
                file=sys.stderr,
            )
            return processes.PEER_GONE
        finally:
            warnings.formatwarning = _source_and_all

    return wrapped
