"""A path is what the user meant: absolute in a run, `~` a home folder, an empty string none."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import tyro

import distillkac
from distillkac import demo, diagnose, distill, encode, evaluate, export, report, sample, train
from distillkac.base.options import parse, with_paths
from distillkac.base.paths import PATH, PATH_OR_NAME
from distillkac.data import DataConfig
from distillkac.distillation import distill as students
from distillkac.runs import open_run
from distillkac.runs.config import load_config
from tests.image_sets import samples, write_folder
from tests.toys import refusal

TINY = ["--network.channels", "8", "--network.head-dim", "8", "--optim.batch-size", "8", "--preview", "0"]


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """HOME and the current folder are folders of the test."""
    for name in ("home", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path / "here")


def test_a_run_goes_on_with_its_own_images_from_any_folder(tmp_path, monkeypatch, capsys):
    """`set` in the folder where it began, with another `set` in the folder where it goes on."""
    write_folder(tmp_path / "here" / "set", samples())
    assert train.main(["--run", str(tmp_path / "run"), "--data.path", "set", "--steps", "2", *TINY]) == 0
    assert load_config(tmp_path / "run").data.path == str(tmp_path / "here" / "set")
    write_folder(tmp_path / "there" / "set", [(f"other-{name}", *rest) for name, *rest in samples()])
    monkeypatch.chdir(tmp_path / "there")
    assert train.main(["--run", str(tmp_path / "run"), "--resume", "--steps", "3"]) == 0
    assert load_config(tmp_path / "run").data.path == str(tmp_path / "here" / "set")
    said = refusal(train, ["--run", str(tmp_path / "run"), "--resume", "--steps", "4", "--data.path", "set"], capsys)
    assert f"{tmp_path}/there/set: not the images that {tmp_path}/run was trained on: " in said


def test_a_home_folder_in_every_option(tmp_path):
    home, here = tmp_path / "home", tmp_path / "here"
    write_folder(home / "set", samples())
    assert train.main(["--run=~/x", "--data.path", "~/set", "--data.cache=~/c", "--steps", "2", *TINY]) == 0
    data = load_config(home / "x").data
    assert (data.path, data.cache) == (str(home / "set"), str(home / "c"))
    assert train.main(["--run=~/x", "--resume", "--steps", "3"]) == 0
    assert distill.main(["~/x", "--out=~/y", "--stages", "2,1", "--steps", "1", "--optim.batch-size", "8"]) == 0
    assert (home / "y" / "student-1" / "config.json").exists()
    assert sample.main(["~/x", "--steps", "1", "--num", "2", "--out=~/z/a.png"]) == 0
    assert (home / "z" / "a.png").exists()
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("module", "argv", "option"),
    [
        (train, ["--run="], "--run"),
        (train, ["--run", "", "--resume"], "--run"),
        (train, ["--data.path", ""], "--data.path"),
        (train, ["--data.cache="], "--data.cache"),
        (distill, [""], "RUN"),
        (distill, ["x", "--out", ""], "--out"),
        (distill, ["x", "--start="], "--start"),
        (distill, ["x", "--data.path="], "--data.path"),
        (sample, [""], "RUN"),
        (sample, ["x", "--out="], "--out"),
        (evaluate, ["x", "--inception", ""], "--inception"),
        (evaluate, ["x", "--data.path", ""], "--data.path"),
        (diagnose, ["x", "--out="], "--out"),
        (export, ["x", "--out="], "--out"),
        (report, ["x", "--out="], "--out"),
        (encode, ["--vae=", "--out", "x"], "--vae"),
        (encode, ["--vae", "x", "--out="], "--out"),
        (demo, ["x", ""], "RUNS"),
    ],
)
def test_an_empty_string_is_no_path(tmp_path, module, argv, option, capsys):
    said = refusal(module, argv, capsys)
    assert f"{option} is empty, which is no path" in said
    assert list((tmp_path / "here").iterdir()) == []


def test_a_run_inside_the_folder_of_its_images_is_refused(tmp_path, capsys):
    """Its own pictures would be images of the set when it goes on."""
    images = write_folder(tmp_path / "set", samples())
    (tmp_path / "link").symlink_to(images)
    for run in (images / "run", images / "a" / "b" / "run", tmp_path / "link" / "run"):
        said = refusal(train, ["--run", str(run), "--data.path", str(images), *TINY], capsys)
        assert f"--run {run} lies inside the folder of the images, {images}" in said
        assert not run.exists()
    for run in (images, tmp_path / "link"):
        said = refusal(train, ["--run", str(run), "--data.path", str(images), *TINY], capsys)
        assert f"--run {run} is the folder of the images, {images}" in said
    for run in (tmp_path / "set-run", images / ".runs" / "x"):
        assert train.main(["--run", str(run), "--data.path", str(images), "--steps", "1", *TINY]) == 0
        assert train.main(["--run", str(run), "--resume", "--steps", "2"]) == 0
    inside = ["--out", str(images / "new")]
    for module, argv in (
        (encode, ["--data.path", str(images), "--vae", "x", *inside]),
        (distill, [str(tmp_path / "set-run"), *inside]),
    ):
        assert f"--out {images / 'new'} lies inside the folder of the images, {images}" in refusal(module, argv, capsys)
    with pytest.raises(ValueError, match=r"--out .* lies inside the folder of the images"):
        students(open_run(tmp_path / "set-run"), out=images / "new")
    assert not (images / "new").exists()


@pytest.mark.parametrize("address", ["https://example.org/x.tar", "s3://bucket/set", "HF://owner/name"])
def test_addresses_are_no_paths(capsys, address):
    said = refusal(train, ["--data.path", address], capsys)
    assert f"--data.path {address}: is an address, and only hf://NAME is fetched" in said


def test_places_that_the_library_is_given_are_checked_as_those_of_commands():
    for name in ("path", "cache"):
        with pytest.raises(ValueError, match=rf"--data\.{name} ~nobody-here/x: there is no such user"):
            DataConfig(**{name: "~nobody-here/x"})


def test_an_unknown_user_is_named(capsys):
    assert "--run ~nobody-here/x: there is no such user" in refusal(train, ["--run", "~nobody-here/x"], capsys)


@dataclass(frozen=True)
class Inner:
    text: str | None = field(default=None, metadata=PATH)
    """A path as text."""
    name: str = field(default="name", metadata=PATH_OR_NAME)
    """A path or a name."""
    other: str = "~/x"
    """No path."""
    folder: Path | None = None
    """A path."""


@dataclass(frozen=True)
class Outer:
    run: tyro.conf.Positional[Path] = Path("a")
    """A path."""
    more: tuple[Path, ...] = ()
    """Paths."""
    inner: Inner = field(default_factory=Inner)


def test_paths_at_any_depth(tmp_path):
    home, here = tmp_path / "home", tmp_path / "here"
    words = ["~/r", "--more", "~/1", "2", "--inner.text", "a/../b", "--inner.folder", "~/f"]
    args = parse(Outer, words, "x")
    assert args == Outer(home / "r", (home / "1", Path("2")), Inner(f"{here}/a/../b", folder=home / "f"))
    assert parse(Outer, ["--inner.name", "~/n"], "x").inner.name == str(home / "n")
    assert parse(Outer, ["--inner.name", "owner/name"], "x").inner.name == "owner/name"
    (here / "owner" / "name").mkdir(parents=True)
    assert parse(Outer, ["--inner.name", "owner/name"], "x").inner.name == str(here / "owner" / "name")
    for same in ("hf://owner/name", "hf://owner/name@v1"):
        assert with_paths(DataConfig(path=same)).path == same
    shards = with_paths(DataConfig(path="d/s-{000..009}.tar")).path
    assert shards == str(here / "d" / "s-{000..009}.tar")
    assert with_paths(DataConfig(path="~/d/s-{000..009}.tar")).path == str(home / "d" / "s-{000..009}.tar")


def test_a_run_of_an_earlier_version_takes_its_path_from_the_current_folder_with_a_word(tmp_path, monkeypatch, capsys):
    np.savez(tmp_path / "here" / "set.npz", images=np.arange(20 * 64, dtype=np.uint8).reshape(20, 8, 8))
    run = tmp_path / "run"
    assert (
        train.main(["--run", str(run), "--data.path", "set.npz", "--steps", "2", *TINY, "--network.channels", "32"])
        == 0
    )
    content = json.loads((run / "config.json").read_text())
    del content["fingerprint"]
    content["data"]["path"], content["format"] = "set.npz", 2
    (run / "config.json").write_text(json.dumps(content))
    with pytest.warns(UserWarning, match="set.npz is taken from the current folder") as told:
        assert train.main(["--run", str(run), "--resume", "--steps", "3"]) == 0
    assert any("kept nothing of its images to know them by" in str(w.message) for w in told)
    assert load_config(run).data.path == str(tmp_path / "here" / "set.npz")
    assert load_config(run).fingerprint is not None
    (run / "config.json").write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="taken from the current folder"):
        said = refusal(train, ["--run", str(run), "--resume", "--steps", "4"], capsys)
    assert "where there is nothing now: say with --data.path where they are" in said


def test_a_run_in_a_folder_whose_name_is_no_text(tmp_path):
    """Nor must it be shown where only ASCII can be: the commands, in a process of their own, print the folder."""
    run = os.fsdecode(os.fsencode(tmp_path / "run-caf") + b"\xe9")
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(Path(distillkac.__file__).parents[1])}
    commands = [
        ("train", ["--run", run, "--steps", "1", *TINY]),
        ("train", ["--run", run, "--resume", "--steps", "2"]),
        ("sample", [run, "--steps", "1", "--num", "2"]),
        ("report", [run]),
    ]
    each = "import importlib\n" + "".join(
        f"assert importlib.import_module('distillkac.{module}').main({argv!a}) == 0\n" for module, argv in commands
    )
    done = subprocess.run([sys.executable, "-c", each], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "run-caf\\udce9" in done.stdout
    assert "run-caf\\xe9" in (Path(run) / "report.html").read_text(encoding="utf-8")
