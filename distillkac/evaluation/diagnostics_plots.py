"""The plots of `python -m distillkac.diagnose`, drawn from the numbers of diagnostics.py."""

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter

from distillkac.evaluation.diagnostics import PathErrors
from distillkac.evaluation.metrics import describe
from distillkac.runs.pictures import INK
from distillkac.runs.plots import LIGHT, LINE, save_figure

COLORS = (LINE, "#d1495b", "#2a9d8f", "#e9a03b", "#7d5ba6", "#5c6770", "#8c564b", "#17becf")
GREY = "#8a96a0"


def save_speeds(speeds: dict, near: dict, path: Path) -> None:
    """Left: mean and largest |u| along the way, below its bound or not. Right: RMS velocity as t -> 0."""
    figure, (left, right) = _figure(2)
    t = speeds["times"]
    left.plot(t, speeds["mean"], color=LINE, label="network, mean")
    left.plot(t, speeds["max"], color=COLORS[1], label="network, largest")
    if speeds["bound"] is not None:
        left.plot(t, speeds["bound"], color=INK, linestyle="--", label="bound of targets")
    left.set_ylim(0, 1.45 * max(speeds["max"] + (speeds["bound"] or [])))
    _finish(left, "speed on the way", "t (1 = noise, 0 = data)", "|u|")
    titles = {"network": "network", "targets": "its targets", "diffusion": "targets of a √t-diffusion"}
    for (name, title), color in zip(titles.items(), (LINE, COLORS[2], COLORS[1]), strict=True):
        right.loglog(near["times"], near[name], "o-", markersize=4, color=color, label=title)
    right.set_ylim(0.5 * min(near["network"] + near["targets"]), 4 * max(near["diffusion"]))
    _plain_log(right.yaxis)
    _finish(right, "velocity near the data", "t", "RMS velocity")
    save_figure(figure, path)


