"""Runs commands of the package in forked children, some of which come to harm: a server for test_crashes.py.

Importing takes seconds, a tiny training less; so one process imports everything, computes nothing, and forks for every
request, with one thread or `threads`. A request is a line of JSON on stdin, an answer one on stdout, see `serve`.
"""

import errno
import io
import json
import os
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch
from diffusers import UNet2DModel  # noqa: F401  imported by the package when a network is built
from sklearn.datasets import load_digits  # noqa: F401  imported by the package when the digits are read

from distillkac import distill, train
from distillkac.runs import checkpoints, plots

DIED = 77
COMMANDS = {"train": train.main, "distill": distill.main}


class Faults:
    """Counts the calls that change the disk and does harm at one of them.

    at: number of the call, from 1. harm: "die" ends the process there, half of the bytes written if it is a write; "full"
    lets that call and all later ones but clean-ups fail for want of space; a number is a signal sent to ourselves when line
    `at` of metrics.jsonl is written.
    """

    def __init__(self, at: int, harm: str | int):
        self.at, self.harm, self.calls = at, harm, 0
        for name in ("mkdir", "open", "fsync", "replace", "unlink"):
            setattr(os, name, self._counted(getattr(os, name), name))
        checkpoints.open = self._open

    def reached(self, half=None) -> None:
        self.calls += 1
        if self.harm == "full" and self.calls >= self.at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self.calls == self.at:
            if isinstance(self.harm, int):
                os.kill(os.getpid(), self.harm)
            else:
                if half is not None:
                    half()
                os._exit(DIED)

    def _counted(self, original, name):
        def call(*arguments, **options):
            if self.harm == "die" or (self.harm == "full" and name != "unlink"):
                self.reached()
            return original(*arguments, **options)

        return call

    def _open(self, path, mode="r", **options):
        if mode not in ("xb", "a") or (isinstance(self.harm, int) and mode != "a"):
            return open(path, mode, **options)
        self.reached()
        if isinstance(self.harm, int):
            return open(path, mode, **options)
        faults = self

        class File(io.FileIO):
            def write(self, content):
                faults.reached(lambda: io.FileIO.write(self, bytes(content)[: len(content) // 2]))
                return super().write(content)

        file = io.BufferedWriter(File(path, mode.rstrip("b")))
        return file if "b" in mode else io.TextIOWrapper(file, encoding="utf-8")


def contents(step: int) -> dict:
    """A checkpoint in which every value tells its step."""
    weights = {"w": torch.full((300,), float(step)), "b": torch.tensor([step])}
    average = {name: value + 0.5 for name, value in weights.items()}
    optimizer = {"state": {0: {"exp_avg": torch.ones(3) * step}}}
    return {"model": weights, "ema": average, "optimizer": optimizer, "ema_updates": step}


def run(request: dict) -> int:
    """The child: a command, or with `checkpoint` a checkpoint of that step written to `folder`."""
    torch.set_num_threads(request.get("threads", 1))
    # Drawing would take most of the time, and few kills would meet a checkpoint.
    plots.save_curves = lambda *arguments: None
    if "file_limit" in request:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_limit"],) * 2)
    if "uid" in request:
        os.setuid(request["uid"])
    if "at" in request:
        Faults(request["at"], request["harm"])
    if "checkpoint" in request:
        checkpoints.save(Path(request["folder"]), request["checkpoint"], **contents(request["checkpoint"]))
        return 0
    return COMMANDS[request["command"]](request["argv"])


def serve(request: dict) -> dict:
    """{"code": exit code or minus the signal that ended it, "seconds": its life, "output": what it printed}.

    kill_after: seconds until SIGKILL. kill_when: a file; SIGKILL as soon as there is something in it.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        start, child = time.monotonic(), os.fork()
        if child == 0:
            code = 1
            try:
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
                code = run(request)
            except Exception as error:
                print("Traceback", repr(error), file=sys.stderr)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        deadline, path = start + request.get("kill_after", 300), Path(request.get("kill_when", "/nonexistent"))
        while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
            if time.monotonic() > deadline or (path.exists() and path.stat().st_size > 0):
                os.kill(child, signal.SIGKILL)
                ended = os.waitpid(child, 0)
                break
            time.sleep(0.001)
        output.seek(0)
        code = os.waitstatus_to_exitcode(ended[1])
        return {"code": code, "seconds": time.monotonic() - start, "output": output.read()}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(serve(json.loads(line))), flush=True)
