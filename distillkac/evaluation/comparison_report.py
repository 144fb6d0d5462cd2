"""The result of a comparison: Markdown tables, CSV, the plot of Fréchet distance against evaluations, samples."""

import csv
import io
import statistics
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from distillkac.base import files
from distillkac.evaluation.comparison import Plan
from distillkac.evaluation.metrics import describe
from distillkac.runs import pictures, plots

FULL, SHORT = "compare", "compare-short"  # marks of a page: all tables, or the short one
HEAD = "# Processes and methods compared\n\nWritten by `python -m distillkac.compare`.\n\n"
PICTURES = "\n![Fréchet distance against evaluations](frechet.png)\n\n![Samples from the same seeds](samples.png)\n"
SAMPLE_COLUMNS = 20
SHORT_SETTINGS = 4  # of the plan, from the first
SHORT_ROWS = {  # what the short table calls them: method, integrator, steps, restart
    "teacher, 20 steps (AB-2)": ("teacher", "ab2", 20, 0.0),
    "teacher, 4 steps (Euler)": ("teacher", "euler", 4, 0.0),
    "student, 4 steps": ("endpoint", "euler", 4, 0.0),
    "student, 1 step": ("endpoint", "euler", 1, 0.0),
    "student, 1 step, after inverse distillation": ("inverse", "euler", 1, 0.0),
    "student, 1 step, of --recipe best": ("best", "euler", 1, 0.0),
}
COLORS = ("#1b6ca8", "#d97b29", "#4c9a5b", "#8e5ba6", "#7a4a2b", "#c2405b", "#5f6b73")


def summary(rows: list[dict], key: str) -> tuple[float, float | None] | None:
    """(mean, standard deviation over the seeds, None of a single seed) of a figure; None without rows that have it."""
    values = [row[key] for row in rows if key in row]
    if not values:
        return None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


FILES = ("comparison.md", "comparison.csv", "frechet.png", "samples.png")


def write(out: Path, plan: Plan, rows: list[dict]) -> str:
    """Writes every file of the report and returns the Markdown of its tables."""
    text = markdown(plan, rows)
    files.write_atomic(out / "comparison.md", f"{HEAD}{text}{PICTURES}".encode())
    files.write_atomic(out / "comparison.csv", _csv(rows).encode())
    plots.save_figure(_figure(plan, rows), out / "frechet.png")
    save_sample_sheet(out, plan)
    return text


def texts(plan: Plan, rows: list[dict]) -> dict[str, str]:
    """What stands between the marks of a page: all tables, and the short one."""
    return {FULL: markdown(plan, rows), SHORT: short_markdown(plan, rows)}


def short_markdown(plan: Plan, rows: list[dict]) -> str:
    """The table of a front page: five networks of the first settings, means and standard deviations alone."""
    settings = plan.settings[:SHORT_SETTINGS]
    seeds = len({row["seed"] for row in rows if row["setting"] == settings[0].name})
    caption = (
        "Fréchet distance to the held-out images in the features of a small classifier (less is better), mean ± standard "
        f"deviation over {seeds} seeds, {plan.num} images each."
    )
    lines = [textwrap.fill(caption, 120), "", "| | " + " | ".join(s.title for s in settings) + " |"]
    lines.append("|---" * (len(settings) + 1) + "|")
    for title, entry in SHORT_ROWS.items():
        found = [_pm(summary(_select(rows, setting.name, *entry), "frechet")) for setting in settings]
        if any(found):
            lines.append(f"| {title} | " + " | ".join(found) + " |")
    return "\n".join(lines) + "\n"