def save_students(errors: dict[str, PathErrors], path: Path) -> None:
    """For each student endpoint error against largest error on the way, and the two terms of the latter."""
    columns = min(3, len(errors))
    figure, panels = _figure(columns, -(-len(errors) // columns))
    for axes, (name, found), color in zip(panels, errors.items(), COLORS * len(errors), strict=False):
        both = torch.cat([found.endpoint, found.path]).clamp(min=1e-6)  # an untrained student is its teacher
        ends = 0.7 * float(both.min()), 1.4 * float(both.max())
        axes.loglog(ends, ends, color=GREY, linewidth=0.8, linestyle="--")
        axes.axhspan(*torch.quantile(found.curvature, torch.tensor([0.25, 0.75]).double()), color=LIGHT, zorder=0)
        axes.scatter(found.endpoint, found.path, s=9, color=color, alpha=0.6, linewidths=0)
        axes.set(xlim=ends, ylim=ends)
        _plain_log(axes.xaxis, axes.yaxis)
        pearson = found.summary()["pearson"]
        words = "" if pearson is None else f": Pearson {pearson:.2f}"
        _finish(axes, name + words, "RMS error at the end", "largest RMS error on the way", legend=False)
    figure.supxlabel(
        "grey bands: how far the teacher's own path bends between the student's steps", fontsize=9, color=INK
    )
    for axes in panels[len(errors) :]:
        axes.set_axis_off()
    save_figure(figure, path)


def save_steps(found: dict, students: dict[int, float], path: Path) -> None:
    """Endpoint error against number of steps. students: {steps: median error against their teacher}."""
    figure, (axes,) = _figure(1)
    for (method, title), color in zip((("euler", "Euler"), ("ab2", "AB-2")), COLORS, strict=False):
        slope = found["exponents"][f"{method}_median"]
        words = "" if slope is None else f" ~ $M^{{{slope:.2f}}}$"
        style = {"color": color, "markersize": 4, "marker": "o"}
        axes.loglog(found["steps"], found[f"{method}_median"], label=f"teacher, {title}: median{words}", **style)
        style |= {"linewidth": 0.9, "linestyle": "--", "markersize": 2}
        axes.loglog(found["steps"], found[method], label=f"teacher, {title}: over all", **style)
    if students:
        steps, errors = zip(*sorted(students.items()), strict=True)
        axes.loglog(steps, errors, "s", markersize=5, color=COLORS[2], label="students: median")
    axes.set_ylim(top=12 * max([*found["euler"], *found["ab2"], *students.values()]))
    axes.set_xticks(sorted({*found["steps"], *students} - ({5} if 4 in students else set())), minor=False)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    _finish(axes, "distance from the teacher's exact end", "steps M", "RMS error of an image")
    save_figure(figure, path)


def save_sensitivity(ratios: dict[str, torch.Tensor], path: Path) -> None:
    """How much a small change of the noise changes the image: box plots, 5 to 95%."""
    figure, (axes,) = _figure(1)
    boxes = axes.boxplot(
        [values.numpy() for values in ratios.values()], whis=(5, 95), sym=".", patch_artist=True, widths=0.6
    )
    for box, color in zip(boxes["boxes"], COLORS * len(ratios), strict=False):
        box.set(facecolor=color, alpha=0.6, edgecolor=INK)
    for part in (*boxes["medians"], *boxes["whiskers"], *boxes["caps"]):
        part.set(color=INK)
    for points in boxes["fliers"]:
        points.set(markersize=3, markerfacecolor=GREY, markeredgecolor="none")
    axes.set_xticks(range(1, len(ratios) + 1), [name.replace("-", "\n", 1) for name in ratios])
    axes.set_yscale("log")
    _plain_log(axes.yaxis)
    _finish(axes, "sensitivity to the noise", "", "change of image / change of noise", legend=False)
    save_figure(figure, path)


def save_limit(found: dict, path: Path) -> None:
    """Distance of the Kac laws from their Gaussian limit against the rate of turns."""
    figure, (axes,) = _figure(1)
    a = np.array(found["a"], dtype=float)
    for name, color in zip(found["exponents"], COLORS, strict=False):
        label = f"{name}, ~ $a^{{{found['exponents'][name]:.2f}}}$"
        axes.loglog(a, found[name], "o-", markersize=4, color=color, label=label)
    _finish(axes, "the diffusion limit: spread 1, $a$ → ∞", "rate of turns a", "Wasserstein-1 distance to N(0, 1)")
    save_figure(figure, path)


def save_guidance(found: dict, path: Path) -> None:
    """Fréchet distance and share of pixels out of range against the guidance weight."""
    figure, panels = _figure(2)
    for limit, color in zip(dict.fromkeys(row["max_speed"] for row in found["rows"]), COLORS, strict=False):
        rows = [row for row in found["rows"] if row["max_speed"] == limit and row["frechet"] is not None]
        label = "no speed limit" if limit is None else f"max_speed {limit:.3g}"
        for axes, key in zip(panels, ("frechet", "out_of_range"), strict=True):
            axes.plot(
                [row["w"] for row in rows], [row[key] for row in rows], "o-", markersize=4, color=color, label=label
            )
    for axes in panels:
        axes.set_xscale("symlog", base=2, linthresh=1)
        axes.set_xticks(sorted({row["w"] for row in found["rows"]}))
        axes.xaxis.set_major_formatter("{x:g}")
    panels[0].set_yscale("log")
    _plain_log(panels[0].yaxis)
    panels[1].yaxis.set_major_formatter(PercentFormatter(1))
    _finish(panels[0], f"Fréchet distance, n = {found['num']}", "guidance weight w", "")
    panels[0].set_ylabel(f"evaluator: {describe(found['evaluator'])}", color=INK, fontsize=8)
    _finish(panels[1], "pixels with |x| > 1.05", "guidance weight w", "")
    save_figure(figure, path)


def _figure(columns: int, rows: int = 1):
    """(figure, its axes in reading order)."""
    width = 6.0 if columns == 1 else 4.2 * columns
    figure = Figure(figsize=(width, 3.7 * rows), dpi=110, layout="constrained", facecolor="white")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _plain_log(*scales) -> None:
    """Labels logarithmic axes 1, 2, 5, 10, ..."""
    for scale in scales:
        scale.set_major_locator(LogLocator(subs=(1, 2, 5)))
        scale.set_major_formatter("{x:g}")
        scale.set_minor_formatter(NullFormatter())


def _finish(axes, title: str, x: str, y: str, legend: bool = True) -> None:
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.tick_params(colors=INK, which="both", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color=LIGHT, linewidth=0.5)
    axes.set_axisbelow(True)
    if legend:
        axes.legend(frameon=False, fontsize=8, labelcolor=INK)
