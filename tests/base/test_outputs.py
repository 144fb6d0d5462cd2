"""Outputs are judged before anything is drawn; what was drawn is kept, and a sampling that was killed goes on."""

import json
import os
import subprocess
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from distillkac import compare, diagnose, encode, evaluate, export, report, sample
from distillkac.base import outputs
from distillkac.runs import pictures, sampling
from distillkac.runs.config import save_config
from distillkac.runs.run import open_run
from tests.toys import run_config, trainer

MANY = ["--steps", "2", "--num", "1300"]  # three blocks of 512 images of 4 x 4


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    config = run_config(steps=2)
    trainer(folder, config).fit()
    save_config(folder, config)
    return folder


@pytest.fixture
def blind(monkeypatch):
    """No network may be asked, nothing learned."""

    def refuse(*_, **__):
        raise AssertionError("something was computed before the output was judged")

    monkeypatch.setattr(sampling, "integrate", refuse)
    monkeypatch.setattr(evaluate, "Evaluator", refuse)
    monkeypatch.setattr(diagnose.data, "load", refuse)
    monkeypatch.setattr(encode, "load", refuse)
    monkeypatch.setattr(encode, "load_vae", refuse)
    monkeypatch.setattr(export, "save_torch", refuse)
    monkeypatch.setattr(export, "save_onnx", refuse)
    monkeypatch.setattr(compare, "run_cell", refuse)


@pytest.fixture(params=["read-only", "beneath a file", "link to nothing"])
def closed(request, tmp_path, monkeypatch):
    """A place where no file can be made."""
    place = tmp_path / "closed"
    if request.param == "read-only":
        place.mkdir()
        touch = type(place).touch

        def refuse(path, *args, **options):  # root may write anywhere
            if place in path.parents:
                raise PermissionError(13, "Permission denied")
            return touch(path, *args, **options)

        monkeypatch.setattr(type(place), "touch", refuse)
    elif request.param == "beneath a file":
        place.write_text("mine")
    else:
        place.symlink_to(tmp_path / "nowhere" / "at-all")
        monkeypatch.setattr(
            os, "mkdir", lambda *_, **__: (_ for _ in ()).throw(PermissionError(13, "Permission denied"))
        )
    return place


