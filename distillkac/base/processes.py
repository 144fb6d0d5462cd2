"""The processes of one training: how they part at the end."""

import atexit
import functools
import threading

SECONDS = 10.0
"""How long a process that ends waits for its own part in the group, whose peers may have died in the middle of an exchange."""


@functools.cache
def part_at_exit() -> None:
    """Leaves torch's process group before Python ends, once for a program.

    gloo's threads may still hold tensors of the last exchange, and would release them into an interpreter that is gone: the
    process aborts (SIGABRT) with everything written, and the launcher reports a failure.
    """
    atexit.register(_part)


def _part() -> None:
    from torch import distributed

    if not distributed.is_available() or not distributed.is_initialized():
        return
    # In a thread, as leaving waits for exchanges under way: one that a dead peer will never answer must not keep an error
    # from ending the process.
    leaving = threading.Thread(target=distributed.destroy_process_group, daemon=True)
    leaving.start()
    leaving.join(SECONDS)
