"""Results as text: a line for each contest, the tables of docs/speed.md and README. Every figure comes from the results."""

import math

OPS = ("kac_noise", "kac_velocity", "kac_pair", "kac_pair_to", "guided_step", "endpoint_loss")  # _to: with t_to=
LEVELS = {"avx512": "AVX-512", "avx2": "AVX2", "portable": "portable", "cuda": "CUDA"}
FRONT = (  # rows of the short table: op, its rival, the column that does the same work, what the table says of the two
    ("`kac_noise` telegraph", "torch.randn", "out", "noise for images (telegraph)", "`torch.randn`"),
    ("`kac_noise` planar", "torch.randn", "out", "noise for images (planar)", "`torch.randn`"),
    ("`kac_velocity` telegraph", "float64 Bessel", "out", "velocity of the noise", "float64 Bessel functions"),
    (
        "`kac_pair` telegraph",
        "public pipeline",
        "out",
        "noised image and its target",
        "sampler by table, float64 Bessel",
    ),
    ("`guided_step`", "eager torch, out=", "out", "guidance and a sampler's step", "eager torch, also with `out=`"),
    (
        "`endpoint_loss`",
        "eager autograd",
        "allocating",
        "distillation loss and its gradient",
        "eager torch, both by autograd",
    ),
)
COLUMNS = {"out": "`out=`", "allocating": "allocating"}
SMALL_ROWS = {64: "rows of 64", 1: "a time per element"}


def number(value: float, digits: int = 3) -> str:
    """Plain, without exponent where it can be read without one."""
    if value and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.1e}"
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value) or 1)))}f}"


