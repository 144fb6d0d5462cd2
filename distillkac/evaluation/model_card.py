"""The model card of a shipped model, and its lines in a list, from what index.json says of it."""

from collections.abc import Iterable, Mapping
from typing import Any

from distillkac.evaluation.metrics import COLUMNS, describe

FIGURES = tuple(column for column in COLUMNS if column[1] != "images_per_second")  # those are of one machine
TRAINED = ", as trained"


def card(name: str, entry: Mapping[str, Any]) -> str:
    """NAME/card.md. entry: of index.json, without its files."""
    channels, height, width = entry["shape"]
    size = f"{height} × {width} pixels, {'grey' if channels == 1 else 'colour'}"
    trained = [row | {"name": row["name"] + TRAINED} for row in entry["trained"]]
    steps = dict.fromkeys(row["steps"] for row in entry["trained"])
    in_steps = [f"in {n} step{'s' * (n > 1)}" for n in steps]
    commands = [f"distillkac sample {name} --steps {n} --out grid.png" for n in steps]
    table = [_cells(["", *(title for title, _, _ in FIGURES)]), _cells(["---"] * (1 + len(FIGURES)))]
    table += [_cells([row["name"], *_values(row)]) for row in [*entry["rows"], *trained]]
    return f"""# {name}: {entry["title"]}

A model that comes with distillkac. It draws images of {size}, {" or ".join(in_steps)}.

```
{chr(10).join(commands)}
```

In Python `KacPipeline.from_pretrained("{name}")` of `distillkac.pipeline`, or `open_run("{name}")` of `distillkac.runs`.

## What it is

- Process: {entry["law"]}.
- Classes ({len(entry["classes"])}): {", ".join(entry["classes"])}.
- Network: {entry["network"]}.
- Images that it learned: {entry["source"]}

## How it was made

- By `{entry["made_by"]}` at commit {entry["commit"]}; packed with {entry["made_with"]}.
- The weights are packed in whole numbers, {entry["grain"]:g} of a row's root mean square apart: {entry["bytes"] / 1e6:.2f} MB.

## How good it is

{entry["num"]} images (seed {entry["seed"]}) against the held-out ones, as `distillkac evaluate` measures. Evaluator:
{describe(entry["evaluator"])}; figures of another one do not compare. Fréchet distance: less is
better, and the first row is what real images reach. The students are measured with the weights that are
shipped; below, what the trained ones had.

{chr(10).join(table)}

## Limits

It shows what the method does, on small images. It is not meant to be used for anything else. It knows no classes but these.
"""


def lines(name: str, entry: Mapping[str, Any]) -> list[str]:
    """The same for a terminal: what it is, how it was made, and how good."""
    size = "x".join(map(str, entry["shape"]))
    found = [
        f"{name}: {entry['title']}, {size}, {len(entry['classes'])} classes, {entry['law']}",
        f"  made by {entry['made_by']}, commit {entry['commit']}",
        f"  images  {entry['source']}",
        f"  figures of {entry['num']} images, evaluator {describe(entry['evaluator'])}",
    ]
    return [*found, *table(entry["rows"])]


def table(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    rows = list(rows)
    width = max(18, *(len(row["name"]) for row in rows))
    head = f"  {'':{width}}" + "".join(f"{title:>10}" for title, _, _ in FIGURES)
    return [head, *(f"  {row['name']:{width}}" + "".join(f"{cell:>10}" for cell in _values(row)) for row in rows)]


def _values(row: Mapping[str, Any]) -> list[str]:
    return [format(row[key], spec) if key in row else "" for _, key, spec in FIGURES]


def _cells(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
