"""Nothing is lost, whenever a process dies: killed at random, at every write, out of space; one run to a folder."""

import os
import random
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from distillkac.runs import checkpoints
from distillkac.runs.lock import run_lock
from tests.forked_commands import DIED, contents
from tests.places import skip_unless_may_become
from tests.toys import TINY_OPTIONS

SAVING = ["--optim.batch-size", "4", "--optim.log-every", "1", "--optim.save-every", "2"]
TINY = [*TINY_OPTIONS, "--preview", "0", *SAVING]
CHAIN = ["--stages", "2,1", "--steps", "6", "--backward", "0.5", *SAVING]
KINDS = {
    "teacher": ("train", ["--run", "RUN", "--steps", "12", *TINY], ("",)),
    "endpoint and inverse": (
        "distill",
        ["TEACHER", "--out", "RUN", *CHAIN, "--inverse.steps", "4", "--inverse.fake-updates", "2"],
        ("student-1", "student-1-inverse"),
    ),
    "reconstruction": (
        "distill",
        ["TEACHER", "--out", "RUN", *CHAIN, "--method", "reconstruction"],
        ("student-1-reconstruction",),
    ),
}


@pytest.fixture(scope="module")
def whole(forked, tmp_path_factory):
    """A function: (folder, seconds) of the run of that kind that nothing interrupted."""
    root, done = tmp_path_factory.mktemp("whole"), {}

    def get(kind: str) -> tuple[Path, float]:
        if kind not in done:
            folder = root / kind.replace(" ", "-")
            answer = forked(**request(kind, folder, root / "teacher"))
            assert answer["code"] == 0, answer["output"]
            done[kind] = folder, answer["seconds"]
        return done[kind]

    get("teacher")
    return get


def request(kind: str, run: Path, teacher: Path) -> dict:
    """What starts or goes on with a run, as its user would."""
    command, words, _ = KINDS[kind]
    resume = ["--resume"] if command == "distill" or (run / checkpoints.CONFIG).exists() else []
    return {"command": command, "argv": [{"RUN": str(run), "TEACHER": str(teacher)}.get(w, w) for w in words] + resume}


def same(one, two) -> bool:
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(same, one, two))
    return torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two


def check_same_run(kind: str, one: Path, two: Path) -> None:
    """Weights, average, optimizer, exports and the sequence of losses, to the bit; and nothing is left lying about."""
    for name in KINDS[kind][2]:
        a, b = one / name, two / name
        assert same(checkpoints.load_state(a), checkpoints.load_state(b))
        for export in (checkpoints.MODEL, checkpoints.EMA):
            assert same(list(checkpoints.load_weights(a, export)), list(checkpoints.load_weights(b, export)))
        logs = [checkpoints.MetricsLog.read(folder) for folder in (a, b)]
        for line in logs[0] + logs[1]:
            del line["samples_per_second"]
        assert logs[0] == logs[1]
        assert (a / checkpoints.CONFIG).read_bytes() == (b / checkpoints.CONFIG).read_bytes()
    assert not list(two.rglob("*.tmp"))


def check_whole(folder: Path) -> None:
    """Whatever there is can be read, and the state is not behind what was exported."""
    state = checkpoints.load_state(folder)
    for name in (checkpoints.MODEL, checkpoints.EMA):
        if (folder / name).exists():
            assert checkpoints.load_weights(folder, name)[1] <= state["step"]


