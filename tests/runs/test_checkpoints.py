"""The run folder survives a crash at any byte, and what is read from it cannot harm."""

import builtins
import io
import os
import pickle
from pathlib import Path

import pytest
import torch

from distillkac.base import files
from distillkac.runs import checkpoints


class Crash(BaseException):
    """The power goes: nothing catches it."""


def contents(step):
    weights = {"w": torch.full((300,), float(step)), "b": torch.tensor([step])}
    average = {name: value + 0.5 for name, value in weights.items()}
    return {"step": step, "model": weights, "ema": average, "optimizer": {"state": {0: {"m": torch.ones(3) * step}}}}


def save(folder, step):
    values = contents(step)
    checkpoints.save(folder, step, values["model"], values["ema"], values["optimizer"], ema_updates=step)


def check(folder, steps):
    """Everything in the folder is whole, the checkpoint is of one of `steps` and agrees with itself."""
    state = checkpoints.load_state(folder)
    assert state["step"] in steps
    want = contents(state["step"])
    for part in ("model", "ema"):
        assert all(torch.equal(state[part][name], want[part][name]) for name in want[part])
    assert torch.equal(state["optimizer"]["state"][0]["m"], want["optimizer"]["state"][0]["m"])
    for name, part in ((checkpoints.MODEL, "model"), (checkpoints.EMA, "ema")):
        weights, step = checkpoints.load_weights(folder, name)
        assert step in steps
        assert torch.equal(weights["w"], contents(step)[part]["w"])


def test_round_trip(tmp_path):
    assert checkpoints.load_state(tmp_path) is None
    save(tmp_path, 3)
    check(tmp_path, {3})
    save(tmp_path, 7)
    check(tmp_path, {7})
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("file_number", [0, 1, 2])
def test_a_crash_within_a_write_leaves_the_previous_checkpoint(tmp_path, monkeypatch, fraction, file_number):
    """Power is lost after a fraction of the bytes of one of the three files; even the clean-up does not run."""
    save(tmp_path, 3)
    opened = 0

    class Broken(io.FileIO):
        def write(self, content):
            super().write(content[: int(len(content) * fraction)])
            raise Crash

    def broken_open(path, mode="r"):
        nonlocal opened
        opened += mode == "xb"
        return Broken(path, mode) if mode == "xb" and opened == file_number + 1 else builtins.open(path, mode)

    monkeypatch.setattr(files, "open", broken_open, raising=False)
    monkeypatch.setattr(Path, "unlink", lambda *a, **k: None)
    with pytest.raises(Crash):
        save(tmp_path, 7)
    monkeypatch.undo()
    check(tmp_path, {3} if file_number == 0 else {3, 7})
    assert checkpoints.load_state(tmp_path)["step"] == (3 if file_number == 0 else 7)
    save(tmp_path, 9)  # what the crash left behind does not disturb the next one
    check(tmp_path, {9})
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("name", ["fsync", "replace"])
@pytest.mark.parametrize("call", range(6))
def test_a_crash_at_any_system_call_leaves_a_whole_checkpoint(tmp_path, monkeypatch, name, call):
    save(tmp_path, 3)
    original, calls = getattr(os, name), 0

    def failing(*arguments):
        nonlocal calls
        calls += 1
        if calls > call:
            raise Crash
        return original(*arguments)

    monkeypatch.setattr(files.os, name, failing)
    if name == "replace" and call >= 3:
        save(tmp_path, 7)  # three files, three renames: no fourth
        monkeypatch.undo()
        check(tmp_path, {7})
        return
    with pytest.raises(Crash):
        save(tmp_path, 7)
    monkeypatch.undo()
    check(tmp_path, {3, 7})


def test_a_file_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    events = []
    for name in ("fsync", "replace"):
        original = getattr(os, name)
        monkeypatch.setattr(files.os, name, lambda *a, n=name, o=original: (events.append(n), o(*a))[1])
    files.write_atomic(tmp_path / "file", b"content")
    assert events[:2] == ["fsync", "replace"]


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "owned"),))

    path = tmp_path / checkpoints.STATE
    path.parent.mkdir()
    torch.save({"step": 1, "model": Evil()}, path)
    with pytest.raises(ValueError, match=r"training\.pt: not a checkpoint"):
        checkpoints.load_state(tmp_path)
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match=r"training\.pt: not a checkpoint"):
        checkpoints.load_state(tmp_path)
    assert not (tmp_path / "owned").exists()


def test_damage_is_told_with_the_name_of_the_file(tmp_path):
    with pytest.raises(ValueError, match=r"config\.json does not exist"):
        files.read_json(tmp_path / checkpoints.CONFIG)
    (tmp_path / checkpoints.CONFIG).write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: cannot be read as JSON"):
        files.read_json(tmp_path / checkpoints.CONFIG)
    with pytest.raises(ValueError, match=r"has no ema\.safetensors yet"):
        checkpoints.load_weights(tmp_path)
    (tmp_path / checkpoints.EMA).write_bytes(b"\x00" * 50)
    with pytest.raises(ValueError, match=r"ema\.safetensors: not a safetensors file"):
        checkpoints.load_weights(tmp_path)
    save(tmp_path, 3)
    path = tmp_path / checkpoints.STATE
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"training\.pt: not a checkpoint"):
        checkpoints.load_state(tmp_path)
