"""The plots of docs/speed.md, drawn from results alone."""

import math
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from benchmarks import tables
from distillkac.runs.pictures import INK
from distillkac.runs.plots import LIGHT, LINE

GREY, ORANGE, GREEN, RED = "#8b969e", "#d9822b", "#4a9a5b", "#c0392b"
PALE = "#8fbfe0"
SHADES = {"avx512": LINE, "avx2": PALE, "portable": LIGHT}
SERIES = ("size", "lambda", "threads", "batch", "resolution")


def save_ratios(machines: dict[str, list[dict]], path: Path) -> None:
    """Bars of the least ratio over shapes and rates, column out= or in place, with the ratio asked for as a mark.

    machines: the results of each, by the name over its bars.
    """
    found = {}
    for machine, results in machines.items():
        contests = [result for result in results if tables.is_contest(result) and result.get("column") != "allocating"]
        found[machine] = tables.speed_rows(contests)
    keys = dict.fromkeys(key for rows in found.values() for key in rows)
    order = sorted(keys, key=lambda key: (tables.OPS.index(key[0]), key[1] != "telegraph", key[2]))  # as in the table
    if not order:
        return
    names = [name for _, _, name, _ in order]
    heads = [i for i, name in enumerate(names) if i == 0 or name != names[i - 1]]
    places = [i + 0.8 * sum(head <= i for head in heads) for i in range(len(order))]
    size = (3.5 + 5 * len(found), 0.26 * places[-1] + 1.4)
    figure = Figure(figsize=size, dpi=130, layout="constrained", facecolor="white")
    panels = figure.subplots(1, len(found), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (machine, rows) in zip(panels, found.items(), strict=True):
        ratio_panel(axes, machine, [rows.get(key, {}) for key in order], places)
    panels[0].set_yticks(places, [rival for *_, rival in order])
    panels[0].set_ylim(places[-1] + 0.8, places[0] - 1.4)
    side = {"transform": panels[0].get_yaxis_transform(), "ha": "right", "va": "center", "color": INK}
    for head in heads:
        panels[0].text(-0.02, places[head] - 0.9, names[head].replace("`", ""), fontsize=8.5, weight="bold", **side)
    figure.savefig(path)


def ratio_panel(axes, machine: str, rows: list[dict], places: list[float]) -> None:
    levels = [level for level in SHADES if any((level, "out") in row for row in rows)]
    for place, row in zip(places, rows, strict=True):
        for j, level in enumerate(levels):
            if (level, "out") in row:
                ratio_bar(
                    axes, place + 0.8 * (j + 0.5) / len(levels) - 0.4, 0.8 / len(levels), row[level, "out"], level
                )
    axes.set_xscale("log")
    axes.set_xticks([0.05, 0.2, 1, 5, 20, 100])
    restrained(axes, machine, "time of the other over ours; the least of all shapes and rates, one thread")
    axes.set_title(machine, loc="left", fontsize=9, color=INK, pad=20)
    plain(axes.xaxis)
    axes.grid(False, axis="y")
    axes.axvline(1, color=GREY, linewidth=0.8)
    legend = [axes.barh([0], [0], color=SHADES[level], label=tables.LEVELS[level]) for level in levels]
    legend += axes.plot([], [], color=RED, linewidth=1.6, label="asked for")
    axes.legend(handles=legend, fontsize=8, frameon=False, ncols=len(legend), loc="lower left", bbox_to_anchor=(0, 1))


def ratio_bar(axes, y: float, thick: float, entries: list[dict], level: str) -> None:
    """A bar from 1 to the least ratio, the ratio asked for as a mark, the number at the right edge."""
    ratio, asked = min(entry["ratio"] for entry in entries), entries[0].get("bar")
    axes.barh(y, ratio - 1, 0.9 * thick, left=1, color=SHADES[level])
    if asked is not None:
        axes.plot([asked, asked], [y - thick / 2, y + thick / 2], color=RED, linewidth=1.6)
    place = {"transform": axes.get_yaxis_transform(), "ha": "right", "va": "center"}
    axes.text(1.05, y, tables.number(ratio, 2), fontsize=7, color=INK, **place)


def save_throughput(machines: dict[str, list[dict]], path: Path) -> None:
    """Small multiples: the series against size, lambda, threads and shape, a block for each machine, by name."""
    found = {
        name: [result for result in results if result.get("series") in SERIES] for name, results in machines.items()
    }
    found = {name: series for name, series in found.items() if series}
    if not found:
        return
    figure = Figure(figsize=(12, 6.7 * len(found)), dpi=120, layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.08)
    blocks = figure.subfigures(len(found), 1, squeeze=False)[:, 0]
    for block, (name, series) in zip(blocks, found.items(), strict=True):
        block.suptitle(name, x=0.01, ha="left", fontsize=11, weight="bold", color=INK)
        panels = block.subplots(2, 3).ravel()
        size_panel(panels[0], series, "kac_noise", "kac_noise", "billions of elements a second", 1e-9)
        size_panel(panels[1], series, "guided_step", "guided_step, 24 bytes an element", "GB/s", 24e-9)
        size_panel(
            panels[2], series, "endpoint_loss", "endpoint_loss with gradient, 16 bytes an element", "GB/s", 16e-9
        )
        lambda_panel(panels[3], series)
        shape_panel(panels[4], series)
        threads_panel(panels[5], series)
    figure.savefig(path)


def size_panel(axes, results, op, title, unit, factor) -> None:
    """Throughput of an op and its rivals against the number of elements."""
    own = [result for result in results if result["series"] == "size" and result["op"] == op]
    times = curves_of(own, elements)
    speeds = {name: [(x, factor * x / seconds) for x, seconds in values] for name, values in times.items()}
    log_log(axes, title, "elements", unit)
    styles = {}
    for name in speeds:
        kinds = {"pass": GREY, "planar": PALE, "quad": GREEN, op: LINE}
        colour = next((kinds[word] for word in kinds if word in name), ORANGE)
        styles[name] = (name.removeprefix("kac_noise "), colour, "-")
    draw(axes, speeds, styles)


def lambda_panel(axes, results) -> None:
    """Time an element of what the cost of the Kac process could depend on."""
    own = [result for result in results if result["series"] == "lambda"]
    times = curves_of(own, lambda result: result["lam"], lambda result: 1e9 / elements(result))
    log_log(axes, "Against λ = a t (dashed: public code,\ndotted: planar, dash-dotted: quad)", "λ", "ns an element")
    colours = {"kac_noise": LINE, "kac_velocity": ORANGE, "kac_pair": GREEN}
    public = {"table sampler": LINE, "float64 Bessel": ORANGE, "public pipeline": GREEN}
    styles = {}
    for name in times:
        op, _, process = name.partition(" ")
        own = {"planar": ":", "quad": "-."}
        styles[name] = (
            (name, public[name], "--")
            if name in public
            else ("" if process in own else op, colours[op], own.get(process, "-"))
        )
    draw(axes, times, styles)


def shape_panel(axes, results) -> None:
    """Training pairs against batch (solid, 3 x 32 x 32) and resolution (dashed, eight images)."""
    log_log(axes, "Pairs: batch of 3×32×32 (dashed: 8 of 3×side²)", "elements", "ns an element")
    for series, style in (("batch", "-"), ("resolution", "--")):
        own = [result for result in results if result["series"] == series]
        times = curves_of(own, elements, lambda result: 1e9 / elements(result))
        styles = {name: (name.removesuffix(" telegraph"), LINE if "kac" in name else ORANGE, style) for name in times}
        draw(axes, times, styles if style == "-" else {name: ("", *rest) for name, (_, *rest) in styles.items()})


def threads_panel(axes, results) -> None:
    """Speed-up over one thread, a row for each op; filled: the small shape, hollow: the large one."""
    own = [result for result in results if result["series"] == "threads"]
    counts, rows = (
        sorted({result["threads"] for result in own}),
        [op for op in tables.OPS if any(result["op"] == op for result in own)],
    )
    small = min((elements(result) for result in own), default=0)
    for count in counts:
        axes.axvline(count, color=GREY, linewidth=0.8)
    for result in own:
        filled = elements(result) == small
        axes.plot(
            result["rivals"]["one thread"]["ratio"],
            rows.index(result["op"]) + (0.12 if filled else -0.12),
            marker="o",
            markersize=6,
            color=LINE,
            markerfacecolor=LINE if filled else "white",
        )
    restrained(axes, "Threads (hollow: 32×3×256×256)", "speed-up over one thread")
    axes.set_xscale("log", base=2)
    slowest = min((result["rivals"]["one thread"]["ratio"] for result in own), default=1)
    axes.set_xlim(0.9 * min(1, slowest), 1.15 * max(counts, default=2))
    axes.set_xticks([1, *counts] if len(counts) > 1 else [1, 1.2, 1.4, 1.6, 1.8, 2])
    plain(axes.xaxis)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(False, axis="y")


def elements(result: dict) -> int:
    return math.prod(result["shape"])


def curves_of(results: list[dict], x, factor=lambda result: 1.0) -> dict:
    """{contender: [(x, factor * seconds per call)]} of a series, ours under the names of its op and process."""
    found = {}
    for result in sorted(results, key=x):
        name = " ".join(part for part in (result["op"], result.get("process")) if part)
        medians = {name: result["median"]} | {rival: entry["median"] for rival, entry in result["rivals"].items()}
        for contender, seconds in medians.items():
            found.setdefault(contender, []).append((x(result), factor(result) * seconds))
    return found


def draw(axes, found: dict, styles: dict) -> None:
    """A line for each contender, named at its right end. styles: {contender: (label or "", colour, line style)}."""
    ends = []
    for contender, values in found.items():
        label, colour, style = styles[contender]
        x, y = zip(*values, strict=True)
        axes.plot(x, y, style, color=colour, linewidth=1.6, marker="o", markersize=2.5)
        if label:
            ends.append((y[-1], label, colour))
    side = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": 7.5}
    for height, (_, label, colour) in zip(apart(axes, [end[0] for end in ends]), sorted(ends), strict=True):
        axes.text(1.01, height, label, color=colour, **side)


def apart(axes, values: list[float], gap: float = 0.065) -> list[float]:
    """The values in rising order, moved apart so that labels there do not touch."""
    scale = axes.transScale + axes.transLimits
    heights = sorted(scale.transform((axes.get_xlim()[1], value))[1] for value in values)
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + gap)
    return [scale.inverted().transform((0.5, height))[1] for height in heights]


def log_log(axes, title: str, x: str, y: str) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    restrained(axes, title, x, y)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    plain(axes.yaxis)


def plain(axis) -> None:
    """Numbers without powers of ten."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def restrained(axes, title: str, x: str = "", y: str = "") -> None:
    axes.set_title(title, loc="left", fontsize=9, color=INK)
    axes.set_xlabel(x, fontsize=8, color=INK)
    axes.set_ylabel(y, fontsize=8, color=INK)
    axes.tick_params(colors=INK, labelsize=8, which="both", length=2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.grid(True, color=LIGHT, linewidth=0.5)
    axes.set_axisbelow(True)
