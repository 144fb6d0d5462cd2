"""Pages of docs/ that are tutorials, carried out from the first command to the last.

All their commands and Python blocks run in their order in one new folder, the files that they speak of must be there
afterwards, and what they show of an output must have been printed, but for the numbers.
"""

import re
import runpy
import shlex
from pathlib import Path
from urllib.request import urlopen

import pytest
from accelerate.state import AcceleratorState
from diffusers.utils import dynamic_modules_utils

from distillkac.evaluation import classifier
from distillkac.pipeline import KacPipeline
from tests.project.documented import DONE, FILES, SCRIPTS, STORIES, Block, blocks, carry_out, check, inline, lines_of

STORY = (
    DONE
    | {  # in a tutorial commands write where they say
        "train": DONE["train"][2:],
        "distill": ["--stages", "40,20,4,2,1", "--steps", "1", "1", "1", "1", "--optim.batch-size", "8"],
        "demo": [],
    }
)


def tell(story: list[Block], read) -> None:
    """Carries out the blocks of a tutorial in the current folder. read: gives what was printed since it was last called.

    An output that is shown belongs to the commands above it, up to the output before.
    """
    printed = ""
    for block in story:
        if block.title:
            Path(block.title).write_text(block.text, encoding="utf-8")
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
    (story_world / "page.md").write_text(page, encoding="utf-8")
    with pytest.raises((AssertionError, pytest.fail.Exception, ImportError)):
        tell(blocks(story_world / "page.md"), lambda: "".join(capfd.readouterr()))
