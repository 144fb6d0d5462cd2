"""Keeps results and shows them: `python -m benchmarks.report FILE`, FILE from pytest --benchmark-json.

Merges the contests of FILE into benchmarks/results/<machine>.json, a line for each, so that a run of some contests leaves
the others; writes the table of docs/speed.md and README's short one between their marks, from those files alone, and
the plots of docs/images.
"""

import json
import re
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from benchmarks import plots, tables
from distillkac.base import files

ROOT = Path(__file__).resolve().parent.parent
FULL, SHORT = "speed", "speed-short"  # marks of the pages
# What identifies a contest, in the order of the file.
FIELDS = ("op", "process", "series", "model", "steps", "shape", "lam", "a", "c", "column", "dtype", "threads", "level")


@dataclass(frozen=True)
class ReportArgs:
    """Merges a run of the benchmarks into the results and regenerates tables and plots."""

    file: Annotated[Path, tyro.conf.Positional]
    """What pytest --benchmark-json wrote."""
    results: Path = ROOT / "benchmarks" / "results"
    """Folder of the results, a file for each machine."""
    pages: tuple[Path, ...] = (ROOT / "docs" / "speed.md", ROOT / "README.md")
    """Markdown files to put the tables into, in place of what is there: the whole one between <!-- speed:begin --> and
    <!-- speed:end -->, the short one between <!-- speed-short:begin --> and <!-- speed-short:end -->."""
    images: Path = ROOT / "docs" / "images"
    """Folder of the plots."""


def main(argv: list[str] | None = None) -> int:
    args = tyro.cli(ReportArgs, args=argv, prog="python -m benchmarks.report")
    run = json.loads(args.file.read_text(encoding="utf-8"))
    machine, contests = from_run(run)
    path = args.results / f"{machine_name(machine)}.json"
    known = json.loads(path.read_text(encoding="utf-8"))["contests"] if path.exists() else []
    merged = merge(known, contests)
    args.results.mkdir(parents=True, exist_ok=True)
    path.write_text(as_json(machine, merged), encoding="utf-8")
    print(f"{path}: {len(contests)} contests of this run, {len(merged)} in all\n")
    if machine["gpu"] is None:
        draw(args.results, args.images)
    texts = sections(args.results)
    files.into_pages(args.pages, texts)
    print(texts[FULL])
    print(f"\n{tables.steps_table(merged)}")
    below = [tables.line(contest) for contest in merged if tables.missed(contest)]
    print(f"\nBars missed in {len(below)} of {len(merged)} contests" + "".join(f"\n  {row}" for row in below))
    return 0


def from_run(run: dict) -> tuple[dict, list[dict]]:
    """(machine, contests) of a file of pytest-benchmark; numbers with four digits, date and commit in every contest."""
    machine = {**run["machine_info"]["distillkac"], "date": run["datetime"][:10]}
    origin = {name: machine[name] for name in ("date", "commit")}
    contests = [rounded(benchmark["extra_info"]) for benchmark in run["benchmarks"] if benchmark["extra_info"]]
    ordered = [{name: contest[name] for name in FIELDS if name in contest} | contest for contest in contests]
    return machine, [contest | origin for contest in ordered]


def rounded(value):
    """Floats with four significant digits, all the way down."""
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def key(contest: dict) -> list:
    """Identity and sort key: missing fields first, numbers by size, words by letter."""
    fields = (contest.get(name) for name in FIELDS)
    return [(0, 0) if v is None else (1, v) if isinstance(v, (int, float, list)) else (2, v) for v in fields]


def merge(known: list[dict], new: list[dict]) -> list[dict]:
    """Every contest once, in order; the new one where both have it."""
    contests = {json.dumps(key(contest)): contest for contest in [*known, *new]}
    return sorted(contests.values(), key=key)


def machine_name(machine: dict) -> str:
    """File name of a machine: its GPU, or its processor and highest SIMD level."""
    words = machine["gpu"] or f"{machine['cpu']} {machine['simd_levels'][-1]}"
    words = re.sub(r"\((R|TM|C)\)|CPU|@.*?GHz", " ", words, flags=re.IGNORECASE)
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


def as_json(machine: dict, contests: list[dict]) -> str:
    """JSON with one line for the machine and one for each contest, so that a difference can be read."""
    lines = ",\n".join(json.dumps(contest, ensure_ascii=False) for contest in contests)
    return f'{{"machine": {json.dumps(machine, ensure_ascii=False)},\n"contests": [\n{lines}\n]}}\n'


def sections(results: Path) -> dict[str, str]:
    """What stands between the marks: the whole table of every machine in the folder, and the short one of them all."""
    machines = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(results.glob("*.json"))]
    columns = {name: found["contests"] for name, found in zip(brands(machines), machines, strict=True)}
    return {
        FULL: "\n\n".join(f"{caption(found)}\n\n{tables.speed_table(found['contests'])}" for found in machines),
        SHORT: f"{short_caption(machines)}\n\n{tables.short_table(columns)}",
    }


def draw(results: Path, images: Path) -> None:
    """The plots, of every processor in the folder of results."""
    machines = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(results.glob("*.json"))]
    processors = {
        f"{name}: {device(found['machine'])}": found["contests"]
        for name, found in zip(brands(machines), machines, strict=True)
        if found["machine"]["gpu"] is None
    }
    plots.save_ratios(processors, images / "speed-ratios.png")
    plots.save_throughput(processors, images / "throughput.png")


def caption(results: dict) -> str:
    """What the tables of one machine were measured on, and what they show."""
    machine = results["machine"]
    return textwrap.fill(
        f"{device(machine)}; torch {machine['torch']}, {machine['compiler']}, {origins(results)}. Time of the other over ours: "
        "least to greatest of the shapes and rates measured; in brackets the ratio that was asked for and missed. float32, one "
        "thread.",
        120,
    )


def origins(results: dict) -> str:
    """Commits and dates of the contests in the tables; torch and compiler are those of the last run."""
    found = {(contest["date"], contest["commit"]) for contest in results["contests"] if tables.is_contest(contest)}
    found = found or {(results["machine"]["date"], results["machine"]["commit"])}
    return "; ".join(f"commit {commit}, {date}" for date, commit in sorted(found))


def short_caption(machines: list[dict]) -> str:
    told = [
        f"{name}: {device(found['machine'])}, torch {found['machine']['torch']}, {origins(found)}"
        for name, found in zip(brands(machines), machines, strict=True)
    ]
    return textwrap.fill(
        "The other's time divided by ours: least to greatest over image sizes and parameters; float32, one thread. "
        + "; ".join(told)
        + ".",
        120,
    )


def brands(machines: list[dict]) -> list[str]:
    """What the short table calls each machine: the first word of its processor's name, of a GPU all; a number behind it
    where that is another's too."""
    names = [m["machine"]["gpu"] or re.sub(r"\(.*?\)", " ", m["machine"]["cpu"]).split()[0] for m in machines]
    return [name if names.count(name) == 1 else f"{name} {names[:i].count(name) + 1}" for i, name in enumerate(names)]


def device(machine: dict) -> str:
    return machine["gpu"] or f"{machine['cpu']}, {machine['cores']} cores"


if __name__ == "__main__":
    sys.exit(main())
