"""Shared by the tests of runs."""

import shutil

import pytest
from accelerate.state import AcceleratorState


@pytest.fixture
def run(toy_run, tmp_path):
    """A copy that may be spoilt."""
    yield shutil.copytree(toy_run, tmp_path / "run")
    AcceleratorState._reset_state(reset_partial_state=True)
