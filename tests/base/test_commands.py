"""How a command sets up its process before torch is loaded."""

import os
import subprocess
import sys

import pytest

from distillkac.base.commands import UNREAD, command

SHOW = """
import os, sys
{before}
from distillkac.base.commands import command
command(lambda argv=None: print(os.environ.get("OMP_WAIT_POLICY")) or 0)()
"""


@pytest.mark.parametrize(
    ("given", "before", "expected"),
    [
        ({}, "", "PASSIVE"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "", "ACTIVE"),
        ({"GOMP_SPINCOUNT": "100"}, "", "None"),
        ({}, "import torch", "None"),  # OpenMP has read it: changing it would only mislead
    ],
    ids=["unset", "set", "spin count", "too late"],
)
def test_threads_wait_passively_unless_the_environment_says_how(given, before, expected):
    environment = {
        name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    }
    words = [sys.executable, "-c", SHOW.format(before=before)]
    shown = subprocess.run(words, env=environment | given, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == expected


# How many of 16 MiB the system has back once they are freed.
GIVEN_BACK = """
import resource
from distillkac.base.commands import command

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

def main(argv=None):
    block = bytearray(b"1") * 2**24
    before = resident()
    del block
    print(before - resident())
    return 0

command(main)()
"""


def glibc():
    return sys.platform == "linux" and os.confstr_names.get("CS_GNU_LIBC_VERSION") is not None


@pytest.mark.skipif(not glibc(), reason="needs glibc")
@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({}, True),
        ({"MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_MMAP_THRESHOLD_": "131072"}, False),
        ({"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072:glibc.malloc.mmap_threshold=131072"}, False),
        ({"GLIBC_TUNABLES": "glibc.pthread.rseq=1"}, True),  # it tunes something else
    ],
    ids=["unset", "set by name", "set as tunables", "other tunables"],
)
def test_freed_memory_is_kept_unless_the_environment_tunes_it(given, kept):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    words = [sys.executable, "-c", GIVEN_BACK]
    shown = subprocess.run(words, env=environment | given, capture_output=True, text=True, check=True)
    assert (int(shown.stdout) < 2**23) == kept, shown.stdout


def test_output_that_nobody_reads_any_more_ends_a_command_in_silence():
    """As `distillkac models | head -1` has it."""
    code = "import sys\nfrom distillkac.base.commands import command\n"
    code += "sys.exit(command(lambda argv: print('x' * 10**6, flush=True))([]))"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    child.stdout.close()
    assert child.wait(timeout=60) == UNREAD
    assert child.stderr.read() == b""


def test_kernels_that_do_not_load_are_told_and_other_packages_raise(capsys):
    def work(words):
        raise ImportError(words)

    assert command(lambda argv: work("distillkac: the kernels are not built; run: this"))([]) == 1
    assert capsys.readouterr().err == "error: distillkac: the kernels are not built; run: this\n"
    with pytest.raises(ImportError, match="of another"):
        command(lambda argv: work("of another"))([])


def test_another_pipe_that_breaks_is_told():
    code = "import sys\nfrom distillkac.base.commands import command\n"
    code += "def work(argv):\n    raise BrokenPipeError(32, 'of a tracker')\nsys.exit(command(work)([]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "error: [Errno 32] of a tracker\n")