def refused(module, argv, capsys):
    assert module.main([str(word) for word in argv]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1, error
    return error


def test_a_place_that_cannot_be_written_is_told_by_every_command(run, closed, blind, capsys):
    for name in ("x.png", "x.GIF", "x.npz", "single"):
        assert "written" in refused(sample, [run, "--out", closed / name], capsys)
    assert "written" in refused(export, [run, "--out", closed / "x.PT2"], capsys)
    assert "written" in refused(report, [run, "--out", closed / "x.html"], capsys)
    assert "written" in refused(diagnose, [run, "--out", closed / "d"], capsys)
    assert "written" in refused(encode, ["--vae", "x", "--out", closed / "d"], capsys)
    assert "written" in refused(compare, ["--quick", "--out", closed / "d"], capsys)


@pytest.mark.parametrize("name", ["evaluation.json", "samples", "samples/overview.png"])
def test_evaluate_judges_its_files_first(run, tmp_path, blind, capsys, name):
    folder = tmp_path / "run"
    folder.mkdir()
    for path in run.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    if name == "samples":
        (folder / name).write_text("a file")
    else:
        (folder / name).mkdir(parents=True)
    assert name in refused(evaluate, [folder, "--num", "10"], capsys)


def test_evaluate_judges_its_rows_first(run, blind, capsys, monkeypatch, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "ema.safetensors").write_bytes((run / "ema.safetensors").read_bytes())
    save_config(folder, run_config(steps=2, label_drop=0.0))
    assert "cannot be guided" in refused(evaluate, [folder, "--num", "10", "--w", "2"], capsys)


def test_a_folder_is_a_folder_whatever_its_name(run, tmp_path, blind, capsys, monkeypatch):
    for name in ("x.png", "my.run", "y.NPZ"):
        (tmp_path / name).mkdir()
        assert outputs.kind_of(tmp_path / name, (".png", ".npz"), "single PNGs") == ""
    (tmp_path / "x.onnx").mkdir()
    assert "is a folder" in refused(export, [run, "--out", tmp_path / "x.onnx"], capsys)
    (tmp_path / "r.html").mkdir()
    assert "is a folder" in refused(report, [run, "--out", tmp_path / "r.html"], capsys)
    (tmp_path / "file").write_text("mine")
    assert "is a file" in refused(sample, [run, "--out", tmp_path / "file"], capsys)
    assert (tmp_path / "file").read_text() == "mine"
    for name in ("x.jpeg", "x.run", ".png"):
        assert "must end in .png, .gif or .npz or be a folder" in refused(
            sample, [run, "--out", tmp_path / name], capsys
        )
    os.mkfifo(tmp_path / "pipe.png")
    assert "no ordinary file" in refused(sample, [run, "--out", tmp_path / "pipe.png"], capsys)
    long = tmp_path / ("x" * 300 + ".png")
    assert "too long" in refused(sample, [run, "--out", long], capsys)


def test_judging_leaves_nothing_behind(tmp_path):
    outputs.check_folder(tmp_path / "a" / "b", "x.png", "y.png")
    outputs.check_file(tmp_path / "c" / "x.png")
    (tmp_path / "d").mkdir()
    outputs.check_file(tmp_path / "d" / "x.png")
    assert [path.name for path in tmp_path.rglob("*")] == ["d"]


def test_folder_with_a_suffix_takes_single_images(run, tmp_path):
    (tmp_path / "x.png").mkdir()
    assert sample.main([str(run), "--steps", "1", "--num", "2", "--out", str(tmp_path / "x.png")]) == 0
    assert len(list((tmp_path / "x.png").glob("*.png"))) == 2


def test_suffixes_count_in_any_case(run, tmp_path):
    for name in ("a.PNG", "b.Gif", "c.NPZ"):
        assert sample.main([str(run), "--steps", "2", "--num", "4", "--out", str(tmp_path / name)]) == 0
        assert (tmp_path / name).is_file()
    with Image.open(tmp_path / "a.PNG") as grid, Image.open(tmp_path / "b.Gif") as way:
        assert grid.format == "PNG"
        assert way.format == "GIF"


@pytest.mark.parametrize("name", ["photo.JPG", "00000-class-dark.png", "grid.png"])
def test_other_images_in_the_folder_are_seen_first(run, tmp_path, blind, capsys, name):
    (tmp_path / name).write_bytes(b"an image")
    assert f"such as {name}" in refused(sample, [run, "--steps", "1", "--out", tmp_path], capsys)
    assert (tmp_path / name).read_bytes() == b"an image"
    assert not list(tmp_path.glob(".*"))


def test_pictures_too_large_or_of_other_channels_are_refused_first(run, blind, capsys, tmp_path):
    for name in ("x.png", "x.gif"):
        error = refused(sample, [run, "--steps", "9", "--num", "3000000", "--out", tmp_path / name], capsys)
        assert "too large for a picture" in error
    with pytest.raises(ValueError, match="1 or 3 channels, these images 4"):
        pictures.check_grid(1, (4, 8, 8), 1)


def test_pages_of_compare_are_read_first(blind, capsys, tmp_path):
    (tmp_path / "README.md").write_text("no marks")
    argv = ["--quick", "--out", tmp_path / "out", "--pages", tmp_path / "README.md"]
    assert "has no place for the result" in refused(compare, argv, capsys)


def test_encode_takes_no_folder_with_other_files(blind, capsys, tmp_path):
    (tmp_path / "cat.jpg").write_bytes(b"a cat")
    assert "holds 1 other files, such as cat.jpg" in refused(encode, ["--vae", "x", "--out", tmp_path], capsys)


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


@pytest.mark.parametrize("name", ["report.pdf", "report", "page.png"])
def test_a_report_is_html_by_its_name(run, tmp_path, blind, capsys, name):
    assert "--out must end in .html or .htm" in refused(report, [run, "--out", tmp_path / name], capsys)
    assert list(tmp_path.iterdir()) == []


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
