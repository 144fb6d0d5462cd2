"""Every command and every Python block of the README and of docs/ does what it says, or at least exists.

All are read by the real parsers, so that a renamed option, target, extra or file fails here. Those of DONE are carried out on
tiny runs, the costly ones in the slow suite. Python blocks run as they stand, with stand-ins for the reader's own names. A
command of a program that is not known here must tell its cost in a remark (`# 2 hours`).

Tutorials are carried out from end to end by test_tutorials.py.
"""

import argparse
import importlib
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image

from distillkac import distill, train
from distillkac.base import options
from distillkac.evaluation import classifier
from tests.places import ROOT, skip_without_packages
from tests.project.documented import (
    CHAIN,
    DONE,
    FILES,
    STORIES,
    TINY,
    blocks,
    carry_out,
    check,
    inline,
    is_command,
    lines_of,
)

SLOW = ("diagnose", "export", "distill", "evaluate")  # the last two run in tests/commands/test_commands.py too
IN_FILES = ("README.md", "recipes.md", "models.md")
ONLY_READ = {  # part of a command: why it is not carried out
    "cifar10": "its images are not here; tests/runs/test_presets.py tries presets",
    "--inception download": "needs the network; tests/evaluation/test_fidelity_command.py measures with a stand-in",
}
IN_ORDER = "library.md"  # its Python blocks build on each other: test_library.py runs them
OF_OTHERS = {"--no-isolation", "--use_fsdp", "--tyro-print-completion"}  # options in the text that are not ours


def commands() -> list:
    """pytest parameters (where, command) of every shell command, in blocks and in the text."""
    found = []
    for path in FILES:
        for block in blocks(path):
            found += lines_of(block)
        found += [(path.name, span.removesuffix("...").strip()) for span in inline(path) if is_command(span)]
    return found


COMMANDS = commands()
PYTHON = [
    pytest.param(block, id=block.where, marks=[pytest.mark.slow] if "FlopCounterMode" in block.text else [])
    for path in FILES
    if path.name != IN_ORDER
    for block in blocks(path)
    if block.language == "python" and path.name not in STORIES
]


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
        consistency = ["--recipe", "consistency", "--consistency.steps", "1", *CHAIN[-2:]]
        assert distill.main(["runs/demo", *consistency]) == 0
        inverse = ["--recipe", "inverse", "--start", "runs/demo/student-4-consistency", "--inverse.steps", "1"]
        assert distill.main(["runs/demo", *inverse, "--pairs.count", "8", *CHAIN[-2:]]) == 0
        assert train.main(["--run", "runs/mine", "--steps", "2", *TINY, "--data.path", "DIR"]) == 0
        for name in ("large", "planar", *(Path(run).name for run in STORIES.values())):
            shutil.copytree("runs/mine", f"runs/{name}")
    return root


@pytest.fixture
def inside(world, monkeypatch):
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.chdir(world)
    return world


@pytest.mark.parametrize(("where", "line"), COMMANDS, ids=[f"{where} {line[:60]}" for where, line in COMMANDS])
def test_command_is_right(inside, where, line):
    check(line)


def carried_out() -> list:
    found = []
    for where, line in COMMANDS:
        words = re.match(r"(?:python -m distillkac\.|distillkac )(\w+)(.*)", line)
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


def test_options_in_the_text_exist():
    """`--name` and `command --name` in running text."""
    known = set(OF_OTHERS)
    for path in (ROOT / "distillkac").rglob("*.py"):
        for kind in re.findall(r"^class (\w+Args)", path.read_text(encoding="utf-8"), re.MULTILINE):
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
