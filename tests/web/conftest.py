"""Shared by the tests of the demo page."""

import pytest

from tests.web.demo_tools import tiny_runs


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """A telegraph run with a student of 2 steps and a planar teacher; only read."""
    return tiny_runs(tmp_path_factory.mktemp("runs"))
