"""The README and the pages of results: tables are those of the files, figures in the text those of the tables, and short."""

import csv
import json
import re
import shutil
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

    with open(path, encoding="utf-8") as file:
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
    assert len(re.findall(r"^\|", texts[report.SHORT], re.MULTILINE)) == 6 + 2
    machines = [
        json.loads(path.read_text(encoding="utf-8")) for path in (ROOT / "benchmarks" / "results").glob("*.json")
    ]
    for name in report.brands(machines):
        assert name in texts[report.SHORT].splitlines()[-8]
    assert report.brands([machines[0], machines[0]])[1].endswith(" 2")


def test_a_run_of_the_benchmarks_rewrites_the_pages(tmp_path):
    known = ROOT / "benchmarks" / "results" / "intel-xeon-processor-avx512.json"
    (tmp_path / "results").mkdir()
    shutil.copy(known, tmp_path / "results")
    results = json.loads(known.read_text(encoding="utf-8"))
    contest = next(one for one in results["contests"] if one["op"] == "guided_step" and "rivals" in one)
    contest["rivals"] = {name: rival | {"ratio": 1234.0} for name, rival in contest["rivals"].items()}
    run = {
        "machine_info": {"distillkac": results["machine"]},
        "datetime": "2026-01-02T",
        "benchmarks": [{"extra_info": contest}],
    }
    (tmp_path / "run.json").write_text(json.dumps(run), encoding="utf-8")
    for page, name in (("speed.md", report.FULL), ("README.md", report.SHORT)):
        (tmp_path / page).write_text(
            f"# Before\n\n<!-- {name}:begin -->\n<!-- {name}:end -->\n\nAfter\n", encoding="utf-8"
        )
    pages = ["--pages", str(tmp_path / "speed.md"), str(tmp_path / "README.md")]
    options = ["--results", str(tmp_path / "results"), "--images", str(tmp_path)]
    assert report.main([str(tmp_path / "run.json"), *pages, *options]) == 0
    assert "–1234" in files.marked(tmp_path / "speed.md", report.FULL)
    assert "2026-01-02" in files.marked(tmp_path / "README.md", report.SHORT)
    assert (tmp_path / "README.md").read_text(encoding="utf-8").endswith("<!-- speed-short:end -->\n\nAfter\n")
    assert (tmp_path / "speed-ratios.png").exists()


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
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    lines = re.findall(r"^\|.*$", text, re.MULTILINE) + re.findall(r"^```text.*?^```", text, re.MULTILINE | re.DOTALL)
    return set(re.findall(r"\d+(?:\.\d+)?", "\n".join(lines)))


def unknown_figures(text: str, *pages: Path) -> list[str]:
    return [figure for figure in FIGURE.findall(prose(text)) if figure not in in_tables(*pages)]


def test_figures_in_the_text_stand_in_a_table():
    assert unknown_figures(README.read_text(encoding="utf-8"), README, RESULTS, SPEED) == []
    part = RESULTS.read_text(encoding="utf-8").partition("### What it says")[2].partition("## The theory")[0]
    assert len(FIGURE.findall(prose(part))) > 20
    assert unknown_figures(part, RESULTS) == []
    text = "A distance of 0.285, and of 0.28654; 2.9–3.87654 times, `torch 2.11`."
    assert unknown_figures(text, README, RESULTS, SPEED) == ["0.28654", "3.87654"]


def test_badges_say_what_the_project_says():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    torch = next(word for word in project["dependencies"] if word.startswith("torch>="))
    says = {
        "license": project["license"],
        "python": f"{project['requires-python'].removeprefix('>=')} or later",
        "torch": f"{torch.removeprefix('torch>=')} or later",
    }
    for name, text in says.items():
        assert f"<title>{name}: {text}</title>" in (ROOT / "docs" / "images" / "badges" / f"{name}.svg").read_text(
            encoding="utf-8"
        )
        assert f"[![{name}: {text}](docs/images/badges/{name}.svg)]" in README.read_text(encoding="utf-8")


def test_the_front_page_is_short():
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 160
    assert any("pip install" in line for line in lines[:40])
    assert [line for line in lines if len(line) > 130 and not line.startswith("|")] == []
    starts = README.read_text(encoding="utf-8").partition("## Four quick starts")[2].partition("\n## ")[0]
    programs = re.findall(r"^```(?:python)?\n(.*?)^```", starts.replace("```text", "~~~"), re.MULTILINE | re.DOTALL)
    assert len(programs) == 4
    assert "distillkac sample digits" in programs[0]  # the first picture at once
    assert all(len(program.splitlines()) <= 8 for program in programs)


@pytest.mark.parametrize("name", ["toy2d.webp", "fashion.png"])
def test_pictures_of_the_front_page_are_there_and_small(name):
    path = ROOT / "docs" / "images" / name
    assert f'src="docs/images/{name}"' in README.read_text(encoding="utf-8")
    assert path.stat().st_size < 1_500_000
