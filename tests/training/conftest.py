"""Shared by the tests of training."""

import shutil

import pytest

from distillkac import distill, train
from tests.training.resume_options import CHAIN, TINY


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A teacher of the digits with students of 2 and 1 steps."""
    folder = tmp_path_factory.mktemp("resume") / "demo"
    assert train.main(["--run", str(folder), "--steps", "4", *TINY]) == 0
    assert distill.main([str(folder), *CHAIN]) == 0
    return folder


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "demo")
