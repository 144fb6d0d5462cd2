"""The README and the pages of results: tables are those of the files, figures in the text those of the tables, and short."""

import csv
import re
import tomllib
from pathlib import Path

import pytest

from benchmarks import report
from distillkac.base import files
from distillkac.evaluation import comparison_report
from distillkac.evaluation.comparison import full_plan
from tests.places import ROOT

README, RESULTS, SPEED = ROOT / "README.md", ROOT / "docs" / "results.md", ROOT / "docs" / "speed.md"
FIGURE = re.compile(r"(?<![\w.])\d+\.\d+(?![\w.]*\d)")


def read_csv(path: Path) -> list[dict]:
    """The rows of a comparison.csv as compare had them."""

    def value(text):
        for kind in (int, float):
            try:
                return kind(text)
            except ValueError:
                pass
        return text

    with open(path) as file:
        return [{k: value(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


def test_tables_of_the_comparison_are_those_of_its_figures():
    rows = read_csv(ROOT / "docs" / "comparison" / "comparison.csv")
    texts = comparison_report.texts(full_plan(tuple(sorted({row["seed"] for row in rows}))), rows)
    assert files.marked(RESULTS, comparison_report.FULL) == texts[comparison_report.FULL]
    assert files.marked(README, comparison_report.SHORT) == texts[comparison_report.SHORT]
    assert len(re.findall(r"^\|", texts[comparison_report.SHORT], re.MULTILINE)) == 5 + 2


def test_tables_of_the_speed_are_those_of_its_figures():
    texts = report.sections(ROOT / "benchmarks" / "results")
    assert files.marked(SPEED, report.FULL).strip() == texts[report.FULL].strip()
    assert files.marked(README, report.SHORT).strip() == texts[report.SHORT].strip()
    machines = len(list((ROOT / "benchmarks" / "results").glob("*.json")))
    assert len(re.findall(r"^\|", texts[report.SHORT], re.MULTILINE)) == machines * (6 + 2)


def prose(text: str) -> str:
    """The text without blocks, code, links, tables and what stands between marks."""
    for pattern in (
        r"```.*?```",
        r"<!-- (\S+):begin -->.*?<!-- \1:end -->",
        r"`[^`]*`",
        r"\[[^]]*\]\([^)]*\)",
        r"^\|.*?$",
    ):
        text = re.sub(pattern, " ", text, flags=re.DOTALL | re.MULTILINE)
    return text


def in_tables(*pages: Path) -> set[str]:
    """Every number in tables and blocks of output."""
    text = "\n".join(page.read_text() for page in pages)
    lines = re.findall(r"^\|.*$", text, re.MULTILINE) + re.findall(r"^```text.*?^```", text, re.MULTILINE | re.DOTALL)
    return set(re.findall(r"\d+(?:\.\d+)?", "\n".join(lines)))


def unknown_figures(text: str, *pages: Path) -> list[str]:
    return [figure for figure in FIGURE.findall(prose(text)) if figure not in in_tables(*pages)]


def test_figures_in_the_text_stand_in_a_table():
    assert unknown_figures(README.read_text(), README, RESULTS, SPEED) == []
    part = RESULTS.read_text().partition("### What it says")[2].partition("## The theory")[0]
    assert len(FIGURE.findall(prose(part))) > 20
    assert unknown_figures(part, RESULTS) == []
    assert unknown_figures(
        "A distance of 0.285, and of 0.286; 2.9–3.8 times, `torch 2.11`.", README, RESULTS, SPEED
    ) == [
        "0.286",
        "3.8",
    ]


def test_badges_say_what_the_project_says():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    torch = next(word for word in project["dependencies"] if word.startswith("torch>="))
    says = {
        "license": project["license"],
        "python": f"{project['requires-python'].removeprefix('>=')} or later",
        "torch": f"{torch.removeprefix('torch>=')} or later",
    }
    for name, text in says.items():
        assert f"<title>{name}: {text}</title>" in (ROOT / "docs" / "images" / "badges" / f"{name}.svg").read_text()
        assert f"[![{name}: {text}](docs/images/badges/{name}.svg)]" in README.read_text()


def test_the_front_page_is_short():
    lines = README.read_text().splitlines()
    assert len(lines) <= 160
    assert any("pip install" in line for line in lines[:40])
    assert [line for line in lines if len(line) > 130 and not line.startswith("|")] == []
    starts = README.read_text().partition("## Three quick starts")[2].partition("\n## ")[0]
    programs = re.findall(r"^```(?:python)?\n(.*?)^```", starts.replace("```text", "~~~"), re.MULTILINE | re.DOTALL)
    assert len(programs) == 3
    assert all(len(program.splitlines()) <= 8 for program in programs)


@pytest.mark.parametrize("name", ["toy2d.webp", "overview.png"])
def test_pictures_of_the_front_page_are_there_and_small(name):
    path = ROOT / "docs" / "images" / name
    assert f'src="docs/images/{name}"' in README.read_text()
    assert path.stat().st_size < 1_500_000
