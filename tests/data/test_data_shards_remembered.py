"""What is remembered of large archives: of the very images that were looked at."""

import warnings

import pytest

from distillkac.data import load, records
from tests.data.test_data_shards import config, write

pytestmark = pytest.mark.usefixtures("alone")


def test_what_is_remembered_of_bad_images_is_of_the_members_that_were_looked_at(tmp_path, monkeypatch):
    """Without classes a member more is read, so the damaged one is another row."""
    monkeypatch.setattr(records, "MEMORY_LIMIT", 100)
    members = {}
    for n in range(8):
        members |= {
            f"{n:03d}.png": b"no image" if n == 5 else n,
            f"{n:03d}.cls": b"" if n == 0 else str(n % 2).encode(),
        }
    path = write(tmp_path / "set" / "all.tar", members)
    for options in ({}, {"unconditional": True}, {}):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = config(path, tmp_path, bad_images="skip", held_out=0.0, **options)
            data = load(made, "train")
        assert len(data) == 6 + len(options)
        assert data.__getitems__(range(len(data)))[0].shape[0] == len(data)  # every one that is kept can be read
