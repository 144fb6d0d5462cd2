"""A run as one HTML file that opens from disk: `python -m distillkac.report runs/demo`."""

import base64
import html
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro

from distillkac.base import files
from distillkac.base.commands import command, prog
from distillkac.base.options import parse
from distillkac.base.outputs import check_file, kind_of
from distillkac.runs import shipped

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #22303c; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2.5rem; border-bottom: 1px solid #d5dbe0 }
table { border-collapse: collapse; font-size: .9rem } td, th { padding: .2rem .7rem; text-align: right }
td:first-child, th:first-child { text-align: left } tr + tr { border-top: 1px solid #e8ecef }
img { max-width: 100%; image-rendering: pixelated } figure { margin: 1rem 0 } figcaption { font-size: .85rem; color: #5b6975 }
"""


@dataclass(frozen=True)
class ReportArgs:
    """Writes RUN/report.html: settings, training curves, measurements, samples. Pictures are inside the file."""

    run: tyro.conf.Positional[Path]
    """Run folder, best after `evaluate` and `diagnose`."""
    out: Path | None = None
    """FILE.html to write; by default RUN/report.html."""


@command
def main(argv: list[str] | None = None) -> int:
    args = parse(ReportArgs, argv, prog("report"))
    shipped.refuse(args.run, "its model card is what there is to report: distillkac models NAME")
    out = args.out or args.run / "report.html"
    kind_of(out, (".html", ".htm"))
    check_file(out)
    files.write_atomic(out, page(args.run).encode())
    print(f"{args.run} -> {out}")
    return 0


def page(run: Path) -> str:
    """The HTML of a run folder; what the folder does not hold is left out. Raises ValueError if it is no run."""
    from distillkac.data.classes import printable
    from distillkac.flow.adopted import AdoptedNetwork
    from distillkac.runs.config import load_config
    from distillkac.runs.process_config import law
    from distillkac.runs.run import students

    config = load_config(run)
    made, shape = students(run), "×".join(map(str, config.shape))
    listed = ", ".join(path.name for path in made)
    training = f"{config.steps} steps of {config.optim.batch_size} images, seed {config.seed}"
    if isinstance(config.network, AdoptedNetwork) and config.student is None:
        training = f"adopted: {config.network.model}, {config.network.schedule.name}, {config.network.prediction}"
    parts = [
        f"<h1>{html.escape(printable(run.resolve().name))}</h1>",
        f"<p>{html.escape(law(config.noise))}, {'latents' if config.latent else 'images'} {shape}, "
        f"{len(config.class_names)} classes, {training}; students: {html.escape(printable(listed) or 'none')}.</p>",
    ]
    if (run / "evaluation.json").exists():
        parts += ["<h2>Measurements</h2>", _evaluation(run)]
    parts += _pictures(run, "Samples", sorted((run / "samples").glob("*.png")))
    curves = [path for path in (run, *made) if (path / "curves.png").exists()]
    parts += _pictures(run, "Training", [path / "curves.png" for path in curves]) + _measured(run)
    if pictures := _pictures(run, "Diagnosis", sorted((run / "diagnosis").glob("*.png"))):
        parts += pictures + _guidance_evaluator(run)
    parts += ["<h2>Settings</h2>", _table([["setting", "value"], *_flat(asdict(config))])]
    title = html.escape(printable(f"distillkac: {run.resolve().name}"))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
        + "\n".join(parts)
        + "</html>\n"
    )


def _evaluation(run: Path) -> str:
    from distillkac.evaluation.metrics import COLUMNS, describe

    path, rows = run / "evaluation.json", [["network", *(title for title, _, _ in COLUMNS)]]
    report = files.read_json(path)
    try:
        for row in report["rows"]:
            rows.append([row["name"], *(format(row[key], spec) if key in row else "" for _, key, spec in COLUMNS)])
        right = f"{report['classifier_accuracy']:.1%} of the held-out images"
        evaluator, num = html.escape(describe(report.get("evaluator"))), html.escape(str(report["num"]))
        changed = _changed(run, report["rows"])
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ValueError(f"{path} is no file of figures as evaluate writes it: evaluate again, or remove it") from None
    return (
        _table(rows) + f"<p>{num} images each; the classifier names {right} right. Evaluator: {evaluator}; figures "
        "of another one do not compare.</p>" + changed
    )


def _changed(run: Path, rows: list[dict]) -> str:
    """A sentence on the networks that have other weights now than those that were measured, "" if there are none."""
    from distillkac.runs import checkpoints
    from distillkac.runs.run import students

    folders = {path.name: path for path in students(run)}
    known = [row for row in rows if row.get("weights")]  # earlier versions did not write it
    now = {row["name"]: checkpoints.described(folders.get(row["name"], run)) for row in known}
    names = sorted({row["name"] for row in known if (now[row["name"]] or (0, ""))[1] != row["weights"]})
    if not names:
        return ""
    told = html.escape(", ".join(names))
    return f"<p><strong>Measured before they became what they are now: {told}. Evaluate again.</strong></p>"


def _measured(run: Path) -> list[str]:
    """Where a run was measured while it was trained, its best and its last measurement."""
    from distillkac.runs.checkpoints import MetricsLog

    lines = MetricsLog.compared(MetricsLog.read(run))
    if not lines:
        return []
    best, last = min(lines, key=lambda line: line["measured"]["frechet"]), lines[-1]
    told = [f"{line['measured']['frechet']:.3f} at step {line['step']}" for line in (best, last)]
    copying = last["measured"].get("copying")
    sentence = (
        f"Measured {len(lines)} times on the way, by {last['measured']['images']} images each: least Fréchet distance "
        f"{told[0]} (best/, chosen by it), last {told[1]}{'' if copying is None else f'; {copying:.1%} copies'}."
    )
    return [f"<p>{html.escape(sentence)}</p>"]


def _guidance_evaluator(run: Path) -> list[str]:
    """The evaluator of the diagnosis, and a word if the table above is of another one."""
    path = run / "diagnosis" / "diagnosis.json"
    found = files.read_json(path).get("guidance") if path.exists() else None
    if not found:
        return []
    from distillkac.evaluation.metrics import describe

    ours, path = found.get("evaluator"), run / "evaluation.json"
    table = files.read_json(path).get("evaluator") if path.exists() else ours
    other = "" if ours == table else f", not that of the measurements above ({describe(table)}): these do not compare"
    return ["<p>" + html.escape(f"Fréchet distances against guidance: evaluator {describe(ours)}{other}.") + "</p>"]


def _pictures(run: Path, title: str, paths: list[Path]) -> list[str]:
    from distillkac.data.classes import printable

    figures = []
    for path in paths:
        if not path.resolve().is_relative_to(run.resolve()):  # a link out of a downloaded folder, to be passed on by us
            continue
        data = base64.b64encode(path.read_bytes()).decode()
        name = html.escape(printable(str(path.relative_to(run))))
        figures.append(
            f'<figure><img alt="{name}" src="data:image/png;base64,{data}"><figcaption>{name}</figcaption></figure>'
        )
    return [f"<h2>{title}</h2>", *figures] if figures else []


def _table(rows: list[list]) -> str:
    head, *body = ([html.escape(str(cell)) for cell in row] for row in rows)
    lines = ["<tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in body]
    return "<table>" + "".join(lines) + "</table>"


def _flat(settings: dict, prefix: str = "") -> list[list]:
    rows = []
    for name, value in settings.items():
        rows += _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [[prefix + name, value]]
    return rows


if __name__ == "__main__":
    sys.exit(main())
