"""The Makefile beside a Python that only notes what it is asked: environments half-made, names with spaces, moved folders."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import conftest
from tests.places import ROOT, outside_make

# Stands for Python: notes its arguments, makes "environments" that hold a copy of itself, and has pip if the file pip is there.
PYTHON = """#!/bin/sh
here=$(dirname "$0")
printf '%s\\n' "$@" -- >> "$LOG"
case "$*" in *" -e .") echo "$DISTILLKAC_CPU" >> built-for;; esac
case "$*" in "-m distillkac"*) echo "may ${PYTHONDONTWRITEBYTECODE:+not }be kept" >> bytecode;; esac
case "$*" in
"-m venv --clear .venv") rm -rf .venv; mkdir -p .venv/bin; cp "$0" .venv/bin/python; touch .venv/bin/pip-works;;
"-m ensurepip") [ -e "$here/can-ensurepip" ] && touch "$here/pip-works";;
"-m pip --version") [ -e "$here/pip-works" ] && echo "pip 1";;
"-m distillkac.train"*) [ ! -e fail ];;
*"-e ."|*"-r .venv/needed") case "$*" in *"$(cat fails 2>/dev/null || echo none)") exit 1;; esac;;
esac
"""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


class Tree:
    """A checkout whose folder and Python have spaces in their names."""

    def __init__(self, root: Path):
        self.root, self.log = root / "a checkout", root / "log"
        (self.root / "csrc").mkdir(parents=True)
        (self.root / "tests").mkdir()
        for name in ("Makefile", "constraints.txt", "pyproject.toml", "setup.py", "build_backend.py", "CMakeLists.txt"):
            shutil.copy(ROOT / name, self.root)
        self.python, self.cpuinfo, self.said = root / "my python" / "python3", root / "a processor", ""
        self.put(self.python)

    def put(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(PYTHON, encoding="utf-8")
        path.chmod(0o755)

    def make(self, *words: str, code: int = 0) -> list[list[str]]:
        """The arguments of every call of Python, but for the questions whether there is a pip."""
        self.log.write_text("", encoding="utf-8")
        environment = outside_make()
        command = ["make", f"PYTHON={self.python}", f"CPUINFO={self.cpuinfo}", "GPUS=", *words]
        result = subprocess.run(
            command, cwd=self.root, env=environment | {"LOG": str(self.log)}, capture_output=True, text=True
        )
        assert (result.returncode != 0) == (code != 0), result.stdout + result.stderr
        self.said = result.stdout
        calls = [call.splitlines() for call in self.log.read_text(encoding="utf-8").split("--\n")[:-1]]
        return [call for call in calls if call != ["-m", "pip", "--version"]]


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


MADE = ["-m", "venv", "--clear", ".venv"]


def installed(calls):
    return any(call[:3] == ["-m", "pip", "install"] and "torch" in call for call in calls)


def test_an_environment_is_made_once(tree):
    calls = tree.make("demo")
    assert calls.index(MADE) == 0
    assert installed(calls)
    again = tree.make("demo")
    assert MADE not in again
    assert not any("pip" in call for call in again)


def test_what_trains_is_built_for_one_processor_and_what_tests_for_all(tree, monkeypatch):
    """Once each, and what was built for all is not built again for one."""
    monkeypatch.delenv("DISTILLKAC_CPU", raising=False)

    def built(goal):
        (tree.root / "built-for").write_text("", encoding="utf-8")
        packages = [call for call in tree.make(goal) if call[-2:] == ["-r", ".venv/needed"]]
        words = (tree.root / "built-for").read_text(encoding="utf-8").split()
        assert len(packages) == len(words)
        return words

    found = [built(goal) for goal in ("demo", "demo", "fashion", "test", "test", "demo")]
    assert found == [["NATIVE"], [], [], ["ALL"], [], []]
    monkeypatch.setenv("DISTILLKAC_CPU", "ALL")
    shutil.rmtree(tree.root / ".venv")
    assert built("demo") == ["ALL"]


def test_kernels_or_packages_that_fail_stop_everything(tree):
    for what in ("-e .", "-r .venv/needed"):
        (tree.root / "fails").write_text(what, encoding="utf-8")
        calls = tree.make("demo", code=2)
        assert not [call for call in calls if "distillkac" in call[1]]
        assert not (tree.root / ".venv" / "native").exists()


@pytest.mark.parametrize("left", ["nothing", "no pip", "no interpreter", "a dangling link"])
def test_a_half_made_environment_is_made_again(tree, left):
    """With the marks of what was installed before, too: a Python that is gone after a system's update."""
    python = tree.root / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    if left == "no pip":
        tree.put(python)
    elif left == "no interpreter":
        python.write_text("#!/nowhere/python\n", encoding="utf-8")
        python.chmod(0o755)
    elif left == "a dangling link":
        python.symlink_to("/nowhere/python3.9")
    for stamp in ("installed", "native", "built", "extras"):
        (tree.root / ".venv" / stamp).touch()
    calls = tree.make("demo")
    assert MADE in calls
    assert installed(calls)
    assert any("-e" in call for call in calls)


