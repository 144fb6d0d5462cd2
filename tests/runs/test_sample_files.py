"""Samples on their way to the disk: a sampling that was stopped goes on, and holds one batch in memory."""

import json
import subprocess
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from distillkac import sample
from distillkac.runs import pictures, sampling
from distillkac.runs.config import save_config
from distillkac.runs.run import open_run
from tests.toys import refused, run_config, trainer

MANY = ["--steps", "2", "--num", "1300"]  # three blocks of 512 images of 4 x 4


@pytest.fixture
def run(toy_run):
    return toy_run


class Killed(BaseException):
    pass


def kill_after(monkeypatch, blocks):
    """The network dies after so many blocks; returns how many were drawn in all."""
    drawn, original = [], sampling.Drawing.block

    def block(self, labels, first, path=False):
        if len(drawn) == blocks:
            raise Killed
        drawn.append(first)
        return original(self, labels, first, path)

    monkeypatch.setattr(sampling.Drawing, "block", block)
    return drawn


def content(out):
    if out.is_dir():
        return {path.name: path.read_bytes() for path in sorted(out.glob("*.png"))}
    return out.read_bytes()


@pytest.mark.parametrize("name", ["single", "x.npz", "x.png", "x.gif"])
def test_a_killed_sampling_goes_on_and_gives_the_same_bytes(run, tmp_path, monkeypatch, capsys, name):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole, cut = tmp_path / "a" / name, tmp_path / "b" / name
    assert sample.main([str(run), *MANY, "--out", str(whole)]) == 0
    with monkeypatch.context() as patched:
        kill_after(patched, 2)
        with pytest.raises(Killed):
            sample.main([str(run), *MANY, "--out", str(cut)])
    if name == "single":
        assert len(list(cut.glob("*.png"))) == 1024
        kept = {path: path.stat().st_mtime_ns for path in cut.glob("*.png")}
    else:
        assert not cut.exists()
    for other in (["--seed", "1"], ["--w", "2"], ["--classes", "bright"], ["--rho", "1.5"]):
        error = refused(sample, [run, *MANY, *other, "--out", cut], capsys)
        assert f"another sampling, with {'times' if '--rho' in other else other[0][2:]} = " in error
    drawn = kill_after(monkeypatch, 9)
    assert sample.main([str(run), *MANY, "--out", str(cut)]) == 0
    assert 0 not in drawn
    assert content(cut) == content(whole)
    if name == "single":
        assert all(path.stat().st_mtime_ns == at for path, at in kept.items())
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == [name]  # nothing else is left


