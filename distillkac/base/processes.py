"""The processes of one training or evaluation: how they are started on one machine, and how they part at the end.

`--processes 2` starts what `torchrun --nproc-per-node 2` would, by as many programs as there are processes and this one, which
only waits for them: it hands on Ctrl-C and SIGTERM once each, and shows what the first process prints.
"""

import atexit
import contextlib
import ctypes
import functools
import glob
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from distillkac.base.ranges import check_number

SECONDS = 10.0
"""How long a process that ends waits for its own part in the group, whose peers may have died in the middle of an exchange."""
SEVERAL = "[1, 1024]"
"""How many processes there may be."""
AUTO = 2
"""Processes that "auto" starts at most: more were not measured."""
SAVING = 1800.0
"""How long the first of several processes may save, after Ctrl-C, when the others have ended."""
INTERRUPTED = 130  # exit code of a command that Ctrl-C stopped, as shells have it
NO_GROUP = 69  # exit code of a process whose torch cannot join others (EX_UNAVAILABLE)
PEER_GONE = (
    76  # exit code of a process whose peer ended first: what is wrong is for the peer to say (EX_PROTOCOL of sysexits)
)
_GONE = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")  # gloo's words
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG


def together(module: str, argv: list[str], asked: str) -> int | None:
    """Runs `python -m MODULE ARGV` in several processes that work together; the exit code, None if there is one process.

    asked: the value of --processes, a number or "auto"; one that is neither is left to the parser. Raises ValueError if a
    launcher has started another number, or if the processes could not reach each other; SystemExit in a process that was
    started with others and cannot join them.
    """
    launched = os.environ.get("WORLD_SIZE")
    if asked != "auto" and not asked.isdecimal():
        return None
    if launched is not None:
        if asked not in ("auto", "1", launched):
            raise ValueError(
                f"--processes {asked}, but a launcher has started {launched} already (WORLD_SIZE in the environment): omit "
                "--processes, or start the command without a launcher"
            )
        if launched.isdecimal() and int(launched) > 1:
            _check_group(asked)
        return None
    count = automatic() if asked == "auto" else int(asked)
    check_number("processes", count, SEVERAL)
    if count == 1:
        return None
    try:
        port = _free_port()
    except OSError as error:
        problem = f"processes of this machine cannot reach each other, no port can be opened ({error.strerror})"
        if asked != "auto":
            raise ValueError(f"--processes {count}: {problem}; omit it") from None
        print(f"{problem}: one process goes on alone", flush=True)
        return None
    if asked == "auto":
        print(f"{count} processes share the work (--processes 1: one)", flush=True)
    code = _run([sys.executable, "-m", module, *argv], count, port)
    if code != NO_GROUP:
        return code
    if asked != "auto":  # the first of them has said why
        return 1
    print("one process goes on alone", flush=True)
    return None


def launched() -> bool:
    """Whether this is one of several processes that a launcher, or `together`, has started."""
    return os.environ.get("WORLD_SIZE", "1") != "1"


def _check_group(asked: str) -> None:
    """Ends this process if its torch has nothing by which processes exchange what they computed. Asked here, where torch is
    wanted in any case, and not by the process that waits."""
    import torch
    from torch import distributed

    if not distributed.is_available():
        missing = "torch.distributed"
    elif (
        distributed.is_gloo_available()
        or distributed.is_mpi_available()
        or (torch.cuda.is_available() and distributed.is_nccl_available())
    ):
        return
    else:
        missing = "gloo"
    problem = f"processes cannot work together, as this torch was built without {missing}"
    if asked == "auto":
        print(problem, flush=True)
    else:
        print(f"error: {problem}: omit --processes, and start the command without a launcher", file=sys.stderr)
    raise SystemExit(NO_GROUP)