def test_an_environment_without_pip_gets_it_and_keeps_the_rest(tree):
    python = tree.root / ".venv" / "bin" / "python"
    tree.put(python)
    (python.parent / "can-ensurepip").touch()
    (tree.root / ".venv" / "something of the user").touch()
    calls = tree.make("demo")
    assert MADE not in calls
    assert ["-m", "ensurepip"] in calls
    assert installed(calls)
    assert (tree.root / ".venv" / "something of the user").exists()


def test_a_working_environment_is_kept(tree):
    """One from before this Makefile, say."""
    python = tree.root / ".venv" / "bin" / "python"
    tree.put(python)
    (python.parent / "pip-works").touch()
    (tree.root / ".venv" / "something of the user").touch()
    calls = tree.make("demo")
    assert MADE not in calls
    assert ["-m", "ensurepip"] not in calls
    assert (tree.root / ".venv" / "something of the user").exists()


@pytest.mark.parametrize("run", ["runs/demo", "runs/my demo", "it's; $HOME `x`", 'quoted "twice"'])
def test_names_of_runs(tree, run):
    said = run.replace("$", "$$")  # make's own way to write a dollar
    commands = [call for call in tree.make("demo", f"RUN={said}") if "distillkac" in call[1]]
    together = ["--processes", "auto"]
    assert commands[0] == ["-m", "distillkac.train", "--preset", "demo", "--run", run, *together]
    chain = [
        "--recipe",
        "best",
        "--consistency.steps",
        "200",
        "--consistency.teacher-steps",
        "3",
        "--pairs.count",
        "8000",
    ]
    chain += ["--steps", "250", "--inverse.steps", "0", "--inverse.pairs", "0", "--optim.batch-size", "64", *together]
    assert commands[1] == ["-m", "distillkac.distill", run, *chain]
    assert commands[2] == ["-m", "distillkac.evaluate", run, *together]
    film = ["--steps", "20", "--model", "teacher", "--out", f"{run}/samples/film.gif"]
    assert commands[3:] == [["-m", "distillkac.sample", run, *film]]
    # A second time both go on.
    for folder in (run, f"{run}/student-4-consistency"):
        (tree.root / folder).mkdir(parents=True)
        (tree.root / folder / "config.json").touch()
    commands = [call for call in tree.make("demo", f"RUN={said}", "ARGS=--steps 5") if "distillkac" in call[1]]
    again = [*together, "--resume", "--steps", "5"]
    assert commands[0] == ["-m", "distillkac.train", "--preset", "demo", "--run", run, *again]
    assert commands[1] == ["-m", "distillkac.distill", run, *chain, "--resume"]


def test_the_number_of_processes_is_for_the_user_to_choose(tree, monkeypatch):
    def chosen(*words):
        commands = [call for call in tree.make("demo", *words) if "distillkac" in call[1]]
        return [call[call.index("--processes") + 1] for call in commands if "--processes" in call]

    assert chosen() == ["auto"] * 3
    assert chosen("PROCESSES=1") == ["1"] * 3
    monkeypatch.setenv("PROCESSES", "1")
    assert chosen() == ["1"] * 3


@pytest.mark.parametrize(
    ("flags", "words", "precision"),
    [
        ("avx512f avx512_bf16", [], "bf16"),
        ("amx_bf16 amx_tile", [], "bf16"),
        ("avx512f avx512_bf16x", [], None),
        ("avx512_bf16", ["PRECISION=no"], "no"),
        ("avx512_bf16", ["PRECISION="], None),
        ("avx512_bf16", ["GPUS=/dev/nvidia0"], None),
        ("avx512f", ["PRECISION=bf16"], "bf16"),
        (None, [], None),
    ],
)
def test_the_demo_is_trained_in_bfloat16_where_the_processor_has_it(tree, flags, words, precision):
    """And says so, where nobody asked for it."""
    if flags is not None:
        tree.cpuinfo.write_text(f"processor\t: 0\nflags\t\t: fpu {flags} sse\n", encoding="utf-8")
    commands = [call for call in tree.make("demo", *words) if "distillkac" in call[1]]
    chosen = [call[call.index("--optim.precision") + 1] if "--optim.precision" in call else None for call in commands]
    assert chosen == [precision, precision, None, None]
    assert ("trained in bfloat16, for which" in tree.said) == (precision == "bf16" and not words)


