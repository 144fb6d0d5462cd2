"""One run at a time in a folder."""

import contextlib
import errno
import fcntl
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from accelerate import Accelerator

LOCK = ".lock"
# Of file systems without locks, and of NFS whose server answers none.
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}


@contextlib.contextmanager
def run_lock(folder: Path, accelerator: "Accelerator") -> Iterator[None]:
    """Holds FOLDER/.lock for the processes of one launch. Raises ValueError, in all of them, if another run holds it.

    The lock is a POSIX record lock of the main process: the system releases it when that process ends, however it ends, and
    processes that it forked do not inherit it. The file stays after that; only the lock on it counts. Over NFS the lock
    holds between machines where the server keeps locks (NFSv4, or v3 with lockd); mounted with nolock or local_lock it holds
    on one machine only. Threads of one process are not kept apart. A file system without locks is warned of.
    """
    with contextlib.ExitStack() as held:
        problem = [take(folder, held) if accelerator.is_main_process else None]
        if accelerator.num_processes > 1:
            from accelerate.utils import broadcast_object_list  # sampling takes a folder too, without accelerate

            broadcast_object_list(problem)
        if problem[0] is not None:
            raise ValueError(problem[0])
        yield


def take(folder: Path, held: contextlib.ExitStack, busy: str = "another run is training in") -> str | None:
    """Holds FOLDER/.lock, in a folder that may be new, until `held` is closed; returns what is wrong if it cannot be locked."""
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        return f"{folder} cannot be written ({error.strerror}); choose another folder"
    held.callback(os.close, file)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in NO_LOCKS:
            warnings.warn(
                f"the file system of {folder} keeps no locks ({error.strerror}), so nothing stops a second run from writing "
                "there at the same time: take care of that, or choose a folder on another",
                stacklevel=2,
            )
            return None
        if not isinstance(error, (BlockingIOError, PermissionError)):
            return f"{path} cannot be locked ({error.strerror}); choose a folder on another file system"
        owner = os.read(file, 20).decode(errors="replace").strip()
        return f"{busy} {folder} (process {owner}); stop it, wait for it, or choose another folder"
    with contextlib.suppress(OSError):  # only told to people
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
    return None