def automatic() -> int:
    """How many processes this machine has room for: one for each OMP_NUM_THREADS cores (by default 1) that may be used, AUTO at
    most; one where there is a GPU."""
    cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "t", "yes", "y", "on")
    if not cpu and os.environ.get("CUDA_VISIBLE_DEVICES", "0") and glob.glob("/dev/nvidia[0-9]*"):
        return 1
    threads = os.environ.get("OMP_NUM_THREADS", "1").split(",")[0]
    return max(1, min(AUTO, cores() // max(1, int(threads) if threads.isdecimal() else 1)))


def cores() -> int:
    """Whole cores that this process may use: by its affinity, and by the quota of its container."""
    count = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
        quota, period = map(int, _QUOTA.read_text(encoding="utf-8").split())
        count = min(count, max(1, quota // period))
    return count


def peer_is_gone(error: RuntimeError) -> bool:
    """Whether an exchange failed because another process had ended."""
    return any(words in str(error) for words in _GONE)


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        return int(listening.getsockname()[1])


def _run(command: list[str], count: int, port: int) -> int:
    shared = {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    usual = {"OMP_NUM_THREADS": str(max(1, cores() // count))}
    if any(name == "lo" for _, name in socket.if_nameindex()):
        usual["GLOO_SOCKET_IFNAME"] = "lo"  # by the name of the machine gloo may find an address that leads nowhere
    with contextlib.ExitStack() as open_files:
        said: list[IO[bytes]] = [open_files.enter_context(tempfile.TemporaryFile()) for _ in range(1, count)]
        children: list[subprocess.Popen[bytes]] = []
        with _handed_on(children):
            for rank in range(count):
                others = {} if rank == 0 else {"stdout": subprocess.DEVNULL, "stderr": said[rank - 1]}
                children.append(
                    subprocess.Popen(
                        command,
                        env=usual | os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                        process_group=0,  # a terminal's Ctrl-C reaches them through this process, once
                        preexec_fn=_end_with_parent,
                        **others,  # type: ignore[call-overload]  # the types of Popen know no such dict
                    )
                )
            first = _wait(children)
        code = children[0].returncode
        if first and (code < 0 or code == PEER_GONE or code == 0):
            _tell(first, children[first].returncode, said[first - 1])
            return 1
        if code < 0:
            print(f"error: process 1 of {count} was ended by {signal.Signals(-code).name}", file=sys.stderr)
        return code if code >= 0 else 128 - code


def _wait(children: list[subprocess.Popen[bytes]]) -> int:
    """Waits for all of them; returns which failed first for a reason of its own, 0 if none or the first of them did."""
    failed, since = 0, None
    while None in [child.poll() for child in children]:
        # One that ended well is missed by nobody: in evaluate the first measures alone what all have drawn. After Ctrl-C it
        # saves alone where all have stopped, which may take long.
        ended = [i for i, child in enumerate(children) if child.returncode]
        if ended:
            saves = all(children[i].returncode == INTERRUPTED for i in ended)
            begins = time.monotonic() + (SAVING if saves else 0)
            since = begins if since is None else min(since, begins)
        own = [i for i in ended if children[i].returncode != PEER_GONE]
        failed = failed or (own[0] if own else 0)
        if since is not None and (late := time.monotonic() - since) > 2 * SECONDS:
            for child in children:  # it waits for a peer that is gone, and does not know
                if child.returncode is None:
                    child.kill() if late > 4 * SECONDS else child.terminate()
            time.sleep(1)
        time.sleep(0.05)
    own = [i for i, child in enumerate(children) if child.returncode not in (0, PEER_GONE)]
    return failed or (own[0] if own else 0)


def _tell(number: int, code: int, said: IO[bytes]) -> None:
    said.seek(0)
    sys.stderr.write(said.read().decode(errors="replace"))
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    print(f"error: process {number + 1} ended {how}, and the others with it", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _handed_on(children: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Inside, Ctrl-C, SIGTERM and SIGHUP reach the children, and end this process only through them; but for a SIGHUP that is
    ignored, as nohup has it."""

    def hand_on(number: int, frame: object) -> None:
        for child in children:
            if child.poll() is None:
                child.send_signal(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)

    main = threading.current_thread() is threading.main_thread()
    deaf = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    heard = (signal.SIGINT, signal.SIGTERM) if deaf else (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {n: signal.signal(n, hand_on) for n in heard} if main else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_with_parent() -> None:
    """Asks the system to send SIGTERM, upon which a training saves, should the process that waits be killed."""
    ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGTERM)


@functools.cache
def part_at_exit() -> None:
    """Leaves torch's process group before Python ends, once for a program. To be called before the group is made.

    gloo's threads may still hold tensors of the last exchange, and would release them into an interpreter that is gone: the
    process aborts (SIGABRT) with everything written, and the launcher reports a failure.
    """
    # The first import of this module makes the group the default argument of its functions, if there is one by then; the
    # compiler imports it in the first step. Held there, the group would keep its threads when it is left.
    with contextlib.suppress(ImportError, AttributeError):  # a torch without processes
        import torch.distributed.nn.functional  # noqa: F401

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