def test_a_finished_folder_is_left_as_it_is_and_may_grow(run, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    assert sample.main([str(run), "--steps", "2", "--num", "3", "--out", str(out)]) == 0
    before = content(out)
    drawn = kill_after(monkeypatch, 0)
    assert sample.main([str(run), "--steps", "2", "--num", "3", "--out", str(out)]) == 0
    assert "all were there already" in capsys.readouterr().out
    assert drawn == []
    monkeypatch.undo()
    assert sample.main([str(run), "--steps", "2", "--num", "5", "--out", str(out)]) == 0
    assert len(content(out)) == 5
    assert content(out).items() >= before.items()
    assert "holds 5 images of this sampling already, more than --num 3" in refused(
        sample, [run, "--steps", "2", "--num", "3", "--out", out], capsys
    )


def test_an_image_that_was_cut_short_is_drawn_again(run, tmp_path):
    out = tmp_path / "out"
    argv = [str(run), "--steps", "2", "--num", "3", "--out", str(out)]
    assert sample.main(argv) == 0
    before = content(out)
    for name, size in (("00000-class-dark.png", 0), ("00001-class-bright.png", 40)):
        (out / name).write_bytes(before[name][:size])
    assert sample.main(argv) == 0
    assert content(out) == before


@pytest.mark.parametrize(("num", "told"), [("1300", True), ("3", False)])
def test_ctrl_c_says_that_the_same_command_goes_on(run, tmp_path, monkeypatch, capsys, num, told):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(sampling, "integrate", interrupted)
    assert sample.main([str(run), "--num", num, "--out", str(tmp_path / "x.npz")]) == 130
    assert ("the same command goes on" in capsys.readouterr().err) == told


def test_the_folder_of_another_network_is_refused(run, tmp_path, capsys):
    out = tmp_path / "out"
    assert sample.main([str(run), "--steps", "2", "--num", "3", "--out", str(out)]) == 0
    other = tmp_path / "other"
    config = run_config(steps=3)
    trainer(other, config).fit()
    save_config(other, config)
    capsys.readouterr()
    error = refused(sample, [other, "--steps", "2", "--num", "3", "--out", out], capsys)
    assert "another sampling, with weights = " in error


def test_two_samplings_to_one_place_are_kept_apart(run, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    code = (
        "import contextlib, sys; from pathlib import Path; from distillkac.runs.lock import take\n"
        "with contextlib.ExitStack() as held:\n take(Path(sys.argv[1]), held); print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        error = refused(sample, [run, "--steps", "1", "--num", "3", "--out", out], capsys)
        assert f"images are being sampled to {out} (process {other.pid})" in error
        assert (out / ".lock").exists()
        other.stdin.close()


@pytest.mark.parametrize("name", ["single", "x.npz"])
def test_memory_does_not_grow_with_the_number_of_images(run, tmp_path, monkeypatch, name):
    """Peaks of Python's and NumPy's memory, after a first sampling has loaded everything; torch's tensors are counted."""
    alive = {"now": 0, "most": 0}

    class Counted:
        def __init__(self, size):
            self.size = size
            alive["now"] += size
            alive["most"] = max(alive["most"], alive["now"])

        def __del__(self):
            alive["now"] -= self.size

    original = sampling.Drawing.block

    def block(self, labels, first, path=False):
        images = original(self, labels, first, path)
        images.counted = Counted(images.numel())
        return images

    monkeypatch.setattr(sampling.Drawing, "block", block)
    monkeypatch.setattr(pictures, "save_png", lambda *_: None)

    def peak(num):
        alive.update(now=0, most=0)
        tracemalloc.start()
        argv = ["--steps", "1", "--num", str(num), "--out", str(tmp_path / str(num) / name)]
        (tmp_path / str(num)).mkdir(exist_ok=True)
        assert sample.main([str(run), *argv]) == 0
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most, alive["most"]

    peak(600)
    few, many = peak(2_048), peak(8_192)
    assert many[0] < few[0] + 60_000  # 6 144 images more are 98 304 bytes, their labels 49 152
    assert many[1] <= 2 * 512 * 16


def test_npz_is_what_numpy_would_have_written(run, tmp_path):
    for name in ("a.npz", "b.npz"):
        assert sample.main([str(run), *MANY, "--seed", "4", "--out", str(tmp_path / name)]) == 0
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    loaded = open_run(run, torch.device("cpu"))
    labels = sampling.class_labels(loaded.config, 1300)
    expected = pictures.to_uint8(sampling.generate(loaded, labels, sampling.SamplerConfig(steps=2), 4).images)
    with np.load(tmp_path / "a.npz") as arrays:
        assert sorted(arrays.files) == ["class_names", "images", "labels"]
        assert np.array_equal(arrays["images"], expected)
        assert np.array_equal(arrays["labels"], labels.numpy())
        assert arrays["class_names"].tolist() == ["dark", "bright"]
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert archive.testzip() is None


def test_the_record_says_what_was_sampled(run, tmp_path):
    out = tmp_path / "out"
    argv = ["--steps", "2", "--num", "3", "--w", "1.5", "--seed", "8", "--classes", "1"]
    assert sample.main([str(run), *argv, "--out", str(out)]) == 0
    record = json.loads((out / ".sampling.json").read_text())
    told = {name: record[name] for name in ("steps", "w", "seed", "classes", "num", "integrator")}
    assert told == {"steps": 2, "w": 1.5, "seed": 8, "classes": ["bright"], "num": 3, "integrator": "ab2"}
