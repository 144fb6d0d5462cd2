"""`--processes`: how many, what is shown of them, and what becomes of them when one ends or Ctrl-C comes."""

import os
import signal
import subprocess
import sys
import time

import pytest

from distillkac import train
from distillkac.base import processes
from tests.places import ROOT


def run(code: str, count: int = 2) -> int:
    return processes._run([sys.executable, "-c", code], count, 1)


# ------------------------------------------------------------------------------------------------------ how many


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Sets what a machine has: cores, and variables; no GPU, no quota, until said otherwise."""

    def of(cores: int, quota: str = "max 100000", gpus: tuple[str, ...] = (), **variables: str) -> int:
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
        (tmp_path / "cpu.max").write_text(quota)
        monkeypatch.setattr(processes, "_QUOTA", tmp_path / "cpu.max")
        monkeypatch.setattr(processes.glob, "glob", lambda pattern: list(gpus))
        for name in ("OMP_NUM_THREADS", "ACCELERATE_USE_CPU", "CUDA_VISIBLE_DEVICES"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return processes.automatic()

    return of


def test_as_many_as_there_is_room_for(machine):
    assert [machine(cores) for cores in (1, 2, 3, 64)] == [1, 2, 2, 2]
    assert [machine(2, OMP_NUM_THREADS=n) for n in ("1", "2", "1,2")] == [2, 1, 2]
    assert machine(4, OMP_NUM_THREADS="2") == 2
    # Containers with less than they see.
    assert [machine(8, quota) for quota in ("100000 100000", "150000 100000", "200000 100000")] == [1, 1, 2]
    assert machine(64, gpus=("/dev/nvidia0",)) == 1
    assert machine(2, gpus=("/dev/nvidia0",), ACCELERATE_USE_CPU="1") == 2
    assert machine(2, gpus=("/dev/nvidia0",), CUDA_VISIBLE_DEVICES="") == 2


@pytest.fixture
def alone(monkeypatch):
    """No launcher, and nothing that could be started."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(processes, "_run", lambda command, count, port: pytest.fail("started"))


def test_one_process_is_this_one(alone):
    assert processes.together("m", [], "1") is None
    assert processes.together("m", [], "many") is None  # the parser says what is wrong
    for count in ("0", "1000000"):
        with pytest.raises(ValueError, match=rf"^processes must lie in \[1, 1024\], got {count}$"):
            processes.together("m", [], count)


def test_a_launcher_has_decided(alone, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert [processes.together("m", [], asked) for asked in ("auto", "1", "2")] == [None] * 3
    with pytest.raises(ValueError, match="--processes 3, but a launcher has started 2"):
        processes.together("m", [], "3")


def test_without_a_port(alone, monkeypatch, machine, capsys):
    def none():
        raise PermissionError(1, "Operation not permitted")

    machine(2)
    monkeypatch.setattr(processes, "_free_port", none)
    assert processes.together("m", [], "auto") is None
    assert "no port can be opened (Operation not permitted): one process goes on alone" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"--processes 2: .* no port can be opened .*; omit it"):
        processes.together("m", [], "2")


def test_without_what_processes_exchange_by(monkeypatch, machine, capfd):
    """They say so, all of them, and the command goes on alone or fails."""
    machine(2)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    code = "from torch import distributed as d; d.is_gloo_available = lambda: False; from distillkac.base import processes; "
    started = processes._run

    def run_code(command, count, port):
        return started([sys.executable, "-c", code + f"processes.together('m', [], {command[-1]!r})"], count, port)

    monkeypatch.setattr(processes, "_run", run_code)
    said = "processes cannot work together, as this torch was built without gloo"
    assert processes.together("m", ["auto"], "auto") is None
    seen = capfd.readouterr()
    assert seen.out.endswith(f"\n{said}\none process goes on alone\n")
    assert seen.err == ""
    assert processes.together("m", ["2"], "2") == 1
    seen = capfd.readouterr()
    assert seen == ("", f"error: {said}: omit --processes, and start the command without a launcher\n")


