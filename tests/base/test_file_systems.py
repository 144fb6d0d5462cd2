"""Machines without a home folder, caches that cannot be written, file systems without locks or fsync: warned of, not fatal."""

import errno
import fcntl
import importlib
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from accelerate import Accelerator

import distillkac
from distillkac import train
from distillkac.base import files, paths
from distillkac.data import cache
from distillkac.data.dataset import DataConfig
from distillkac.evaluation import inception
from distillkac.runs import checkpoints
from distillkac.runs.config import load_config
from distillkac.runs.lock import run_lock
from tests import image_sets
from tests.places import ROOT, skip_unless_may_become

SMALL = [
    "--network.channels",
    "16",
    "--network.head-dim",
    "8",
    "--optim.batch-size",
    "8",
    "--preview",
    "0",
    "--steps",
    "2",
]
NO_FSYNC = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
HOMES = ("HOME", "XDG_CACHE_HOME", "HF_HOME", "HF_DATASETS_CACHE", "TORCH_HOME", "MPLCONFIGDIR")


@pytest.fixture(autouse=True)
def nothing_was_said(monkeypatch):
    monkeypatch.setattr(files, "_told_of_fsync", set())


@pytest.fixture
def homeless(monkeypatch):
    """HOME is not set and the system does not know the user, as in a container that runs under any number."""
    for name in HOMES:
        monkeypatch.delenv(name, raising=False)

    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    with pytest.raises(RuntimeError):
        Path.home()


@pytest.fixture
def shard(tmp_path):
    """Three tars of images: where they lie in each is remembered."""
    return image_sets.write_tar(tmp_path / "set", image_sets.samples())


def refuses(number):
    def call(*_):
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("number", NO_FSYNC)
def test_without_fsync_a_run_goes_on(tmp_path, monkeypatch, number):
    monkeypatch.setattr(os, "fsync", refuses(number))
    with pytest.warns(UserWarning, match="cannot say when a file is on the disk") as told:
        assert train.main(["--run", str(tmp_path), *SMALL]) == 0
    assert len([w for w in told if "on the disk" in str(w.message)]) == 1
    assert "choose a folder (--run, --out) on another" in str(told[0].message)
    assert checkpoints.load_state(tmp_path)["step"] == 2


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_an_fsync_that_fails_is_a_failure(tmp_path, monkeypatch, number):
    monkeypatch.setattr(os, "fsync", refuses(number))
    with pytest.raises(OSError, match="cannot be written"):
        files.write_atomic(tmp_path / "file", b"content")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", NO_LOCKS)
def test_without_locks_a_run_goes_on(tmp_path, monkeypatch, number):
    monkeypatch.setattr(fcntl, "lockf", refuses(number))
    with (
        pytest.warns(UserWarning, match=f"the file system of {tmp_path} keeps no locks.*choose a folder on another"),
        run_lock(tmp_path, Accelerator(cpu=True)),
    ):
        pass


def test_without_locks_train_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "lockf", refuses(errno.ENOLCK))
    with pytest.warns(UserWarning, match="keeps no locks"):
        assert train.main(["--run", str(tmp_path / "run"), *SMALL]) == 0


def test_other_trouble_with_a_lock_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "lockf", refuses(errno.EIO))
    with (
        pytest.raises(ValueError, match=r"cannot be locked .*choose a folder on another file system"),
        run_lock(tmp_path, Accelerator(cpu=True)),
    ):
        pass


def test_a_cache_that_cannot_be_read_is_as_one_that_is_empty(tmp_path, monkeypatch, shard):
    """As below a folder of another user; root may read them all, so it is the check that refuses."""
    look = files.check_readable

    def refuse(path):
        if tmp_path / "cache" in path.parents:
            raise OSError(f"{path} cannot be read (Permission denied)")
        look(path)

    monkeypatch.setattr(files, "check_readable", refuse)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for run in ("first", "second"):
        assert train.main(["--run", str(tmp_path / run), "--data.path", str(shard), *SMALL]) == 0
    assert list((tmp_path / "cache" / "distillkac").glob("*.json"))


@pytest.mark.parametrize("place", ["a file", "read-only"])
def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch, shard, place):
    if place == "read-only":
        if os.getuid() == 0:
            pytest.skip("root may write everywhere")
        (tmp_path / "cache").mkdir(mode=0o500)
    else:
        (tmp_path / "cache").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.warns(UserWarning, match=f"{tmp_path / 'cache'}.*--data.cache FOLDER"):
        assert train.main(["--run", str(tmp_path / "run"), "--data.path", str(shard), *SMALL]) == 0


def test_one_warning_for_all_archives(tmp_path, monkeypatch, shard, homeless):
    assert len(list(shard.glob("*.tar"))) == 3
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        assert train.main(["--run", str(tmp_path / "run"), "--data.path", str(shard), *SMALL]) == 0
    told = [str(w.message) for w in told if "--data.cache" in str(w.message)]
    assert len(told) == 1
    assert "there is no home folder" in told[0]


