"""Every kind of source, written and loaded, for tests of data."""

import pytest

from distillkac.data import DataConfig, load, read, records
from tests.image_sets import (
    WRITERS,
    samples,
)

LIBRARY = {"parquet": "datasets", "saved": "datasets"}


def write(kind, root, made=None):
    if kind in LIBRARY:
        pytest.importorskip(LIBRARY[kind])
    return WRITERS[kind](root, samples() if made is None else made)


def config(path, tmp_path, **options):
    return DataConfig(path=str(path), cache=str(tmp_path / "cache"), **options)


def splits(settings):
    return [read(part, range(len(part))) for part in (load(settings, "train"), load(settings, "test"))]


def small_memory(monkeypatch):
    monkeypatch.setattr(records, "MEMORY_LIMIT", 100)
