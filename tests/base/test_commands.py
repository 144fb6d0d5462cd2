"""How a command sets up its process before torch is loaded."""

import os
import subprocess
import sys

import pytest

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
