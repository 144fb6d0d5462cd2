"""Shared by the tests of pipelines."""

import dataclasses

import pytest

from distillkac.flow.networks import NetworkConfig
from tests.pipeline.kinds_of_runs import TWO, made


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Teachers and students of every kind, each alone in a folder."""
    root = tmp_path_factory.mktemp("runs")
    listens = NetworkConfig(channels=(32,), head_dim=8, middle_attention=False, guidance_embedding=True)
    made(root / "teacher")
    made(root / "no-drop", label_drop=0.0)
    made(root / "folded" / "student-2", student=dataclasses.replace(TWO, w=1.3))
    made(root / "plain" / "student-2", student=TWO)
    made(root / "any-w" / "student-2", student=dataclasses.replace(TWO, w_max=3.0), network=listens)
    return root
