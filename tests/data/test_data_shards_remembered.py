"""What is remembered of large archives: of the very images that were looked at."""

import json
import os
import time
import warnings

import pytest
import torch

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


@pytest.mark.parametrize(
    "change", [{"members": [[1, 2]]}, {"shape": 3, "limits": None}, {"bad": {"x": 5}}, {"more": 1}]
)
def test_what_is_remembered_in_another_form_is_forgotten(tmp_path, monkeypatch, change):
    monkeypatch.setattr(records, "MEMORY_LIMIT", 100)
    settings = config(write(tmp_path / "all.tar", {f"{n}.png": n for n in range(8)}), tmp_path)
    expected = load(settings, "train").__getitems__(range(8))[0]
    files = list((tmp_path / "cache").iterdir())
    assert sorted(path.suffix for path in files) == [".json", ".json"], "nothing half-written is left"
    before = {path: path.read_bytes() for path in files}
    for path in files:
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert torch.equal(load(settings, "train").__getitems__(range(8))[0], expected)
    assert {path: path.read_bytes() for path in files} == before


def test_what_a_killed_process_left_of_the_cache_goes_after_a_day(tmp_path):
    settings = config(write(tmp_path / "all.tar", {"a.png": 0, "b.png": 1}), tmp_path)
    load(settings, "train")
    file = next((tmp_path / "cache").iterdir())
    old, new = (file.with_name(f".{file.name}.{word}.tmp") for word in ("01234567", "89abcdef"))
    for left, age in ((old, 25 * 3600), (new, 3600)):
        left.write_text("{")
        os.utime(left, (time.time() - age,) * 2)
    file.unlink()
    load(settings, "train")
    assert set((tmp_path / "cache").iterdir()) == {file, new}
