"""Every command and every Python block of the README and of docs/ does what it says, or at least exists.

All are read by the real parsers, so that a renamed option, target, extra or file fails here. Those of DONE are carried out on
tiny runs, the costly ones in the slow suite. Python blocks run as they stand, with stand-ins for the reader's own names. A
command of a program that is not known here must tell its cost in a remark (`# 2 hours`).
"""

import argparse
import importlib
import importlib.util
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro
from accelerate.state import AcceleratorState
from PIL import Image

from distillkac import __main__, distill, train
from distillkac.base import options
from distillkac.evaluation import classifier
from tests.places import ROOT
from tests.toys import TINY_OPTIONS

FILES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PROGRAMS = (
    "make",
    "python",
    "distillkac",
    "pip",
    "pip-audit",
    "pytest",
    "cmake",
    "accelerate",
    "torchrun",
    "srun",
    "mkdocs",
)
COST = re.compile(r"#.*\b(\d+|one|two|an?) (seconds?|minutes?|hours?|days?)\b")
TINY = [*TINY_OPTIONS, "--network.layers", "1", "--optim.batch-size", "8"]
TINY += ["--preview", "0"]
CHAIN = ["--stages", "4,2,1", "--steps", "1", "1", "--optim.batch-size", "8"]
# What makes a command small enough to be carried out; the last of two values of an option counts. FRESH: a new folder.
DONE = {
    "train": ["--run", "FRESH", "--steps", "2", *TINY],
    "distill": ["--out", "FRESH", *CHAIN],
    "sample": ["--num", "3"],
    "evaluate": ["--num", "20", "--teacher-steps", "1"],
    "report": [],
    "doctor": [],
    "diagnose": ["--num", "8", "--reference-num", "8", "--guidance-num", "0"],
    "export": [],
}
RESUMED = {
    "train": ["--steps", "2"],
    "distill": ["--stages", "8,4,2,1", "--steps", "1", "1", "1", "--optim.batch-size", "8"],
}
SLOW = ("diagnose", "export", "distill", "evaluate")  # the last two run in tests/commands/test_commands.py too
IN_FILES = ("README.md", "recipes.md")
ONLY_READ = {  # part of a command: why it is not carried out
    "cifar10": "its images are not here; tests/runs/test_presets.py tries presets",
    "--inception download": "needs the network; tests/evaluation/test_fidelity.py measures with a stand-in",
}
IN_ORDER = "library.md"  # its Python blocks build on each other: test_library.py runs them
OF_OTHERS = {"--no-isolation", "--use_fsdp", "--tyro-print-completion"}  # options in the text that are not ours


class Block:
    def __init__(self, path: Path, number: int, language: str, text: str):
        self.path, self.number, self.language, self.text = path, number, language, text

    @property
    def where(self) -> str:
        return f"{self.path.name}:{self.number}"