def duration(seconds: float) -> str:
    for unit, size in (("s", 1), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{number(seconds / size)} {unit}"
    return f"{number(seconds / 1e-9)} ns"


def missed(result: dict) -> list[str]:
    """Names of the rivals or figures whose bar was missed."""
    entries = {**result.get("rivals", {}), **result.get("figures", {})}
    return [name for name, entry in entries.items() if entry.get("met") is False]


def line(result: dict) -> str:
    """One contest in one line."""
    parts = [
        result["op"],
        result.get("process"),
        result.get("model"),
        "x".join(map(str, result.get("shape", ()))),
        *(f"{name}={result[name]:g}" for name in ("steps", "lam", "a", "c") if name in result),
        *(result.get(name) for name in ("dtype", "series", "column", "level")),
        f"{result['threads']} threads" if result.get("threads", 1) > 1 else None,
    ]
    cells = [" ".join(part for part in parts if part)]
    if "median" in result:
        cells.append(duration(result["median"]))
    if "GB_per_s" in result:
        cells[-1] += f", {number(result['ns_per_element'])} ns/element, {number(result['GB_per_s'])} GB/s"
    for name, rival in result.get("rivals", {}).items():
        cells.append(f"{name} {number(rival['ratio'])}{_bar(rival)}")
    for name, figure in result.get("figures", {}).items():
        cells.append(f"{name} {number(figure['value'])}{_bar(figure)}")
    return " | ".join(cells)


def _bar(entry: dict) -> str:
    return f" (asked: {number(entry['bar'])})" if entry.get("met") is False else ""


def markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def is_contest(result: dict) -> bool:
    """A contest of an op in float32, not a point of a series."""
    return (
        result["op"] in OPS
        and result.get("series") in (None, "CuPy")
        and "dtype" not in result
        and bool(result.get("rivals"))
    )


def op_name(result: dict) -> str:
    """How the speed table calls it: contests of one name differ in shape and rates only."""
    rows = SMALL_ROWS.get(result["shape"][1]) if len(result["shape"]) == 2 else None
    place = "in place" if result.get("column") == "in place" else None
    details = ", ".join(part for part in (result.get("process"), rows, place) if part)
    return f"`{result['op']}`" + (f" {details}" if details else "")


def speed_rows(contests: list[dict]) -> dict:
    """{(op, process, name, rival): {(level, column): [rival's entries, one for each shape and rates]}}, in table order."""
    rows = {}
    for result in sorted(contests, key=lambda r: (OPS.index(r["op"]), r.get("process") != "telegraph", op_name(r))):
        column = "allocating" if result.get("column") == "allocating" else "out"
        for rival, entry in result["rivals"].items():
            row = rows.setdefault((result["op"], result.get("process"), op_name(result), rival), {})
            row.setdefault((result["level"], column), []).append(entry)
    return rows


def speed_table(results: list[dict]) -> str:
    """One row for each op and rival: range of the ratios over shapes and rates, and the errors of the op."""
    contests = [result for result in results if is_contest(result)]
    levels = [level for level in LEVELS if any(result["level"] == level for result in contests)]
    cells = [(level, column) for level in levels for column in COLUMNS]
    rows, names, measured = [], set(), set()
    for (op, process, name, rival), row in speed_rows(contests).items():
        error = accuracy(results, op, process) if (op, process) not in measured else ""
        rows.append(
            [
                name if name not in names else "",
                rival,
                *(ratios(row[cell]) if cell in row else "" for cell in cells),
                error,
            ]
        )
        names.add(name)
        measured.add((op, process))
    head = ["op", "beside", *(f"{LEVELS[level]} {COLUMNS[column]}" for level, column in cells), "error"]
    return markdown(head, rows)


def short_table(machines: dict[str, list[dict]]) -> str:
    """The rows of FRONT: ranges of the ratios of their column, at every level of every machine: its name, its results."""
    columns: dict[str, dict[tuple[str, str], str]] = {}
    for machine, results in machines.items():
        contests = [result for result in results if is_contest(result)]
        found = {(name, rival): row for (_, _, name, rival), row in speed_rows(contests).items()}
        for level in (level for level in LEVELS if any(result["level"] == level for result in contests)):
            columns[f"{machine}, {LEVELS[level]}"] = {
                (name, rival): _range(found[name, rival].get((level, column), []))
                for name, rival, column, *_ in FRONT
                if (name, rival) in found
            }
    rows = [
        [f"{title}: {name.split()[0]}", beside, *(column.get((name, rival), "") for column in columns.values())]
        for name, rival, _, title, beside in FRONT
        if any((name, rival) in column for column in columns.values())
    ]
    return markdown(["op", "beside", *columns], rows)


def _range(entries: list[dict]) -> str:
    low, high = (number(pick((entry["ratio"] for entry in entries), default=0), 2) for pick in (min, max))
    return "" if not entries else low if low == high else f"{low}–{high}"


def ratios(entries: list[dict]) -> str:
    """Least to greatest ratio; the bar in brackets where a ratio is below it."""
    below = [entry["bar"] for entry in entries if entry.get("met") is False]
    return _range(entries) + (f" ({number(below[0], 2)})" if below else "")


def accuracy(results: list[dict], op: str, process: str | None) -> str:
    """The worst of the op's errors that were measured."""
    found = {}
    for result in results:
        if (result["op"], result.get("process"), result.get("series")) == (op, process, "accuracy"):
            for name, figure in result["figures"].items():
                found[name] = max(found.get(name, 0), figure["value"])
    if "ks_over_critical" in found:
        return f"KS {found['ks_over_critical']:.2f}"
    relative = max((value for name, value in found.items() if name.startswith("max_relative")), default=None)
    if relative is None:
        return ""
    return f"{relative:.1e}" + (f", {found['max_ulp']:.1f} ulp" if "max_ulp" in found else "")


def steps_table(results: list[dict]) -> str:
    """Whole steps of a network: time, and what share of it the op takes, or takes in a step without ours."""
    rows = []
    for result in results:
        if "model" not in result or "median" not in result:
            continue
        rivals = result["rivals"]
        if result["op"] == "images":
            cell = f"{number(result['batch'] / result['median'])} images/s"
        elif result["op"].startswith("network"):
            cell = "speed of " + ", ".join(f"{name} {number(1 / rival['ratio'])}" for name, rival in rivals.items())
        else:
            cell = shares(result)
        name = result["op"] + (f", steps: {result['steps']}" if "steps" in result else "")
        rows.append([f"{result['model']}: {name}", str(result["batch"]), duration(result["median"]), cell])
    return markdown(["whole step", "batch", "time", "share of the parts; eager network = 1"], rows)


def shares(result: dict) -> str:
    """The part "X alone" in per cent of the step it belongs to: of ours for our op, of theirs where that was timed."""
    rivals = result["rivals"]
    theirs = next((rival["median"] for name, rival in rivals.items() if name.startswith("with ")), result["median"])
    parts = [(name, rival["median"]) for name, rival in rivals.items() if name.endswith(" alone")]
    wholes = [result["median"], theirs]
    return ", ".join(
        f"{name.removesuffix(' alone')} {number(100 * part / whole, 2)}%"
        for (name, part), whole in zip(parts, wholes, strict=True)
    )
