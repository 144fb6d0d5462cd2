"""The plots of `make stability`, drawn from its rows alone."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.stability.plan import TITLES
from distillkac.runs import pictures, plots

STABILITY, INTEGRATORS = "stability.png", "integrators.png"
LOOKS = {("teacher", 20): ("#1b6ca8", "teacher, 20 steps"), ("teacher", 4): ("#4c9a5b", "teacher, 4 steps"),
         ("student", 4): ("#d97b29", "student, 4 steps"), ("student", 1): ("#8e5ba6", "student, 1 step")}  # fmt: skip
WAYS = {("euler", 1.0): ("#d97b29", "-", "Euler, even"), ("euler", 2.0): ("#d97b29", "--", "Euler, ρ = 2"),
        ("ab2", 1.0): ("#1b6ca8", "-", "AB-2, even"), ("ab2", 2.0): ("#1b6ca8", "--", "AB-2, ρ = 2")}  # fmt: skip


def save_stability(rows: list[dict[str, Any]], path: Path) -> None:
    """Fréchet distance, and the share of pixels well out of range, against the guidance weight: a column for each process."""
    figure = Figure(figsize=(11, 6.2), dpi=110, layout="constrained", facecolor="white")
    panels = figure.subplots(2, len(TITLES), sharex=True, sharey="row", squeeze=False)
    for column, (process, title) in enumerate(TITLES.items()):
        for (network, steps), (color, label) in LOOKS.items():
            for bounded in (False, True):
                ours = [r for r in rows if (r["process"], r["network"], r["steps"]) == (process, network, steps)]
                ours = sorted((r for r in ours if bool(r["bounded"]) is bounded), key=lambda r: r["w"])
                look = {"color": color, "ls": "--" if bounded else "-", "marker": "o", "ms": 3.5, "lw": 1.5}
                words = label + (", bounded" if bounded else "")
                for panel, key, factor in ((panels[0][column], "frechet", 1), (panels[1][column], "far_beyond", 100)):
                    points = [(r["w"], factor * r[key]) for r in ours if r.get(key) is not None]
                    if points:
                        panel.plot(*zip(*points, strict=True), label=words, **look)
        panels[0][column].set_title(title, loc="left", fontsize=11, color=pictures.INK)
        panels[1][column].set_xlabel("guidance weight w", color=pictures.INK)
    panels[0][0].set_ylabel("Fréchet distance, held-out", color=pictures.INK)
    panels[0][0].set_yscale("log")
    panels[1][0].set_ylabel("% of pixels with |x| > 1.05", color=pictures.INK)
    _finish(figure, panels, path)


def save_integrators(rows: list[dict[str, Any]], path: Path) -> None:
    """Median error of the ends against steps: the teachers above, the exact velocities below, one panel each."""
    every = sorted({row["source"] for row in rows})
    networks = [name for name in every if name.startswith("network-telegraph")]
    exact = sorted((name for name in every if name.startswith("exact-telegraph")), key=lambda n: int(n.split("-")[2]))
    shown = [*networks, *(exact[:1] + exact[-1:] if len(exact) > 1 else exact)]
    figure = Figure(figsize=(3.4 * max(1, len(shown)), 3.6), dpi=110, layout="constrained", facecolor="white")
    panels = figure.subplots(1, max(1, len(shown)), squeeze=False)
    for panel, source in zip(panels[0], shown, strict=False):
        for (method, rho), (color, dash, label) in WAYS.items():
            ours = [r for r in rows if (r["source"], r["method"], r["rho"]) == (source, method, rho)]
            points = sorted((r["steps"], r["error_median"]) for r in ours)
            if points:
                panel.plot(*zip(*points, strict=True), color=color, ls=dash, marker="o", ms=3.5, lw=1.5, label=label)
        kind, _, value = source.split("-")
        words = f"teacher of digits, w = {value}" if kind == "network" else f"exact velocity, {value}×{value}"
        panel.set_title(words, loc="left", fontsize=11, color=pictures.INK)
        panel.set(xscale="log", yscale="log", xlabel="steps")
    panels[0][0].set_ylabel("median RMS error of the image", color=pictures.INK)
    _finish(figure, panels, path)


def _finish(figure: Figure, panels: Any, path: Path) -> None:
    for panel in panels.flat:
        panel.grid(color=plots.LIGHT, linewidth=0.5)
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(colors=pictures.INK, which="both", labelsize=8)
    handles, labels = panels.flat[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, frameon=False, fontsize=8, ncols=4, loc="outside lower center")
    plots.save_figure(figure, path)
