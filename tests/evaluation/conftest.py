"""Shared by the tests of measures."""

import pytest

from distillkac.data import DataConfig, load, read
from distillkac.evaluation import classifier
from distillkac.evaluation.metrics import Evaluator


@pytest.fixture
def torchmetrics():
    return pytest.importorskip("torchmetrics")


@pytest.fixture(scope="session")
def splits():
    return load(DataConfig(), "train"), load(DataConfig(), "test")


@pytest.fixture(scope="session")
def evaluator(splits):
    return Evaluator(*splits)


@pytest.fixture(scope="session")
def real(splits):
    """Real images as a generator would give them, labels in random order."""
    return read(splits[0], range(1297))


@pytest.fixture
def quick(monkeypatch):
    """For what does not depend on how good the classifier is."""
    monkeypatch.setattr(classifier, "STEPS", 3)