def blocks(path: Path) -> list[Block]:
    """The fenced blocks, with the line where each begins."""
    text = path.read_text()
    found = re.finditer(r"^```(\w*)[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [Block(path, text.count("\n", 0, m.start()) + 2, m[1], m[2]) for m in found]


def inline(path: Path) -> list[str]:
    """The code spans of the text outside the blocks, on one line each."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def commands() -> list:
    """pytest parameters (where, command) of every shell command, in blocks and in the text."""
    found = []
    for path in FILES:
        for block in blocks(path):
            for offset, line in enumerate(block.text.splitlines()):
                shell = block.language in ("bash", "sh", "shell", "console")
                if line.strip() and not line.startswith("#") and (shell or is_command(line)):
                    found.append((f"{path.name}:{block.number + offset}", line))
        found += [(path.name, span.removesuffix("...").strip()) for span in inline(path) if is_command(span)]
    return found


def is_command(text: str) -> bool:
    return text.split()[0] in PROGRAMS and len(text.split()) > 1


COMMANDS = commands()
PYTHON = [
    pytest.param(block, id=block.where, marks=[pytest.mark.slow] if "FlopCounterMode" in block.text else [])
    for path in FILES
    if path.name != IN_ORDER
    for block in blocks(path)
    if block.language == "python"
]


class Read(BaseException):
    """The real parser has accepted the options."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with what the documents speak of: DIR with cats and dogs, runs/demo with students, other runs."""
    root = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        source = np.random.default_rng(0)
        for name in ("cat", "dog"):
            (root / "DIR" / name).mkdir(parents=True)
            for i in range(4):
                Image.fromarray(source.integers(0, 255, (32, 32, 3), np.uint8)).save(root / "DIR" / name / f"{i}.png")
        assert train.main(["--run", "runs/demo", "--steps", "2", *TINY]) == 0
        assert distill.main(["runs/demo", "--stages", "8,4,2,1", "--steps", "1", "1", "1", *CHAIN[-2:]]) == 0
        assert train.main(["--run", "runs/mine", "--steps", "2", *TINY, "--data.path", "DIR"]) == 0
        for name in ("large", "planar"):
            shutil.copytree("runs/mine", f"runs/{name}")
    return root


@pytest.fixture
def inside(world, monkeypatch):
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.chdir(world)
    return world


def without_variables(words: list[str]) -> list[str]:
    """Settings before the command are dropped, and $NAME and $(...) stand for 1."""
    while words and re.fullmatch(r"[A-Za-z_]\w*=.*", words[0]):
        words = words[1:]
    return [re.sub(r"\$\w+", "1", word) for word in words]


def check(line: str) -> None:
    """Fails unless the command could be given as it stands."""
    if re.match(r"(export )?\w+=", line) and len(shlex.split(re.sub(r"\$\(.*?\)", "1", line))) < 3:
        return  # a setting of the shell
    program, *words = without_variables(shlex.split(line, comments=True))
    if program == "make":
        check_make(words)
    elif program == "python":
        check_python(words)
    elif program == "distillkac":
        check_verb(words)
    elif program == "pip" and words[0] == "install":
        extras = {e for word in words for group in re.findall(r"\[([\w,-]+)\]$", word) for e in group.split(",")}
        assert extras <= PROJECT["optional-dependencies"].keys(), f"no extra {extras}"
    elif program == "pip-audit":
        assert (ROOT / words[words.index("-r") + 1]).exists()
    elif program == "pytest":
        assert all((ROOT / word).exists() for word in words if "/" in word)
    elif program == "cmake":
        assert (ROOT / "CMakeLists.txt").exists()
    elif program == "mkdocs":
        assert (ROOT / "mkdocs.yml").exists()
    elif program == "srun":
        check(shlex.join(words))
    elif program == "accelerate":
        from accelerate.commands.launch import launch_command_parser

        given = launch_command_parser().parse_args(words[1:])
        assert given.module
        check_python(["-m", given.training_script, *given.training_script_args])
    elif program == "torchrun":
        from torch.distributed.run import get_args_parser

        given = get_args_parser().parse_args(words)
        assert given.module
        rest = [word for word in (given.training_script, *given.training_script_args) if word != "--"]
        check_python(["-m", *rest])
    else:
        assert COST.search(line), "neither known nor marked with its cost"


def check_make(words: list[str]) -> None:
    """The targets exist, and the commands of ours that they would run, with ARGS and RUN in them, are right too."""
    done = subprocess.run(["make", "-n", "-s", "PYTHON=python3", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        if found := re.match(r"(?:\w+=\S+ )?\.venv/bin/(python -m distillkac\..*)", line):
            check(found[1])


def check_verb(words: list[str]) -> None:
    if words[0].startswith("-"):
        assert words[0] in (*__main__.COMPLETION, "--help", "--version")
    else:
        assert words[0] in __main__.VERBS
        check_python(["-m", f"distillkac.{words[0]}", *([] if words[1:] == ["--help"] else words[1:])])


def check_python(words: list[str]) -> None:
    if words[0] != "-m":
        assert (ROOT / words[0]).exists()
        spec = importlib.util.spec_from_file_location("example", ROOT / words[0])
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    elif words[1] == "distillkac":
        check_verb(words[2:])
        return
    elif words[1].split(".")[0] in ("distillkac", "benchmarks"):
        module, words = importlib.import_module(words[1]), words[1:]
        if not words[1:]:
            return  # a mention of the command
    else:
        assert importlib.util.find_spec(words[1]) or words[1] in ("build", "http"), f"no module {words[1]}"
        return
    real = tyro.cli

    def only_read(*args, **kwargs):
        real(*args, **kwargs)
        raise Read

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tyro, "cli", only_read)
        try:
            code = module.main(words[1:])
        except Read:
            return
        except SystemExit as stop:
            code = stop.code
    pytest.fail(f"{module.__name__} does not take {shlex.join(words[1:])}: exit code {code}")


@pytest.mark.parametrize(("where", "line"), COMMANDS, ids=[f"{where} {line[:60]}" for where, line in COMMANDS])
def test_command_is_right(inside, where, line):
    check(line)


def carried_out() -> list:
    found = []
    for where, line in COMMANDS:
        words = re.match(r"python -m distillkac\.(\w+)(.*)", line)
        if words and words[1] in DONE and where.split(":")[0] in IN_FILES and not any(w in line for w in ONLY_READ):
            marks = [pytest.mark.slow] if words[1] in SLOW else []
            found.append(pytest.param(words[1], words[2], id=f"{where} {line[:60]}", marks=marks))
    return found


@pytest.mark.parametrize(("name", "text"), carried_out())
def test_command_works(inside, tmp_path, monkeypatch, capsys, name, text):
    if name == "export":
        pytest.importorskip("onnxscript")
    monkeypatch.setattr(classifier, "STEPS", 2)
    words = shlex.split(text, comments=True)
    small = [str(tmp_path / "fresh") if word == "FRESH" else word for word in DONE[name]]
    if "--resume" in words:  # what was there is kept
        small = RESUMED[name]
    if "--recipe" in words:
        small += ["--inverse.steps", "1"]
    code = importlib.import_module(f"distillkac.{name}").main(words + small)
    assert code == 0, capsys.readouterr().err


@pytest.mark.parametrize("block", PYTHON)
def test_python_block_runs(inside, monkeypatch, block):
    """With stand-ins for what the reader has: a network, batches of images, velocities."""
    monkeypatch.syspath_prepend(ROOT)

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x, t, y=None):
            return self.layer(x) * t.view(-1, 1, 1, 1)

    images = {name: torch.rand(64, 3, 32, 32) for name in ("u_cond", "u_uncond", "u_prev", "u_student", "x_end")}
    names = images | {"network": Network(), "batches": [torch.rand(4, 3, 8, 8)] * 2, "delta": torch.full((64,), 0.1)}
    exec(compile(block.text, block.where, "exec"), {"__name__": "documented", "torch": torch, **names})


def test_options_in_the_text_exist():
    """`--name` and `command --name` in running text."""
    known = set(OF_OTHERS)
    for path in (ROOT / "distillkac").rglob("*.py"):
        for kind in re.findall(r"^class (\w+Args)", path.read_text(), re.MULTILINE):
            module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
            known |= set(options.names(getattr(module, kind), "x"))
    for path in FILES:
        for span in inline(path):
            if not is_command(span):
                for name in re.findall(r"(?:^|\s)(--[a-z][\w.-]*)", span):
                    assert name in known, f"{path.name}: {span}: no command has {name}"


def test_the_search_sees_commands_and_mistakes(inside):
    assert len([where for where, _ in COMMANDS if where.startswith("README.md:")]) >= 15
    assert len(PYTHON) >= 5
    for wrong in (
        "python -m distillkac.train --lrr 1",
        "make demmo",
        "frobnicate --all",
        "pip install 'distillkac[no]'",
    ):
        with pytest.raises((AssertionError, pytest.fail.Exception, argparse.ArgumentError)):
            check(wrong)
    check("frobnicate --all    # 3 hours")
