"""Every command and every Python block of the README and of docs/ does what it says, or at least exists.

All are read by the real parsers, so that a renamed option, target, extra or file fails here. Those of DONE are carried out on
tiny runs, the costly ones in the slow suite. Python blocks run as they stand, with stand-ins for the reader's own names. A
command of a program that is not known here must tell its cost in a remark (`# 2 hours`).

A page of STORIES is a tutorial: all its commands and Python blocks are carried out in their order in one new folder, the
files that it speaks of must be there afterwards, and what it shows of an output must have been printed, but for the numbers.
"""

import argparse
import importlib
import importlib.util
import re
import runpy
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
import torch
import tyro
from accelerate.state import AcceleratorState
from diffusers.utils import dynamic_modules_utils
from PIL import Image

from distillkac import __main__, distill, train
from distillkac.base import options
from distillkac.evaluation import classifier
from distillkac.pipeline import KacPipeline
from tests.places import ROOT, script, skip_without_packages
from tests.toys import TINY_OPTIONS

FILES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
STORIES = {"first-hour.md": "runs/first"}
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
STORY = (
    DONE
    | {  # in a tutorial commands write where they say
        "train": DONE["train"][2:],
        "distill": ["--stages", "40,20,4,2,1", "--steps", "1", "1", "1", "1", "--optim.batch-size", "8"],
        "demo": [],
    }
)
SLOW = ("diagnose", "export", "distill", "evaluate")  # the last two run in tests/commands/test_commands.py too
IN_FILES = ("README.md", "recipes.md")
ONLY_READ = {  # part of a command: why it is not carried out
    "cifar10": "its images are not here; tests/runs/test_presets.py tries presets",
    "--inception download": "needs the network; tests/evaluation/test_fidelity.py measures with a stand-in",
}
IN_ORDER = "library.md"  # its Python blocks build on each other: test_library.py runs them
OF_OTHERS = {"--no-isolation", "--use_fsdp", "--tyro-print-completion"}  # options in the text that are not ours


class Block:
    """A fenced block. title: the file that its text is to be saved as, if it says so."""

    def __init__(self, path: Path, number: int, language: str, text: str, title: str = ""):
        self.path, self.number, self.language, self.text, self.title = path, number, language, text, title

    @property
    def where(self) -> str:
        return f"{self.path.name}:{self.number}"


def blocks(path: Path) -> list[Block]:
    """The fenced blocks, with the line where each begins."""
    text = path.read_text()
    found = re.finditer(r'^```(\w*)(?: +title="([^"]+)")?[^\n]*\n(.*?)^```', text, re.MULTILINE | re.DOTALL)
    return [Block(path, text.count("\n", 0, m.start()) + 2, m[1], m[3], m[2] or "") for m in found]


def inline(path: Path) -> list[str]:
    """The code spans of the text outside the blocks, on one line each."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def commands() -> list:
    """pytest parameters (where, command) of every shell command, in blocks and in the text."""
    found = []
    for path in FILES:
        for block in blocks(path):
            found += lines_of(block)
        found += [(path.name, span.removesuffix("...").strip()) for span in inline(path) if is_command(span)]
    return found


def lines_of(block: Block) -> list[tuple[str, str]]:
    """(where, command) of the commands of a block."""
    shell = block.language in ("bash", "sh", "shell", "console")
    lines = [(f"{block.path.name}:{block.number + i}", line) for i, line in enumerate(block.text.splitlines())]
    return [
        (where, line)
        for where, line in lines
        if block.language not in ("text", "python")
        and line.strip()
        and not line.startswith("#")
        and (shell or is_command(line))
    ]


def is_command(text: str) -> bool:
    return text.split()[0] in PROGRAMS and len(text.split()) > 1


COMMANDS = commands()
PYTHON = [
    pytest.param(block, id=block.where, marks=[pytest.mark.slow] if "FlopCounterMode" in block.text else [])
    for path in FILES
    if path.name != IN_ORDER
    for block in blocks(path)
    if block.language == "python" and path.name not in STORIES
]
SCRIPTS = {block.title for path in FILES for block in blocks(path) if block.title}


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
        for name in ("large", "planar", *(Path(run).name for run in STORIES.values())):
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
    if words[0] in SCRIPTS:
        return  # carried out with its story
    if words[0] != "-m":
        assert (ROOT / words[0]).exists()
        module = script(ROOT / words[0])
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
    code = carry_out(name, text, [str(tmp_path / "fresh") if word == "FRESH" else word for word in DONE[name]])
    assert code == 0, capsys.readouterr().err


def carry_out(name: str, text: str, small: list[str]) -> int:
    """Runs the command with the words `text`, made small; returns its exit code."""
    words = shlex.split(text, comments=True)
    if "--resume" in words:  # what was there is kept
        small = RESUMED[name]
    if "--recipe" in words:
        small = [*small, "--inverse.steps", "1"]
    return importlib.import_module(f"distillkac.{name}").main(words + small)


def tell(story: list[Block], read) -> None:
    """Carries out the blocks of a tutorial in the current folder. read: gives what was printed since it was last called.

    An output that is shown belongs to the commands above it, up to the output before.
    """
    printed = ""
    for block in story:
        if block.title:
            Path(block.title).write_text(block.text)
        elif block.language == "python":
            exec(compile(block.text, block.where, "exec"), {"__name__": "documented"})
        elif block.language == "text":
            for line in block.text.splitlines():
                wanted = without_numbers(line.removesuffix("..."))
                assert not wanted or any(wanted in without_numbers(real) for real in printed.splitlines()), (
                    f"{block.where}: shown is {line!r}, printed was:\n{printed}"
                )
            printed = ""
        for where, line in lines_of(block):
            check(line)
            program, *words = shlex.split(line, comments=True)
            code = 0
            if program == "python" and words[0] in SCRIPTS:
                runpy.run_path(words[0], run_name="__main__")
            elif program == "python" and words[0] == "-m" and words[1].startswith("distillkac."):
                name = words[1].removeprefix("distillkac.")
                code = carry_out(name, shlex.join(words[2:]), STORY[name])
            out = read()
            assert code == 0, f"{where}: {line}: exit code {code}:\n{out}"
            printed += out


def without_numbers(line: str) -> str:
    """A line of output with # for every row of numbers and digests, so that short runs print the same as long ones."""
    line = re.sub(r"\b[0-9a-f]{12}\b|[+-]?\d+(?:[.:]\d+)*(?:e[+-]?\d+)?%?", "#", " ".join(line.split()))
    return re.sub(r"#(?: #)*", "#", line)


