"""The commands and Python blocks in the Markdown pages, and how they are carried out in small."""

import importlib
import importlib.util
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
import tyro

from distillkac import __main__
from distillkac.base import processes
from tests.places import ROOT, outside_make, script
from tests.toys import TINY_OPTIONS

FILES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
STORIES = {"first-hour.md": "runs/first"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
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
TINY = [*TINY_OPTIONS, "--network.layers", "1", "--optim.batch-size", "8", "--preview", "0"]
CHAIN = ["--stages", "4,2,1", "--steps", "1", "1", "--optim.batch-size", "8"]
# What makes a command small enough to be carried out; the last of two values of an option counts. FRESH: a new folder.
DONE = {
    "train": ["--run", "FRESH", "--steps", "2", *TINY],
    "distill": ["--out", "FRESH", *CHAIN],
    "sample": ["--num", "3"],
    "models": [],
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


class Block:
    """A fenced block. title: the file that its text is to be saved as, if it says so."""

    def __init__(self, path: Path, number: int, language: str, text: str, title: str = ""):
        self.path, self.number, self.language, self.text, self.title = path, number, language, text, title

    @property
    def where(self) -> str:
        return f"{self.path.name}:{self.number}"


def blocks(path: Path) -> list[Block]:
    """The fenced blocks, with the line where each begins."""
    text = path.read_text(encoding="utf-8")
    found = re.finditer(r'^```(\w*)(?: +title="([^"]+)")?[^\n]*\n(.*?)^```', text, re.MULTILINE | re.DOTALL)
    return [Block(path, text.count("\n", 0, m.start()) + 2, m[1], m[3], m[2] or "") for m in found]


def inline(path: Path) -> list[str]:
    """The code spans of the text outside the blocks, on one line each."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


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


SCRIPTS = {block.title for path in FILES for block in blocks(path) if block.title}


class Read(BaseException):
    """The real parser has accepted the options."""


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
    command = ["make", "-n", "-s", "PYTHON=python3", *words]
    done = subprocess.run(command, cwd=ROOT, env=outside_make(), capture_output=True, text=True)
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
        if hasattr(module, "__path__"):  # a package is run by its __main__
            module = importlib.import_module(f"{module.__name__}.__main__")
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
        patch.setattr(processes, "together", lambda *_: None)  # it would start programs that read in full
        try:
            code = module.main(words[1:])
        except Read:
            return
        except SystemExit as stop:
            code = stop.code
    pytest.fail(f"{module.__name__} does not take {shlex.join(words[1:])}: exit code {code}")


def carry_out(name: str, text: str, small: list[str]) -> int:
    """Runs the command with the words `text`, made small; returns its exit code."""
    words = shlex.split(text, comments=True)
    if "--resume" in words:  # what was there is kept
        small = RESUMED[name]
    main = importlib.import_module(f"distillkac.{name}").main
    consistency = [*small[:2], "--consistency.steps", "1", *CHAIN[-2:]]  # one stage, which takes no option of a chain
    if name == "distill" and "consistency" in words:
        small = consistency
    elif "two-to-one" in words:
        small = [*small[:2], "--steps", "1", "--pairs.count", "8", *CHAIN[-2:]]
    elif "best" in words:
        small = [*consistency, "--steps", "1", "--pairs.count", "8", "--inverse.steps", "1"]
    elif {"realuid", "realuid-second"} & {*words}:  # inverse distillation alone, without pairs
        small = [*small[:2], "--inverse.steps", "1", *CHAIN[-2:]]
    elif "--start" in words:  # inverse distillation alone, which has no stages either
        small = [*small[:2], "--pairs.count", "8", "--inverse.steps", "1", *CHAIN[-2:]]
    elif "--recipe" in words:
        small = [*small, "--inverse.steps", "1", *(["--pairs.count", "8"] if "pairs" in words else [])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "together", lambda *_: None)  # programs of its own would not be made small
        return main(words + small)