def test_commands_may_keep_bytecode(tree, monkeypatch):
    """pip compiles nothing here: else every command would compile all that it imports."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    tree.make("demo")
    assert (tree.root / "bytecode").read_text(encoding="utf-8") == "may be kept\n" * 4


@pytest.mark.parametrize("name", ["fashion", "patches"])
def test_other_images_have_their_preset_and_their_folder(tree, name):
    together, students = ["--processes", "auto"], 3 if name == "fashion" else 1
    commands = [call for call in tree.make(name) if "distillkac" in call[1]]
    assert commands[0] == ["-m", "distillkac.train", "--preset", name, "--run", f"runs/{name}", *together]
    assert [call[1:3] for call in commands[1:-2]] == [["distillkac.distill", f"runs/{name}"]] * students
    assert commands[1][3:5] == ["--recipe", "consistency" if name == "fashion" else "short"]
    num = ["--num", "10000"][: 2 * (name == "fashion")]
    assert commands[-2] == ["-m", "distillkac.evaluate", f"runs/{name}", *num, *together]
    learned = [True] * (1 + students) + [False, False]
    commands = [call for call in tree.make(name, "PRECISION=bf16") if "distillkac" in call[1]]
    assert [call[-2:] == ["--optim.precision", "bf16"] for call in commands] == learned
    commands = [call for call in tree.make(name, "RUN=runs/other", "ARGS=--process planar") if "distillkac" in call[1]]
    other = ["--run", "runs/other", *together, "--process", "planar"]
    assert commands[0] == ["-m", "distillkac.train", "--preset", name, *other]
    tree.cpuinfo.write_text("flags\t\t: fpu avx512_bf16 sse\n", encoding="utf-8")
    commands = [call for call in tree.make(name) if "distillkac" in call[1]]
    assert ["bf16" in call for call in commands] == learned


def test_variables_of_the_environment_change_no_students(tree, monkeypatch):
    for name in ("RECIPE", "CHAIN", "SECOND", "THIRD", "INVERSE"):
        monkeypatch.setenv(name, "of another program")
    calls = [call for call in tree.make("patches") if call[1] == "distillkac.distill"]
    assert calls == [["-m", "distillkac.distill", "runs/patches", "--recipe", "short", "--processes", "auto"]]


def test_each_distillation_of_fashion_goes_on_by_itself(tree):
    """In a folder with a space; one that has begun is resumed, the others are begun."""
    run = tree.root / "my runs" / "few"
    for name in ("student-4-consistency", "student-4-inverse"):
        (run / name).mkdir(parents=True)
        (run / name / "config.json").touch()
    calls = [call for call in tree.make("fashion", "RUN=my runs/few") if call[1] == "distillkac.distill"]
    assert [call[call.index("--recipe") + 1] for call in calls] == ["consistency", "inverse", "two-to-one"]
    starts = [call[call.index("--start") + 1] if "--start" in call else None for call in calls]
    assert starts == [None, "my runs/few/student-4-consistency", "my runs/few/student-4-inverse"]
    assert ["--resume" in call for call in calls] == [True, True, False]
    last = ["--steps", "1500", "--optim.batch-size", "96", "--pairs.count", "32000", "--pairs.slopes", "0.5"]
    own = [["--consistency.teacher-steps", "3"], ["--pairs.count", "4000"], last]
    assert [[word for word in words if word in call] for words, call in zip(own, calls, strict=True)] == own


@pytest.mark.parametrize(
    ("name", "words", "compiled"),
    [
        ("demo", ["GPUS=/dev/nvidia0"], False),
        ("fashion", [], False),
        ("fashion", ["GPUS=/dev/nvidia0"], True),
        ("patches", ["GPUS=/dev/nvidia0"], True),
        ("fashion", ["GPUS=/dev/nvidia0", "ARGS=--seed 1 --optim.shard"], False),
        ("fashion", ["GPUS=/dev/nvidia0", "ARGS=--optim.exact-parts 2"], False),
    ],
)
def test_longer_trainings_are_compiled_on_a_gpu(tree, name, words, compiled):
    """Unless an option is asked for that cannot have it."""
    commands = [call for call in tree.make(name, *words) if "distillkac" in call[1]]
    assert ["--optim.compile" in call for call in commands] == [compiled, *[False] * (len(commands) - 1)]


def test_a_demo_stops_where_it_fails(tree):
    (tree.root / "fail").touch()
    calls = tree.make("demo", code=2)
    assert calls[-1][1] == "distillkac.train"


def test_nothing_is_run_through_a_script_that_names_its_folder():
    """Scripts of an environment hold its path; of one that was moved, they run another Python or none."""
    assert set(re.findall(r"\$\(BIN\)/[\w-]+", (ROOT / "Makefile").read_text(encoding="utf-8"))) == {"$(BIN)/python"}


def test_lists_of_test_files_name_files_that_are_there():
    """A file that is renamed would leave `make test-cpus` without a word."""
    stems = {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
    assert conftest.TORCH_KERNELS | set(conftest.LONGEST) <= stems
