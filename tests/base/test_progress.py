"""Bars are drawn on a terminal only; a log gets plain lines, and no more of them than it was promised."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distillkac import train
from distillkac.base import progress
from distillkac.base.progress import Bar

TINY = ["--network.channels", "8", "--network.head-dim", "8", "--optim.batch-size", "16", "--preview", "0"]


@pytest.fixture
def folder(tmp_path):
    """Images of two classes, which take a pass of reading."""
    for i in range(8):
        path = tmp_path / "images" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 20 * i, np.uint8)).save(path)
    return tmp_path / "images"


def command(folder, out):
    options = ["--run", str(out), "--data.path", str(folder), "--steps", "6", "--optim.log-every", "2", *TINY]
    return [sys.executable, "-m", "distillkac.train", *options]


def test_a_log_gets_one_plain_line_for_each_line_of_metrics(folder, tmp_path):
    done = subprocess.run(command(folder, tmp_path / "run"), capture_output=True, text=True, check=True)
    assert "\r" not in done.stderr
    assert "%|" not in done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 3, lines
    for step, line in zip((2, 4, 6), lines, strict=True):
        assert re.fullmatch(rf"train: step {step}/6, loss \d+\.\d{{4}}, \d+ samples/s", line)


def test_a_terminal_gets_a_bar(folder, tmp_path):
    ours, theirs = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TQDM_")}
    process = subprocess.Popen(command(folder, tmp_path / "run"), stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 2**16):
            shown += part
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert process.wait() == 0
    text = shown.decode()
    assert "\r" in text
    assert re.search(r"train: 100%\|.*6/6 .*step/s, loss=\d", text)
    assert "train: step 2/6" not in text


def terminal(monkeypatch, yes):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: yes, raising=False)


def test_long_tasks_without_a_rhythm_say_something_now_and_then(capsys, monkeypatch):
    terminal(monkeypatch, False)
    times = iter(range(0, 10_000, 25))  # a step takes 25 seconds
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(times))
    assert list(Bar(range(9), title="reading images", unit="image")) == list(range(9))
    told = capsys.readouterr().err.splitlines()
    assert 2 <= len(told) <= 5
    assert all(re.fullmatch(r"reading images: image \d/9", line) for line in told)


def test_short_tasks_and_other_processes_say_nothing(capsys, monkeypatch):
    terminal(monkeypatch, False)
    list(Bar(range(100), title="reading"))
    with Bar(title="other process", total=3, main=False, seconds=0.0) as bar:
        bar.update()
        bar.note(loss="1")
    assert capsys.readouterr().err == ""
    terminal(monkeypatch, True)
    with Bar(title="other process", total=3, main=False, seconds=0.0) as bar:
        bar.update()
    assert capsys.readouterr().err == ""


def test_a_program_without_stderr_goes_on(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    bar = Bar(title="work", total=2, seconds=0.0)
    bar.update()
    bar.note(loss="1")
    bar.close()


def test_bars_of_libraries_are_switched_off_and_on_again(monkeypatch):
    from diffusers.utils import logging

    terminal(monkeypatch, False)
    with progress.quiet("diffusers"):
        assert not logging.is_progress_bar_enabled()
    assert logging.is_progress_bar_enabled()
    terminal(monkeypatch, True)
    with progress.quiet("diffusers"):
        assert logging.is_progress_bar_enabled()


def test_every_bar_of_the_package_is_made_in_one_place():
    root = Path(train.__file__).parent
    assert [path.name for path in root.rglob("*.py") if "tqdm" in path.read_text(encoding="utf-8")] == ["progress.py"]


def test_a_warning_of_a_command_is_one_sentence(folder, tmp_path):
    (folder / "a" / "notes.txt").write_text("no image", encoding="utf-8")
    done = subprocess.run(command(folder, tmp_path / "run"), capture_output=True, text=True, check=True)
    told = [line for line in done.stderr.splitlines() if not line.startswith("train: ")]
    assert told == [f"warning: {folder}: left out 1 files that are no images, such as a/notes.txt"]
