"""The summary of `make gpu` in Markdown: what passed, how long it took, and every figure."""

import json
import platform
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from benchmarks.gpu import parts

SPEED = ("<!-- speed:begin -->", "<!-- speed:end -->")


def text(device: str, out: Path) -> str:
    """Of the results that lie in `out`."""
    found = [(part, _result(out / f"{part.name}.json")) for part in parts.all_parts(device, out)]
    rows = [
        [f"{part.name}: {part.title}", result["status"] + _because(result), f"{result.get('seconds', 0):.0f}"]
        for part, result in found
        if result is not None
    ]
    seconds = sum(result.get("seconds", 0) for _, result in found if result is not None)
    counts = counted(result["status"] for _, result in found if result is not None)
    sections = [f"# {_machine(device)}", f"{counts}; {seconds / 60:.1f} minutes."]
    sections.append(_table(["part", "", "seconds"], rows))
    for path in sorted(out.glob("*-figures.json")):
        figures = json.loads(path.read_text(encoding="utf-8"))
        sections += [f"## {figures['title']}", _table(figures["columns"], figures["rows"])]
    for path in sorted(out.glob("*/evaluation.json")):
        sections += [f"## {path.parent.name}, measured", _evaluation(json.loads(path.read_text(encoding="utf-8")))]
    speed = out / "speed.md" if device == "cpu" else parts.ROOT / "docs" / "speed.md"
    ops = _result(out / "ops.json")
    if ops is not None and ops["status"] != "skipped" and speed.exists():
        tables = speed.read_text(encoding="utf-8").partition(SPEED[0])[2].partition(SPEED[1])[0].strip()
        if tables := tables if device == "cpu" else tables_of(_name(device), tables):
            sections += ["## The ops", tables]
    return "\n\n".join(sections) + "\n"


def counted(statuses: Iterable[str | None]) -> str:
    """Such as "9 passed, 1 failed, 2 skipped"."""
    count = Counter(status or "not run" for status in statuses)
    return ", ".join(f"{count[name]} {name}" for name in ("passed", "failed", "skipped", "not run") if count[name])


def _machine(device: str) -> str:
    import torch

    from distillkac._kernels import native

    build = native.build_info()
    return f"{_name(device)}; torch {torch.__version__}, {build['compiler']}, commit {build['commit']}"


def _name(device: str) -> str:
    import torch

    return torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()} CPU, in small"


def tables_of(name: str, tables: str) -> str:
    """Of the captions and tables of all machines, one after the other, those of this device; "" if it has none."""
    each = tables.split("\n\n")
    return "\n\n".join(
        f"{caption}\n\n{table}"
        for caption, table in zip(each[::2], each[1::2], strict=True)
        if caption.startswith(name)
    )


def _result(path: Path) -> dict | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _because(result: dict) -> str:
    return f" ({result['reason']})" if "reason" in result else ""


def _evaluation(report: dict) -> str:
    names = {"frechet": "Fréchet", "frechet_train": "(train)", "accuracy": "accuracy", "diversity": "diversity"}
    known = [name for name in names if any(name in row for row in report["rows"])]
    rows = [
        [row["name"], str(row.get("steps", "")), *(f"{row[name]:.3f}" if name in row else "" for name in known)]
        for row in report["rows"]
    ]
    return _table(["network", "steps", *(names[name] for name in known)], rows)


def _table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