@pytest.fixture
def story_world(tmp_path, monkeypatch):
    """A new folder, no network, a page that is served and closed again, short training of classifiers."""
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(classifier, "STEPS", 2)
    monkeypatch.setattr(
        dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path / "modules")
    )  # where diffusers copies code
    monkeypatch.setattr(KacPipeline, "push_to_hub", lambda self, name: None)  # tests/pipeline pushes
    return tmp_path


@pytest.mark.parametrize("name", STORIES)
def test_a_tutorial_is_carried_out(story_world, monkeypatch, capfd, name):
    gradio = pytest.importorskip("gradio")
    pages = []

    def visited(page):
        with urlopen(page.local_url) as answer:
            pages.append(answer.status)
        page.close(verbose=False)

    monkeypatch.setattr(gradio.Blocks, "block_thread", visited)
    [path] = [path for path in FILES if path.name == name]
    tell(blocks(path), lambda: "".join(capfd.readouterr()))
    assert pages == [200]
    for span in inline(path):
        if span.startswith(STORIES[name] + "/") and "failure" not in span:
            assert Path(span).exists(), f"{name}: {span} is not there in the end"


@pytest.mark.parametrize(
    "page",
    [
        "```\npython -m distillkac.doctor --quiet\n```\n",  # no such option
        "```\npython -m distillkac.sample runs/none --steps 1\n```\n",  # no such run
        "```\npython -m distillkac.doctor\n```\n```text\nself-test passed on toast (0.1 s)\n```\n",
        "```python\nfrom distillkac.pipeline import KacPipline\n```\n",
    ],
)
def test_a_wrong_tutorial_is_seen(story_world, capfd, page):
    (story_world / "page.md").write_text(page)
    with pytest.raises((AssertionError, pytest.fail.Exception, ImportError)):
        tell(blocks(story_world / "page.md"), lambda: "".join(capfd.readouterr()))


@pytest.mark.parametrize("block", PYTHON)
def test_python_block_runs(inside, monkeypatch, capsys, block):
    """With stand-ins for what the reader has: a network, batches of images, velocities. `print(...)  # x: why` prints x."""
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.syspath_prepend(ROOT / "examples")
    skip_without_packages(block.text)

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x, t, y=None):
            return self.layer(x) * t.view(-1, 1, 1, 1)

    images = {name: torch.rand(64, 3, 32, 32) for name in ("u_cond", "u_uncond", "u_prev", "u_student", "x_end")}
    names = images | {"network": Network(), "batches": [torch.rand(4, 3, 8, 8)] * 2, "delta": torch.full((64,), 0.1)}
    exec(compile(block.text, block.where, "exec"), {"__name__": "documented", "torch": torch, **names})
    shown = re.findall(r"^print\(.*\)  # (.+)$", block.text, re.MULTILINE)
    printed = capsys.readouterr().out.splitlines()
    assert not shown or [remark.partition(":")[0] for remark in shown] == printed


def test_the_quick_start_prints_what_is_shown(inside, tmp_path, monkeypatch, capsys):
    """The block of output in the README, but for its numbers, is what the commands above it print."""
    shutil.copytree("runs/demo", tmp_path / "runs" / "mine")  # a run with students
    (tmp_path / "DIR").symlink_to(inside / "DIR")
    monkeypatch.chdir(tmp_path)
    found = blocks(ROOT / "README.md")
    at = next(i for i, block in enumerate(found) if block.language == "text")
    for line in found[at - 1].text.splitlines():
        name, *words = shlex.split(line, comments=True)[2:]
        name = name.removeprefix("distillkac.")
        assert name in DONE
        if name not in SLOW and (name != "train" or "--dry-run" in words):
            assert importlib.import_module(f"distillkac.{name}").main([*words, *DONE[name][2:]]) == 0
    printed = masked(capsys.readouterr().out)
    assert len(masked(found[at].text)) >= 3
    assert [line for line in masked(found[at].text) if line not in printed] == []


def masked(text: str) -> list[str]:
    """Lines with # for every number, however it is written, and one space for several."""
    return [re.sub(r"\d+(\.\d+)?(e[+-]\d+)?", "#", " ".join(line.split())) for line in text.splitlines()]


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
    assert len([where for where, _ in COMMANDS if where.startswith("README.md")]) >= 10
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