def test_without_a_home_nothing_is_written_elsewhere(tmp_path, monkeypatch, homeless):
    monkeypatch.chdir(tmp_path)
    path, found = cache.recall(DataConfig(), "words")
    assert found is None
    with pytest.warns(UserWarning, match="there is no home folder.*--data.cache FOLDER"):
        cache.remember(path, {"a": 1})
    with pytest.warns(UserWarning, match="--data.cache FOLDER keeps it"):
        folder = cache.writable(cache.downloads(DataConfig()))
    assert folder.is_dir()
    assert cache.downloads(DataConfig(cache="here")) == Path("here")
    assert not list(tmp_path.iterdir())


def test_downloads_go_where_the_library_keeps_them(tmp_path, monkeypatch):
    for name in HOMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    usual = tmp_path / "hf" / "datasets"
    assert cache.writable(cache.downloads(DataConfig())) == usual
    assert list(usual.iterdir()) == []
    monkeypatch.setenv("HF_DATASETS_CACHE", os.devnull)
    with pytest.warns(UserWarning, match=r"(Not a directory|File exists).*--data\.cache"):
        assert cache.writable(cache.downloads(DataConfig())).is_dir()


def test_inception_weights_without_a_home(tmp_path, monkeypatch, homeless):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="set TORCH_HOME, or give --inception FILE"):
        inception.find_weights("download")
    with pytest.raises(ValueError, match="add --inception download"):
        inception.find_weights(None)
    monkeypatch.setenv("TORCH_HOME", f"{os.devnull}/torch")
    with pytest.raises(ValueError, match=r"cannot be downloaded .*--inception FILE"):
        inception.find_weights("download")
    assert not list(tmp_path.iterdir())


def test_matplotlib_is_not_asked_for_a_home(homeless, monkeypatch):
    """Its versions before 3.11 end with an error where there is none."""
    monkeypatch.setenv("MPLCONFIGDIR", "")
    monkeypatch.delenv("MPLCONFIGDIR")
    importlib.reload(distillkac)
    assert os.environ["MPLCONFIGDIR"] == f"{os.devnull}/matplotlib"


def test_a_user_unknown_to_the_system_trains(tmp_path, shard):
    """The whole way in a process of its own: from the first import to the pictures."""
    skip_unless_may_become(12345)
    here = tmp_path / "here"
    here.mkdir()
    # The real user is what is looked up; the effective one still reads the files of this installation.
    program = (
        "import os, sys; os.setresuid(12345, 0, 0); from distillkac import train; "
        f"sys.exit(train.main({['--run', 'run', '--data.path', str(shard), *SMALL]!r}))"
    )
    environment = {name: value for name, value in os.environ.items() if name not in HOMES} | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=here, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert "--data.cache FOLDER" in result.stderr
    assert "MPLCONFIGDIR" in result.stderr  # Matplotlib's own warning
    assert [path.name for path in here.iterdir()] == ["run"]
    assert json.loads((here / "run" / "config.json").read_text())["steps"] == 2


@pytest.mark.parametrize("read", ["config", "weights", "state"])
def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch, read):
    names = {"config": checkpoints.CONFIG, "weights": checkpoints.EMA, "state": checkpoints.STATE}
    readers = {"config": load_config, "weights": checkpoints.load_weights, "state": checkpoints.load_state}
    path = tmp_path / names[read]
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"{}")

    def denied(self, *args, **kwargs):  # the tests may run as root, whom nothing is denied
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(OSError, match=r"cannot be read \(Permission denied\)"):
        readers[read](tmp_path)


def test_text_is_utf8_whatever_the_locale(tmp_path):
    """With one of ASCII, in a process of its own."""
    page, value = tmp_path / "page.md", tmp_path / "value.json"
    page.write_text("Größe\n<!-- table:begin -->\n<!-- table:end -->\n", encoding="utf-8")
    value.write_text('{"name": "Ä"}', encoding="utf-8")
    program = (
        "from pathlib import Path; from distillkac.base import files; "
        f"name = files.read_json(Path({str(value)!r}))['name']; page = Path({str(page)!r}); "
        "files.into_pages([page], {'table': name}); assert files.marked(page, 'table') == name + chr(10)"
    )
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], env=os.environ | ascii_only, check=True)
    assert page.read_text(encoding="utf-8") == "Größe\n<!-- table:begin -->\nÄ\n<!-- table:end -->\n"


def test_a_tilde_without_a_home_names_the_variable(monkeypatch):
    def unknown(self):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", unknown)
    with pytest.raises(ValueError, match="--out ~/x: no home folder is known, set HOME"):
        paths.expanded("--out", Path("~/x"))
    with pytest.raises(ValueError, match="there is no such user"):
        paths.expanded("--out", Path("~nobody/x"))
