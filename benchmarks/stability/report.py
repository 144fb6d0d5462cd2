"""The result of `make stability`: CSV files, and tables made of them."""

import csv
import io
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.stability import plots
from benchmarks.stability.plan import NETWORKS, TITLES
from benchmarks.stability.store import Store
from distillkac.base import files

CSV = {"grid": "stability.csv", "errors": "errors.csv", "integrators": "integrators.csv"}
FILES = (*CSV.values(), plots.STABILITY, plots.INTEGRATORS)
NAMES = ("stability", "stability-errors", "stability-integrators")  # of the marks of a page
WAYS = {
    ("euler", 1.0): "Euler, even",
    ("euler", 2.0): "Euler, ρ = 2",
    ("ab2", 1.0): "AB-2, even",
    ("ab2", 2.0): "AB-2, ρ = 2",
}

TEXTS = ("weights", "evaluator_digest")  # columns of digests, which may look like numbers

Rows = list[dict[str, Any]]
Form = Callable[[float], str]


def write(out: Path, store: Store) -> dict[str, str]:
    """Writes every file and returns what stands between the marks of a page, by name."""
    rows = {part: store.checked(store.rows(part)) for part in CSV}
    for part, name in CSV.items():
        files.write_atomic(out / name, _csv(rows[part]).encode())
    plots.save_stability(rows["grid"], out / plots.STABILITY)
    plots.save_integrators(rows["integrators"], out / plots.INTEGRATORS)
    return texts(rows)


def texts(rows: dict[str, Rows]) -> dict[str, str]:
    """The tables, by the name of their marks. rows: by part."""
    made = (grid_table(rows["grid"]), errors_table(rows["errors"]), integrators_table(rows["integrators"]))
    return dict(zip(NAMES, made, strict=True))


def read(folder: Path) -> dict[str, Rows]:
    """What `write` wrote, by part."""
    return {part: _read_csv(folder / name) for part, name in CSV.items()}


def grid_table(rows: Rows) -> str:
    """Two tables: Fréchet distances, and shares of pixels well out of range, without / with the bound."""
    if not rows:
        return "Nothing is measured yet.\n"
    weights = sorted({row["w"] for row in rows})
    broken = sum(row["not_finite"] > 0 for row in rows)
    evaluators = {row["evaluator_digest"] for row in rows}
    if len(evaluators) > 1:
        raise ValueError(f"rows of evaluators {', '.join(sorted(evaluators))} cannot stand in one table")
    caption = (
        f"{len(rows)} cells of {rows[0]['num']} images each; in {broken or 'none'} of them a value was not finite. Evaluator: "
        f"digest {evaluators.pop()[:12]}. Fréchet distance to the held-out images, without / with the bound on the speed:"
    )
    lines = [
        textwrap.fill(caption, 120),
        "",
        *_grid_lines(rows, weights, "frechet", lambda v: f"{v:.3g}", seconds=True),
    ]
    lines += ["", "Pixels with |x| above 1.05, and the largest |x| of all:", ""]
    return "\n".join([*lines, *_grid_lines(rows, weights, "far_beyond", lambda v: f"{100 * v:.2g}%", "largest")]) + "\n"


def _grid_lines(
    rows: Rows, weights: list[float], key: str, form: Form, also: str | None = None, seconds: bool = False
) -> Iterator[str]:
    heads = ["noise", "network", "steps", *(f"w = {w:g}" for w in weights), *(["s for 1000, w = 0"] if seconds else [])]
    yield "| " + " | ".join(heads) + " |"
    yield "|---" * len(heads) + "|"
    known = {(r["process"], r["network"], r["steps"], r["w"], bool(r["bounded"])): r for r in rows}
    for process in TITLES:
        for network in NETWORKS:
            ours = (r["steps"] for r in rows if (r["process"], r["network"]) == (process, network))
            for steps in sorted(set(ours)):
                cells = []
                for w in weights:
                    both = [known.get((process, network, steps, w, bounded)) for bounded in (False, True)]
                    cells.append(" / ".join(_cell(row, key, form, also) for row in both))
                first = known.get((process, network, steps, 0.0, False))
                last = [f"{first['seconds_per_1000']:.2g}" if first else ""] if seconds else []
                yield "| " + " | ".join([TITLES[process], network, str(steps), *cells, *last]) + " |"


