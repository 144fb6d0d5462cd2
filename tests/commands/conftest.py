"""Shared by the tests of commands."""

import pytest

from distillkac import distill, train
from tests.commands.tiny import CHAIN, TINY


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A trained teacher with students of 2 and 1 steps."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert train.main(["--run", str(folder), "--steps", "6", *TINY]) == 0
    assert distill.main([str(folder), *CHAIN]) == 0
    return folder