def test_a_torch_without_processes(monkeypatch, capfd):
    from torch import distributed

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(distributed, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stop:
        processes.together("m", [], "1")
    assert stop.value.code == processes.NO_GROUP
    assert "was built without torch.distributed: omit --processes, and start" in capfd.readouterr().err


# ------------------------------------------------------------------------------------- what is seen of them, and the end


def test_the_first_process_speaks(capfd):
    code = "import os, sys; print('out', os.environ['RANK']); print('err', os.environ['RANK'], file=sys.stderr)"
    assert run(code, 3) == 0
    seen = capfd.readouterr()
    assert (seen.out, seen.err) == ("out 0\n", "err 0\n")


def test_what_each_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")  # the user's choice
    names = "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS"
    code = f"""
import os
with open({str(tmp_path)!r} + "/" + os.environ["RANK"], "w") as file:
    file.write(" ".join(os.environ[name] for name in {names}))
"""
    assert run(code) == 0
    assert [(tmp_path / rank).read_text() for rank in "01"] == [f"{r} {r} 2 2 127.0.0.1 1 7" for r in "01"]


def test_a_mistake_that_all_make_is_told_once(capfd):
    assert run("import sys; print('error: of all', file=sys.stderr); sys.exit(1)") == 1
    assert capfd.readouterr().err == "error: of all\n"


@pytest.mark.parametrize(
    ("end", "how"), [("sys.exit(3)", "with exit code 3"), ("os.kill(os.getpid(), 9)", "by SIGKILL")]
)
def test_the_mistake_of_another_is_told(capfd, end, how):
    code = f"""
import os, sys, time
if os.environ["RANK"] == "1":
    print("the reason", file=sys.stderr, flush=True)
    {end}
time.sleep(0.3)
sys.exit({processes.PEER_GONE})
"""
    assert run(code) == 1
    assert capfd.readouterr().err == f"the reason\nerror: process 2 ended {how}, and the others with it\n"


# The first process of evaluate measures alone, and after Ctrl-C it saves alone, both for as long as it takes.
@pytest.mark.parametrize(("code", "ended"), [(3, True), (0, False), (130, False)])
def test_who_waits_for_a_process_that_failed_is_ended_and_nobody_else(tmp_path, monkeypatch, capfd, code, ended):
    monkeypatch.setattr(processes, "SECONDS", 0.1)
    late = f"time.sleep({20 if ended else 1}); open({str(tmp_path / 'lived on')!r}, 'w'); sys.exit({code})"
    assert run(f"import os, sys, time\nif os.environ['RANK'] == '1': sys.exit({code})\n{late}") == (
        1 if ended else code
    )
    assert (tmp_path / "lived on").exists() != ended
    assert ("process 2 ended with exit code 3" in capfd.readouterr().err) == ended


WAITING = """
import os, signal, sys, time
from pathlib import Path
heard = Path({folder!r}, os.environ["RANK"])
def hear(number, frame):
    with heard.open("a") as file:
        print(signal.Signals(number).name, file=file)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, hear)
heard.touch()
started = time.monotonic()
while not heard.stat().st_size and time.monotonic() - started < 60:
    time.sleep(0.05)
time.sleep(0.5)
sys.exit(130)
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signals_reach_every_process_once(tmp_path, sent):
    """As a terminal sends Ctrl-C, to the whole group; SIGKILL to the one that waits alone: the others save and end."""
    code = WAITING.format(folder=str(tmp_path))
    program = f"""
import sys
from distillkac.base import processes
sys.exit(processes._run([sys.executable, "-c", {code!r}], 2, 1))
"""
    waiting = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, start_new_session=True)
    until(lambda: all((tmp_path / rank).exists() for rank in "01"))
    os.killpg(waiting.pid, sent)
    assert waiting.wait(60) == (130 if sent != signal.SIGKILL else -signal.SIGKILL)
    expected = "SIGINT\n" if sent == signal.SIGINT else "SIGTERM\n"
    until(lambda: all((tmp_path / rank).read_text() for rank in "01"))
    time.sleep(0.6)  # a second signal would come by now
    assert [(tmp_path / rank).read_text() for rank in "01"] == [expected] * 2


def until(true, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


# ------------------------------------------------------------------------------------------------------ with torch


def test_peers_that_are_gone_are_told_from_other_errors():
    gone = RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:4")
    assert processes.peer_is_gone(gone)
    assert not processes.peer_is_gone(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


MUON = """
import contextlib, os, sys, time, torch
from torch import distributed, nn
from distillkac.base import processes
from distillkac.training.optimizer import Muon

torch.set_num_threads(1)
processes.part_at_exit()
distributed.init_process_group("gloo")
shapes = [(24, 16, 3, 3), (16, 24), (5, 5), (24, 24), (3, 4, 2)]
def trained(shared):
    source = torch.Generator().manual_seed(0)
    weights = [nn.Parameter(torch.randn(shape, generator=source)) for shape in shapes]
    muon = Muon([{"params": weights, "muon": True}], 0.1, (0.9, 0.999), 0.5, True, shared)
    for step in range(3):
        for number, weight in enumerate(weights):
            weight.grad = torch.randn(weight.shape, generator=source) if step < 2 or number else None
        muon.step()
    return weights
alone, together = trained(False), trained(True)
same = all(torch.allclose(a, b, 1e-5, 1e-5) for a, b in zip(alone, together))  # rounding of products, by their alignment
processes._part()
def left():
    with contextlib.suppress(OSError):  # one that ends meanwhile
        return [one for i in os.listdir("/proc/self/task") if "gloo" in (one := open(f"/proc/self/task/{i}/comm").read())]
    return ["unknown"]
until = time.monotonic() + 60
while left() and time.monotonic() < until:
    time.sleep(0.1)
assert not left(), left()  # such a thread may abort a program that ends
sys.exit(0 if same else 1)
"""


def test_updates_of_muon_that_are_shared_are_those_of_one_process(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert processes._run([sys.executable, "-c", MUON], 2, processes._free_port()) == 0


def test_matrices_are_shared_out_by_their_work():
    from distillkac.training.orthogonal import shares

    assert shares([(8, 8), (64, 64), (64, 32), (64, 32), (64, 32), (64, 32)], 2) == [[1, 0], [2, 3, 4, 5]]
    assert shares([(4, 4)], 3) == [[0], [], []]


def test_a_training_of_two_processes_stops_and_goes_on(tmp_path):
    """The command itself, in a folder with a space; Ctrl-C saves once for all, and one process may go on."""
    from tests.toys import TINY_OPTIONS

    folder = tmp_path / "a run"
    options = ["--run", str(folder), *TINY_OPTIONS, "--preview", "0", "--optim.batch-size", "16"]
    options += ["--optim.optimizer", "muon"]
    command = [sys.executable, "-m", "distillkac.train", *options, "--processes", "2", "--optim.log-every", "1"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    training = subprocess.Popen(
        [*command, "--steps", "100000"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    metrics = folder / "metrics.jsonl"
    until(lambda: training.poll() is not None or (metrics.exists() and metrics.read_text()), 240)
    os.killpg(training.pid, signal.SIGINT)
    said, _ = training.communicate(timeout=240)
    assert training.returncode == 130, said
    assert said.count("stopped: saved at step") == 1
    step = int(said.split("saved at step ")[1].split()[0])
    assert train.main([*options, "--steps", str(step + 2), "--resume"]) == 0
    assert (folder / "ema.safetensors").exists()