def markdown(plan: Plan, rows: list[dict]) -> str:
    """Tables: all processes with the methods they share; all methods on the first process.

    Raises ValueError if the rows are of several evaluators.
    """
    caption = (
        "Fréchet distance to the held-out images [to the training images], mean ± standard deviation over the seeds, "
        f"{plan.num} images each; students are distilled from the teacher of their seed."
        + (f" Evaluator: {describe(_one_evaluator(rows))}." if rows else "")
    )
    lines = [textwrap.fill(caption, 120), ""]
    shared = [("teacher", integrator, steps, 0.0) for integrator, steps in plan.teacher_samples]
    shared += [(m.name, "euler", steps, restart) for m in plan.everywhere for steps, restart in m.samples]
    lines += ["| | " + " | ".join(s.title for s in plan.settings) + " |", "|---" * (len(plan.settings) + 1) + "|"]
    seeds = [len({row["seed"] for row in rows if row["setting"] == s.name}) for s in plan.settings]
    lines.append("| seeds | " + " | ".join(map(str, seeds)) + " |")
    for entry in shared:
        cells = [_cell(_select(rows, setting.name, *entry)) for setting in plan.settings]
        lines.append(f"| {_title(plan, *entry)} | " + " | ".join(cells) + " |")
    for setting in plan.settings:
        methods = plan.methods(setting)
        if len(methods) > len(plan.everywhere):
            lines += ["", f"Methods on {setting.title}:", ""]
            lines += ["| method | steps | NFE | Fréchet | accuracy | diversity | images/s | MFLOP an image |"]
            lines += ["|---" * 8 + "|", *_method_lines(rows, setting, [m for m in methods if m.config.w == 0])]
        if guided := [m for m in methods if m.config.w > 0]:
            lines += ["", f"Guided, on {setting.title}, compared with the guided teacher's samples:", ""]
            lines += ["| students | steps | Fréchet to the guided teacher | diversity |", "|---" * 4 + "|"]
            lines += _guided_lines(rows, setting, guided)
    return "\n".join(lines) + "\n"


def evaluator_of(row: dict) -> dict[str, str] | None:
    """The identity of the evaluator that measured a row, None if it is of a version that kept none."""
    return {"name": row["evaluator"], "digest": row["evaluator_digest"]} if "evaluator_digest" in row else None


def _one_evaluator(rows: list[dict]) -> dict[str, str] | None:
    """The evaluator of all rows. Raises ValueError if there are several."""
    found = [evaluator_of(row) for row in rows]
    if others := [identity for identity in found if identity != found[0]]:
        raise ValueError(
            f"rows of two evaluators cannot stand in one table: {describe(found[0])} and {describe(others[0])}"
        )
    return found[0]


def _select(rows, setting, method, integrator, steps, restart):
    key = {"setting": setting, "method": method, "integrator": integrator, "steps": steps, "restart": restart}
    return [row for row in rows if all(row[name] == value for name, value in key.items())]


def _title(plan, method, integrator, steps, restart) -> str:
    names = {m.name: m.title for s in plan.settings for m in plan.methods(s)}
    name = f"teacher, {'AB-2' if integrator == 'ab2' else 'Euler'}" if method == "teacher" else names[method]
    return f"{name}, {steps} step{'s' * (steps > 1)}" + (f", restart {restart:g}" if restart else "")


def _pm(value) -> str:
    if value is None:
        return ""
    return f"{value[0]:.3f}" + (" (1 seed)" if value[1] is None else f" ± {value[1]:.3f}")


def _cell(rows) -> str:
    train = summary(rows, "frechet_train")
    return "" if train is None else f"{_pm(summary(rows, 'frechet'))} [{train[0]:.3f}]"


def _measured(rows, setting, methods):
    """(method, steps, restart, its rows over the seeds) for every sample that has been measured."""
    for method in methods:
        for steps, restart in method.samples:
            if found := _select(rows, setting.name, method.name, "euler", steps, restart):
                yield method, steps, restart, found