def kill_at_random(forked, whole, tmp_path, kind: str, kills: int, seed: int) -> None:
    expected, seconds = whole(kind)
    moments, done, runs = random.Random(seed), 0, 0
    while done < kills:
        folder, runs = tmp_path / str(runs), runs + 1
        while True:
            after = moments.uniform(0, seconds) if done < kills else 300
            answer = forked(**request(kind, folder, whole("teacher")[0]), kill_after=after)
            for state in folder.rglob("training.pt"):
                check_whole(state.parents[1])
            if answer["code"] == 0:
                break
            assert answer["code"] == -signal.SIGKILL, answer["output"]
            done += 1
        check_same_run(kind, expected, folder)


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_random_moments(forked, whole, tmp_path, kind):
    kill_at_random(forked, whole, tmp_path, kind, kills=2, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_many_random_moments(forked, whole, tmp_path, kind):
    """51 in all."""
    kill_at_random(forked, whole, tmp_path, kind, kills=17, seed=2)


def test_a_checkpoint_cut_at_every_system_call(forked, tmp_path):
    """Dead before each call and in the middle of each write, the disk has the old checkpoint or the new one."""
    assert forked(checkpoint=3, folder=str(tmp_path))["code"] == 0
    steps, at = [3], 0
    while True:
        at, new = at + 1, steps[-1] + 1
        answer = forked(checkpoint=new, folder=str(tmp_path), at=at, harm="die")
        state = checkpoints.load_state(tmp_path)
        assert state["step"] in (steps[-1], new)
        assert same({k: state[k] for k in contents(0)}, contents(state["step"]))
        steps.append(state["step"])
        for name, part in ((checkpoints.MODEL, "model"), (checkpoints.EMA, "ema")):
            weights, step = checkpoints.load_weights(tmp_path, name)
            assert step in steps
            assert same(weights, contents(step)[part])
        if answer["code"] == 0:
            break
        assert answer["code"] == DIED, answer["output"]
    assert at > 3 * 6  # three files: unlink, open, write, fsync, rename, fsync of the folder
    assert len(set(steps)) > 3
    assert not list(tmp_path.rglob("*.tmp"))  # what the deaths left behind is gone


@pytest.mark.slow
def test_a_training_cut_at_every_system_call(forked, whole, tmp_path):
    expected, _ = whole("teacher")
    for at in range(1, 1000):
        folder = tmp_path / str(at)
        first = forked(**request("teacher", folder, folder), at=at, harm="die")
        if first["code"] == 0:
            break
        assert first["code"] == DIED, first["output"]
        assert forked(**request("teacher", folder, folder))["code"] == 0
        check_same_run("teacher", expected, folder)
        shutil.rmtree(folder)
    assert at > 150


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("kind", ["endpoint and inverse", "reconstruction"])
def test_signals_save_first_in_distillation_too(forked, whole, tmp_path, kind, number):
    expected, _ = whole(kind)
    ask = request(kind, tmp_path / "run", whole("teacher")[0])
    answer = forked(**ask, at=2, harm=int(number))  # while the second step's line is written
    assert answer["code"] == 130, answer["output"]
    assert "stopped: saved at step 3 of 6" in answer["output"]
    assert checkpoints.load_state(tmp_path / "run" / KINDS[kind][2][0])["step"] == 3
    assert forked(**ask)["code"] == 0
    for name in KINDS[kind][2]:
        assert same(*(checkpoints.load_state(root / name) for root in (expected, tmp_path / "run")))


def test_exports_that_a_crash_left_behind_are_made_up_for(forked, whole, tmp_path):
    expected, _ = whole("teacher")
    shutil.copytree(expected, tmp_path / "run")
    old = contents(1)
    checkpoints.export(tmp_path / "run", 1, old["model"], old["ema"])
    (tmp_path / "run" / checkpoints.MODEL).unlink()
    with open(tmp_path / "run" / checkpoints.METRICS, "a", encoding="utf-8") as log:
        log.write('{"step": 12, "lo')
    assert forked(**request("teacher", tmp_path / "run", expected))["code"] == 0
    check_same_run("teacher", expected, tmp_path / "run")


def told_in_one_sentence(answer: dict, sentence: str) -> bool:
    lines = [line for line in answer["output"].splitlines() if line.startswith("error: ")]
    return answer["code"] == 1 and len(lines) == 1 and sentence in lines[0] and "Traceback" not in answer["output"]


def test_no_space_at_any_write(forked, tmp_path):
    assert forked(checkpoint=3, folder=str(tmp_path))["code"] == 0
    for at in range(1, 100):
        answer = forked(checkpoint=7, folder=str(tmp_path), at=at, harm="full")
        assert not list(tmp_path.rglob("*.tmp"))
        assert checkpoints.load_state(tmp_path)["step"] in (3, 7)
        assert all(
            checkpoints.load_weights(tmp_path, name)[1] in (3, 7) for name in (checkpoints.MODEL, checkpoints.EMA)
        )
        if answer["code"] == 0:
            break
        assert "cannot be written (No space left on device); what was there is kept" in answer["output"]
    assert at > 12


def test_no_space_while_training(forked, whole, tmp_path):
    """The system itself refuses to let a file grow beyond a limit, then relents."""
    expected, _ = whole("teacher")
    ask = request("teacher", tmp_path / "run", expected)
    assert told_in_one_sentence(forked(**ask, file_limit=20_000), "training.pt: cannot be written (File too large)")
    assert not list((tmp_path / "run").rglob("*.tmp"))
    assert forked(**request("teacher", tmp_path / "run", expected))["code"] == 0
    check_same_run("teacher", expected, tmp_path / "run")


def test_a_full_disk(forked, whole, tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "small", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        (folder / "ballast").write_bytes(b"\0" * 500_000)  # leaves room for one checkpoint, not for two
        answer = forked(**request("teacher", folder / "run", folder))
        assert told_in_one_sentence(answer, "cannot be written (No space left on device)")
        (folder / "ballast").unlink()
        assert not list(folder.rglob("*.tmp"))
        check_whole(folder / "run")
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_read_only_folder(forked):
    skip_unless_may_become(65534)
    with tempfile.TemporaryDirectory() as root:
        os.chmod(root, 0o755)
        answer = forked(**request("teacher", Path(root) / "run", Path(root)), uid=65534)
        assert told_in_one_sentence(answer, "cannot be written (Permission denied)")
        assert not list(Path(root).iterdir())


def test_the_second_run_in_a_folder_is_refused(forked, whole, tmp_path):
    student = KINDS["reconstruction"][2][0]
    for kind, locked in (("teacher", ""), ("reconstruction", student)):
        folder = tmp_path / kind
        with run_lock(folder / locked, Accelerator(cpu=True)):
            answer = forked(**request(kind, folder, whole("teacher")[0]))
            assert told_in_one_sentence(answer, f"another run is training in {folder / locked}".rstrip("/"))
            assert f"process {os.getpid()}" in answer["output"]
            assert [path.name for path in (folder / locked).iterdir()] == [".lock"]
        assert forked(**request(kind, folder, whole("teacher")[0]))["code"] == 0


def test_a_killed_run_holds_no_lock(forked, tmp_path):
    words = ["--run", str(tmp_path), "--steps", "100000", *TINY, "--optim.workers", "1"]
    answer = forked(command="train", argv=words, kill_when=str(tmp_path / checkpoints.METRICS))
    assert answer["code"] == -signal.SIGKILL, answer["output"]
    with run_lock(tmp_path, Accelerator(cpu=True)):
        pass
