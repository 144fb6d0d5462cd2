"""Outputs are judged before anything is drawn."""

import os

import pytest
from PIL import Image

from distillkac import compare, data, diagnose, encode, evaluate, export, report, sample
from distillkac.base import outputs
from distillkac.data import vae
from distillkac.evaluation import metrics
from distillkac.runs import graphs, pictures, sampling
from distillkac.runs.config import save_config
from tests.toys import refused, run_config


@pytest.fixture
def run(toy_run):
    return toy_run


@pytest.fixture
def blind(monkeypatch):
    """No network may be asked, nothing learned."""

    def refuse(*_, **__):
        raise AssertionError("something was computed before the output was judged")

    monkeypatch.setattr(sampling, "integrate", refuse)
    # A class, as annotations of modules that are imported only then name it.
    monkeypatch.setattr(metrics, "Evaluator", type("Evaluator", (), {"__init__": refuse}))
    monkeypatch.setattr(data, "load", refuse)
    monkeypatch.setattr(vae, "load_vae", refuse)
    monkeypatch.setattr(graphs, "save_torch", refuse)
    monkeypatch.setattr(graphs, "save_onnx", refuse)
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


@pytest.mark.parametrize("name", ["report.pdf", "report", "page.png"])
def test_a_report_is_html_by_its_name(run, tmp_path, blind, capsys, name):
    assert "--out must end in .html or .htm" in refused(report, [run, "--out", tmp_path / name], capsys)
    assert list(tmp_path.iterdir()) == []


def test_what_can_be_done_instead_is_said(tmp_path):
    long = tmp_path / ("x" * 253)  # that beside it is too long
    with pytest.raises(ValueError, match=r"cannot be written .*: choose another place"):
        outputs.check_file(long)
    with pytest.raises(ValueError, match=r"cannot be written .*: copy the run"):
        outputs.check_file(long, "copy the run")