def _method_lines(rows, setting, methods) -> list[str]:
    lines = []
    for method, steps, restart, found in _measured(rows, setting, methods):
        cells = [method.title, f"{steps}" + (f", restart {restart:g}" if restart else ""), str(found[0]["nfe"])]
        cells += [_cell(found), _pm(summary(found, "accuracy")), _pm(summary(found, "diversity"))]
        cells.append(f"{1 / statistics.fmean(row['seconds_per_image'] for row in found):.0f}")
        cells.append(f"{found[0]['flops_per_image'] / 1e6:.0f}")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _guided_lines(rows, setting, methods) -> list[str]:
    lines = []
    for method, steps, _, found in _measured(rows, setting, methods):
        figures = [_pm(summary(found, key)) for key in ("frechet_guided_teacher", "diversity")]
        lines.append(f"| {method.title} | {steps} | " + " | ".join(figures) + " |")
    return lines


def _csv(rows: list[dict]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _figure(plan: Plan, rows: list[dict]) -> Figure:
    """Fréchet distance against evaluations: teachers in Euler steps, students of endpoint and inverse distillation."""
    figure = Figure(figsize=(11, 4.6), dpi=110, layout="constrained", facecolor="white")
    panels = figure.subplots(1, 2)
    for panel, title, wanted in zip(
        panels,
        ("Teachers, as they are", "Students"),
        (lambda row: row["method"] == "teacher", lambda row: row["method"] == "endpoint" and row["restart"] == 0),
        strict=True,
    ):
        for color, setting in zip(COLORS, plan.settings, strict=False):
            ours = [row for row in rows if row["setting"] == setting.name and wanted(row)]
            points = []
            for nfe in sorted({row["nfe"] for row in ours}):
                by_integrator: dict[str, list[dict[str, Any]]] = {}
                for row in ours:
                    if row["nfe"] == nfe:
                        by_integrator.setdefault(row["integrator"], []).append(row)
                known = (summary(group, "frechet") for group in by_integrator.values())
                best = min((found for found in known if found is not None), key=lambda s: s[0])
                points.append((nfe, best[0], best[1] or 0.0))
            if points:
                nfe, mean, spread = np.array(points).T
                panel.errorbar(nfe, mean, spread, color=color, marker="o", ms=4, capsize=2, lw=1.6, label=setting.title)
            one = summary([r for r in rows if r["setting"] == setting.name and r["method"] == "inverse"], "frechet")
            if panel is panels[1] and one is not None:
                panel.plot([1], [one[0]], marker="*", ms=11, color=color, ls="none")
        panel.set(xscale="log", xlabel="network evaluations an image", ylabel="Fréchet distance, held-out", title=title)
        panel.grid(color=plots.LIGHT)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_yscale("log")
    panels[1].plot([], [], marker="*", ms=11, color=pictures.INK, ls="none", label="1 step, inverse distillation")
    panels[1].legend(frameon=False, fontsize=8)
    return figure


def samples_path(folder: Path, method: str, steps: int, integrator: str, restart: float) -> Path:
    return folder / "samples" / f"{method}-{integrator}-{steps}-{restart:g}.pt"


def save_samples(folder: Path, method: str, steps: int, integrator: str, restart: float, images: torch.Tensor) -> None:
    """Keeps a few images of a measurement, for the sheet."""
    content = io.BytesIO()
    torch.save(images.clone(), content)
    path = samples_path(folder, method, steps, integrator, restart)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomic(path, content.getvalue())


def save_sample_sheet(out: Path, plan: Plan) -> None:
    """samples.png: a strip for each process and method, the same classes and prior seed in every column."""
    strips, titles = [], []
    for setting in plan.settings:
        folder = out / f"{setting.name}-seed-{plan.seeds[0]}"
        wanted = [("teacher", steps, integrator, 0.0) for integrator, steps in plan.teacher_samples if steps in (1, 20)]
        wanted += [(m.name, n, "euler", r) for m in plan.methods(setting) for n, r in m.samples if n == 1]
        for method, steps, integrator, restart in wanted:
            path = samples_path(folder, method, steps, integrator, restart)
            if path.exists():
                strips.append(torch.load(path, weights_only=True)[:SAMPLE_COLUMNS])
                titles.append(f"{setting.title}: {_title(plan, method, integrator, steps, restart)}")
    if not strips:
        return
    pictures.save_strips(strips, titles, out / "samples.png")