def _cell(row: dict[str, Any] | None, key: str, form: Form, also: str | None) -> str:
    if row is None or row.get(key) is None:
        return "–"
    return form(row[key]) + (f" ({row[also]:.2f})" if also else "")


def errors_table(rows: Rows) -> str:
    """A row for each network and weight: errors and rank correlations."""
    if not rows:
        return "Nothing is measured yet.\n"
    counts = sorted({row["steps"] for row in rows if row["steps"]})
    heads = ["noise", "network", "w", *(f"{n} step{'s' * (n > 1)}" for n in counts), "all", "of the means"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    keys = dict.fromkeys((row["process"], row["network"], row["w"]) for row in rows)
    for process, network, w in sorted(
        keys, key=lambda key: (list(TITLES).index(key[0]), NETWORKS.index(key[1]), key[2])
    ):
        ours = {
            row["steps"]: row for row in rows if (row["process"], row["network"], row["w"]) == (process, network, w)
        }
        cells = [
            f"{ours[n]['endpoint']:.3f}, {ours[n]['path']:.3f}: {_number(ours[n].get('spearman'))}"
            for n in counts
            if n in ours
        ]
        last = [_number(ours[0].get("spearman")), _number(ours[0].get("spearman_of_means"))]
        lines.append("| " + " | ".join([TITLES[process], network, f"{w:g}", *cells, *last]) + " |")
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def integrators_table(rows: Rows) -> str:
    """A row for each velocity and way: median error of the ends, and of networks the Fréchet distance."""
    if not rows:
        return "Nothing is measured yet.\n"
    counts = sorted({row["steps"] for row in rows})
    heads = ["velocity", "way", *(f"{n} step{'s' * (n > 1)}" for n in counts)]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    known = {(r["source"], r["method"], r["rho"], r["steps"]): r for r in rows}
    for source in sorted({row["source"] for row in rows}, key=_order):
        least = {
            (key, n): min(found)
            for key in ("error_median", "frechet")
            for n in counts
            if (found := [known[source, *way, n][key] for way in WAYS if key in known.get((source, *way, n), {})])
        }
        for way, title in WAYS.items():
            cells = [_errors_cell(known.get((source, *way, n)), n, least) for n in counts]
            lines.append("| " + " | ".join([_velocity(source), title, *cells]) + " |")
    return "\n".join(lines) + "\n"


def _errors_cell(row: dict[str, Any] | None, steps: int, least: dict[tuple[str, int], float]) -> str:
    """Such as **0.012** (0.203): the least of a number of steps is bold."""
    if row is None:
        return ""
    words = []
    for key, form in (("error_median", "{:.2g}"), ("frechet", "{:.3f}")):
        if row.get(key) is not None:
            text = form.format(row[key])
            words.append(f"**{text}**" if row[key] <= least[key, steps] else text)
    return words[0] + (f" ({words[1]})" if len(words) > 1 else "")


def _velocity(source: str) -> str:
    kind, process, value = source.split("-")
    return f"teacher, {process}, w = {value}" if kind == "network" else f"exact, {process}, {value}×{value}"


def _order(source: str) -> tuple[bool, int, float]:
    kind, process, value = source.split("-")
    return kind == "exact", list(TITLES).index(process), float(value)


def _csv(rows: Rows) -> str:
    names, text = list(dict.fromkeys(name for row in rows for name in row)), io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _read_csv(path: Path) -> Rows:
    with open(path, newline="", encoding="utf-8") as file:
        return [
            {k: text if k in TEXTS else _value(text) for k, text in row.items() if text} for row in csv.DictReader(file)
        ]


def _value(text: str) -> Any:
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
